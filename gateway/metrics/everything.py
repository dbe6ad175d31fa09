"""Everything that one worker counts, kept by name so that it survives a reload, and the collector that shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import Metric

from gateway.metrics.circuit_breaker import breaker_families
from gateway.metrics.compression import CompressionMetrics, compression_families
from gateway.metrics.families import CounterFamily, GaugeFamily, HistogramFamily, counter, gauge
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


class GatewayMetrics:
    """Everything one worker counts, and the registry collector for it."""

    __slots__ = (
        "accepted", "access_log_dropped", "access_log_lines", "certificates", "compression", "config_hash",
        "connections", "draining", "lag", "limits", "max_in_flight", "overhead", "protocol_errors", "python",
        "reloads", "routes", "store", "tunnels", "upstreams", "version",
    )  # fmt: skip

    def __init__(self, version: str, python: str = "") -> None:
        self.version = version
        self.python = python
        self.config_hash = ""
        self.reloads: ReloadMetrics | None = None
        """None in a worker of several: their supervisor reloads."""
        self.connections = 0
        self.accepted = 0
        """Connections that were ever opened."""
        self.draining = False
        self.certificates: dict[str, float] = {}
        """Path ▸ when the first certificate of the file expires, in Unix time."""
        self.tunnels = 0
        self.protocol_errors: dict[str, int] = {}
        self.access_log_dropped = 0
        self.access_log_lines = 0
        self.overhead = Histogram(OVERHEAD_BUCKETS)
        self.routes: dict[str, RouteMetrics] = {}
        self.upstreams: dict[str, UpstreamMetrics] = {}
        self.limits: dict[tuple[str, str], LimitMetrics] = {}
        self.compression: dict[str, CompressionMetrics] = {}
        self.max_in_flight: dict[tuple[str, str], MaxInFlightMetrics] = {}
        self.lag = LagMetrics()
        self.store: StoreMetrics | None = None
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
        overhead = HistogramFamily(
            "gateway_overhead_seconds", "Time a request spent in the gateway itself: total minus upstream, queues and back-off"
        )
        overhead.add_histogram((), self.overhead)
        yield overhead
        yield gauge("gateway_connections", "Open downstream connections", self.connections)
        yield counter("gateway_connections_accepted", "Downstream connections that were opened", self.accepted)
        yield gauge("gateway_draining", "1 once the shutdown has begun", self.draining)
        yield GaugeFamily(
            "gateway_tls_certificate_expiry_timestamp_seconds",
            "When the first certificate of a file in use expires",
            ["certificate"],
            [((path,), at) for path, at in self.certificates.items()],
        )
        yield gauge("gateway_tunnels", "Open upgraded connections", self.tunnels)
        yield counter(
            "gateway_access_log_dropped", "Access log lines dropped because the writer fell behind", self.access_log_dropped
        )
        yield counter("gateway_access_log_lines", "Access log lines written", self.access_log_lines)
        counted = {**dict.fromkeys(EXPECTED_ERRORS, 0), **self.protocol_errors}
        yield CounterFamily(
            "gateway_protocol_errors",
            "Connections that failed before a request was complete",
            ["reason"],
            [((reason,), count) for reason, count in counted.items()],
        )
        yield GaugeFamily("gateway_config_info", "The running configuration", ["hash"], [((self.config_hash,), 1)])
        if self.reloads is not None:
            yield from reload_families(self.reloads)
        yield GaugeFamily(
            "gateway_build_info",
            "The running version, and what runs it",
            ["version", "python"],
            [((self.version, self.python), 1)],
        )
