"""What runs a configuration, and how one takes the place of another: all that can fail is done before, beside what runs.

`prepare` compiles, binds and opens; `commit` is one assignment and what follows from it; `abandon` takes a preparation back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from socket import socket
from typing import Final

from gateway import __version__
from gateway.control.blocks.tls import TlsError
from gateway.control.checks import notes
from gateway.control.compile import compile_config, dropped_endpoints
from gateway.control.load import Loaded
from gateway.control.metrics_compile import foresee
from gateway.control.running.discovery import Discovery
from gateway.control.running.off_loop import off_loop
from gateway.control.running.probes import Probes
from gateway.control.running.reload import ReloadError
from gateway.control.running.resolver import SystemResolver
from gateway.endpoints import Endpoint
from gateway.metrics import GatewayMetrics, StoreMetrics, UpstreamMetrics
from gateway.ports import Answers, Resolver
from gateway.proxy.access_log.writer import AccessLog, open_log
from gateway.proxy.downstream.handshakes import Handshakes
from gateway.proxy.downstream.listeners import Door, StartError, bind
from gateway.proxy.downstream.open_files import raise_file_limit
from gateway.proxy.downstream.tls_server import TlsServer
from gateway.proxy.plane import DataPlane
from gateway.proxy.rate_limit_store import worker_link as worker_store
from gateway.proxy.rate_limit_store.batcher import LimitBatcher
from gateway.proxy.rate_limit_store.worker_link import WorkerLink
from gateway.proxy.upstream.pool import EndpointPool
from gateway.server_settings import Listener
from gateway.snapshot import EMPTY, Snapshot, UpstreamSettings

LOOKUPS: Final = 2.0
"""Seconds that the start waits for the names of endpoints at most."""

_log = logging.getLogger("gateway")


@dataclass(slots=True)
class Member:
    """What a worker gets from its supervisor. A gateway of one process has none of it."""

    workers: int
    """How many there are."""
    connect: Callable[[], socket]
    """A new way to the process that counts rate limits."""
    log_lock: int | None = None
    """A file that is locked while lines go to the access log: several processes write to one pipe."""
    sockets: dict[tuple[str, int, str], list[socket]] = field(default_factory=dict)
    """Bound sockets for the listeners that are to be opened."""


@dataclass(slots=True)
class Prepared:
    """A configuration that can run at once: compiled, its addresses bound, its files open. Not one request has seen it."""

    loaded: Loaded
    snapshot: Snapshot
    token: str | None = None
    doors: list[Door] = field(default_factory=list)
    """In the order of the listeners."""
    servers: list[list[asyncio.Server | TlsServer]] = field(default_factory=list)
    """Per door: those that are to take the place of its servers; none when they can stay."""
    bound: list[Door] = field(default_factory=list)
    """The doors that there were not before."""
    log: AccessLog | None = None
    log_file: tuple[int, int] | None = None
    store: LimitBatcher | None = None


class Runtime:
    """The configuration that one process runs, with its listeners, its log, its store, and the data plane between them."""

    def __init__(self, loaded: Loaded, resolver: Resolver | None = None, member: Member | None = None) -> None:
        self.loaded = loaded
        self.member = member
        self.metrics = GatewayMetrics(__version__, platform.python_version())
        self.plane = DataPlane(asyncio.get_running_loop(), EMPTY, self.metrics, None)
        self.doors: list[Door] = []
        self.handshakes = Handshakes(self.plane)
        self.token: str | None = None
        """What the admin listener asks for before it changes something."""
        self.closing = False
        """Shutdown has begun: nothing is changed any more."""
        self._running = Prepared(loaded, EMPTY)
        self._probes = Probes()
        self._discovery = Discovery(resolver or SystemResolver(), self._make_pool, self._probes.follow)

    async def prepare(self, loaded: Loaded) -> Prepared:
        """Do all of a change that can fail, beside what runs. Raises StartError, and leaves nothing behind then."""
        if self.closing:
            raise StartError("the gateway is shutting down")
        for note in notes(loaded.resolved, loaded.positions):
            _log.warning("%s", note)
        try:
            workers = self.member.workers if self.member is not None else 1
            snapshot = compile_config(loaded, self.metrics, self._make_pool, self.plane.snapshot, workers=workers)
            token = loaded.config.admin.secret("token")
        except (TlsError, OSError, ValueError) as error:
            self._keep_metrics()
            raise StartError(str(error)) from None
        prepared = Prepared(loaded, snapshot, token)
        try:
            self._prepare_log(prepared)
            await self._prepare_store(prepared)
            await self._prepare_doors(prepared)
        except BaseException:
            await self.abandon(prepared)
            raise
        return prepared

    @staticmethod
    def _make_pool(endpoint: Endpoint, settings: UpstreamSettings, metrics: UpstreamMetrics) -> EndpointPool:
        return EndpointPool(asyncio.get_running_loop(), endpoint, settings, metrics)

    def _prepare_log(self, prepared: Prepared) -> None:
        """Open the access log; the one there is stays if it is still the file of that name."""
        settings, former = prepared.loaded.config.access_log, self.loaded.config.access_log
        lock = self.member.log_lock if self.member is not None else None
        if settings is None:
            return
        if settings.file == "-":
            prepared.log = self._running.log if former is not None and former.file == "-" else None
            if prepared.log is None:
                try:
                    prepared.log = AccessLog(sys.stdout.fileno(), self.metrics, lock=lock)
                except (OSError, AttributeError, ValueError):
                    _log.warning("standard output is closed: no access log")
            return
        try:
            fd = open_log(settings.file, settings.rights())
        except OSError as error:
            raise StartError(f"cannot open the access log `{settings.file}`: {error.strerror}") from None
        try:
            found = os.fstat(fd)
            prepared.log_file = (found.st_dev, found.st_ino)
            same = self._running.log is not None and prepared.log_file == self._running.log_file
            prepared.log = (
                self._running.log
                if same
                else AccessLog(fd, self.metrics, path=settings.file, rights=settings.rights(), lock=lock)
            )
        finally:
            os.close(fd)

    async def _prepare_store(self, prepared: Prepared) -> None:
        member = self.member
        settings = prepared.snapshot.redis or (worker_store.SETTINGS if member is not None else None)
        if settings is None:
            return
        if self._running.store is not None and self._running.store.settings == settings:
            prepared.store = self._running.store
            return
        if settings is worker_store.SETTINGS and member is not None:
            prepared.store = LimitBatcher(settings, StoreMetrics(), lambda _: WorkerLink(member.connect), source=Answers.LOCAL)
        else:
            prepared.store = LimitBatcher(settings, StoreMetrics())
        await prepared.store.start()

    def _bind(self, one: Listener) -> Door:
        if self.member is None:
            return Door(one, bind(one))
        return Door(one, self.member.sockets.pop(one.place), own=False)

    async def _prepare_doors(self, prepared: Prepared) -> None:
        former = {door.listener.place: door for door in self.doors}
        header = prepared.snapshot.server.timeouts.header
        for one in prepared.snapshot.server.listeners:
            door = former.pop(one.place, None)
            servers: list[asyncio.Server | TlsServer] = []
            if door is None:
                door = self._bind(one)
                prepared.bound.append(door)
            if door in prepared.bound or door.listener != one or header != self.plane.snapshot.server.timeouts.header:
                servers = await door.prepare(self.plane, one.tls, self.handshakes, header)
            prepared.doors.append(door)
            prepared.servers.append(servers)

    async def abandon(self, prepared: Prepared) -> None:
        """Take back what `prepare` did."""
        for servers in prepared.servers:
            for server in servers:
                server.close()
        for door in prepared.bound:
            door.close()
            door.remove()
        if prepared.store is not None and prepared.store is not self._running.store:
            await prepared.store.stop()
        if prepared.log is not None and prepared.log is not self._running.log:
            await off_loop(prepared.log.close)
        self._keep_metrics()

    async def change_to(self, loaded: Loaded) -> None:
        """Prepare and commit; what `Reloader` asks for."""
        try:
            prepared = await self.prepare(loaded)
        except StartError as error:
            raise ReloadError(str(error)) from None
        await self.commit(prepared)

    async def commit(self, prepared: Prepared) -> None:
        """Run what was prepared: new requests live in it from the next line on. Exchanges keep the world they began in."""
        plane, metrics, snapshot = self.plane, self.metrics, prepared.snapshot
        previous, former = plane.snapshot, self._running
        self.loaded, self.token = prepared.loaded, prepared.token
        self._running, plane.log = prepared, prepared.log
        plane.limit_store = prepared.store or plane.local_counts
        outside = prepared.store is not None and prepared.store.settings is not worker_store.SETTINGS
        metrics.store = prepared.store.metrics if prepared.store is not None and outside else None
        plane.apply(snapshot)
        metrics.config_hash = snapshot.config_hash
        foresee(metrics, snapshot, prepared.loaded.config)
        self._keep_metrics()
        for endpoint in dropped_endpoints(previous, snapshot):
            endpoint.pool.retire()
        self._attend(snapshot)
        raise_file_limit(snapshot.server.limits.connections)
        if not self.doors:
            await self._discovery.settle(LOOKUPS)
        await self._change_doors(prepared)
        if former.store is not None and former.store is not prepared.store:
            await former.store.stop()
        if former.log is not None and former.log is not prepared.log:
            await off_loop(former.log.close)

    def reopen_logs(self) -> None:
        """The log file has been renamed: go on in a new one."""
        if self._running.log is not None:
            self._running.log.reopen()
            self._running.log_file = None

    def _attend(self, snapshot: Snapshot) -> None:
        """Look after the endpoints of `snapshot` from now on: their names and their health. All work in the background that
        belongs to a snapshot begins and ends here."""
        self._probes.apply(snapshot)
        self._discovery.apply(snapshot)

    async def _change_doors(self, prepared: Prepared) -> None:
        former, self.doors = self.doors, prepared.doors
        for door, one, servers in zip(prepared.doors, prepared.snapshot.server.listeners, prepared.servers, strict=True):
            if servers:
                await door.open(one, servers)
        for door in former:
            if door not in prepared.doors:
                _log.info("no longer listening on %s", door.listener)
                self._leave(door)

    def _leave(self, door: Door) -> None:
        """Nobody comes in here any more; who is in may finish what is going on."""
        names = [sock.getsockname() for sock in door.sockets]
        door.close()
        door.remove()
        for connection in list(self.plane.connections):
            if connection.local_address() in names:
                connection.close_when_idle()

    def _keep_metrics(self) -> None:
        """Series of what is not configured end."""
        snapshot = self.plane.snapshot
        self.metrics.keep_only(
            [route.name for route in snapshot.routes],
            [upstream.name for upstream in snapshot.upstreams],
            [(route.name, limit.name) for route in snapshot.routes for limit in route.rate_limit or ()],
        )

    async def retire(self) -> None:
        """Close what the configuration has brought. The doors are closed before, by who drains."""
        await self._discovery.stop()
        await self._probes.stop()
        self.plane.threads.stop()
        for upstream in self.plane.snapshot.upstreams:
            for endpoint in upstream.group.endpoints:
                endpoint.pool.retire()
        if self._running.store is not None:
            await self._running.store.stop()
        if self._running.log is not None:
            self._running.log.close()
