"""What is counted per upstream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import Metric

from gateway.metrics.circuit_breaker import BreakerMetrics
from gateway.metrics.families import Each, reading
from gateway.metrics.instruments import PROBE_BUCKETS, REQUEST_BUCKETS, Histogram

EXPECTED_OUTCOMES: Final = (
    "ok",
    "http_5xx",
    "connection_refused",
    "connection_timeout",
    "connection_terminated",
    "http_response_timeout",
)
"""Outcomes of attempts that are shown before they are first counted. The same of retries and denials:"""
EXPECTED_RETRIES: Final = ("connect", "reset")
EXPECTED_DENIALS: Final = ("budget",)
EXPECTED_EJECTIONS: Final = ("http_500", "http_503", "connection_refused", "connection_timeout", "http_response_timeout")
EXPECTED_PROBES: Final = ("ok", "refused", "timeout", "status")
EXPECTED_LOOKUPS: Final = ("ok", "failed")
STATES: Final = ("healthy", "slow_start", "resting", "ejected", "unhealthy", "breaker_open")


@dataclass(frozen=True, slots=True)
class Standings:
    """What the endpoints of one upstream are at the moment."""

    endpoints: tuple[tuple[str, str, bool, int], ...] = ()
    """Label, state, whether it takes exchanges for its own health's sake, and the requests sent to it."""
    panic: bool = False
    loads: tuple[tuple[int, int, int], ...] = ()
    """Of each endpoint: the requests in flight on it, its connections, and how many of these are idle."""


@dataclass(slots=True, eq=False)
class UpstreamMetrics:
    """What is counted per upstream."""

    name: str
    attempts: dict[str, int] = field(default_factory=lambda: {"ok": 0})
    duration: Histogram = field(default_factory=lambda: Histogram(REQUEST_BUCKETS))
    connects: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    """By what led to them: a `Cause` of the retry policy, a status, or `hedge`."""
    denials: Counter[str] = field(default_factory=Counter)
    """Retries that there was a cause for and that were not made, by reason."""
    retried_well: int = 0
    """Requests of more than one attempt that were answered after all."""
    retried_in_vain: int = 0
    """Those that failed all the same, or were answered with a status of 500 or more."""
    hedges_won: int = 0
    fallbacks: int = 0
    """Requests that went to another upstream."""
    ejections: Counter[str] = field(default_factory=Counter)
    """By what failed last: a failure's code or `http_5xx`."""
    probes: dict[str, int] = field(default_factory=dict)
    """By result: `ok`, `refused`, `timeout`, `status`, `body`, `tls` or `error`."""
    probe_duration: Histogram = field(default_factory=lambda: Histogram(PROBE_BUCKETS))
    lookups: dict[str, int] = field(default_factory=dict)
    """Of names: `ok` or `failed`."""
    standings: Callable[[], Standings] = Standings
    """What the endpoints are at the moment."""
    breaker: BreakerMetrics = field(default_factory=BreakerMetrics)

    def attempted(self, outcome: str) -> None:
        """One attempt is settled: `ok`, `http_5xx`, `cancelled`, or a failure's code."""
        self.attempts[outcome] = self.attempts.get(outcome, 0) + 1


def _each(upstreams: Iterable[UpstreamMetrics]) -> Each[UpstreamMetrics]:
    return Each(["upstream"], (((one.name,), one) for one in upstreams))


def upstream_families(upstreams: Iterable[UpstreamMetrics]) -> Iterator[Metric]:
    """What Prometheus reads of them."""
    each = _each(upstreams)
    yield each.words("outcome", lambda one: one.attempts, EXPECTED_OUTCOMES).counter(
        "gateway_upstream_attempts", "Attempts by outcome: ok, http_5xx, cancelled or a failure code"
    )
    yield each.one(lambda one: reading(one.duration)).histogram(
        "gateway_upstream_duration_seconds", "One attempt, from dispatch to the response head"
    )
    yield each.one(lambda one: one.connects).counter("gateway_upstream_connects", "Connections opened")
    yield each.words("state", _connections).gauge(
        "gateway_upstream_connections", "Open connections: `active` ones carry a request"
    )
    yield each.words("reason", lambda one: one.retries, EXPECTED_RETRIES).counter(
        "gateway_retries",
        "Attempts beyond the first of a request, by what led to them: connect, stale, reset, timeout, invalid, a status, hedge",
    )
    yield each.words("result", lambda one: {"ok": one.retried_well, "failed": one.retried_in_vain}).counter(
        "gateway_retried_requests", "Requests of more than one attempt: `ok` when they were answered below 500 after all"
    )
    yield each.words("reason", lambda one: one.denials, EXPECTED_DENIALS).counter(
        "gateway_retries_denied", "Retries that were not made: method, body, limit, deadline, endpoint, budget"
    )
    yield each.one(lambda one: one.denials.get("budget", 0)).counter(
        "gateway_retry_budget_exhausted", "Retries and hedges that the budget of the upstream did not pay for"
    )
    yield each.one(lambda one: one.hedges_won).counter(
        "gateway_hedges_won", "Hedges that answered before the first attempt did"
    )
    yield each.words("endpoint", lambda one: {label: sent for label, _, _, sent in one.standings().endpoints}).counter(
        "gateway_endpoint_requests", "Requests sent, by endpoint: one per attempt"
    )
    yield each.words("endpoint", _in_flight).gauge("gateway_endpoint_in_flight", "Requests in flight, by endpoint")
    yield each.one(lambda one: one.fallbacks).counter(
        "gateway_upstream_fallbacks", "Requests that went to the fallback of this upstream"
    )


def _connections(upstream: UpstreamMetrics) -> Mapping[str, int]:
    loads = upstream.standings().loads
    idle = sum(resting for _, _, resting in loads)
    return {"idle": idle, "active": sum(there for _, there, _ in loads) - idle}


def _in_flight(upstream: UpstreamMetrics) -> Mapping[str, int]:
    now = upstream.standings()
    return {label: busy for (label, _, _, _), (busy, _, _) in zip(now.endpoints, now.loads, strict=False)}


def health_families(all_upstreams: Iterable[UpstreamMetrics]) -> Iterator[Metric]:
    """The health of endpoints. Only endpoints that are there are listed, so series end with them."""
    upstreams = list(all_upstreams)
    each = _each(upstreams)
    yield each.words("endpoint", lambda one: {label: healthy for label, _, healthy, _ in one.standings().endpoints}).gauge(
        "gateway_upstream_healthy", "1: the endpoint is fit to take requests"
    )
    yield each.words("state", lambda one: Counter(state for _, state, _, _ in one.standings().endpoints), STATES).gauge(
        "gateway_upstream_endpoints", "Endpoints by state"
    )
    yield each.one(lambda one: one.standings().panic).gauge(
        "gateway_upstream_panic", "1: too few endpoints are healthy, so health is ignored"
    )
    yield each.words("reason", lambda one: one.ejections, EXPECTED_EJECTIONS).counter(
        "gateway_upstream_ejections", "Endpoints ejected, by what failed last"
    )
    probed = _each(one for one in upstreams if one.probes)
    yield probed.words("result", lambda one: one.probes, EXPECTED_PROBES).counter(
        "gateway_health_probes", "Active probes by result"
    )
    yield probed.one(lambda one: reading(one.probe_duration)).histogram(
        "gateway_health_probe_duration_seconds", "One active probe"
    )
    yield (
        _each(one for one in upstreams if one.lookups)
        .words("result", lambda one: one.lookups, EXPECTED_LOOKUPS)
        .counter("gateway_dns_lookups", "Lookups of endpoints' names")
    )
