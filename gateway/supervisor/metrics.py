"""The metrics of the workers, added up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from prometheus_client.core import Metric

from gateway.metrics import UNMATCHED, ReloadMetrics
from gateway.metrics.reloads import reload_families
from gateway.metrics.sums import Sums, label_values
from gateway.metrics.top_keys import DeniedKey
from gateway.metrics.workers import WorkerMetrics, worker_families
from gateway.snapshot import Snapshot
from gateway.supervisor.slot import Slot, parts


class FleetMetrics:
    """Sums over the workers, those that have ended too, so that no counter ever goes back."""

    def __init__(self, slots: Sequence[Slot], reloads: ReloadMetrics) -> None:
        self._slots = slots
        self._reloads = reloads
        self._sums = Sums()

    async def keep(self, snapshot: Snapshot) -> None:
        """Of workers that have ended, forget what is not configured any more, and endpoints that no worker knows any more."""
        routes = {route.name for route in snapshot.routes} | {UNMATCHED}
        limits = {(route.name, limit.name) for route in snapshot.routes for limit in route.rate_limit or ()}
        upstreams = {upstream.name for upstream in snapshot.upstreams}
        # A worker that has not reported yet may know others.
        complete = all(slot.report.get("metrics") for slot in self._slots)
        endpoints = {
            found
            for slot in self._slots
            async for part in parts(slot.report)
            for found in label_values(part, "upstream", "endpoint")
        }
        scoped = {"route": routes, "upstream": upstreams}

        def wanted(labels: dict[str, str]) -> bool:
            route, upstream, scope = labels.get("route"), labels.get("upstream"), labels.get("scope", "")
            return (
                (route is None or route in routes)
                and (upstream is None or upstream in upstreams)
                and ("limit" not in labels or (route, labels["limit"]) in limits)
                and (not complete or "endpoint" not in labels or (upstream, labels["endpoint"]) in endpoints)
                and (scope not in scoped or labels.get("name") in scoped[scope])
            )

        for slot in self._slots:
            slot.before.keep(wanted)

    async def refresh(self) -> None:
        """Have every worker say what it has counted."""
        await asyncio.gather(*(slot.refresh() for slot in self._slots))

    async def look(self) -> None:
        """Read what the workers have reported."""
        sums = Sums()
        for slot in self._slots:
            # Both at once: when a worker ends, its report becomes a part of what was before.
            before, report = slot.before.state(), slot.report
            sums.add(before)
            async for part in parts(report):
                sums.add(part)
        self._sums = sums

    def collect(self) -> Iterator[Metric]:
        """The collector protocol of prometheus_client: what `look` has found."""
        yield from self._sums.families()
        yield from reload_families(self._reloads)
        yield from worker_families(
            WorkerMetrics(
                str(slot.index),
                slot.up,
                slot.restarts,
                slot.cpu_before + slot.report.get("cpu", 0.0),
                slot.report.get("memory", 0),
            )
            for slot in self._slots
        )

    def denied_most(self) -> list[DeniedKey]:
        """The keys that rate limits have denied most, over all workers."""
        found: dict[tuple[str, str, str], DeniedKey] = {}
        for slot in self._slots:
            for route, limit, digest, count, error, client in slot.report.get("denied", []):
                one = DeniedKey(route, limit, bytes.fromhex(digest), count, error, bytes.fromhex(client))
                before = found.get((route, limit, digest))
                if before is not None:
                    one = one._replace(denied=count + before.denied, error=error + before.error)
                found[route, limit, digest] = one
        return sorted(found.values(), key=lambda one: -one.denied)
