"""Everything that one worker counts, kept by name so that it survives a reload, and the collector that shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import Metric

from gateway.metrics.circuit_breaker import breaker_families
from gateway.metrics.compression import CompressionMetrics, compression_families
from gateway.metrics.families import Each, Rows, alone, reading
from gateway.metrics.instruments import OVERHEAD_BUCKETS, Histogram
from gateway.metrics.max_in_flight import LagMetrics, MaxInFlightMetrics, max_in_flight_families, shed_families
from gateway.metrics.rate_limit import OUTCOMES, LimitMetrics, StoreMetrics, limit_families, store_families
from gateway.metrics.reloads import ReloadMetrics, reload_families
from gateway.metrics.routes import RouteMetrics, route_families
from gateway.metrics.upstreams import UpstreamMetrics, health_families, upstream_families

UNMATCHED: Final = "_unmatched"
"""The route label of requests that no route took."""

EXPECTED_ERRORS: Final = ("http_request_error", "header_timeout", "headers_too_large", "connection_limit_reached")
"""Errors of connections that are shown before they are first counted."""


@dataclass(slots=True, eq=False)
class GatewayMetrics:
    """Everything one worker counts, and the registry collector for it."""

    version: str
    python: str = ""
    config_hash: str = ""
    reloads: ReloadMetrics | None = None
    """None in a worker of several: their supervisor reloads."""
    connections: int = 0
    accepted: int = 0
    """Connections that were ever opened."""
    draining: bool = False
    certificates: dict[str, float] = field(default_factory=dict)
    """Path ▸ when the first certificate of the file expires, in Unix time."""
    tunnels: int = 0
    protocol_errors: Counter[str] = field(default_factory=Counter)
    access_log_dropped: int = 0
    access_log_lines: int = 0
    overhead: Histogram = field(default_factory=lambda: Histogram(OVERHEAD_BUCKETS))
    routes: dict[str, RouteMetrics] = field(default_factory=dict)
    upstreams: dict[str, UpstreamMetrics] = field(default_factory=dict)
    limits: dict[tuple[str, str], LimitMetrics] = field(default_factory=dict)
    compression: dict[str, CompressionMetrics] = field(default_factory=dict)
    max_in_flight: dict[tuple[str, str], MaxInFlightMetrics] = field(default_factory=dict)
    lag: LagMetrics = field(default_factory=LagMetrics)
    store: StoreMetrics | None = None
    """None without a store outside the process."""

    def limit(self, route: str, name: str, outcomes: tuple[str, str] = OUTCOMES) -> LimitMetrics:
        """The counters of a limit on a route, kept by name, and which decisions are shown before they are first counted."""
        kept = self.limits.setdefault((route, name), LimitMetrics(route, name))
        kept.outcomes = outcomes
        return kept

    def route(self, name: str) -> RouteMetrics:
        """The counters of the route, kept by name so that they survive a reload."""
        return self.routes.setdefault(name, RouteMetrics(name))

    def upstream(self, name: str) -> UpstreamMetrics:
        """The counters of the upstream, kept by name."""
        return self.upstreams.setdefault(name, UpstreamMetrics(name))

    def compressing(self, route: str) -> CompressionMetrics:
        """The counters of a route that compresses, kept by name."""
        return self.compression.setdefault(route, CompressionMetrics(route))

    def gate(self, scope: str, name: str) -> MaxInFlightMetrics:
        """The counters of a limit on what is in flight, kept by name."""
        return self.max_in_flight.setdefault((scope, name), MaxInFlightMetrics(scope, name))

    def keep_only(self, routes: Iterable[str], upstreams: Iterable[str], limits: Iterable[tuple[str, str]]) -> None:
        """After a reload: forget what is no longer configured, so that its series end."""
        kept_routes, kept_upstreams = {*routes, UNMATCHED}, set(upstreams)
        self.routes = {name: kept for name, kept in self.routes.items() if name in kept_routes}
        self.upstreams = {name: kept for name, kept in self.upstreams.items() if name in kept_upstreams}
        self.compression = {name: kept for name, kept in self.compression.items() if name in kept_routes}
        kept_limits = set(limits)
        self.limits = {key: kept for key, kept in self.limits.items() if key in kept_limits}
        scopes = {"route": kept_routes, "upstream": kept_upstreams, "server": {""}}
        self.max_in_flight = {key: kept for key, kept in self.max_in_flight.items() if key[1] in scopes[key[0]]}

    def collect(self) -> Iterator[Metric]:
        """The prometheus_client collector protocol."""
        yield from route_families(self.routes.values())
        yield from upstream_families(self.upstreams.values())
        yield from health_families(self.upstreams.values())
        yield from breaker_families((name, upstream.breaker) for name, upstream in list(self.upstreams.items()))
        yield from limit_families(self.limits.values(), "local" if self.store is None else "redis")
        yield from compression_families(self.compression.values())
        yield from max_in_flight_families(self.max_in_flight.values())
        yield from shed_families(self.max_in_flight.values(), self.lag)
        if self.store is not None:
            yield from store_families(self.store)
        own = Each((), [((), self)])
        yield alone(reading(self.overhead)).histogram(
            "gateway_overhead_seconds",
            "Time a request spent in the gateway itself: total minus upstream, connecting to it, queues and back-off",
        )
        yield alone(self.connections).gauge("gateway_connections", "Open downstream connections")
        yield alone(self.accepted).counter("gateway_connections_accepted", "Downstream connections that were opened")
        yield alone(self.draining).gauge("gateway_draining", "1 once the shutdown has begun")
        yield own.words("certificate", lambda one: one.certificates).gauge(
            "gateway_tls_certificate_expiry_timestamp_seconds", "When the first certificate of a file in use expires"
        )
        yield alone(self.tunnels).gauge("gateway_tunnels", "Open upgraded connections")
        yield alone(self.access_log_dropped).counter(
            "gateway_access_log_dropped", "Access log lines dropped because the writer fell behind"
        )
        yield alone(self.access_log_lines).counter("gateway_access_log_lines", "Access log lines written")
        yield own.words("reason", lambda one: one.protocol_errors, EXPECTED_ERRORS).counter(
            "gateway_protocol_errors", "Connections that failed before a request was complete"
        )
        yield Rows(["hash"], [((self.config_hash,), 1)]).gauge("gateway_config_info", "The running configuration")
        if self.reloads is not None:
            yield from reload_families(self.reloads)
        yield Rows(["version", "python"], [((self.version, self.python), 1)]).gauge(
            "gateway_build_info", "The running version, and what runs it"
        )
