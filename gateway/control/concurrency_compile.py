"""`max_in_flight:` ▸ gates. A gate lives as long as its name: a reload gives it other settings, and nobody is lost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from gateway.control.balancing_compile import serving
from gateway.control.blocks.traffic.max_in_flight import MaxInFlight, UpstreamMaxInFlight
from gateway.control.effective import effective
from gateway.control.schema import Config
from gateway.gates import Gate
from gateway.metrics import GatewayMetrics
from gateway.policies.adaptive_limit import AdaptiveSettings
from gateway.policies.concurrency import RANKS, ConcurrencySettings
from gateway.snapshot import GateSettings, Snapshot

Key: TypeAlias = tuple[str, str]
"""Scope and name."""


class Gates:
    """The gates of a configuration, by scope and name."""

    def __init__(self, config: Config, metrics: GatewayMetrics, previous: Snapshot | None) -> None:
        known: dict[Key, Gate] = {}
        if previous is not None:
            known = {(one.gate.metrics.scope, one.gate.metrics.name): one.gate for one in previous.gates}
        self._made: dict[Key, GateSettings] = {}
        for key, written in limits(config).items():
            settings, adaptive = settings_of(written, ranks_at(config, key))
            gate = known.get(key) or Gate(settings, adaptive, metrics.gate(*key))
            self._made[key] = GateSettings(gate, settings, adaptive)

    def all(self) -> tuple[GateSettings, ...]:
        """Those of the server, of upstreams and of routes, with their settings."""
        return tuple(self._made.values())

    def get(self, scope: str, name: str) -> Gate | None:
        """The gate, if there is a limit."""
        made = self._made.get((scope, name))
        return None if made is None else made.gate

    def of_route(self, name: str, upstream: str | None) -> tuple[Gate, ...]:
        """All that a request of the route passes, the widest first: who waits at one holds no slot that is scarcer."""
        if upstream is None:
            return ()
        gates = (self.get("server", ""), self.get("route", name), self.get("upstream", upstream))
        return tuple(gate for gate in gates if gate is not None)


def limits(config: Config) -> dict[Key, MaxInFlight | UpstreamMaxInFlight]:
    """Every limit that is written."""
    found: dict[Key, MaxInFlight | UpstreamMaxInFlight] = {}
    if config.server.max_in_flight is not None:
        found["server", ""] = config.server.max_in_flight
    for name, upstream in config.upstreams.items():
        if upstream.max_in_flight is not None:
            found["upstream", name] = upstream.max_in_flight
    for route in config.routes:
        if route.max_in_flight is not None and route.upstream is not None:
            found["route", route.name] = route.max_in_flight
    return found


def rank_of(config: Config, index: int) -> int:
    """The rank of route number `index`."""
    return RANKS.index(effective(config, index).priority.value)


def ranks_at(config: Config, key: Key) -> frozenset[int]:
    """The ranks of the requests that pass a gate."""
    if config.server.priority_field is not None:
        return frozenset(range(len(RANKS)))
    scope, name = key
    return frozenset(
        rank_of(config, index)
        for index, route in enumerate(config.routes)
        if route.upstream is not None
        and (scope == "server" or (name == route.name if scope == "route" else name in serving(route, config.upstreams)))
    )


def settings_of(
    written: MaxInFlight | UpstreamMaxInFlight, ranks: Iterable[int]
) -> tuple[ConcurrencySettings, AdaptiveSettings | None]:
    """The settings; a share is kept only for ranks that there are."""
    highest = min(ranks, default=0)
    shares = tuple(
        1.0 if rank <= highest else share for rank, share in enumerate((1.0, written.shares.default, written.shares.sheddable))
    )
    adaptive = None
    limit = written.limit
    if isinstance(written, UpstreamMaxInFlight) and written.adaptive is not None:
        chosen = written.adaptive
        adaptive = AdaptiveSettings(chosen.min, chosen.max, chosen.latency, chosen.backoff, chosen.tolerance)
        limit = limit or chosen.min
    assert limit is not None
    queue = written.queue
    return ConcurrencySettings(
        limit=limit,
        queue=0 if queue is None else queue.size,
        max_wait=0.0 if queue is None else queue.max_wait,
        shares=(shares[0], shares[1], shares[2]),
    ), adaptive
