"""What is counted of admission: slots, queues, and who was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from prometheus_client.core import Metric

from gateway.metrics.families import Each, Row, Rows, alone, reading
from gateway.metrics.instruments import WAIT_BUCKETS, Histogram

EXPECTED_SHED: Final = tuple((reason, "default") for reason in ("concurrency_limit_reached", "queue_full", "queue_timeout"))
"""Refusals that every limit shows before they are first counted."""
SHEDDABLE: Final = ("default", "sheddable")
"""The priorities that are refused while the event loop is late."""


class Occupancy(Protocol):
    """The live side of a limit."""

    in_flight: int
    limit: int
    waiting: int


@dataclass(slots=True, eq=False)
class MaxInFlightMetrics:
    """What is counted per limit. One object lives as long as its name does, across reloads."""

    scope: str
    """`server`, `route` or `upstream`."""
    name: str
    live: Occupancy | None = None
    wait: Histogram = field(default_factory=lambda: Histogram(WAIT_BUCKETS))
    """Of every request that waited, whatever became of it."""
    shed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Requests refused, by failure code and priority."""


@dataclass(slots=True, eq=False)
class LagMetrics:
    """How late the event loop is."""

    lag: float = 0.0
    """Smoothed, in seconds."""
    shedding: tuple[str, ...] = ()
    """The priorities that are refused now."""
    shed: Counter[str] = field(default_factory=Counter)
    """Requests refused, by priority."""


def max_in_flight_families(limits: Iterable[MaxInFlightMetrics]) -> Iterator[Metric]:
    """What Prometheus reads of the limits."""
    labels, known = ["scope", "name"], list(limits)
    each = Each(labels, (((one.scope, one.name), one.live) for one in known if one.live is not None))
    yield each.one(lambda live: live.in_flight).gauge("gateway_concurrency_in_flight", "Slots taken")
    yield each.one(lambda live: live.limit).gauge("gateway_concurrency_limit", "Slots there are; moves where the limit adapts")
    yield each.one(lambda live: live.waiting).gauge("gateway_queue_length", "Requests that wait for a slot")
    yield (
        Each(labels, (((one.scope, one.name), one) for one in known))
        .one(lambda one: reading(one.wait))
        .histogram("gateway_queue_wait_seconds", "How long those that waited did so")
    )


def shed_families(limits: Iterable[MaxInFlightMetrics], lag: LagMetrics) -> Iterator[Metric]:
    """What Prometheus reads of refusals, and of the event loop."""
    yield Rows(["scope", "name", "reason", "priority"], _shed(list(limits), lag)).counter(
        "gateway_shed", "Requests refused by admission control"
    )
    yield alone(lag.lag).gauge("gateway_event_loop_lag_seconds", "How late the event loop is, smoothed")
    yield Rows(["priority"], [((priority,), priority in lag.shedding) for priority in SHEDDABLE]).gauge(
        "gateway_shedding", "1 while requests of this priority are refused because the loop is late"
    )


def _shed(limits: list[MaxInFlightMetrics], lag: LagMetrics) -> Iterator[Row]:
    for one in limits:
        expected = dict.fromkeys(EXPECTED_SHED, 0) if one.live is not None else {}
        for (reason, priority), count in (expected | one.shed).items():
            yield (one.scope, one.name, reason, priority), count
    for priority, count in (dict.fromkeys(SHEDDABLE, 0) | lag.shed).items():
        yield ("server", "", "overloaded", priority), count
