"""What is counted per upstream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import Metric

from gateway.metrics.breakers import BreakerMetrics
from gateway.metrics.families import CounterFamily, GaugeFamily, HistogramFamily
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
        "attempts",
        "breaker",
        "connects",
        "denials",
        "duration",
        "ejections",
        "fallbacks",
        "hedges_won",
        "lookups",
        "name",
        "probe_duration",
        "probes",
        "retried_in_vain",
        "retried_well",
        "retries",
        "standings",
    )

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
    attempts = CounterFamily(
        "gateway_upstream_attempts",
        "Attempts by outcome: ok, http_5xx, cancelled or a failure code",
        labels=["upstream", "outcome"],
    )
    duration = HistogramFamily(
        "gateway_upstream_duration_seconds", "One attempt, from dispatch to the response head", labels=["upstream"]
    )
    connects = CounterFamily("gateway_upstream_connects", "Connections opened", labels=["upstream"])
    retries = CounterFamily(
        "gateway_retries",
        "Attempts beyond the first of a request, by what led to them: connect, stale, reset, timeout, invalid, a status, hedge",
        labels=["upstream", "reason"],
    )
    denials = CounterFamily(
        "gateway_retries_denied",
        "Retries that were not made: method, body, limit, deadline, endpoint, budget",
        labels=["upstream", "reason"],
    )
    exhausted = CounterFamily(
        "gateway_retry_budget_exhausted",
        "Retries and hedges that the budget of the upstream did not pay for",
        labels=["upstream"],
    )
    requests = CounterFamily(
        "gateway_endpoint_requests", "Requests sent, by endpoint: one per attempt", labels=["upstream", "endpoint"]
    )
    retried = CounterFamily(
        "gateway_retried_requests",
        "Requests of more than one attempt: `ok` when they were answered below 500 after all",
        labels=["upstream", "result"],
    )
    hedges = CounterFamily("gateway_hedges_won", "Hedges that answered before the first attempt did", labels=["upstream"])
    in_flight = GaugeFamily("gateway_endpoint_in_flight", "Requests in flight, by endpoint", labels=["upstream", "endpoint"])
    connections = GaugeFamily(
        "gateway_upstream_connections", "Open connections: `active` ones carry a request", labels=["upstream", "state"]
    )
    fallbacks = CounterFamily(
        "gateway_upstream_fallbacks", "Requests that went to the fallback of this upstream", labels=["upstream"]
    )
    for upstream in list(all_upstreams):
        for outcome, count in (dict.fromkeys(EXPECTED_OUTCOMES, 0) | upstream.attempts).items():
            attempts.add_metric([upstream.name, outcome], count)
        duration.add_histogram([upstream.name], upstream.duration)
        connects.add_metric([upstream.name], upstream.connects)
        for reason, count in (dict.fromkeys(EXPECTED_RETRIES, 0) | upstream.retries).items():
            retries.add_metric([upstream.name, reason], count)
        for reason, count in (dict.fromkeys(EXPECTED_DENIALS, 0) | upstream.denials).items():
            denials.add_metric([upstream.name, reason], count)
        exhausted.add_metric([upstream.name], upstream.denials.get("budget", 0))
        fallbacks.add_metric([upstream.name], upstream.fallbacks)
        retried.add_metric([upstream.name, "ok"], upstream.retried_well)
        retried.add_metric([upstream.name, "failed"], upstream.retried_in_vain)
        hedges.add_metric([upstream.name], upstream.hedges_won)
        standings = upstream.standings()
        for label, _, _, sent in standings.endpoints:
            requests.add_metric([upstream.name, label], sent)
        for (label, _, _, _), (busy, _, _) in zip(standings.endpoints, standings.loads, strict=False):
            in_flight.add_metric([upstream.name, label], busy)
        idle = sum(resting for _, _, resting in standings.loads)
        connections.add_metric([upstream.name, "idle"], idle)
        connections.add_metric([upstream.name, "active"], sum(there for _, there, _ in standings.loads) - idle)
    return iter(
        (
            attempts,
            duration,
            connects,
            connections,
            retries,
            retried,
            denials,
            exhausted,
            hedges,
            requests,
            in_flight,
            fallbacks,
        )
    )


def health_families(all_upstreams: Iterable[UpstreamMetrics]) -> Iterator[Metric]:
    """The health of endpoints. Only endpoints that are there are listed, so series end with them."""
    healthy = GaugeFamily(
        "gateway_upstream_healthy", "1: the endpoint is fit to take requests", labels=["upstream", "endpoint"]
    )
    states = GaugeFamily("gateway_upstream_endpoints", "Endpoints by state", labels=["upstream", "state"])
    panic = GaugeFamily("gateway_upstream_panic", "1: too few endpoints are healthy, so health is ignored", labels=["upstream"])
    ejections = CounterFamily(
        "gateway_upstream_ejections", "Endpoints ejected, by what failed last", labels=["upstream", "reason"]
    )
    probes = CounterFamily("gateway_health_probes", "Active probes by result", labels=["upstream", "result"])
    lookups = CounterFamily("gateway_dns_lookups", "Lookups of endpoints' names", labels=["upstream", "result"])
    duration = HistogramFamily("gateway_health_probe_duration_seconds", "One active probe", labels=["upstream"])
    for upstream in list(all_upstreams):
        name, standings = upstream.name, upstream.standings()
        counts = Counter(state for _, state, _, _ in standings.endpoints)
        for label, _, is_healthy, _ in standings.endpoints:
            healthy.add_metric([name, label], is_healthy)
        for state in STATES:
            states.add_metric([name, state], counts[state])
        panic.add_metric([name], standings.panic)
        for reason, count in (dict.fromkeys(EXPECTED_EJECTIONS, 0) | upstream.ejections).items():
            ejections.add_metric([name, reason], count)
        if upstream.probes:
            for result, count in (dict.fromkeys(EXPECTED_PROBES, 0) | upstream.probes).items():
                probes.add_metric([name, result], count)
        if upstream.lookups:
            for result, count in (dict.fromkeys(EXPECTED_LOOKUPS, 0) | upstream.lookups).items():
                lookups.add_metric([name, result], count)
        if upstream.probes:
            duration.add_histogram([name], upstream.probe_duration)
    return iter((healthy, states, panic, ejections, probes, duration, lookups))
