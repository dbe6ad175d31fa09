"""What is counted per upstream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import Metric

from gateway.metrics.circuit_breaker import BreakerMetrics
from gateway.metrics.families import CounterFamily, GaugeFamily, HistogramFamily, Row, reading
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


def _nothing() -> Standings:
    return Standings()


class UpstreamMetrics:
    """What is counted per upstream."""

    __slots__ = (
        "attempts", "breaker", "connects", "denials", "duration", "ejections", "fallbacks", "hedges_won", "lookups", "name",
        "probe_duration", "probes", "retried_in_vain", "retried_well", "retries", "standings",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.attempts: dict[str, int] = {"ok": 0}
        self.duration = Histogram(REQUEST_BUCKETS)
        self.connects = 0
        self.retries: dict[str, int] = {}
        """By what led to them: a `Cause` of the retry policy, a status, or `hedge`."""
        self.denials: dict[str, int] = {}
        """Retries that there was a cause for and that were not made, by reason."""
        self.retried_well = 0
        """Requests of more than one attempt that were answered after all."""
        self.retried_in_vain = 0
        """Those that failed all the same, or were answered with a status of 500 or more."""
        self.hedges_won = 0
        self.fallbacks = 0
        """Requests that went to another upstream."""
        self.ejections: dict[str, int] = {}
        """By what failed last: a failure's code or `http_5xx`."""
        self.probes: dict[str, int] = {}
        """By result: `ok`, `refused`, `timeout`, `status`, `body`, `tls` or `error`."""
        self.probe_duration = Histogram(PROBE_BUCKETS)
        self.lookups: dict[str, int] = {}
        """Of names: `ok` or `failed`."""
        self.standings: Callable[[], Standings] = _nothing
        """What the endpoints are at the moment."""
        self.breaker = BreakerMetrics()

    def attempted(self, outcome: str) -> None:
        """One attempt is settled: `ok`, `http_5xx`, `cancelled`, or a failure's code."""
        self.attempts[outcome] = self.attempts.get(outcome, 0) + 1

    def retried(self, reason: str) -> None:
        """Another attempt follows."""
        self.retries[reason] = self.retries.get(reason, 0) + 1

    def denied(self, reason: str) -> None:
        """No other attempt follows, although the route retries for this cause."""
        self.denials[reason] = self.denials.get(reason, 0) + 1


def upstream_families(all_upstreams: Iterable[UpstreamMetrics]) -> Iterator[Metric]:
    """What Prometheus reads of them."""
    upstreams = list(all_upstreams)

    def counted(name: str, text: str, value: Callable[[UpstreamMetrics], int]) -> Metric:
        return CounterFamily(name, text, ["upstream"], (((one.name,), value(one)) for one in upstreams))

    yield CounterFamily(
        "gateway_upstream_attempts",
        "Attempts by outcome: ok, http_5xx, cancelled or a failure code",
        ["upstream", "outcome"],
        _by_name(upstreams, EXPECTED_OUTCOMES, lambda one: one.attempts),
    )
    yield HistogramFamily(
        "gateway_upstream_duration_seconds",
        "One attempt, from dispatch to the response head",
        ["upstream"],
        (((one.name,), reading(one.duration)) for one in upstreams),
    )
    yield counted("gateway_upstream_connects", "Connections opened", lambda one: one.connects)
    yield GaugeFamily(
        "gateway_upstream_connections",
        "Open connections: `active` ones carry a request",
        ["upstream", "state"],
        (row for one in upstreams for row in _connections(one)),
    )
    yield CounterFamily(
        "gateway_retries",
        "Attempts beyond the first of a request, by what led to them: connect, stale, reset, timeout, invalid, a status, hedge",
        ["upstream", "reason"],
        _by_name(upstreams, EXPECTED_RETRIES, lambda one: one.retries),
    )
    yield CounterFamily(
        "gateway_retried_requests",
        "Requests of more than one attempt: `ok` when they were answered below 500 after all",
        ["upstream", "result"],
        _by_name(upstreams, (), lambda one: {"ok": one.retried_well, "failed": one.retried_in_vain}),
    )
    yield CounterFamily(
        "gateway_retries_denied",
        "Retries that were not made: method, body, limit, deadline, endpoint, budget",
        ["upstream", "reason"],
        _by_name(upstreams, EXPECTED_DENIALS, lambda one: one.denials),
    )
    yield counted(
        "gateway_retry_budget_exhausted",
        "Retries and hedges that the budget of the upstream did not pay for",
        lambda one: one.denials.get("budget", 0),
    )
    yield counted("gateway_hedges_won", "Hedges that answered before the first attempt did", lambda one: one.hedges_won)
    yield CounterFamily(
        "gateway_endpoint_requests",
        "Requests sent, by endpoint: one per attempt",
        ["upstream", "endpoint"],
        (((one.name, label), sent) for one in upstreams for label, _, _, sent in one.standings().endpoints),
    )
    yield GaugeFamily(
        "gateway_endpoint_in_flight",
        "Requests in flight, by endpoint",
        ["upstream", "endpoint"],
        (row for one in upstreams for row in _in_flight(one)),
    )
    yield counted(
        "gateway_upstream_fallbacks", "Requests that went to the fallback of this upstream", lambda one: one.fallbacks
    )


def _connections(upstream: UpstreamMetrics) -> Iterator[Row]:
    loads = upstream.standings().loads
    idle = sum(resting for _, _, resting in loads)
    yield (upstream.name, "idle"), idle
    yield (upstream.name, "active"), sum(there for _, there, _ in loads) - idle


def _in_flight(upstream: UpstreamMetrics) -> Iterator[Row]:
    standings = upstream.standings()
    for (label, _, _, _), (busy, _, _) in zip(standings.endpoints, standings.loads, strict=False):
        yield (upstream.name, label), busy


def health_families(all_upstreams: Iterable[UpstreamMetrics]) -> Iterator[Metric]:
    """The health of endpoints. Only endpoints that are there are listed, so series end with them."""
    upstreams = list(all_upstreams)
    yield GaugeFamily(
        "gateway_upstream_healthy",
        "1: the endpoint is fit to take requests",
        ["upstream", "endpoint"],
        (((one.name, label), healthy) for one in upstreams for label, _, healthy, _ in one.standings().endpoints),
    )
    yield GaugeFamily(
        "gateway_upstream_endpoints",
        "Endpoints by state",
        ["upstream", "state"],
        _by_name(upstreams, STATES, lambda one: Counter(state for _, state, _, _ in one.standings().endpoints)),
    )
    yield GaugeFamily(
        "gateway_upstream_panic",
        "1: too few endpoints are healthy, so health is ignored",
        ["upstream"],
        (((one.name,), one.standings().panic) for one in upstreams),
    )
    yield CounterFamily(
        "gateway_upstream_ejections",
        "Endpoints ejected, by what failed last",
        ["upstream", "reason"],
        _by_name(upstreams, EXPECTED_EJECTIONS, lambda one: one.ejections),
    )
    probed = [one for one in upstreams if one.probes]
    yield CounterFamily(
        "gateway_health_probes",
        "Active probes by result",
        ["upstream", "result"],
        _by_name(probed, EXPECTED_PROBES, lambda one: one.probes),
    )
    yield HistogramFamily(
        "gateway_health_probe_duration_seconds",
        "One active probe",
        ["upstream"],
        (((one.name,), reading(one.probe_duration)) for one in probed),
    )
    yield CounterFamily(
        "gateway_dns_lookups",
        "Lookups of endpoints' names",
        ["upstream", "result"],
        _by_name((one for one in upstreams if one.lookups), EXPECTED_LOOKUPS, lambda one: one.lookups),
    )


def _by_name(
    upstreams: Iterable[UpstreamMetrics], expected: Iterable[str], counts: Callable[[UpstreamMetrics], dict[str, int]]
) -> Iterator[Row]:
    """What each upstream counts by a word, and zeros for the words that are to be expected."""
    for one in upstreams:
        for word, count in (dict.fromkeys(expected, 0) | counts(one)).items():
            yield (one.name, word), count
