"""What all metrics are made of: histograms with fixed buckets, and their bounds."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

REQUEST_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0)
"""OpenTelemetry's advised buckets and two more, because a top bucket of 10 s hides slow requests. Seconds."""

PROBE_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Health probes. Seconds."""

OVERHEAD_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
"""The gateway's own share of a request. Seconds."""

WAIT_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Waiting for a slot. Seconds."""

BATCH_BUCKETS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Checks in one call of the rate limit store."""


class Histogram:
    """A histogram of fixed upper bounds: `observe` is one bisection and two additions."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count `value` (seconds) into its bucket; the upper bound belongs to the bucket."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
