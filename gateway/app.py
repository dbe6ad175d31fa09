"""The composition root of one worker: the only place that constructs; owns start, change, drain and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from gateway import __version__
from gateway.control.admin import make_admin_runner
from gateway.control.admin_limits import AdminLimits
from gateway.control.admin_reload import AdminReload
from gateway.control.admin_token import AdminToken
from gateway.control.aside import aside
from gateway.control.compile import compile_config, dropped_endpoints, listener
from gateway.control.compression_compile import compression_notes
from gateway.control.discovery import Discovery
from gateway.control.dump import effective_config
from gateway.control.load import Loaded
from gateway.control.probes import Probes
from gateway.control.reload import Reloader, ReloadError
from gateway.control.resolver import SystemResolver
from gateway.control.tls import TlsError
from gateway.endpoints import Endpoint
from gateway.metrics import GatewayMetrics, ReloadMetrics, StoreMetrics, UpstreamMetrics
from gateway.ports import Resolver
from gateway.proxy.access_log import AccessLog
from gateway.proxy.listening import Door, StartError, bind, reason
from gateway.proxy.loop_watch import LoopWatch
from gateway.proxy.open_files import raise_file_limit
from gateway.proxy.plane import DataPlane
from gateway.proxy.redis_store import RedisStore
from gateway.proxy.upstream import EndpointPool
from gateway.snapshot import Snapshot, UpstreamSettings

LOOKUPS: Final = 2.0
"""Seconds that the start waits for the names of endpoints at most."""
COMPLAIN_EVERY: Final = 10.0
"""Seconds between two log lines about trouble of the event loop, such as a lack of open files."""

_log = logging.getLogger("gateway")


@dataclass(slots=True)
class Prepared:
    """A configuration that can run at once: compiled, its addresses bound, its files open. Not one request has seen it."""

    loaded: Loaded
    snapshot: Snapshot
    token: str | None = None
    doors: list[Door] = field(default_factory=list)
    """In the order of the listeners."""
    servers: list[list[asyncio.Server]] = field(default_factory=list)
    """Per door: those that are to take the place of its servers; none when they can stay."""
    bound: list[Door] = field(default_factory=list)
    """The doors that there were not before."""
    log: AccessLog | None = None
    log_file: tuple[int, int] | None = None
    store: RedisStore | None = None


class App:
    """One worker. Also what the admin listener shows (`control.admin.AdminState`)."""

    def __init__(self, loaded: Loaded, resolver: Resolver | None = None) -> None:
        self.loaded = loaded
        self.ready = False
        self.metrics = GatewayMetrics(__version__)
        self.metrics.reloads = ReloadMetrics(time.time())
        self.plane: DataPlane
        self.doors: list[Door] = []
        self.reloader: Reloader
        self._token: str | None = None
        self._admin: web.AppRunner | None = None
        self._access_log: AccessLog | None = None
        self._log_file: tuple[int, int] | None = None
        self._limit_store: RedisStore | None = None
        self._probes = Probes()
        self._discovery = Discovery(resolver or SystemResolver(), self._make_pool, self._probes.follow)
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()
        self._watch: LoopWatch | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._complained_at = float("-inf")

    # -- AdminState --------------------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Shutdown has begun."""
        return self._stopping.is_set()

    @property
    def snapshot(self) -> Snapshot:
        """What new requests live in."""
        return self.plane.snapshot

    @property
    def effective_config(self) -> dict[str, Any]:
        """The configuration with its defaults, secrets hidden."""
        return effective_config(self.loaded)

    # -- start -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Construct everything and open the listeners. Raises StartError."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._complain)
        await self.commit(await self.prepare(self.loaded))
        for door in self.doors:
            _log.info("listening on %s", door.listener)
        self._tick()
        self._watch = LoopWatch(self.plane)
        await self._start_control()
        self.ready = True

    async def _start_control(self) -> None:
        """What a gateway of one process has and a worker of several has not: an admin listener, and a look at its files."""
        assert self.metrics.reloads is not None
        self.reloader = Reloader(self, self.metrics.reloads)
        await self._start_admin()
        self._reloading = asyncio.get_running_loop().create_task(self.reloader.run())

    async def _start_admin(self) -> None:
        address = self.loaded.config.admin.listen
        if address is None:
            return
        where = listener(address)
        token = AdminToken(lambda: self._token)
        pages = (AdminLimits(lambda: self.plane, token), AdminReload(self.reloader, token))
        self._admin = make_admin_runner(self, [where.host] if where.host else [], pages)
        await self._admin.setup()
        unix = web.UnixSite(self._admin, where.path) if where.path else None
        site = unix or web.TCPSite(self._admin, where.host or None, where.port)
        try:
            await site.start()
        except OSError as error:
            raise StartError(f"cannot listen on {where} (admin): {reason(error)}") from None
        _log.info("admin on %s", where)

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Errors that no code of ours can catch, at a bounded rate: without open files there are thousands a second."""
        if loop.time() - self._complained_at >= COMPLAIN_EVERY:
            self._complained_at = loop.time()
            _log.error("event loop: %s", context.get("message"), exc_info=context.get("exception"))

    def _tick(self) -> None:
        self.plane.tick()
        self._ticker = asyncio.get_running_loop().call_later(1.0, self._tick)

    # -- one configuration after another -----------------------------------------------------------------------------

    async def change_to(self, loaded: Loaded) -> None:
        """See `control.reload.Target`."""
        try:
            prepared = await self.prepare(loaded)
        except StartError as error:
            raise ReloadError(str(error)) from None
        await self.commit(prepared)

    async def prepare(self, loaded: Loaded) -> Prepared:
        """Do all of a change that can fail, beside what runs. Raises StartError, and leaves nothing behind then."""
        previous = self.plane.snapshot if hasattr(self, "plane") else None
        for note in compression_notes(loaded):
            _log.warning("%s", note)
        try:
            snapshot = compile_config(loaded, self.metrics, self._make_pool, previous)
            token = loaded.config.admin.secret("token")
        except (TlsError, OSError, ValueError) as error:
            self._keep_metrics()
            raise StartError(str(error)) from None
        prepared = Prepared(loaded, snapshot, token)
        try:
            self._prepare_log(prepared)
            await self._prepare_store(prepared)
            if previous is None:
                self.plane = DataPlane(asyncio.get_running_loop(), snapshot, self.metrics, prepared.log, prepared.store)
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
        if settings is None:
            return
        if settings.path == "-":
            prepared.log = self._access_log if former is not None and former.path == "-" else None
            if prepared.log is None:
                try:
                    prepared.log = AccessLog(sys.stdout.fileno(), self.metrics)
                except (OSError, AttributeError, ValueError):
                    _log.warning("standard output is closed: no access log")
            return
        try:
            fd = os.open(settings.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StartError(f"cannot open the access log `{settings.path}`: {error.strerror}") from None
        try:
            found = os.fstat(fd)
            prepared.log_file = (found.st_dev, found.st_ino)
            same = self._access_log is not None and prepared.log_file == self._log_file
            prepared.log = self._access_log if same else AccessLog(fd, self.metrics)
        finally:
            os.close(fd)

    async def _prepare_store(self, prepared: Prepared) -> None:
        settings = prepared.snapshot.redis
        if settings is None:
            return
        if self._limit_store is not None and self._limit_store.settings == settings:
            prepared.store = self._limit_store
            return
        prepared.store = RedisStore(settings, StoreMetrics())
        await prepared.store.start()

    async def _prepare_doors(self, prepared: Prepared) -> None:
        former = {door.listener.place: door for door in self.doors}
        header = prepared.snapshot.server.timeouts.header
        for one in prepared.snapshot.server.listeners:
            door = former.pop(one.place, None)
            servers: list[asyncio.Server] = []
            if door is None:
                door = Door(one, bind(one))
                prepared.bound.append(door)
            if door in prepared.bound or door.listener != one or header != self.plane.snapshot.server.timeouts.header:
                servers = await door.prepare(self.plane, one.tls, header)
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
        if prepared.store is not None and prepared.store is not self._limit_store:
            await prepared.store.stop()
        if prepared.log is not None and prepared.log is not self._access_log:
            await aside(prepared.log.close)
        self._keep_metrics()

    async def commit(self, prepared: Prepared) -> None:
        """Run what was prepared: new requests live in it from the next line on. Exchanges keep the world they began in."""
        plane, metrics, snapshot = self.plane, self.metrics, prepared.snapshot
        previous, former_log, former_store = plane.snapshot, self._access_log, self._limit_store
        self.loaded, self._token = prepared.loaded, prepared.token
        plane.log = self._access_log = prepared.log
        self._log_file = prepared.log_file
        settings = prepared.loaded.config.access_log
        plane.log_query = settings is not None and settings.query
        self._limit_store = prepared.store
        plane.limit_store = prepared.store or plane.local_counts
        metrics.store = prepared.store.metrics if prepared.store is not None else None
        plane.apply(snapshot)
        metrics.config_hash = snapshot.config_hash
        self._keep_metrics()
        for endpoint in dropped_endpoints(previous, snapshot):
            endpoint.pool.retire()
        self._attend(snapshot)
        raise_file_limit(snapshot.server.limits.connections)
        if not self.doors:
            await self._discovery.settle(LOOKUPS)
        await self._change_doors(prepared)
        if former_store is not None and former_store is not prepared.store:
            await former_store.stop()
        if former_log is not None and former_log is not prepared.log:
            await aside(former_log.close)

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
            if connection.transport.get_extra_info("sockname") in names:
                connection.close_when_idle()

    def _keep_metrics(self) -> None:
        """Series of what is not configured end."""
        if hasattr(self, "plane"):
            snapshot = self.plane.snapshot
            self.metrics.keep_only(
                [route.name for route in snapshot.routes],
                [upstream.name for upstream in snapshot.upstreams],
                [(route.name, limit.name) for route in snapshot.routes for limit in route.rate_limit or ()],
            )

    # -- end ---------------------------------------------------------------------------------------------------------

    def hung_up(self) -> None:
        """SIGHUP: read the file again. During the start it is being read anyway."""
        if self.ready:
            self.reloader.request("SIGHUP")

    def signalled(self) -> None:
        """SIGTERM or SIGINT: the first drains, the second stops at once."""
        if self._stopping.is_set():
            self._at_once.set()
        self._stopping.set()

    async def run_until_stopped(self) -> None:
        """Serve; when told to stop: fail readiness, stop listening after a delay, let exchanges finish, within the limit."""
        await self._stopping.wait()
        timeouts = self.plane.snapshot.server.timeouts
        _log.info("draining: %d connections", len(self.plane.connections))
        await self._wait_at_most(timeouts.drain_delay)
        for door in self.doors:
            door.close()
        self.plane.drain()
        deadline = asyncio.get_running_loop().time() + timeouts.drain
        while self.plane.connections and not self._at_once.is_set():
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                _log.warning("drain limit reached: cutting %d connections", len(self.plane.connections))
                break
            await self._wait_at_most(min(left, 0.05))

    async def _wait_at_most(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._at_once.wait()

    async def _abort(self) -> None:
        """Cut what is left, and let it be recorded."""
        self.plane.abort()
        for _ in range(20):
            if not self.plane.connections:
                break
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Close everything that `start` opened, however far it came."""
        self.ready = False
        if self._reloading is not None:
            self._reloading.cancel()
            await asyncio.gather(self._reloading, return_exceptions=True)
            await self.reloader.stop()
        if self._ticker is not None:
            self._ticker.cancel()
        await self._discovery.stop()
        await self._probes.stop()
        if self._watch is not None:
            self._watch.stop()
        for door in self.doors:
            door.close()
            door.remove()
        if hasattr(self, "plane"):
            await self._abort()
            self.plane.threads.stop()
            for upstream in self.plane.snapshot.upstreams:
                for endpoint in upstream.group.endpoints:
                    endpoint.pool.retire()
        if self._admin is not None:
            await self._admin.cleanup()
        if self._limit_store is not None:
            await self._limit_store.stop()
        if self._access_log is not None:
            self._access_log.close()
