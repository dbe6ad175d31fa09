"""Gates: the live side of `max_in_flight`, one per upstream, route or server that has a limit."""

from __future__ import annotations

from gateway.metrics.max_in_flight import MaxInFlightMetrics
from gateway.policies.adaptive_limit import AdaptiveLimit, AdaptiveSettings
from gateway.policies.max_in_flight import Limiter, MaxInFlightSettings


class Gate(Limiter):
    """A limiter that knows what it is the limit of. It lives as long as its name does, across reloads."""

    __slots__ = ("adaptive", "metrics")

    def __init__(self, settings: MaxInFlightSettings, adaptive: AdaptiveSettings | None, metrics: MaxInFlightMetrics) -> None:
        super().__init__(settings)
        self.metrics = metrics
        self.adaptive: AdaptiveLimit | None = None
        self.apply(settings, adaptive)

    def apply(self, settings: MaxInFlightSettings, adaptive: AdaptiveSettings | None) -> None:
        """Live by these settings from now on. What is in flight, who waits, and a limit already found are kept."""
        self.metrics.live = self
        if adaptive is None:
            self.adaptive = None
        elif self.adaptive is None or self.adaptive.settings != adaptive:
            found = self.adaptive.limit if self.adaptive is not None else settings.limit
            self.adaptive = AdaptiveLimit(adaptive, found)
        self.configure(settings)
        if self.adaptive is not None:
            self.resize(self.adaptive.limit)

    def shown(self) -> dict[str, object]:
        """For the admin listener."""
        return {
            "in_flight": self.in_flight,
            "limit": self.limit,
            "adaptive": self.adaptive is not None,
            "queued": self.waiting,
            "queue": self.settings.queue,
            "max_wait": self.settings.max_wait,
        }
