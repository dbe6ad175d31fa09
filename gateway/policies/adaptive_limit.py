"""A limit that looks for what the upstream can take: additive increase, multiplicative decrease (AIMD).

In each window, as long as an answer takes but at least `WINDOW`: when more than `tolerance` of the answers were late or
refused, the limit falls by a tenth; when none of that, and at least half of it was in use, it rises by its square root. One
decrease per window, because the answers to what was sent before a decrease do not tell of it. No baseline is learned, so
nothing has to be probed with traffic held back, and several gateways in front of one upstream do not mislead one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Final

WINDOW: Final = 0.1
"""Seconds between two changes, at least."""


@dataclass(frozen=True, slots=True)
class AdaptiveSettings:
    """Between which numbers the limit moves, and by what."""

    min: int
    max: int
    latency: float = 1.0
    """Seconds to the response head; more is late."""
    backoff: float = 0.9
    """What the limit is multiplied by."""
    tolerance: float = 0.1
    """Share of the answers that may be late or refused."""


class AdaptiveLimit:
    """The limit at work, and what it has seen."""

    __slots__ = ("_again", "_bad", "_peak", "_seconds", "_seen", "limit", "settings")

    def __init__(self, settings: AdaptiveSettings, limit: int) -> None:
        self.settings = settings
        self.limit = min(settings.max, max(settings.min, limit))
        self._again = 0.0
        self._seen = self._bad = self._peak = 0
        self._seconds = 0.0

    def seen(self, seconds: float, in_flight: int, *, refused: bool) -> None:
        """An answer came after so long, with so many in flight; `refused`: it said that there are too many, or failed."""
        self._seen += 1
        self._seconds += seconds
        if refused or seconds > self.settings.latency:
            self._bad += 1
        self._peak = max(self._peak, in_flight)

    def decide(self, now: float) -> int:
        """The limit from now on. Called again and again; most calls change nothing."""
        seen = self._seen
        if not seen or now < self._again:
            return self.limit
        settings = self.settings
        if self._bad > settings.tolerance * seen:
            self.limit = max(settings.min, int(self.limit * settings.backoff))
        elif self._peak * 2 >= self.limit:
            self.limit = min(settings.max, self.limit + isqrt(self.limit))
        self._again = now + max(WINDOW, self._seconds / seen)
        self._seen = self._bad = self._peak = 0
        self._seconds = 0.0
        return self.limit
