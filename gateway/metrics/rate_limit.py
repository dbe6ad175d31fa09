"""What is counted of rate limits and of the store behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import Metric

from gateway.metrics.families import CounterFamily, HistogramFamily, Row, gauge
from gateway.metrics.instruments import BATCH_BUCKETS, OVERHEAD_BUCKETS, Histogram

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

OUTCOMES: Final = ("allowed", "denied")
SHADOW_OUTCOMES: Final = ("allowed", "shadow_denied")
CANDIDATE_OUTCOMES: Final = ("candidate_allowed", "candidate_denied")
"""Decisions of a limit that are shown before they are first counted."""

DECIDERS: Final = ("local", "redis", "cache", "fallback", "none")
"""Who decided: the counts in process, Redis, a remembered denial of Redis, the counts in process in its place, nobody."""

EXPECTED_ERRORS: Final = ("timeout", "connection")
"""Kinds of trouble with the store that are shown before they are first counted."""


class LimitMetrics:
    """What is counted per route and limit: `counts[decision * len(DECIDERS) + decider]`."""

    __slots__ = ("counts", "name", "near", "outcomes", "route")

    def __init__(self, route: str, name: str) -> None:
        self.route = route
        self.name = name
        self.counts = [0] * (len(DECISIONS) * len(DECIDERS))
        self.near = 0
        """Admitted requests that left less than a fifth of the limit."""
        self.outcomes = OUTCOMES


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


def limit_families(all_limits: Iterable[LimitMetrics], store: str) -> Iterator[Metric]:
    """What Prometheus reads of the limits. `store` is who decides when nothing is wrong: `local` or `redis`."""
    limits = list(all_limits)
    usual = DECIDERS.index(store)

    def decisions() -> Iterator[Row]:
        for limit in limits:
            for place, count in enumerate(limit.counts.copy()):
                decision, decider = divmod(place, len(DECIDERS))
                if count or (decider == usual and DECISIONS[decision] in limit.outcomes):
                    yield (limit.route, limit.name, DECISIONS[decision], DECIDERS[decider]), count

    yield CounterFamily(
        "gateway_rate_limit_decisions",
        "Requests by what became of them at a limit, and who decided",
        ["route", "limit", "decision", "store"],
        decisions(),
    )
    yield CounterFamily(
        "gateway_rate_limit_near",
        "Admitted requests that left less than a fifth of the limit",
        ["route", "limit"],
        (((limit.route, limit.name), limit.near) for limit in limits),
    )


def store_families(store: StoreMetrics) -> Iterator[Metric]:
    """What Prometheus reads of the store."""
    yield gauge("gateway_redis_up", "1 while the rate limit store answers in time", store.up)
    yield gauge("gateway_rate_limit_fallback_active", "1 while `on_store_error` decides", not store.up)
    for name, text, histogram in (
        ("gateway_redis_duration_seconds", "One call of the rate limit store", store.duration),
        ("gateway_rate_limit_batch_size", "Checks in one call of the rate limit store", store.batches),
    ):
        family = HistogramFamily(name, text)
        family.add_histogram([], histogram)
        yield family
    errors = CounterFamily("gateway_redis_errors", "Failed calls and connects by kind", labels=["kind"])
    for kind, count in (dict.fromkeys(EXPECTED_ERRORS, 0) | store.errors).items():
        errors.add_metric([kind], count)
    yield errors
