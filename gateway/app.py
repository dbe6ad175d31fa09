"""The composition root of one worker: the only place that constructs; owns start, drain and stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from gateway import __version__
from gateway.control.admin import make_admin_runner
from gateway.control.admin_limits import AdminLimits
from gateway.control.compile import compile_config, listener
from gateway.control.compression_compile import compression_notes
from gateway.control.discovery import Discovery
from gateway.control.dump import effective_config
from gateway.control.load import Loaded, load
from gateway.control.probes import Probes
from gateway.control.problems import ConfigError, render_text
from gateway.control.resolver import SystemResolver
from gateway.endpoints import Endpoint
from gateway.metrics import GatewayMetrics, StoreMetrics, UpstreamMetrics
from gateway.ports import Resolver
from gateway.proxy.access_log import AccessLog
from gateway.proxy.loop_watch import LoopWatch
from gateway.proxy.plane import DataPlane
from gateway.proxy.redis_store import RedisStore
from gateway.proxy.server import DownstreamConnection
from gateway.proxy.upstream import EndpointPool
from gateway.snapshot import Listener, Snapshot, UpstreamSettings

BACKLOG: Final = 1024
"""Connections the kernel holds for us. asyncio's own loop also takes as many in a row, so there it is less."""
PLAIN_BACKLOG: Final = 128
SPARE_FILES: Final = 64
"""Open files beside connections: listeners, logs, the loop."""
LOOKUPS: Final = 2.0
"""Seconds that the start waits for the names of endpoints at most."""
COMPLAIN_EVERY: Final = 10.0
"""Seconds between two log lines about trouble of the event loop, such as a lack of open files."""

_log = logging.getLogger("gateway")


class StartError(Exception):
    """The gateway cannot start; the text is for the operator."""


class App:
    """One worker. Also what the admin listener shows (`control.admin.AdminState`)."""

    def __init__(self, loaded: Loaded, resolver: Resolver | None = None) -> None:
        self.loaded = loaded
        self._resolver = resolver
        self.ready = False
        self.metrics = GatewayMetrics(__version__)
        self.plane: DataPlane
        self._servers: list[asyncio.Server] = []
        self._admin: web.AppRunner | None = None
        self._access_log: AccessLog | None = None
        self._limit_store: RedisStore | None = None
        self._probes = Probes()
        self._discovery: Discovery | None = None
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()
        self._watch: LoopWatch | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._backlog = BACKLOG
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

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Construct everything and open the listeners. Raises StartError."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._complain)
        if isinstance(loop, asyncio.SelectorEventLoop):
            self._backlog = PLAIN_BACKLOG

        def make_pool(endpoint: Endpoint, settings: UpstreamSettings, metrics: UpstreamMetrics) -> EndpointPool:
            return EndpointPool(loop, endpoint, settings, metrics)

        for note in compression_notes(self.loaded):
            _log.warning("%s", note)
        snapshot = compile_config(self.loaded, self.metrics, make_pool)
        _raise_file_limit(snapshot.server.limits.connections)
        self._access_log = self._open_access_log()
        if snapshot.redis is not None:
            self.metrics.store = StoreMetrics()
            self._limit_store = RedisStore(snapshot.redis, self.metrics.store)
            await self._limit_store.start()
        settings = self.loaded.config.access_log
        self.plane = DataPlane(
            loop,
            snapshot,
            self.metrics,
            self._access_log,
            self._limit_store,
            log_query=settings is not None and settings.query,
        )
        self._discovery = Discovery(self._resolver or SystemResolver(), make_pool, self._probes.follow)
        self._attend(snapshot)
        await self._discovery.settle(LOOKUPS)
        for one in snapshot.server.listeners:
            self._servers.append(await self._listen(one))
            _log.info("listening on %s", one)
        await self._start_admin()
        self._tick()
        self._watch = LoopWatch(self.plane)
        self.ready = True

    def _attend(self, snapshot: Snapshot) -> None:
        """Look after the endpoints of `snapshot` from now on: their names and their health."""
        self._probes.apply(snapshot)
        if self._discovery is not None:
            self._discovery.apply(snapshot)

    def _open_access_log(self) -> AccessLog | None:
        settings = self.loaded.config.access_log
        if settings is None:
            return None
        if settings.path == "-":
            try:
                return AccessLog(sys.stdout.fileno(), self.metrics)
            except (OSError, AttributeError, ValueError):
                _log.warning("standard output is closed: no access log")
                return None
        try:
            fd = os.open(settings.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StartError(f"cannot open the access log `{settings.path}`: {error.strerror}") from None
        try:
            return AccessLog(fd, self.metrics)
        finally:
            os.close(fd)

    async def _listen(self, one: Listener) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        accept = functools.partial(DownstreamConnection, self.plane, b"http" if one.tls is None else b"https")
        limit = self.plane.snapshot.server.timeouts.header if one.tls is not None else None
        try:
            if one.path:
                return await loop.create_unix_server(
                    accept, one.path, backlog=self._backlog, ssl=one.tls, ssl_handshake_timeout=limit
                )
            return await loop.create_server(
                accept, one.host or None, one.port, backlog=self._backlog, ssl=one.tls, ssl_handshake_timeout=limit
            )
        except OSError as error:
            raise StartError(f"cannot listen on {one}: {_reason(error)}") from None

    async def _start_admin(self) -> None:
        address = self.loaded.config.admin.listen
        if address is None:
            return
        where = listener(address)
        try:
            limits = AdminLimits(lambda: self.plane, self.loaded.config.admin.secret("token"))
        except ValueError as error:
            raise StartError(str(error)) from None
        self._admin = make_admin_runner(self, [where.host] if where.host else [], limits)
        await self._admin.setup()
        unix = web.UnixSite(self._admin, where.path) if where.path else None
        site = unix or web.TCPSite(self._admin, where.host or None, where.port)
        try:
            await site.start()
        except OSError as error:
            raise StartError(f"cannot listen on {where} (admin): {_reason(error)}") from None
        _log.info("admin on %s", where)

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Errors that no code of ours can catch, at a bounded rate: without open files there are thousands a second."""
        if loop.time() - self._complained_at >= COMPLAIN_EVERY:
            self._complained_at = loop.time()
            _log.error("event loop: %s", context.get("message"), exc_info=context.get("exception"))

    def _tick(self) -> None:
        self.plane.tick()
        self._ticker = asyncio.get_running_loop().call_later(1.0, self._tick)

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
        for server in self._servers:
            server.close()
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
        if self._ticker is not None:
            self._ticker.cancel()
        if self._discovery is not None:
            await self._discovery.stop()
        await self._probes.stop()
        if self._watch is not None:
            self._watch.stop()
        for server in self._servers:
            server.close()
        if hasattr(self, "plane"):
            await self._abort()
            self.plane.threads.stop()
            for upstream in self.plane.snapshot.upstreams:
                for endpoint in upstream.group.endpoints:
                    endpoint.pool.retire()
            for one in self.plane.snapshot.server.listeners:
                _remove_socket(one)
        if self._admin is not None:
            await self._admin.cleanup()
        if self._limit_store is not None:
            await self._limit_store.stop()
        if self._access_log is not None:
            self._access_log.close()


def _raise_file_limit(connections: int) -> None:
    """Every exchange takes two sockets; the usual soft limit of 1024 files would end that early."""
    wanted = 2 * connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if max(most, soft) < connections + SPARE_FILES:
        _log.warning("%d open files are allowed: too few for `server.limits.connections: %d`", max(most, soft), connections)


def _remove_socket(one: Listener) -> None:
    if one.path:
        Path(one.path).unlink(missing_ok=True)


def _reason(error: OSError) -> str:
    if error.strerror is None or "address already in use" in str(error):
        return "the address is already in use; another gateway, or another program?" if "in use" in str(error) else str(error)
    return error.strerror


async def _main(loaded: Loaded) -> int:
    loop = asyncio.get_running_loop()
    app = App(loaded)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, app.signalled)
    try:
        await app.start()
        # What lives as long as the process is not worth a look by every collection.
        gc.collect()
        gc.freeze()
        await app.run_until_stopped()
    except StartError as error:
        sys.stderr.write(f"gateway run: error: {error}\n")
        return 1
    finally:
        await app.stop()
    return 0


def run(path: str) -> int:
    """Run one worker on a configuration file until it is told to stop; the exit code (0 stopped, 1 did not start)."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        loaded = load(path)
    except ConfigError as error:
        sys.stderr.write(render_text(error.problems) + "\n")
        return 1
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_main(loaded))


def _loop_factory() -> Any:
    """uvloop's loop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
