"""What a circuit breaker is told, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from gateway.policies import NEVER

STATUSES: Final = frozenset({500, 502, 503, 504})


class BreakerState(Enum):
    """What a breaker does; the value is the word for it everywhere."""

    CLOSED = "closed"
    RAMPING = "ramping"
    """Closed, but only a growing share is admitted."""
    HALF_OPEN = "half_open"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """The resolved `circuit_breaker:` of an upstream. Rates are shares, 0 to 1; times seconds."""

    failure_rate: float = 0.5
    slow_call: float = NEVER
    """A call that took this long up to the response head is slow."""
    slow_rate: float = 0.5
    window: float = 10.0
    min_requests: int = 20
    """Fewer calls in the window decide nothing."""
    open_for: float = 5.0
    max_open_for: float = 300.0
    probes: int = 3
    """So many at most at a time while half open, and so many must succeed in a row."""
    ramp: float = 10.0
    statuses: frozenset[int] = STATUSES
    """Responses that are failures."""
    enforce: bool = True
    """False: shadow. Everything happens, but nothing is refused."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What is in the window."""

    calls: int = 0
    failed: int = 0
    slow: int = 0


@dataclass(frozen=True, slots=True)
class Forced:
    """An operator's word against the breaker's own judgement."""

    open: bool
    until: float
    """Monotonic instant, or NEVER."""
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of state, and why, in words."""

    before: BreakerState
    after: BreakerState
    reason: str
    lasts: float = 0.0
    """Seconds the new state lasts at least, where that is known."""
