"""What is counted of the circuit breakers of an upstream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import Metric

from gateway.metrics.families import Each

STATE_NUMBERS: Final = {"closed": 0, "ramping": 0, "half_open": 1, "open": 2}
"""What the gauge shows. A ramp is closed, with a share below 1."""

EXPECTED_TRANSITIONS: Final = ("open", "half_open", "closed")
"""Shown before they are first counted, of upstreams that have breakers."""


@dataclass(slots=True, eq=False)
class BreakerMetrics:
    """States, changes and refusals of the breakers of one upstream."""

    states: dict[str, str] = field(default_factory=dict)
    """Of each endpoint, by its URL."""
    forced: dict[str, bool] = field(default_factory=dict)
    """Whether an operator has overruled it, of each endpoint."""
    transitions: Counter[str] = field(default_factory=Counter)
    """By the state they led to."""
    rejected: int = 0
    would_reject: int = 0
    """Requests that a breaker in shadow mode would have refused."""

    def changed(self, endpoint: str, state: str) -> None:
        """One transition."""
        self.states[endpoint] = state
        self.transitions[state] += 1


def breaker_families(upstreams: Iterable[tuple[str, BreakerMetrics]]) -> Iterator[Metric]:
    """What Prometheus reads of them, by the upstream's name. Of upstreams without breakers there is nothing."""
    each = Each(
        ["upstream"],
        (((name,), one) for name, one in upstreams if one.states or one.transitions or one.rejected or one.would_reject),
    )
    yield each.words(
        "endpoint", lambda one: {endpoint: STATE_NUMBERS[state] for endpoint, state in one.states.copy().items()}
    ).gauge("gateway_breaker_state", "0 closed, 1 half open, 2 open")
    yield each.words("endpoint", lambda one: one.forced).gauge(
        "gateway_breaker_forced", "1 while an operator has overruled the breaker"
    )
    yield each.words("to", lambda one: one.transitions, EXPECTED_TRANSITIONS).counter(
        "gateway_breaker_transitions", "Transitions by the state they led to"
    )
    yield each.words("mode", lambda one: {"enforce": one.rejected, "shadow": one.would_reject}).counter(
        "gateway_breaker_rejections", "Requests that breakers refused; `shadow`: that they would have refused"
    )
