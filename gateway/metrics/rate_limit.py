"""What is counted of rate limits and of the store behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import Metric

from gateway.metrics.families import Each, alone, reading
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


@dataclass(slots=True, eq=False)
class LimitMetrics:
    """What is counted per route and limit: `counts[decision * len(DECIDERS) + decider]`."""

    route: str
    name: str
    counts: list[int] = field(default_factory=lambda: [0] * (len(DECISIONS) * len(DECIDERS)))
    near: int = 0
    """Admitted requests that left less than a fifth of the limit."""
    outcomes: tuple[str, str] = OUTCOMES


@dataclass(slots=True, eq=False)
class StoreMetrics:
    """What is counted of the rate limit store."""

    up: bool = False
    duration: Histogram = field(default_factory=lambda: Histogram(OVERHEAD_BUCKETS))
    batches: Histogram = field(default_factory=lambda: Histogram(BATCH_BUCKETS))
    """Checks per call of the script."""
    errors: Counter[str] = field(default_factory=Counter)


def limit_families(all_limits: Iterable[LimitMetrics], store: str) -> Iterator[Metric]:
    """What Prometheus reads of the limits. `store` is who decides when nothing is wrong: `local` or `redis`."""
    usual = DECIDERS.index(store)
    each = Each(["route", "limit"], (((limit.route, limit.name), limit) for limit in all_limits))

    def decisions(limit: LimitMetrics) -> Iterator[tuple[tuple[str, str], int]]:
        for place, count in enumerate(limit.counts.copy()):
            decision, decider = divmod(place, len(DECIDERS))
            if count or (decider == usual and DECISIONS[decision] in limit.outcomes):
                yield (DECISIONS[decision], DECIDERS[decider]), count

    yield each.many(["decision", "store"], decisions).counter(
        "gateway_rate_limit_decisions", "Requests by what became of them at a limit, and who decided"
    )
    yield each.one(lambda limit: limit.near).counter(
        "gateway_rate_limit_near", "Admitted requests that left less than a fifth of the limit"
    )


def store_families(store: StoreMetrics) -> Iterator[Metric]:
    """What Prometheus reads of the store."""
    yield alone(store.up).gauge("gateway_redis_up", "1 while the rate limit store answers in time")
    yield alone(not store.up).gauge("gateway_rate_limit_fallback_active", "1 while `on_store_error` decides")
    yield alone(reading(store.duration)).histogram("gateway_redis_duration_seconds", "One call of the rate limit store")
    yield alone(reading(store.batches)).histogram("gateway_rate_limit_batch_size", "Checks in one call of the rate limit store")
    yield (
        Each((), [((), store)])
        .words("kind", lambda one: one.errors, EXPECTED_ERRORS)
        .counter("gateway_redis_errors", "Failed calls and connects by kind")
    )
