"""Metrics of several workers as one."""

from __future__ import annotations

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from gateway.metrics import GatewayMetrics
from gateway.metrics.sums import LEAST, MOST, Pieces, Sums, pieces


def worker(requests: int, *, in_flight: int = 0, route: str = "a") -> Pieces:
    """What a worker with so many requests says, as it comes out of the channel."""
    metrics = GatewayMetrics("1", "3.11")
    metrics.config_hash = "abc"
    one = metrics.route(route)
    for _ in range(requests):
        one.finished(b"GET", 200, 0.02)
    one.in_flight = in_flight
    state: Pieces = orjson.loads(orjson.dumps(list(pieces(metrics.collect()))))
    return state


def values(sums: Sums) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in sums.families()
        for sample in family.samples
    }


def test_counters_histograms_and_loads_are_added() -> None:
    """Each bucket too."""
    sums = Sums()
    sums.add(worker(2, in_flight=1))
    sums.add(worker(3, in_flight=4))
    found = values(sums)

    assert found["gateway_requests_total", (("code", "200"), ("method", "GET"), ("route", "a"))] == 5
    assert found["gateway_request_duration_seconds_bucket", (("le", "0.01"), ("route", "a"))] == 0
    assert found["gateway_request_duration_seconds_bucket", (("le", "0.025"), ("route", "a"))] == 5
    assert found["gateway_requests_in_flight", (("route", "a"),)] == 5


def test_what_all_workers_have_is_there_once() -> None:
    """Version and configuration are no quantities; a worker with another configuration shows."""
    sums = Sums()
    for _ in range(3):
        sums.add(worker(0))

    assert values(sums)["gateway_config_info", (("hash", "abc"),)] == 1
    assert values(sums)["gateway_build_info", (("python", "3.11"), ("version", "1"))] == 1


def test_health_is_the_least_and_trouble_the_most() -> None:
    """What is in order is so everywhere; trouble anywhere is trouble."""
    sums = Sums()
    for value in (1, 0, 1):
        sums.add([[name, "", "gauge", [], None, [[[], value]]] for name in (*LEAST, *MOST)])
    found = values(sums)

    assert {found[name, ()] for name in LEAST} == {0}
    assert {found[name, ()] for name in MOST} == {1}


def test_of_a_worker_that_has_ended_the_counters_stay() -> None:
    """Nothing is in flight in it any more, but what it has counted has happened."""
    sums = Sums()
    sums.add(worker(2, in_flight=1), gauges=False)
    found = values(sums)

    assert found["gateway_requests_total", (("code", "200"), ("method", "GET"), ("route", "a"))] == 2
    assert not [name for name, _ in found if name == "gateway_requests_in_flight"]


def test_sums_can_be_added_again() -> None:
    """What those before have counted is a state like that of a worker."""
    before, now = Sums(), Sums()
    before.add(worker(2), gauges=False)
    now.add(before.state())
    now.add(worker(1))

    assert values(now)["gateway_requests_total", (("code", "200"), ("method", "GET"), ("route", "a"))] == 3


def test_what_is_not_wanted_is_forgotten() -> None:
    """Series of routes that are not configured any more end."""
    sums = Sums()
    sums.add(worker(2, route="gone"), gauges=False)
    sums.keep(lambda labels: labels.get("route") != "gone")

    assert not [labels for _, labels in values(sums) if ("route", "gone") in labels]


def test_both_formats_can_show_sums() -> None:
    """Buckets stand together and in order, as the text formats ask for."""

    class Collector:
        """The sums."""

        def collect(self) -> object:
            """Two workers, and one that has ended."""
            sums = Sums()
            for state in (worker(2), worker(1, route="b"), worker(3)):
                sums.add(state)
            return sums.families()

    registry = CollectorRegistry()
    registry.register(Collector())  # type: ignore[arg-type]

    assert b'gateway_request_duration_seconds_count{route="a"} 5.0' in generate_latest(registry)
    text: bytes = openmetrics(registry)  # type: ignore[no-untyped-call]
    lines = [line for line in text.splitlines() if line.startswith(b'gateway_request_duration_seconds_bucket{le="')]
    assert [line.split(b'route="')[1][:1] for line in lines] == [b"a"] * 17 + [b"b"] * 17
