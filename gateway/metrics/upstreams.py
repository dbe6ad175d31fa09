"""What is counted per upstream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from gateway.metrics.breakers import BreakerMetrics
from gateway.metrics.instruments import PROBE_BUCKETS, REQUEST_BUCKETS, Histogram

STATES: Final = ("healthy", "slow_start", "resting", "ejected", "unhealthy", "breaker_open")


@dataclass(frozen=True, slots=True)
class Standings:
    """What the endpoints of one upstream are at the moment."""

    endpoints: tuple[tuple[str, str, bool, int], ...] = ()
    """Label, state, whether it takes exchanges for its own health's sake, and the requests sent to it."""
    panic: bool = False


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
        "lookups",
        "name",
        "probe_duration",
        "probes",
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
    attempts = CounterMetricFamily(
        "gateway_upstream_attempts",
        "Attempts by outcome: ok, http_5xx, cancelled or a failure code",
        labels=["upstream", "outcome"],
    )
    duration = HistogramMetricFamily(
        "gateway_upstream_duration_seconds", "One attempt, from dispatch to the response head", labels=["upstream"]
    )
    connects = CounterMetricFamily("gateway_upstream_connects", "Connections opened", labels=["upstream"])
    retries = CounterMetricFamily(
        "gateway_retries",
        "Attempts beyond the first of a request, by what led to them: connect, stale, reset, timeout, invalid, a status, hedge",
        labels=["upstream", "reason"],
    )
    denials = CounterMetricFamily(
        "gateway_retries_denied",
        "Retries that were not made: method, body, limit, deadline, endpoint, budget",
        labels=["upstream", "reason"],
    )
    exhausted = CounterMetricFamily(
        "gateway_retry_budget_exhausted",
        "Retries and hedges that the budget of the upstream did not pay for",
        labels=["upstream"],
    )
    requests = CounterMetricFamily(
        "gateway_endpoint_requests", "Requests sent, by endpoint: one per attempt", labels=["upstream", "endpoint"]
    )
    fallbacks = CounterMetricFamily(
        "gateway_upstream_fallbacks", "Requests that went to the fallback of this upstream", labels=["upstream"]
    )
    for upstream in list(all_upstreams):
        for outcome, count in list(upstream.attempts.items()):
            attempts.add_metric([upstream.name, outcome], count)
        duration.add_metric([upstream.name], upstream.duration.cumulative(), upstream.duration.total)
        connects.add_metric([upstream.name], upstream.connects)
        for reason, count in list(upstream.retries.items()):
            retries.add_metric([upstream.name, reason], count)
        for reason, count in list(upstream.denials.items()):
            denials.add_metric([upstream.name, reason], count)
        exhausted.add_metric([upstream.name], upstream.denials.get("budget", 0))
        fallbacks.add_metric([upstream.name], upstream.fallbacks)
        for label, _, _, sent in upstream.standings().endpoints:
            requests.add_metric([upstream.name, label], sent)
    return iter((attempts, duration, connects, retries, denials, exhausted, requests, fallbacks))


def health_families(all_upstreams: Iterable[UpstreamMetrics]) -> Iterator[Metric]:
    """The health of endpoints. Only endpoints that are there are listed, so series end with them."""
    healthy = GaugeMetricFamily(
        "gateway_upstream_healthy", "1: the endpoint is fit to take requests", labels=["upstream", "endpoint"]
    )
    states = GaugeMetricFamily("gateway_upstream_endpoints", "Endpoints by state", labels=["upstream", "state"])
    panic = GaugeMetricFamily(
        "gateway_upstream_panic", "1: too few endpoints are healthy, so health is ignored", labels=["upstream"]
    )
    ejections = CounterMetricFamily(
        "gateway_upstream_ejections", "Endpoints ejected, by what failed last", labels=["upstream", "reason"]
    )
    probes = CounterMetricFamily("gateway_health_probes", "Active probes by result", labels=["upstream", "result"])
    lookups = CounterMetricFamily("gateway_dns_lookups", "Lookups of endpoints' names", labels=["upstream", "result"])
    duration = HistogramMetricFamily("gateway_health_probe_duration_seconds", "One active probe", labels=["upstream"])
    for upstream in list(all_upstreams):
        name, standings = upstream.name, upstream.standings()
        counts = Counter(state for _, state, _, _ in standings.endpoints)
        for label, _, is_healthy, _ in standings.endpoints:
            healthy.add_metric([name, label], is_healthy)
        for state in STATES:
            states.add_metric([name, state], counts[state])
        panic.add_metric([name], standings.panic)
        for reason, count in list(upstream.ejections.items()):
            ejections.add_metric([name, reason], count)
        for result, count in list(upstream.probes.items()):
            probes.add_metric([name, result], count)
        for result, count in list(upstream.lookups.items()):
            lookups.add_metric([name, result], count)
        if upstream.probes:
            duration.add_metric([name], upstream.probe_duration.cumulative(), upstream.probe_duration.total)
    return iter((healthy, states, panic, ejections, probes, duration, lookups))
