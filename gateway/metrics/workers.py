"""What the supervisor counts of its workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.core import Metric

from gateway.metrics.families import Each


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
    each = Each(["worker"], (((one.name,), one) for one in workers))
    yield each.one(lambda one: one.up).gauge("gateway_worker_up", "1 while the worker serves")
    yield each.one(lambda one: one.restarts).counter("gateway_worker_restarts", "Workers that had to be replaced")
    yield each.one(lambda one: one.cpu).counter("gateway_worker_cpu_seconds", "Processor time, user and system")
    yield each.one(lambda one: one.memory).gauge("gateway_worker_resident_memory_bytes", "Memory in use")
