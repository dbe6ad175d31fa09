"""RED metrics: plain slotted counters that the data plane bumps, and a collector that shows them to prometheus_client.

A prometheus_client child costs 0.4 to 1.2 µs per update (walks the buckets, takes a lock); these cost 0.05 to 0.15 µs.
Every object is bound to its route or upstream at compile time, so nothing is looked up by label on the hot path. Label
values come from the configuration or from closed sets: routes, upstreams, known methods, status codes, failure codes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

REQUEST_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0)
"""OpenTelemetry's advised buckets and two more, because a top bucket of 10 s hides slow requests. Seconds."""

OVERHEAD_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
"""The gateway's own share of a request. Seconds."""

BATCH_BUCKETS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Checks in one call of the rate limit store."""

KNOWN_METHODS: Final = frozenset(
    {b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT"}
    | {b"PROPFIND", b"PROPPATCH", b"MKCOL", b"COPY", b"MOVE", b"LOCK", b"UNLOCK", b"REPORT", b"QUERY"}
)
"""Methods that become a label value; any other is counted as `OTHER`."""

UNMATCHED: Final = "_unmatched"
"""The route label of requests that no route took."""


class Histogram:
    """A histogram of fixed upper bounds: `observe` is one bisection and two additions."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count `value` (seconds) into its bucket; the upper bound belongs to the bucket."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """The buckets as Prometheus wants them: each counts everything below its bound."""
        running, buckets = 0, []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            buckets.append(("+Inf" if bound == float("inf") else repr(bound), float(running)))
        return buckets


class RouteMetrics:
    """What is counted per route. One object lives as long as the route's name does, across reloads."""

    __slots__ = ("duration", "in_flight", "name", "rejections", "request_bytes", "requests", "response_bytes")

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests: dict[tuple[bytes, int], int] = {}
        self.duration = Histogram(REQUEST_BUCKETS)
        self.in_flight = 0
        self.request_bytes = 0
        self.response_bytes = 0
        self.rejections: dict[str, int] = {}

    def finished(self, method: bytes, status: int, seconds: float) -> None:
        """One request is over. `status` is what the client got, 499 when it had gone."""
        key = (method if method in KNOWN_METHODS else b"OTHER", status)
        requests = self.requests
        requests[key] = requests.get(key, 0) + 1
        duration = self.duration
        duration.counts[bisect_left(duration.bounds, seconds)] += 1
        duration.total += seconds

    def rejected(self, reason: str) -> None:
        """The gateway refused or failed the request; `reason` is the failure's code."""
        self.rejections[reason] = self.rejections.get(reason, 0) + 1


class UpstreamMetrics:
    """What is counted per upstream."""

    __slots__ = ("attempts", "connects", "duration", "name", "retries")

    def __init__(self, name: str) -> None:
        self.name = name
        self.attempts: dict[str, int] = {"ok": 0}
        self.duration = Histogram(REQUEST_BUCKETS)
        self.connects = 0
        self.retries = 0

    def attempted(self, outcome: str) -> None:
        """One attempt is settled: `ok`, `http_5xx`, `cancelled`, or a failure's code."""
        self.attempts[outcome] = self.attempts.get(outcome, 0) + 1


DECISIONS: Final = (
    "allowed",
    "denied",
    "shadow_denied",
    "candidate_allowed",
    "candidate_denied",
    "exempt",
    "skipped",
    "missing_denied",
    "error_allowed",
    "error_denied",
)
"""What became of a request at one limit. `skipped`: without the key. `error_…`: decided by `on_store_error` alone."""

DECIDERS: Final = ("local", "redis", "cache", "fallback", "none")
"""Who decided: the counts in process, Redis, a remembered denial of Redis, the counts in process in its place, nobody."""


class LimitMetrics:
    """What is counted per route and limit: `counts[decision * len(DECIDERS) + decider]`."""

    __slots__ = ("counts", "name", "near", "route")

    def __init__(self, route: str, name: str) -> None:
        self.route = route
        self.name = name
        self.counts = [0] * (len(DECISIONS) * len(DECIDERS))
        self.near = 0
        """Admitted requests that left less than a fifth of the limit."""


class StoreMetrics:
    """What is counted of the rate limit store."""

    __slots__ = ("batches", "calls", "duration", "errors", "up")

    def __init__(self) -> None:
        self.up = False
        self.duration = Histogram(OVERHEAD_BUCKETS)
        self.batches = Histogram(BATCH_BUCKETS)
        """Checks per call of the script."""
        self.errors: dict[str, int] = {}

    def failed(self, reason: str) -> None:
        """A call or an attempt to connect failed."""
        self.errors[reason] = self.errors.get(reason, 0) + 1


class GatewayMetrics:
    """Everything one worker counts, and the registry collector for it."""

    __slots__ = (
        "access_log_dropped",
        "config_hash",
        "config_loaded_at",
        "connections",
        "limits",
        "overhead",
        "protocol_errors",
        "routes",
        "store",
        "tunnels",
        "upstreams",
        "version",
    )

    def __init__(self, version: str) -> None:
        self.version = version
        self.config_hash = ""
        self.config_loaded_at = 0.0
        self.connections = 0
        self.tunnels = 0
        self.protocol_errors: dict[str, int] = {}
        self.access_log_dropped = 0
        self.overhead = Histogram(OVERHEAD_BUCKETS)
        self.routes: dict[str, RouteMetrics] = {}
        self.upstreams: dict[str, UpstreamMetrics] = {}
        self.limits: dict[tuple[str, str], LimitMetrics] = {}
        self.store: StoreMetrics | None = None
        """None without a store outside the process."""

    def limit(self, route: str, name: str) -> LimitMetrics:
        """The counters of a limit on a route, kept by name."""
        return self.limits.setdefault((route, name), LimitMetrics(route, name))

    def route(self, name: str) -> RouteMetrics:
        """The counters of the route, kept by name so that they survive a reload."""
        return self.routes.setdefault(name, RouteMetrics(name))

    def upstream(self, name: str) -> UpstreamMetrics:
        """The counters of the upstream, kept by name."""
        return self.upstreams.setdefault(name, UpstreamMetrics(name))

    def keep_only(self, routes: Iterable[str], upstreams: Iterable[str]) -> None:
        """After a reload: forget what is no longer configured, so that its series end."""
        kept_routes, kept_upstreams = {*routes, UNMATCHED}, set(upstreams)
        self.routes = {name: kept for name, kept in self.routes.items() if name in kept_routes}
        self.upstreams = {name: kept for name, kept in self.upstreams.items() if name in kept_upstreams}
        self.limits = {key: kept for key, kept in self.limits.items() if key[0] in kept_routes}

    def collect(self) -> Iterator[Metric]:
        """The prometheus_client collector protocol."""
        yield from self._route_families()
        yield from self._upstream_families()
        yield from self._limit_families()
        overhead = HistogramMetricFamily(
            "gateway_overhead_seconds", "Time a request spent in the gateway itself: total minus upstream"
        )
        overhead.add_metric([], self.overhead.cumulative(), self.overhead.total)
        yield overhead
        yield _gauge("gateway_connections", "Open downstream connections", self.connections)
        yield _gauge("gateway_tunnels", "Open upgraded connections", self.tunnels)
        dropped = CounterMetricFamily("gateway_access_log_dropped", "Access log lines dropped because the writer fell behind")
        dropped.add_metric([], self.access_log_dropped)
        yield dropped
        errors = CounterMetricFamily(
            "gateway_protocol_errors", "Connections that failed before a request was complete", labels=["reason"]
        )
        for reason, count in list(self.protocol_errors.items()):
            errors.add_metric([reason], count)
        yield errors
        info = GaugeMetricFamily("gateway_config_info", "The running configuration", labels=["hash"])
        info.add_metric([self.config_hash], 1)
        yield info
        yield _gauge(
            "gateway_config_last_reload_success_timestamp_seconds", "When the configuration was loaded", self.config_loaded_at
        )
        build = GaugeMetricFamily("gateway_build_info", "The running version", labels=["version"])
        build.add_metric([self.version], 1)
        yield build

    def _route_families(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("gateway_requests", "Requests by outcome", labels=["route", "method", "code"])
        duration = HistogramMetricFamily(
            "gateway_request_duration_seconds", "From the request head to the last byte of the response", labels=["route"]
        )
        in_flight = GaugeMetricFamily("gateway_requests_in_flight", "Requests being served", labels=["route"])
        received = CounterMetricFamily("gateway_request_bytes", "Request body bytes received", labels=["route"])
        sent = CounterMetricFamily("gateway_response_bytes", "Response body bytes sent", labels=["route"])
        rejections = CounterMetricFamily(
            "gateway_rejections", "Requests that the gateway refused or failed, by failure code", labels=["route", "reason"]
        )
        for name, route in list(self.routes.items()):
            for (method, code), count in list(route.requests.items()):
                requests.add_metric([name, method.decode("ascii"), str(code)], count)
            duration.add_metric([name], route.duration.cumulative(), route.duration.total)
            in_flight.add_metric([name], route.in_flight)
            received.add_metric([name], route.request_bytes)
            sent.add_metric([name], route.response_bytes)
            for reason, count in list(route.rejections.items()):
                rejections.add_metric([name, reason], count)
        return iter((requests, duration, in_flight, received, sent, rejections))

    def _upstream_families(self) -> Iterator[Metric]:
        attempts = CounterMetricFamily(
            "gateway_upstream_attempts",
            "Attempts by outcome: ok, http_5xx, cancelled or a failure code",
            labels=["upstream", "outcome"],
        )
        duration = HistogramMetricFamily(
            "gateway_upstream_duration_seconds", "One attempt, from dispatch to the response head", labels=["upstream"]
        )
        connects = CounterMetricFamily("gateway_upstream_connects", "Connections opened", labels=["upstream"])
        retries = CounterMetricFamily("gateway_retries", "Attempts beyond the first of a request", labels=["upstream"])
        for name, upstream in list(self.upstreams.items()):
            for outcome, count in list(upstream.attempts.items()):
                attempts.add_metric([name, outcome], count)
            duration.add_metric([name], upstream.duration.cumulative(), upstream.duration.total)
            connects.add_metric([name], upstream.connects)
            retries.add_metric([name], upstream.retries)
        return iter((attempts, duration, connects, retries))

    def _limit_families(self) -> Iterator[Metric]:
        decisions = CounterMetricFamily(
            "gateway_rate_limit_decisions",
            "Requests by what became of them at a limit, and who decided",
            labels=["route", "limit", "decision", "store"],
        )
        near = CounterMetricFamily(
            "gateway_rate_limit_near",
            "Admitted requests that left less than a fifth of the limit",
            labels=["route", "limit"],
        )
        for limit in list(self.limits.values()):
            for place, count in enumerate(limit.counts):
                if count:
                    decision, decider = divmod(place, len(DECIDERS))
                    decisions.add_metric([limit.route, limit.name, DECISIONS[decision], DECIDERS[decider]], count)
            near.add_metric([limit.route, limit.name], limit.near)
        yield decisions
        yield near
        store = self.store
        if store is None:
            return
        yield _gauge("gateway_redis_up", "1 while the rate limit store answers in time", store.up)
        yield _gauge("gateway_rate_limit_fallback_active", "1 while `on_store_error` decides", not store.up)
        for name, text, histogram in (
            ("gateway_redis_duration_seconds", "One call of the rate limit store", store.duration),
            ("gateway_rate_limit_batch_size", "Checks in one call of the rate limit store", store.batches),
        ):
            family = HistogramMetricFamily(name, text)
            family.add_metric([], histogram.cumulative(), histogram.total)
            yield family
        errors = CounterMetricFamily("gateway_redis_errors", "Failed calls and connects by kind", labels=["kind"])
        for kind, count in list(store.errors.items()):
            errors.add_metric([kind], count)
        yield errors


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
