"""What the supervisor shows of its workers: their metrics added up, and the rate limits that it counts for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from gateway.endpoints import Endpoint
from gateway.metrics import UNMATCHED, ReloadMetrics, StoreMetrics, UpstreamMetrics
from gateway.metrics.reloads import reload_families
from gateway.metrics.sums import label_values, merged
from gateway.metrics.workers import Worker, worker_families
from gateway.ports import LimitStore
from gateway.proxy.limit_store import LocalStore
from gateway.snapshot import Snapshot, UpstreamSettings

if TYPE_CHECKING:
    from gateway.supervisor.fleet import Fleet
    from gateway.supervisor.slot import Slot


class NoPool:
    """The supervisor connects to no upstream."""

    def __init__(self, endpoint: Endpoint, settings: UpstreamSettings, metrics: UpstreamMetrics) -> None:
        """As a pool is made."""

    def retire(self) -> None:
        """See `ports.Pool`."""

    def sweep(self, now: float) -> None:
        """See `ports.Pool`."""

    def counts(self) -> dict[str, int]:
        """See `ports.Pool`."""
        return {}


class FleetMetrics:
    """Sums over the workers, those that have ended too, so that no counter ever goes back."""

    def __init__(self, slots: Sequence[Slot], reloads: ReloadMetrics) -> None:
        self._slots = slots
        self._reloads = reloads
        self.store = StoreMetrics()
        """Of the supervisor's own questions; not shown."""

    def keep(self, snapshot: Snapshot) -> None:
        """Of workers that have ended, forget what is not configured any more, and endpoints that no worker knows any more."""
        routes = {route.name for route in snapshot.routes} | {UNMATCHED}
        limits = {(route.name, limit.name) for route in snapshot.routes for limit in route.rate_limit or ()}
        upstreams = {upstream.name for upstream in snapshot.upstreams}
        endpoints = {
            found for slot in self._slots for found in label_values(slot.report.get("metrics", []), "upstream", "endpoint")
        }
        # A worker that has not reported yet may know others.
        complete = all(slot.report.get("metrics") for slot in self._slots)
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

    def collect(self) -> Iterator[Metric]:
        """The collector protocol of prometheus_client."""
        states = [state for slot in self._slots for state in (slot.before.state(), slot.report.get("metrics", []))]
        yield from merged(states)
        yield from reload_families(self._reloads)
        yield from worker_families(
            Worker(
                str(slot.index),
                slot.up,
                slot.restarts,
                slot.cpu_before + slot.report.get("cpu", 0.0),
                slot.report.get("memory", 0),
            )
            for slot in self._slots
        )

    def denied_most(self) -> list[tuple[str, str, bytes, int, int]]:
        """The keys that rate limits have denied most, over all workers."""
        counts: dict[tuple[str, str, bytes], tuple[int, int]] = {}
        for slot in self._slots:
            for route, limit, digest, count, error in slot.report.get("denied", []):
                key = (route, limit, bytes.fromhex(digest))
                before = counts.get(key, (0, 0))
                counts[key] = (before[0] + count, before[1] + error)
        ordered = sorted(counts.items(), key=lambda item: -item[1][0])
        return [(*key, count, error) for key, (count, error) in ordered]


class Counting:
    """See `control.admin_limits.Counts`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    @property
    def snapshot(self) -> Snapshot:
        """The limits there are."""
        return self._fleet.snapshot

    @property
    def local_counts(self) -> LocalStore:
        """The counts of all workers."""
        return self._fleet.counts

    @property
    def limit_store(self) -> LimitStore:
        """Who is asked."""
        return self._fleet.store or self._fleet.counts

    def store_up(self) -> bool | None:
        """Whether the store outside answers; None without one."""
        return self._fleet.store.up if self._fleet.store is not None else None

    async def denied_most(self) -> list[tuple[str, str, bytes, int, int]]:
        """See `TopKeys.top`."""
        await self._fleet.refresh()
        return self._fleet.metrics.denied_most()

    def forget_key(self, limit_id: bytes, digest: bytes) -> None:
        """In the counts, and in what the workers remember."""
        self._fleet.counts.reset(limit_id, digest)
        self._fleet.tell_all("forget", {"limit": limit_id.decode("ascii"), "key": digest.hex()})
