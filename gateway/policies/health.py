"""Health of endpoints: what probes say, how few may be left, and how an endpoint that returns gets its share again."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

RAMP_FROM: Final = 0.1
"""The share of its weight that an endpoint starts from, as Envoy's."""
LONGEST_REST: Final = 30.0
"""Seconds; an endpoint that asks for more (`Retry-After`) is tried again all the same."""
REST_429: Final = 0.5
"""The share of its weight that an endpoint keeps that said 429. Mostly one client is meant, and others must not pay much."""


class EndpointState(Enum):
    """What an endpoint is at the moment; of several, the first that holds."""

    BREAKER_OPEN = "breaker_open"
    """Its circuit breaker is open."""
    UNHEALTHY = "unhealthy"
    """Its probes fail."""
    EJECTED = "ejected"
    """Too many exchanges failed in a row."""
    RESTING = "resting"
    """It asked to be left alone (`Retry-After`)."""
    SLOW_START = "slow_start"
    """It has come back and gets its share bit by bit."""
    HEALTHY = "healthy"

    # The default hash of a member goes through its name, in Python code.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class AvailabilitySettings:
    """How a group of endpoints deals with those that are not healthy."""

    panic: float = 0.5
    """When less than this share is healthy, health is ignored; 0: never."""
    slow_start: float = 10.0
    """Seconds in which an endpoint that returns gets its full share; 0: at once."""


def least_healthy(settings: AvailabilitySettings, endpoints: int) -> int:
    """How many of so many endpoints must be healthy: with fewer, the group is in panic. Rounded down, at least one."""
    if not settings.panic or not endpoints:
        return 0
    return max(1, int(settings.panic * endpoints))


def ramp(settings: AvailabilitySettings, since: float, now: float) -> float:
    """The share of its weight that an endpoint has which returned at `since`: from a tenth to all of it, evenly."""
    if settings.slow_start <= 0.0 or now - since >= settings.slow_start:
        return 1.0
    return RAMP_FROM + (1.0 - RAMP_FROM) * max(0.0, now - since) / settings.slow_start


def rests(retry_after: float) -> float:
    """Seconds that an endpoint is left alone that said `Retry-After`."""
    return min(max(retry_after, 0.0), LONGEST_REST)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How many probes in a row change a verdict."""

    fall: int = 3
    rise: int = 2


@dataclass(slots=True, eq=False)
class ProbeRecord:
    """What the probes of one endpoint have said so far."""

    up: bool = field(kw_only=True)
    """The verdict that holds."""
    known: bool = False
    """A probe has said so; until then the first one decides alone."""
    against: int = 0
    """Probes in a row that speak against the verdict."""

    def heard(self, ok: bool, thresholds: Thresholds) -> bool:
        """A probe has ended. True when the verdict has changed."""
        first, self.known = not self.known, True
        if ok == self.up:
            self.against = 0
            return False
        self.against += 1
        if first or self.against >= (thresholds.fall if self.up else thresholds.rise):
            self.up = ok
            self.against = 0
            return True
        return False

    @property
    def in_doubt(self) -> bool:
        """The next probe should come soon."""
        return self.against > 0
