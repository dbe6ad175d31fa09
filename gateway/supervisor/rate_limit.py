"""Rate limits, counted in the supervisor for all workers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from socket import socket

from gateway.metrics import StoreMetrics
from gateway.metrics.top_keys import DeniedKey
from gateway.ports import LimitStore
from gateway.proxy.rate_limit_store.batcher import LimitBatcher
from gateway.proxy.rate_limit_store.local import LocalStore
from gateway.proxy.rate_limit_store.worker_link import LimitServer
from gateway.snapshot import EMPTY, Snapshot
from gateway.supervisor.metrics import FleetMetrics
from gateway.supervisor.slot import Slot


class FleetCounts:
    """LimitCounts for all workers, as `control.admin.limits.LimitCounts` shows them."""

    def __init__(self, slots: Sequence[Slot], metrics: FleetMetrics, keys: int) -> None:
        self._slots = slots
        self._metrics = metrics
        self.snapshot = EMPTY
        """The limits there are."""
        self.local_counts = LocalStore(keys)
        """The counts of all workers."""
        self._server = LimitServer(self.local_counts)
        self._serving: set[asyncio.Task[None]] = set()
        self._store: LimitBatcher | None = None

    def serve(self, sock: socket) -> None:
        """A worker wants to have its requests counted through this socket."""
        sock.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._server.serve(sock))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def change_store(self, snapshot: Snapshot) -> None:
        """As a configuration says. The supervisor asks Redis only for `gateway limits`."""
        self.snapshot = snapshot
        self.local_counts.resize(snapshot.server.limits.rate_limit_keys)
        if self._store is not None and self._store.settings != snapshot.redis:
            await self._store.stop()
            self._store = None
        if self._store is None and snapshot.redis is not None:
            self._store = LimitBatcher(snapshot.redis, StoreMetrics())
            await self._store.start()

    async def stop(self) -> None:
        """Hang up on all."""
        self._server.stop()
        if self._store is not None:
            await self._store.stop()

    @property
    def limit_store(self) -> LimitStore:
        """Who is asked."""
        return self._store or self.local_counts

    def store_up(self) -> bool | None:
        """Whether the store outside answers; None without one."""
        return self._store.up if self._store is not None else None

    async def denied_most(self) -> list[DeniedKey]:
        """The keys that rate limits have denied most, over all workers."""
        await self._metrics.refresh()
        return self._metrics.denied_most()

    def forget_key(self, limit_id: bytes, digest: bytes) -> None:
        """In the counts, and in what the workers remember."""
        self.local_counts.reset(limit_id, digest)
        for slot in self._slots:
            slot.tell("forget", {"limit": limit_id.decode("ascii"), "key": digest.hex()})
