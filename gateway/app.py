"""One process that serves: start, drain and stop around a `Runtime`, and what the admin listener shows of it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final

from aiohttp import web

from gateway.control.admin.breaker_orders import Order, Shown, obey
from gateway.control.admin.listener import serve_admin
from gateway.control.admin.pages import LIVE
from gateway.control.load import Loaded
from gateway.control.running.reload import Reloader
from gateway.control.running.runtime import Member, Runtime
from gateway.control.tools.dump import effective_config
from gateway.event_loop import wait_at_most
from gateway.metrics import ReloadMetrics
from gateway.ports import Resolver
from gateway.proxy.loop_watch import LoopWatch

COMPLAIN_EVERY: Final = 10.0
"""Seconds between two log lines about trouble of the event loop, such as a lack of open files."""

_log = logging.getLogger("gateway")


class App:
    """One gateway process; what the admin listener shows is `control.admin.listener.Gateway`."""

    def __init__(self, loaded: Loaded, resolver: Resolver | None = None, member: Member | None = None) -> None:
        self.runtime = Runtime(loaded, resolver, member)
        self.plane = self.counts = self.runtime.plane
        self.metrics = self.runtime.metrics
        self.ready = False
        self._reloads = ReloadMetrics(time.time())
        self.reloader = Reloader(self.runtime, self._reloads)
        self._admin: web.AppRunner | None = None
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()
        self._watch: LoopWatch | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._complained_at = float("-inf")

    # -- what the admin listener shows -----------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Shutdown has begun."""
        return self.runtime.closing

    async def refresh(self) -> None:
        """The metrics are always as they are now."""

    async def live(self, page: str) -> object:
        """The page of `control.admin.pages` of this name."""
        return LIVE[page](self.plane.snapshot)

    async def order_breakers(self, order: Order) -> Shown:
        """Obey an order of an operator. Raises UnknownError."""
        return obey(self.plane, order)

    @property
    def token(self) -> str | None:
        """What proves that somebody may change something; None: nobody may."""
        return self.runtime.token

    @property
    def effective_config(self) -> dict[str, Any]:
        """The configuration with its defaults, secrets hidden."""
        return effective_config(self.runtime.loaded)

    # -- start -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Construct everything and open the listeners. Raises StartError."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._complain)
        await self.runtime.commit(await self.runtime.prepare(self.runtime.loaded))
        self._tick()
        self._watch = LoopWatch(self.plane)
        if self.runtime.member is None:
            for door in self.runtime.doors:
                _log.info("listening on %s", door.listener)
            await self._start_control()
        self.ready = True

    async def _start_control(self) -> None:
        """What a gateway of one process has and a worker of several has not: an admin listener, and a look at its files."""
        self.metrics.reloads = self._reloads
        self._admin = await serve_admin(self, self.runtime.loaded.config.admin)
        self._reloading = asyncio.get_running_loop().create_task(self.reloader.run())

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Errors that no code of ours can catch, at a bounded rate: without open files there are thousands a second."""
        if loop.time() - self._complained_at >= COMPLAIN_EVERY:
            self._complained_at = loop.time()
            _log.error("event loop: %s", context.get("message"), exc_info=context.get("exception"))

    def _tick(self) -> None:
        self.plane.tick()
        self._ticker = asyncio.get_running_loop().call_later(1.0, self._tick)

    # -- end ---------------------------------------------------------------------------------------------------------

    def hung_up(self) -> None:
        """SIGHUP: read the file again. During the start it is being read anyway."""
        if self.ready:
            self.reloader.request("SIGHUP")

    def reopen_logs(self) -> None:
        """SIGUSR1: the log file has been renamed, go on in a new one."""
        self.runtime.reopen_logs()

    def signalled(self) -> None:
        """SIGTERM or SIGINT: the first drains, the second stops at once."""
        if self._stopping.is_set():
            self._at_once.set()
        self.runtime.closing = True
        self._stopping.set()

    async def run_until_stopped(self) -> None:
        """Serve; when told to stop: fail readiness, stop listening after a delay, let exchanges finish, within the limit."""
        await self._stopping.wait()
        timeouts = self.plane.snapshot.server.timeouts
        _log.info("draining: %d connections", len(self.plane.connections))
        self.metrics.draining = True
        await wait_at_most(timeouts.drain_delay, self._at_once)
        for door in self.runtime.doors:
            door.close()
        self.runtime.handshakes.drop_silent()
        self.plane.drain()
        deadline = asyncio.get_running_loop().time() + timeouts.drain
        while self.plane.connections and not self._at_once.is_set():
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                _log.warning("drain limit reached: cutting %d connections", len(self.plane.connections))
                break
            await wait_at_most(min(left, 0.05), self._at_once)

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
        if self._watch is not None:
            self._watch.stop()
        for door in self.runtime.doors:
            door.close()
            door.remove()
        await self.runtime.handshakes.stop()
        await self._abort()
        if self._admin is not None:
            await self._admin.cleanup()
        await self.runtime.retire()
