"""A worker of several: an `App` that does what its supervisor tells it over the channel.

It has no admin listener and looks at no files. When the supervisor has gone, it drains and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import itertools
import logging
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.app import App
from gateway.control.load import Loaded, from_data
from gateway.control.running.off_loop import off_loop
from gateway.control.running.running import Member, Prepared
from gateway.loops import loop_factory
from gateway.metrics.sums import pieces
from gateway.proxy.downstream.listeners import StartError, close_all
from gateway.supervisor.breakers import WorkerBreakers
from gateway.supervisor.channel import Channel, ChannelClosedError

PUSH: Final = 1.0
"""Seconds between two reports: what a worker that is killed can lose of its counts."""
AT_ONCE: Final = 8
"""Pieces of metrics that travel as one text: the supervisor reads it only when somebody wants to know."""

_log = logging.getLogger("gateway")


class Worker:
    """The worker's side of the channel."""

    def __init__(self, sock: socket.socket) -> None:
        self._app: App | None = None
        self._prepared: Prepared | None = None
        self._member: Member
        self._breakers: WorkerBreakers
        self._reports = itertools.count(1)
        self._ended = asyncio.Event()
        self._started = asyncio.Event()
        self._orders: dict[str, Callable[[dict[str, Any], list[int]], Awaitable[object]]] = {
            "hello": self._hello,
            "start": self._start,
            "prepare": self._prepare,
            "commit": self._commit,
            "abandon": self._abandon,
            "state": self._state,
            "page": self._page,
            "forget": self._forget,
            "breaker": self._breaker,
            "breakers": self._order_breakers,
            "reopen_logs": self._reopen_logs,
            "drain": self._drain,
            "stop": self._stop,
        }
        self._channel = Channel(sock, self._obey)

    async def run(self) -> None:
        """Do what comes until the end."""
        loop = asyncio.get_running_loop()
        # The supervisor decides: a terminal or an init system signals whole groups of processes.
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            loop.add_signal_handler(number, lambda: None)
        loop.add_signal_handler(signal.SIGTERM, self._drain_once)
        tasks = [loop.create_task(one) for one in (self._push(), self._mind_the_supervisor())]
        try:
            await self._serve()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._channel.close()

    async def _serve(self) -> None:
        started, ended = (asyncio.create_task(one.wait()) for one in (self._started, self._ended))
        await asyncio.wait((started, ended), return_when=asyncio.FIRST_COMPLETED)
        for task in (started, ended):
            task.cancel()
        app = self._app
        if app is None:
            return
        try:
            if self._started.is_set():
                await app.run_until_stopped()
        finally:
            await app.stop()
            with contextlib.suppress(ChannelClosedError):
                self._channel.send("report", await self._state({}, []))

    async def _mind_the_supervisor(self) -> None:
        await self._channel.closed.wait()
        _log.warning("the supervisor has gone: draining")
        self._drain_once()

    async def _push(self) -> None:
        while True:
            await asyncio.sleep(PUSH)
            if self._started.is_set():
                with contextlib.suppress(ChannelClosedError):
                    self._channel.send("report", await self._state({}, []))

    # -- orders ------------------------------------------------------------------------------------------------------

    async def _obey(self, kind: str, content: dict[str, Any], files: list[int]) -> object:
        return await self._orders[kind](content, files)

    async def _hello(self, content: dict[str, Any], files: list[int]) -> None:
        """Whoever answers has loaded the program: all that takes long of a start."""

    async def _start(self, content: dict[str, Any], files: list[int]) -> None:
        lock, *sockets = files
        self._member = Member(content["workers"], self._connect, lock)
        loaded = await self._loaded(content, sockets)
        self._app = App(loaded, member=self._member)
        try:
            await self._app.start()
        except BaseException:
            self._ended.set()
            raise
        self._breakers = WorkerBreakers(self._app.plane, self._channel)
        self._breakers.begin(content)
        gc.collect()
        gc.freeze()
        self._started.set()

    async def _loaded(self, content: dict[str, Any], files: list[int]) -> Loaded:
        rest = iter(files)
        for host, port, path, count in content["listeners"]:
            sockets = [socket.socket(fileno=next(rest)) for _ in range(count)]
            for sock in sockets:
                sock.setblocking(False)
            self._member.sockets[host, port, path] = sockets
        return await off_loop(functools.partial(from_data, content["data"], Path(content["path"]), content["hash"]))

    def _connect(self) -> socket.socket:
        """A new way to the process that counts: one end of a pair, the other goes to the supervisor."""
        ours, theirs = socket.socketpair()
        try:
            self._channel.send("count", files=[theirs.fileno()])
        except ChannelClosedError:
            ours.close()
            raise ConnectionRefusedError from None
        finally:
            theirs.close()
        ours.setblocking(False)
        return ours

    async def _prepare(self, content: dict[str, Any], files: list[int]) -> None:
        assert self._app is not None
        try:
            self._prepared = await self._app.prepare(await self._loaded(content, files))
        finally:
            self._close_left_over()

    def _close_left_over(self) -> None:
        """Sockets of a preparation that did not come to them."""
        for sockets in self._member.sockets.values():
            close_all(sockets)
        self._member.sockets.clear()

    async def _commit(self, content: dict[str, Any], files: list[int]) -> None:
        assert self._app is not None and self._prepared is not None
        prepared, self._prepared = self._prepared, None
        await self._app.commit(prepared)

    async def _abandon(self, content: dict[str, Any], files: list[int]) -> None:
        prepared, self._prepared = self._prepared, None
        if prepared is not None and self._app is not None:
            await self._app.abandon(prepared)

    async def _state(self, content: dict[str, Any], files: list[int]) -> dict[str, Any]:
        app, number = self._app, next(self._reports)
        if app is None or not hasattr(app, "plane"):
            return {"number": number, "metrics": [], "denied": [], "cpu": 0.0, "memory": 0}
        metrics: list[str] = []
        batch: list[list[Any]] = []
        for piece in pieces(app.metrics.collect()):
            batch.append(piece)
            if len(batch) == AT_ONCE:
                metrics.append(orjson.dumps(batch).decode())
                batch = []
            await asyncio.sleep(0)  # requests first: there may be thousands of routes
        metrics.append(orjson.dumps(batch).decode())
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "number": number,
            "metrics": metrics,
            "denied": [
                [route, name, digest.hex(), count, error] for route, name, digest, count, error in app.plane.top_keys.top()
            ],
            "cpu": usage.ru_utime + usage.ru_stime,
            "memory": _resident(),
        }

    async def _page(self, content: dict[str, Any], files: list[int]) -> object:
        assert self._app is not None
        return await self._app.live(content["name"])

    async def _forget(self, content: dict[str, Any], files: list[int]) -> None:
        assert self._app is not None
        self._app.plane.forget_key(content["limit"].encode("ascii"), bytes.fromhex(content["key"]))

    async def _breaker(self, content: dict[str, Any], files: list[int]) -> None:
        self._breakers.heard(content)

    async def _order_breakers(self, content: dict[str, Any], files: list[int]) -> object:
        return self._breakers.obey(content)

    async def _reopen_logs(self, content: dict[str, Any], files: list[int]) -> None:
        assert self._app is not None
        self._app.reopen_logs()

    async def _drain(self, content: dict[str, Any], files: list[int]) -> None:
        self._drain_once()

    async def _stop(self, content: dict[str, Any], files: list[int]) -> None:
        self._drain_once()
        if self._app is not None:
            self._app.signalled()

    def _drain_once(self) -> None:
        if self._app is None:
            self._ended.set()
        elif not self._app.draining:
            self._app.signalled()


def _resident() -> int:
    """Bytes of memory in use; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - once a second
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


def work(file: int, number: int) -> int:
    """Run a worker whose channel is the open file `file`; the exit code."""
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)s worker {number}: %(message)s", stream=sys.stderr)
    sock = socket.socket(fileno=file)

    async def main() -> None:
        await Worker(sock).run()

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(main())
    except StartError:
        return 1
    return 0
