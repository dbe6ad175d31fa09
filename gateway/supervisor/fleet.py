"""Several workers as one gateway: starts them, restarts them, changes their configuration together, adds up their counts.

The supervisor serves no request. It holds the listening sockets, the counts of rate limits and the admin listener.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
import time
from random import random
from typing import Any, Final

from aiohttp import web

from gateway import __version__
from gateway.control.admin.breaker_orders import Order, Shown
from gateway.control.admin.listener import serve_admin
from gateway.control.admin.pages import merged
from gateway.control.blocks.server.server import process_name
from gateway.control.blocks.tls import TlsError
from gateway.control.compile import compile_config
from gateway.control.load import Loaded
from gateway.control.running.off_loop import off_loop
from gateway.control.running.reload import Reloader, ReloadError
from gateway.control.tools.dump import effective_config
from gateway.endpoints import Endpoint
from gateway.event_loop import wait_at_most
from gateway.metrics import GatewayMetrics, ReloadMetrics, UpstreamMetrics
from gateway.proxy.downstream.listeners import StartError, bind_for, close_all
from gateway.snapshot import EMPTY, Snapshot, UpstreamSettings
from gateway.supervisor.channel import ChannelClosedError, RefusedError
from gateway.supervisor.circuit_breaker import FleetBreakers
from gateway.supervisor.metrics import FleetMetrics
from gateway.supervisor.rate_limit import FleetCounts
from gateway.supervisor.slot import KEEP_SOCKETS, Opened, Place, Slot, StartFailedError, ask_all
from gateway.supervisor.system import another, cause, lock_file, reap, unlink

PREPARE: Final = 60.0
COMMIT: Final = 10.0
"""Seconds that a worker may take. Who cannot commit what it has prepared is killed: its successor begins with it."""
ALONE: Final = 1.0
"""Seconds to wait at most for a start while no other worker serves."""
GRACE: Final = 5.0
"""Seconds beyond the drain limit after which workers are killed."""

_log = logging.getLogger("gateway")


class NoPool:
    """The supervisor connects to no upstream."""

    def __init__(self, endpoint: Endpoint, settings: UpstreamSettings, metrics: UpstreamMetrics) -> None:
        """As a pool is made."""

    def retire(self) -> None:
        pass

    def sweep(self, now: float) -> None:
        pass

    def counts(self) -> dict[str, int]:
        return {}


class Fleet:
    """The supervisor; what the admin listener shows is `control.admin.listener.Gateway`."""

    def __init__(self, loaded: Loaded, workers: int) -> None:
        self.loaded = loaded
        self.workers = workers
        self.snapshot = EMPTY
        self.reloads = ReloadMetrics(time.time())
        self.reloader = Reloader(self, self.reloads)
        self._slots: list[Slot] = []
        self.metrics = FleetMetrics(self._slots, self.reloads)
        self.counts = FleetCounts(self._slots, self.metrics, loaded.config.server.limits.rate_limit_keys)
        self._breakers = FleetBreakers(self._slots)
        self._slots += [Slot(index, self.counts.serve, self._breakers.heard) for index in range(workers)]
        self.token: str | None = None
        self._lock = lock_file()
        """Locked while a worker writes to the access log."""
        self._changing = asyncio.Lock()
        """A worker starts with a configuration, or it is changed in all workers: not both at a time."""
        self._keepers: list[asyncio.Task[None]] = []
        self._admin: web.AppRunner | None = None
        self._watch: asyncio.Task[None] | None = None
        self._tick: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()

    # -- what the admin listener shows -----------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """A worker serves."""
        return any(slot.up for slot in self._slots)

    @property
    def draining(self) -> bool:
        """Shutdown has begun."""
        return self._stopping.is_set()

    @property
    def effective_config(self) -> dict[str, Any]:
        """The configuration with its defaults, secrets hidden."""
        return effective_config(self.loaded)

    async def refresh(self) -> None:
        """Ask every worker for what it has counted until now."""
        await self.metrics.refresh()
        await self.metrics.look()

    async def live(self, page: str) -> object:
        """The pages of all workers of this name as one."""
        answers = await ask_all((slot for slot in self._slots if slot.up), "page", {"name": page}, within=1.0)
        pages = {index: answer for index, answer in answers.items() if not isinstance(answer, Exception)}
        return merged(pages) if pages else []

    async def order_breakers(self, order: Order) -> Shown:
        """Have every worker obey an order of an operator. Raises UnknownError."""
        return await self._breakers.order(order)

    def tell_all(self, kind: str, content: dict[str, Any]) -> None:
        """Tell all workers."""
        for slot in self._slots:
            slot.tell(kind, content)

    # -- start -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start all workers and the admin listener. Raises StartError."""
        loop = asyncio.get_running_loop()
        self.snapshot, self.token = await off_loop(functools.partial(self._compiled, self.loaded))
        for one in self.snapshot.server.listeners:
            self._give(one.place, bind_for(one, self.workers))
        await self.counts.change_store(self.snapshot)
        for result in await asyncio.gather(*map(self._start_worker, self._slots), return_exceptions=True):
            if isinstance(result, BaseException):
                raise StartError(str(result)) from None
        self._keepers = [loop.create_task(self._keep(slot)) for slot in self._slots]
        for one in self.snapshot.server.listeners:
            _log.info("listening on %s, with %d workers", one, self.workers)
        self._tick = loop.create_task(self._ticking())
        self._admin = await serve_admin(self, self.loaded.config.admin)
        self._watch = loop.create_task(self.reloader.run())

    async def _start_worker(self, slot: Slot) -> None:
        await slot.spawn()
        await self._begin(slot)

    async def _begin(self, slot: Slot) -> None:
        await slot.begin(self._content(self.loaded), self._lock, self._breakers.now)

    def _give(self, place: Place, sockets: list[list[socket.socket]]) -> None:
        for slot, found in zip(self._slots, sockets, strict=True):
            slot.sockets[place] = found

    def _compiled(self, loaded: Loaded) -> tuple[Snapshot, str | None]:
        """What the admin listener needs of a configuration. Raises StartError."""
        try:
            snapshot = compile_config(loaded, GatewayMetrics(__version__), NoPool, self.snapshot)
            return snapshot, loaded.config.admin.secret("token")
        except (TlsError, OSError, ValueError) as error:
            raise StartError(str(error)) from None

    def _content(self, loaded: Loaded) -> dict[str, Any]:
        """A configuration as it travels. All workers have one name, or they would not know each other in `Via`."""
        server = loaded.data.get("server")
        data = loaded.data | {"server": (server or {}) | {"name": loaded.config.server.name or process_name()}}
        return {"data": data, "path": str(loaded.path), "hash": loaded.hash, "workers": self.workers}

    # -- keeping workers ---------------------------------------------------------------------------------------------

    async def _keep(self, slot: Slot) -> None:
        """As long as the gateway runs, this place has a worker."""
        while True:
            code = await slot.ended()
            await self.metrics.keep(self.snapshot)
            if self._stopping.is_set():
                return
            slot.restarts += 1
            delay = slot.delay(time.monotonic())
            _log.error("worker %d has ended (%s): another one starts in %.1f s", slot.index, cause(code), delay)
            if delay > KEEP_SOCKETS and self.ready:
                slot.close_sockets()
            await self._wait(delay * (0.75 + 0.5 * random()))
            if self._stopping.is_set():
                return
            try:
                await slot.spawn()
                async with self._changing:
                    if self._stopping.is_set():
                        slot.kill()
                        continue
                    self._reopen(slot)
                    await self._begin(slot)
                _log.info("worker %d serves again", slot.index)
                await self.refresh()
                await self.metrics.keep(self.snapshot)
            except (StartFailedError, StartError) as error:
                _log.error("worker %d cannot start: %s", slot.index, error)
                slot.kill()

    async def _wait(self, seconds: float) -> None:
        """So long, but not much longer than a second while nobody serves."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._stopping.is_set():
            await wait_at_most(min(left, ALONE), self._stopping)
            if not self.ready:
                return

    def _reopen(self, slot: Slot) -> None:
        """Sockets that were closed while the place was empty."""
        for one in self.snapshot.server.listeners:
            if one.place not in slot.sockets:
                other = next(found for peer in self._slots for place, found in peer.sockets.items() if place == one.place)
                slot.sockets[one.place] = another(one, other)

    async def _ticking(self) -> None:
        own = os.getpid() == 1
        while True:
            await asyncio.sleep(1.0)
            self.counts.local_counts.sweep()
            for slot in self._slots:
                slot.look()
            if own:
                reap({slot.process.pid for slot in self._slots if slot.process is not None})

    # -- one configuration after another -----------------------------------------------------------------------------

    async def change_to(self, loaded: Loaded) -> None:
        """Every worker prepares, and when all can, all change."""
        async with self._changing:
            if self._stopping.is_set():
                raise ReloadError("the gateway is shutting down")
            opened: Opened = {}
            try:
                snapshot, token = await off_loop(functools.partial(self._compiled, loaded))
                known = {one.place for one in self.snapshot.server.listeners}
                for one in snapshot.server.listeners:
                    if one.place not in known:
                        opened[one.place] = bind_for(one, self.workers)
                slots = [slot for slot in self._slots if slot.up]
                await self._prepare(slots, loaded, opened)
            except (StartError, ReloadError) as error:
                for found in opened.values():
                    for sockets in found:
                        close_all(sockets)
                for place in opened:
                    unlink(place)
                raise ReloadError(str(error)) from None
            await self._commit(slots, loaded, snapshot, token, opened)

    async def _prepare(self, slots: list[Slot], loaded: Loaded, opened: Opened) -> None:
        answers = await ask_all(slots, "prepare", self._content(loaded), within=PREPARE, opened=opened)
        # Of one that has died the successor starts with whatever holds then.
        failed = [(index, answer) for index, answer in answers.items() if isinstance(answer, (RefusedError, TimeoutError))]
        if failed:
            for slot in slots:
                slot.tell("abandon")
            index, error = failed[0]
            raise ReloadError(str(error) if isinstance(error, RefusedError) else f"worker {index} does not answer")
        if slots and all(isinstance(answer, ChannelClosedError) for answer in answers.values()):
            # It may be the configuration that they died of, and their successors would too.
            raise ReloadError("every worker ended while it prepared the configuration")

    async def _commit(self, slots: list[Slot], loaded: Loaded, snapshot: Snapshot, token: str | None, opened: Opened) -> None:
        former = self.snapshot
        self._breakers.changed(former, snapshot)
        self.loaded, self.snapshot, self.token = loaded, snapshot, token
        for place, sockets in opened.items():
            self._give(place, sockets)

        async def commit(slot: Slot) -> None:
            try:
                await slot.ask("commit", within=COMMIT)
            except ChannelClosedError:
                pass
            except (RefusedError, TimeoutError) as error:
                _log.error("worker %d cannot change its configuration (%s): killed", slot.index, str(error) or "no answer")
                slot.kill()

        await asyncio.gather(*(commit(slot) for slot in slots))
        places = {one.place for one in snapshot.server.listeners}
        for one in former.server.listeners:
            if one.place not in places:
                for slot in self._slots:
                    close_all(slot.sockets.pop(one.place, []))
                unlink(one.place)
        await self.counts.change_store(snapshot)
        await self.refresh()
        await self.metrics.keep(snapshot)

    # -- end ---------------------------------------------------------------------------------------------------------

    def hung_up(self) -> None:
        """SIGHUP: read the file again."""
        if self._watch is not None:
            self.reloader.request("SIGHUP")

    def reopen_logs(self) -> None:
        """SIGUSR1: the log file has been renamed, go on in a new one."""
        self.tell_all("reopen_logs", {})

    def signalled(self) -> None:
        """SIGTERM or SIGINT: the first drains, the second stops at once."""
        if self._stopping.is_set():
            self._at_once.set()
            self.tell_all("stop", {})
        self._stopping.set()

    async def run_until_stopped(self) -> None:
        """Until told to stop; then until all workers have drained."""
        await self._stopping.wait()
        _log.info("draining %d workers", sum(slot.up for slot in self._slots))
        timeouts = self.snapshot.server.timeouts
        # What workers no longer accept must not wait in our copies.
        for slot in self._slots:
            slot.close_sockets()
        self.tell_all("drain", {})
        _, left = await asyncio.wait(self._keepers, timeout=timeouts.drain_delay + timeouts.drain + GRACE)
        if left:
            _log.warning("%d workers have not ended: killed", len(left))

    async def stop(self) -> None:
        """End everything that `start` began, however far it came."""
        self._stopping.set()
        for task in (self._watch, self._tick):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self.reloader.stop()
        for slot in self._slots:
            slot.kill()
        if not self._keepers:
            self._keepers = [
                asyncio.get_running_loop().create_task(self._keep(slot)) for slot in self._slots if slot.process is not None
            ]
        await asyncio.gather(*self._keepers, return_exceptions=True)
        if self._admin is not None:
            await self._admin.cleanup()
        await self.counts.stop()
        for slot in self._slots:
            slot.close_sockets()
        for one in self.snapshot.server.listeners:
            unlink(one.place)
        os.close(self._lock)
