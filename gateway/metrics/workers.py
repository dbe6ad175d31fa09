"""What the supervisor counts of its workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.core import Metric

from gateway.metrics.families import CounterFamily, GaugeFamily


@dataclass(frozen=True, slots=True)
class WorkerMetrics:
    """One place for a worker, whichever process fills it."""

    name: str
    up: bool
    restarts: int
    cpu: float
    """Seconds of processor time, of those before it too."""
    memory: int
    """Resident bytes."""


def worker_families(workers: Iterable[WorkerMetrics]) -> Iterator[Metric]:
    """What Prometheus reads of them."""
    known, labels = list(workers), ["worker"]
    yield GaugeFamily("gateway_worker_up", "1 while the worker serves", labels, [((one.name,), one.up) for one in known])
    yield CounterFamily(
        "gateway_worker_restarts", "Workers that had to be replaced", labels, [((one.name,), one.restarts) for one in known]
    )
    yield CounterFamily(
        "gateway_worker_cpu_seconds", "Processor time, user and system", labels, [((one.name,), one.cpu) for one in known]
    )
    yield GaugeFamily(
        "gateway_worker_resident_memory_bytes", "Memory in use", labels, [((one.name,), one.memory) for one in known]
    )
