"""What is counted per upstream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from gateway.metrics.instruments import REQUEST_BUCKETS, Histogram


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
    retries = CounterMetricFamily("gateway_retries", "Attempts beyond the first of a request", labels=["upstream"])
    for upstream in list(all_upstreams):
        for outcome, count in list(upstream.attempts.items()):
            attempts.add_metric([upstream.name, outcome], count)
        duration.add_metric([upstream.name], upstream.duration.cumulative(), upstream.duration.total)
        connects.add_metric([upstream.name], upstream.connects)
        retries.add_metric([upstream.name], upstream.retries)
    return iter((attempts, duration, connects, retries))
