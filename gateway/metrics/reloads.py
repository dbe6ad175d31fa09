"""What is counted of reloads, by whoever decides about them: the one process, or the supervisor of several."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from gateway.metrics.families import CounterFamily, gauge


class ReloadMetrics:
    """Reloads since the start, and how the last one went."""

    __slots__ = ("counts", "loaded_at", "successful")

    def __init__(self, now: float) -> None:
        self.counts = {"success": 0, "failure": 0}
        self.successful = True
        """The configuration on the disk is the one that runs, as far as the last look at it tells."""
        self.loaded_at = now
        """Unix time of the last success; the start counts."""

    def succeeded(self, now: float) -> None:
        """The new configuration runs."""
        self.counts["success"] += 1
        self.successful = True
        self.loaded_at = now

    def failed(self) -> None:
        """The old configuration goes on."""
        self.counts["failure"] += 1
        self.successful = False


def reload_families(reloads: ReloadMetrics) -> Iterator[Metric]:
    """What Prometheus reads of them."""
    counts = CounterFamily("gateway_config_reloads", "Attempts to reload the configuration", labels=["result"])
    for result, count in reloads.counts.items():
        counts.add_metric([result], count)
    yield counts
    yield gauge(
        "gateway_config_last_reload_successful",
        "0 when the last reload failed: the old configuration goes on",
        reloads.successful,
    )
    yield gauge(
        "gateway_config_last_reload_success_timestamp_seconds", "When the running configuration was loaded", reloads.loaded_at
    )
