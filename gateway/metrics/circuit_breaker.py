"""What is counted of the circuit breakers of an upstream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import Metric

from gateway.metrics.families import CounterFamily, GaugeFamily

STATE_NUMBERS: Final = {"closed": 0, "ramping": 0, "half_open": 1, "open": 2}
"""What the gauge shows. A ramp is closed, with a share below 1."""

EXPECTED_TRANSITIONS: Final = ("open", "half_open", "closed")
"""Shown before they are first counted, of upstreams that have breakers."""


class BreakerMetrics:
    """States, changes and refusals of the breakers of one upstream."""

    __slots__ = ("forced", "rejected", "states", "transitions", "would_reject")

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        """Of each endpoint, by its URL."""
        self.forced: dict[str, bool] = {}
        """Whether an operator has overruled it, of each endpoint."""
        self.transitions: dict[str, int] = {}
        """By the state they led to."""
        self.rejected = 0
        self.would_reject = 0
        """Requests that a breaker in shadow mode would have refused."""

    def changed(self, endpoint: str, state: str) -> None:
        """One transition."""
        self.states[endpoint] = state
        self.transitions[state] = self.transitions.get(state, 0) + 1


def breaker_families(upstreams: Iterable[tuple[str, BreakerMetrics]]) -> Iterator[Metric]:
    """What Prometheus reads of them, by the upstream's name. Of upstreams without breakers there is nothing."""
    counted = [(name, one) for name, one in upstreams if one.states or one.transitions or one.rejected or one.would_reject]
    yield GaugeFamily(
        "gateway_breaker_state",
        "0 closed, 1 half open, 2 open",
        ["upstream", "endpoint"],
        (((name, endpoint), STATE_NUMBERS[state]) for name, one in counted for endpoint, state in one.states.copy().items()),
    )
    yield GaugeFamily(
        "gateway_breaker_forced",
        "1 while an operator has overruled the breaker",
        ["upstream", "endpoint"],
        (((name, endpoint), forced) for name, one in counted for endpoint, forced in one.forced.copy().items()),
    )
    yield CounterFamily(
        "gateway_breaker_transitions",
        "Transitions by the state they led to",
        ["upstream", "to"],
        (
            ((name, state), count)
            for name, one in counted
            for state, count in (dict.fromkeys(EXPECTED_TRANSITIONS, 0) | one.transitions).items()
        ),
    )
    yield CounterFamily(
        "gateway_breaker_rejections",
        "Requests that breakers refused; `shadow`: that they would have refused",
        ["upstream", "mode"],
        (
            ((name, mode), count)
            for name, one in counted
            for mode, count in (("enforce", one.rejected), ("shadow", one.would_reject))
        ),
    )
