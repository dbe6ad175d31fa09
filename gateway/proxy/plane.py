"""What the connections of one worker share."""

from __future__ import annotations

import asyncio
from time import monotonic, time
from typing import Protocol

from gateway.headers import http_date
from gateway.metrics import GatewayMetrics
from gateway.metrics.top_keys import DeniedKey, TopKeys
from gateway.policies.overload import NOBODY
from gateway.ports import LimitStore, LogSink
from gateway.proxy.bodies.coding_threads import CodingThreads
from gateway.proxy.rate_limit_store.local import LocalStore
from gateway.proxy.upstream.circuit_breaker import Breakers
from gateway.proxy.upstream.health import Standing
from gateway.proxy.wire.http1_request import RequestReader, request_kinds
from gateway.snapshot import Snapshot


def request_reader(snapshot: Snapshot) -> RequestReader:
    """Reads request heads, and keeps of their fields what the snapshot asks for."""
    names = snapshot.names
    noted = {names.request_id, names.budget, b"x-server-timing"} | ({names.priority} if names.priority else set())
    return RequestReader(request_kinds(noted, snapshot.match_fields))


class PlaneConnection(Protocol):
    """What the plane asks of the connections of its clients."""

    def renew(self) -> None:
        """Another snapshot holds: look anew at what is remembered from the last one."""

    def close_when_idle(self) -> None:
        """Draining: read no further request."""

    def abort(self) -> None:
        """Close at once."""

    def local_address(self) -> object:
        """The address that the client connected to, as `socket.getsockname` has it."""


class DataPlane:
    """The data plane of one worker. `apply` swaps the snapshot; an exchange keeps the one it began with."""

    __slots__ = (
        "breakers", "connections", "date", "draining", "limit_store", "limits", "local_counts", "log", "loop", "metrics",
        "reader", "shed_from", "snapshot", "surely_small", "threads", "top_keys", "via_line",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        snapshot: Snapshot,
        metrics: GatewayMetrics,
        log: LogSink | None,
        limit_store: LimitStore | None = None,
    ) -> None:
        self.loop = loop
        self.metrics = metrics
        self.log = log
        self.connections: set[PlaneConnection] = set()
        self.draining = False
        self.breakers = Breakers()
        self.local_counts = LocalStore(snapshot.server.limits.rate_limit_keys)
        """Rate limits in process: all of them, or those whose store is in trouble."""
        self.limit_store = limit_store or self.local_counts
        self.top_keys = TopKeys()
        self.threads = CodingThreads(loop)
        self.shed_from = NOBODY
        """Requests of this rank and of lower ones are refused: the event loop is late."""
        self.date = http_date(time())
        """The current `Date` value, renewed by `tick`."""
        self.apply(snapshot)

    def apply(self, snapshot: Snapshot) -> None:
        """New requests live in `snapshot` from now on."""
        self._open_gates(snapshot)
        self.snapshot = snapshot
        for upstream in snapshot.upstreams:
            if upstream.group.watcher is None:
                upstream.group.take_over(Standing(upstream.group, upstream.metrics))
        limits = self.limits = snapshot.server.limits
        # A field line has at least 4 bytes, so a head of this size can break no limit.
        self.surely_small = min(limits.target, limits.headers, 4 * limits.header_count)
        self.reader = request_reader(snapshot)
        self.via_line = b"Via: 1.1 %b\r\n" % snapshot.server.name.encode("ascii")
        self.local_counts.resize(snapshot.server.limits.rate_limit_keys)
        self.limit_store.forget()
        self.breakers.apply(snapshot)
        for connection in self.connections:
            connection.renew()

    def _open_gates(self, snapshot: Snapshot) -> None:
        """Gates of before that are none any more run empty by themselves: who holds a slot lets the next one in."""
        for one in getattr(self, "snapshot", snapshot).gates:
            one.gate.metrics.live = None
        now = monotonic()
        for one in snapshot.gates:
            one.gate.apply(one.settings, one.adaptive)
            one.gate.let_in(self.loop.call_soon, now)

    def tick(self) -> None:
        """Once a second: renew the date, close upstream connections idle for too long, let ejections end, and so on."""
        self.date = http_date(time())
        now = monotonic()
        for upstream in self.snapshot.upstreams:
            upstream.group.tick(now)
            upstream.retry_budget.roll(now)
            for endpoint in upstream.group.endpoints:
                endpoint.pool.sweep(now)
        self.local_counts.sweep()
        self.breakers.tick(self.snapshot, now)

    def store_up(self) -> bool | None:
        """Whether the store of rate limits outside the process answers; None without one."""
        return self.metrics.store.up if self.metrics.store is not None else None

    async def denied_most(self) -> list[DeniedKey]:
        """The keys that rate limits have denied most."""
        return self.top_keys.top()

    def forget_key(self, limit_id: bytes, digest: bytes) -> None:
        """A key is reset: forget what is counted here, and what is remembered of denials."""
        self.local_counts.reset(limit_id, digest)
        self.limit_store.forget()

    def drain(self) -> None:
        """No more keep-alive: idle connections close now, busy ones behind their response."""
        self.draining = True
        for connection in list(self.connections):
            connection.close_when_idle()

    def abort(self) -> None:
        """Cut every connection."""
        for connection in list(self.connections):
            connection.abort()
