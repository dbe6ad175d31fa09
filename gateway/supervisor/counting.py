"""What the supervisor shows of its workers: their metrics added up, and the rate limits that it counts for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from socket import socket
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from gateway.endpoints import Endpoint
from gateway.metrics import UNMATCHED, ReloadMetrics, StoreMetrics, UpstreamMetrics
from gateway.metrics.reloads import reload_families
from gateway.metrics.sums import Joined, label_values
from gateway.metrics.workers import Worker, worker_families
from gateway.ports import LimitStore
from gateway.proxy.rate_limit_store.batcher import RedisStore
from gateway.proxy.rate_limit_store.local import LocalStore
from gateway.proxy.rate_limit_store.worker_link import LimitServer
from gateway.snapshot import Snapshot, UpstreamSettings
from gateway.supervisor.slot import Slot, parts

if TYPE_CHECKING:
    from gateway.supervisor.fleet import Fleet


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
        self._joined = Joined()

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

    async def look(self) -> None:
        """Read what the workers have reported."""
        joined = Joined()
        for slot in self._slots:
            # Both at once: when a worker ends, its report becomes a part of what was before.
            before, report = slot.before.state(), slot.report
            joined.begin()
            for piece in before:
                joined.add(piece)
            joined.begin()
            async for part in parts(report):
                for piece in part:
                    joined.add(piece)
        self._joined = joined

    def collect(self) -> Iterator[Metric]:
        """The collector protocol of prometheus_client: what `look` has found."""
        yield from self._joined.families()
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
    """Counts for all workers; see `control.admin.limits.Counts`."""

    def __init__(self, fleet: Fleet, keys: int) -> None:
        self._fleet = fleet
        self.local_counts = LocalStore(keys)
        """The counts of all workers."""
        self._server = LimitServer(self.local_counts)
        self._serving: set[asyncio.Task[None]] = set()
        self._store: RedisStore | None = None

    def serve(self, sock: socket) -> None:
        """A worker wants to have its requests counted through this socket."""
        sock.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._server.serve(sock))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def change_store(self, snapshot: Snapshot) -> None:
        """As a configuration says. The supervisor asks Redis only for `gateway limits`."""
        self.local_counts.resize(snapshot.server.limits.rate_limit_keys)
        if self._store is not None and self._store.settings != snapshot.redis:
            await self._store.stop()
            self._store = None
        if self._store is None and snapshot.redis is not None:
            self._store = RedisStore(snapshot.redis, StoreMetrics())
            await self._store.start()

    async def stop(self) -> None:
        """Hang up on all."""
        self._server.stop()
        if self._store is not None:
            await self._store.stop()

    @property
    def snapshot(self) -> Snapshot:
        """The limits there are."""
        return self._fleet.snapshot

    @property
    def limit_store(self) -> LimitStore:
        """Who is asked."""
        return self._store or self.local_counts

    def store_up(self) -> bool | None:
        """Whether the store outside answers; None without one."""
        return self._store.up if self._store is not None else None

    async def denied_most(self) -> list[tuple[str, str, bytes, int, int]]:
        """See `TopKeys.top`."""
        await self._fleet.reports()
        return self._fleet.metrics.denied_most()

    def forget_key(self, limit_id: bytes, digest: bytes) -> None:
        """In the counts, and in what the workers remember."""
        self.local_counts.reset(limit_id, digest)
        self._fleet.tell_all("forget", {"limit": limit_id.decode("ascii"), "key": digest.hex()})
