"""What is counted of admission: slots, queues, and who was refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from prometheus_client.core import Metric

from gateway.metrics.families import CounterFamily, GaugeFamily, HistogramFamily, Row, gauge, reading
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


class MaxInFlightMetrics:
    """What is counted per limit. One object lives as long as its name does, across reloads."""

    __slots__ = ("live", "name", "scope", "shed", "wait")

    def __init__(self, scope: str, name: str) -> None:
        self.scope = scope
        """`server`, `route` or `upstream`."""
        self.name = name
        self.live: Occupancy | None = None
        self.wait = Histogram(WAIT_BUCKETS)
        """Of every request that waited, whatever became of it."""
        self.shed: dict[tuple[str, str], int] = {}
        """Requests refused, by failure code and priority."""

    def refused(self, reason: str, priority: str) -> None:
        """A request of this priority was refused; `reason` is the failure's code."""
        key = (reason, priority)
        self.shed[key] = self.shed.get(key, 0) + 1


class LagMetrics:
    """How late the event loop is."""

    __slots__ = ("lag", "shed", "shedding")

    def __init__(self) -> None:
        self.lag = 0.0
        """Smoothed, in seconds."""
        self.shedding: tuple[str, ...] = ()
        """The priorities that are refused now."""
        self.shed: dict[str, int] = {}
        """Requests refused, by priority."""


def max_in_flight_families(limits: Iterable[MaxInFlightMetrics]) -> Iterator[Metric]:
    """What Prometheus reads of the limits."""
    labels, known = ["scope", "name"], list(limits)

    def shown(name: str, text: str, value: Callable[[Occupancy], int]) -> Metric:
        return GaugeFamily(
            name, text, labels, (((one.scope, one.name), value(one.live)) for one in known if one.live is not None)
        )

    yield shown("gateway_concurrency_in_flight", "Slots taken", lambda live: live.in_flight)
    yield shown("gateway_concurrency_limit", "Slots there are; moves where the limit adapts", lambda live: live.limit)
    yield shown("gateway_queue_length", "Requests that wait for a slot", lambda live: live.waiting)
    yield HistogramFamily(
        "gateway_queue_wait_seconds",
        "How long those that waited did so",
        labels,
        (((one.scope, one.name), reading(one.wait)) for one in known),
    )


def shed_families(limits: Iterable[MaxInFlightMetrics], lag: LagMetrics) -> Iterator[Metric]:
    """What Prometheus reads of refusals, and of the event loop."""
    yield CounterFamily(
        "gateway_shed",
        "Requests refused by admission control",
        ["scope", "name", "reason", "priority"],
        _shed(list(limits), lag),
    )
    yield gauge("gateway_event_loop_lag_seconds", "How late the event loop is, smoothed", lag.lag)
    yield GaugeFamily(
        "gateway_shedding",
        "1 while requests of this priority are refused because the loop is late",
        ["priority"],
        [((priority,), priority in lag.shedding) for priority in SHEDDABLE],
    )


def _shed(limits: list[MaxInFlightMetrics], lag: LagMetrics) -> Iterator[Row]:
    for one in limits:
        expected = dict.fromkeys(EXPECTED_SHED, 0) if one.live is not None else {}
        for (reason, priority), count in (expected | one.shed).items():
            yield (one.scope, one.name, reason, priority), count
    for priority, count in (dict.fromkeys(SHEDDABLE, 0) | lag.shed).items():
        yield ("server", "", "overloaded", priority), count
