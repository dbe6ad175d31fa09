"""When the process itself cannot keep up: how late the event loop is says it, whatever the reason.

The lag is smoothed, so that one pause (a collection, a slow disk, a stopped process) sheds nothing that matters. Shedding a
rank begins above its threshold and ends below half of it. The highest rank is never shed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WEIGHT: Final = 0.3
"""Of the newest sample."""
NOBODY: Final = 3
"""The rank from which on requests are shed, when none are."""


@dataclass(frozen=True, slots=True)
class OverloadSettings:
    """Seconds of lag above which requests are refused; infinite: never."""

    default: float = 1.0
    sheddable: float = 0.1


class Overload:
    """How late the event loop is, smoothed, and what that sheds. Ranks are 0 critical, 1 default, 2 sheddable."""

    __slots__ = ("_most", "_thresholds", "lag", "shed_from")

    def __init__(self, settings: OverloadSettings) -> None:
        self.lag = 0.0
        """Smoothed, in seconds."""
        self.shed_from = NOBODY
        """Requests of this rank and of lower ones are refused."""
        self.configure(settings)

    def configure(self, settings: OverloadSettings) -> None:
        """Other thresholds from now on."""
        self._thresholds = ((1, settings.default), (2, settings.sheddable))
        finite = [threshold for _, threshold in self._thresholds if threshold != float("inf")]
        self._most = 2 * max(finite, default=0.5)

    def measured(self, lag: float) -> None:
        """The loop was so late. A sample counts for at most twice the highest threshold."""
        lag = min(max(0.0, lag), self._most)
        self.lag += WEIGHT * (lag - self.lag)
        shed_from = NOBODY
        for rank, threshold in self._thresholds:
            if self.lag > (threshold / 2 if rank >= self.shed_from else threshold):
                shed_from = rank
                break
        self.shed_from = shed_from
