"""`max_in_flight:`, `overload:` and `priority:` in the file: short forms, what is refused and where, what they become."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.compile import compile_config
from gateway.control.load import Loaded, load
from gateway.control.reading.problems import ConfigError
from gateway.control.tools.explain import explain
from gateway.gates import Gate
from gateway.metrics import GatewayMetrics
from gateway.policies.adaptive_limit import AdaptiveSettings
from gateway.policies.max_in_flight import MaxInFlightSettings
from gateway.policies.overload import OverloadSettings
from gateway.snapshot import GateSettings, Snapshot

BASE = """\
version: 1
server: {{listen: ":1", {server}}}
upstreams:
  u: {{endpoints: ["http://127.0.0.1:9001"], {upstream}}}
  spare: {{endpoints: ["http://127.0.0.1:9002"], max_in_flight: 10}}
routes:
  - {{name: r, match: {{path: /r}}, upstream: u, {route}}}
  - {{name: other, match: {{path: /o}}, upstream: u}}
  - {{name: third, match: {{path: /t}}, {third}}}
"""


class Config:
    """A file with these fields."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "g.yaml"
        self.metrics = GatewayMetrics("0")

    def load(self, *, server: str = "", upstream: str = "", route: str = "", third: str = "respond: 200") -> Loaded:
        """Load it."""
        text = BASE.format(server=server, upstream=upstream, route=route, third=third)
        self.path.write_text(text, encoding="utf-8")
        return load(self.path, {})

    def snapshot(self, previous: Snapshot | None = None, **fields: str) -> Snapshot:
        """Compile it."""

        def no_pool(*facts: object) -> object:
            return facts

        return compile_config(self.load(**fields), self.metrics, no_pool, previous)  # type: ignore[arg-type]

    def settings(self, **fields: str) -> GateSettings:
        """Those of the upstream `u`."""
        return next(one for one in self.snapshot(None, **fields).gates if one.gate.metrics.name == "u")

    def problems(self, **fields: str) -> list[tuple[str, str]]:
        """What is wrong, with the text it points at."""
        with pytest.raises(ConfigError) as caught:
            self.load(**fields)
        return [(one.source[one.column - 1 : one.column - 1 + one.length], one.text) for one in caught.value.problems]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A file of its own."""
    return Config(tmp_path)


@pytest.mark.parametrize(
    "written, limit, queue, max_wait",
    [
        ("200", 200, 100, 0.1),
        ("{limit: 7}", 7, 100, 0.1),
        ("{limit: 7, queue: 3}", 7, 3, 0.1),
        ("{limit: 7, queue: {size: 5, max_wait: 2s}}", 7, 5, 2.0),
        ("{limit: 7, queue: {max_wait: 2s}}", 7, 100, 2.0),
        ("{limit: 7, queue: off}", 7, 0, 0.0),
    ],
)
def test_short_and_long_forms(config: Config, written: str, limit: int, queue: int, max_wait: float) -> None:
    """A number is a limit with the usual queue; a number as `queue` is its size; `off` is none."""
    assert config.settings(upstream=f"max_in_flight: {written}").settings == MaxInFlightSettings(
        limit, queue, max_wait, (1.0, 1.0, 0.9)
    )


def test_off_is_no_limit(config: Config) -> None:
    """Without `max_in_flight`, or with `off`, there is no gate."""
    off = "max_in_flight: off"
    snapshot = config.snapshot(server=off, upstream=off, route=off)

    assert snapshot.routes[0].gates == ()
    assert [one.gate.metrics.name for one in snapshot.gates] == ["spare"]


def test_the_widest_gate_comes_first(config: Config) -> None:
    """Server, route, upstream; an answer made here passes none."""
    limit = "max_in_flight: 5"
    snapshot = config.snapshot(server=limit, upstream=limit, route=limit)

    assert [gate.metrics.scope for gate in snapshot.routes[0].gates] == ["server", "route", "upstream"]
    assert [gate.metrics.scope for gate in snapshot.routes[1].gates] == ["server", "upstream"]
    assert snapshot.routes[2].gates == ()


@pytest.mark.parametrize(
    "fields, shares",
    [
        ({}, (1.0, 1.0, 0.9)),
        ({"route": "priority: sheddable"}, (1.0, 1.0, 0.9)),
        ({"route": "priority: critical"}, (1.0, 0.95, 0.9)),
        ({"third": "upstream: u, priority: critical"}, (1.0, 0.95, 0.9)),
        ({"third": "upstream: spare, priority: critical"}, (1.0, 1.0, 0.9)),
        ({"third": "upstream: spare, fallback: u, priority: critical"}, (1.0, 0.95, 0.9)),
        ({"server": "priority_field: X-Priority, trusted_proxies: [10.0.0.0/8]"}, (1.0, 0.95, 0.9)),
    ],
)
def test_a_share_is_kept_only_for_priorities_that_there_are(
    config: Config, fields: dict[str, str], shares: tuple[float, float, float]
) -> None:
    """What no request of a higher priority can use is not kept from the lower ones."""
    assert config.settings(upstream="max_in_flight: 100", **fields).settings.shares == shares


def test_an_adaptive_limit(config: Config) -> None:
    """`adaptive` begins with `min`, or with `limit`."""
    plain = config.settings(upstream="max_in_flight: {adaptive: {max: 50}}")
    full = config.settings(
        upstream="max_in_flight: {limit: 30, adaptive: {min: 5, max: 50, latency: 200ms, backoff: 80%, tolerance: 5%}}"
    )

    assert plain.settings.limit == 10 and plain.adaptive == AdaptiveSettings(10, 50)
    assert full.settings.limit == 30 and full.adaptive == AdaptiveSettings(5, 50, 0.2, 0.8, 0.05)


def test_priorities_and_overload(config: Config) -> None:
    """Ranks of the routes, thresholds of the server; `off` is never."""
    snapshot = config.snapshot(route="priority: critical", server="overload: {default: off, sheddable: 50ms}")

    assert [route.rank for route in snapshot.routes] == [0, 1, 1]
    assert snapshot.server.overload == OverloadSettings(float("inf"), 0.05)
    assert config.snapshot().server.overload == OverloadSettings(1.0, 0.1)


@pytest.mark.parametrize(
    "fields, at, message",
    [
        ({"upstream": "max_in_flight: 0"}, "0", "must be at least 1"),
        ({"upstream": "max_in_flight: many"}, "many", "expected a whole number"),
        ({"upstream": "max_in_flight: {queue: 5}"}, "max_in_flight", "`limit` is missing"),
        ({"upstream": "max_in_flight: {limit: 5, queue: {sise: 5}}"}, "sise", "did you mean `size`?"),
        ({"upstream": "max_in_flight: {limit: 5, shares: {default: 50%}}"}, "50%", "the share of `sheddable`"),
        ({"upstream": "max_in_flight: {limit: 5, shares: {default: 0.5}}"}, "0.5", "a share such as `95%`"),
        ({"upstream": "max_in_flight: {limit: 5, shares: {default: 101%}}"}, "101%", "between `1%` and `100%`"),
        ({"upstream": "max_in_flight: {limit: 5, adaptive: {}}"}, "5", "lies between `min` (10) and `max` (200)"),
        ({"upstream": "max_in_flight: {adaptive: {min: 20, max: 10}}"}, "20", "`min` (20) is more than `max` (10)"),
        ({"upstream": "max_in_flight: {adaptive: {backoff: 100%}}"}, "100%", "would hardly fall"),
        ({"route": "max_in_flight: {limit: 5, adaptive: {}}"}, "adaptive", "unknown field `adaptive`"),
        ({"route": "timeout: 1s, max_in_flight: {limit: 5, queue: {max_wait: 2s}}"}, "2s", "longer than the budget"),
        ({"route": "priority: 5"}, "5", "which of two routes wins is said by `priority` of `match`"),
        ({"route": "priority: critcal"}, "critcal", "did you mean `critical`?"),
        ({"third": "respond: 200, priority: critical"}, "priority", "has no effect in a route with `respond`"),
        ({"third": "respond: 200, max_in_flight: 5"}, "max_in_flight", "has no effect in a route with `respond`"),
        ({"server": "overload: {sheddable: 2s}"}, "2s", "`sheddable` (2s) is shed before `default` (1s)"),
        ({"server": "overload: {sheddable: off}"}, "off", "is shed before"),
        ({"server": "priority_field: X-P"}, "priority_field", "has no effect without `trusted_proxies`"),
    ],
)
def test_what_is_refused(config: Config, fields: dict[str, str], at: str, message: str) -> None:
    """One problem, at the value or field that is wrong, and saying what to write."""
    ((found, text),) = config.problems(**fields)

    assert found == at
    assert message in text


def test_explain_says_every_limit(config: Config) -> None:
    """`gateway explain`: priority, each limit with its place, and when the request is shed."""
    loaded = config.load(
        server="max_in_flight: 50",
        upstream="max_in_flight: {limit: 20, queue: off}",
        route="priority: critical, max_in_flight: 5",
    )
    critical, default = (explain(loaded, "GET", f"http://h/{path}") for path in ("r", "o"))

    rows = {line.split("  ")[1]: line for line in critical.splitlines() if line.startswith("  ")}
    assert "critical" in rows["priority"] and f"{config.path}:7" in rows["priority"]
    assert "5 per worker, 100 wait for 100ms" in rows["max_in_flight.route"]
    assert "20 per worker, no queue" in rows["max_in_flight.upstream"] and f"{config.path}:4" in rows["max_in_flight.upstream"]
    assert "never" in rows["shed when"]
    assert "50 per worker, of which 48 for default" in default
    assert "event loop late by 1s" in default


def test_a_gate_lives_as_long_as_its_name(config: Config) -> None:
    """A reload keeps the gate, what is in flight and the limit that was found; new settings hold when they are applied."""
    first = config.snapshot(upstream="max_in_flight: {limit: 20, adaptive: {min: 10, max: 100}}")
    gate = first.upstreams[0].gate
    assert isinstance(gate, Gate) and gate.adaptive is not None
    gate.in_flight = 3
    gate.adaptive.limit = 64

    second = config.snapshot(first, upstream="max_in_flight: {limit: 20, queue: 7, adaptive: {min: 10, max: 50}}")
    assert second.upstreams[0].gate is gate
    assert gate.settings.queue == 100, "nothing changes before the snapshot is in place"

    (one,) = [one for one in second.gates if one.gate is gate]
    gate.apply(one.settings, one.adaptive)
    assert (gate.limit, gate.in_flight, gate.settings.queue) == (50, 3, 7)

    third = config.snapshot(second, upstream="max_in_flight: 5")
    (one,) = [one for one in third.gates if one.gate is gate]
    gate.apply(one.settings, one.adaptive)
    assert (gate.limit, gate.in_flight, gate.adaptive is None) == (5, 3, True)


def test_another_limit_is_another_gate(config: Config) -> None:
    """A limit that was taken away and comes back counts anew."""
    first = config.snapshot(upstream="max_in_flight: 5")
    without = config.snapshot(first)
    again = config.snapshot(without, upstream="max_in_flight: 5")

    assert again.upstreams[0].gate is not first.upstreams[0].gate
