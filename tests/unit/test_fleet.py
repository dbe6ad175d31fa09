"""What the supervisor keeps of its workers, without any process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from gateway.control.compile import compile_config
from gateway.control.load import load
from gateway.metrics import GatewayMetrics, ReloadMetrics
from gateway.metrics.sums import Pieces, pieces
from gateway.snapshot import Snapshot
from gateway.supervisor.fleet import NoPool
from gateway.supervisor.metrics import FleetMetrics
from gateway.supervisor.slot import FIRST_DELAY, LONGEST_DELAY, STEADY, Slot

CONFIG = """
version: 1
upstreams: {app: {endpoints: ["http://127.0.0.1:1"]}}
routes: [{name: all, match: {path: "/**"}, upstream: app}]
"""


def slots(count: int) -> list[Slot]:
    """Places that nobody holds."""
    return [Slot(index, lambda sock: None, lambda worker, word: None) for index in range(count)]


def snapshot(tmp_path: Path, metrics: GatewayMetrics, text: str = CONFIG) -> Snapshot:
    """A compiled configuration."""
    path = tmp_path / "gateway.yaml"
    path.write_text(text, encoding="utf-8")
    return compile_config(load(path), metrics, NoPool)


def reported(metrics: GatewayMetrics) -> dict[str, Any]:
    """A worker's report, as it comes out of the channel."""
    report: dict[str, Any] = orjson.loads(
        orjson.dumps({"number": 1, "metrics": [orjson.dumps(list(pieces(metrics.collect()))).decode()], "cpu": 1.0})
    )
    return report


def said(report: dict[str, Any]) -> Pieces:
    """The metrics of a report."""
    return [piece for text in report["metrics"] for piece in orjson.loads(text)]


async def value(fleet: FleetMetrics, name: str, **labels: str) -> float | None:
    """A sample; None when it is not there."""
    await fleet.look()
    found = [
        sample.value
        for family in fleet.collect()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    return found[0] if found else None


def test_workers_that_end_early_start_later_and_later() -> None:
    """The wait doubles up to its limit; who has worked for a while is replaced at once."""
    now = 1000.0
    (one,) = slots(1)
    one._started_at = now
    delays = [one.delay(now) for _ in range(40)]

    assert delays[:4] == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY, 8 * FIRST_DELAY]
    assert delays[-1] == LONGEST_DELAY
    now += STEADY
    assert one.delay(now) == FIRST_DELAY


async def test_what_the_dead_have_counted_stays(tmp_path: Path) -> None:
    """Also while no worker has reported, so that nobody can say which endpoints there are: no counter goes back."""
    metrics = GatewayMetrics("1", "3.11")
    running = snapshot(tmp_path, metrics)
    places = slots(2)
    fleet = FleetMetrics(places, ReloadMetrics(0.0))
    metrics.route("all").finished(b"GET", 200, 0.02)
    metrics.upstream("app").connects = 3
    for place in places:
        place.report = reported(metrics)
        assert await value(fleet, "gateway_upstream_connects_total", upstream="app") == 3 * (place.index + 1)
        place.before.add(said(place.report), gauges=False)
        place.report = {}
    await fleet.keep(running)

    assert await value(fleet, "gateway_requests_total", route="all", method="GET", code="200") == 2
    assert await value(fleet, "gateway_upstream_connects_total", upstream="app") == 6


async def test_series_of_removed_routes_end(tmp_path: Path) -> None:
    """What workers that have ended counted for a route that is not configured any more is forgotten with it."""
    metrics = GatewayMetrics("1", "3.11")
    snapshot(tmp_path, metrics)
    places = slots(1)
    fleet = FleetMetrics(places, ReloadMetrics(0.0))
    for route in ("all", "gone"):
        metrics.route(route).finished(b"GET", 200, 0.02)
    places[0].before.add(said(reported(metrics)), gauges=False)
    assert await value(fleet, "gateway_requests_total", route="gone", method="GET", code="200") == 1
    await fleet.keep(snapshot(tmp_path, GatewayMetrics("1", "3.11")))

    assert await value(fleet, "gateway_requests_total", route="gone", method="GET", code="200") is None
    assert await value(fleet, "gateway_requests_total", route="all", method="GET", code="200") == 1
