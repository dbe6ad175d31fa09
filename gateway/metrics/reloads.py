"""What is counted of reloads, by whoever decides about them: the one process, or the supervisor of several."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.core import Metric

from gateway.metrics.families import Each, alone


@dataclass(slots=True, eq=False)
class ReloadMetrics:
    """Reloads since the start, and how the last one went."""

    loaded_at: float
    """Unix time of the last success; the start counts."""
    counts: dict[str, int] = field(default_factory=lambda: {"success": 0, "failure": 0})
    successful: bool = True
    """The configuration on the disk is the one that runs, as far as the last look at it tells."""

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
    yield (
        Each((), [((), reloads)])
        .words("result", lambda one: one.counts)
        .counter("gateway_config_reloads", "Attempts to reload the configuration")
    )
    yield alone(reloads.successful).gauge(
        "gateway_config_last_reload_successful", "0 when the last reload failed: the old configuration goes on"
    )
    yield alone(reloads.loaded_at).gauge(
        "gateway_config_last_reload_success_timestamp_seconds", "When the running configuration was loaded"
    )
