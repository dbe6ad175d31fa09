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
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.app import App
from gateway.control.load import Loaded, from_data
from gateway.control.running.off_loop import off_loop
from gateway.control.running.runtime import Member, Prepared
from gateway.event_loop import loop_factory
from gateway.metrics.sums import pieces
from gateway.proxy.downstream.handshakes import unraisable
from gateway.proxy.downstream.listeners import StartError, close_all
from gateway.supervisor.channel import Channel, ChannelClosedError, RefusedError
from gateway.supervisor.circuit_breaker import WorkerBreakers

PUSH: Final = 1.0
"""Seconds between two reports: what a worker that is killed can lose of its counts."""
AT_ONCE: Final = 8
"""Pieces of metrics that travel as one text: the supervisor reads it only when somebody wants to know."""

_log = logging.getLogger("gateway")


class Worker:
    """The worker's side of the channel: until it starts, and around what it serves then."""

    def __init__(self, sock: socket.socket) -> None:
        self._orders: Orders | None = None
        """None before the start."""
        self._begun = asyncio.Event()
        """It has started, or will not."""
        self._channel = Channel(sock, self._obey)

    async def run(self) -> None:
        """Do what comes until the end."""
        loop = asyncio.get_running_loop()
        # The supervisor decides: a terminal or an init system signals whole groups of processes.
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            loop.add_signal_handler(number, lambda: None)
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        tasks = [loop.create_task(one) for one in (self._push(), self._mind_the_supervisor())]
        try:
            await self._serve()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._channel.close()

    async def _serve(self) -> None:
        await self._begun.wait()
        if self._orders is None:
            return
        app = self._orders.app
        try:
            if app.ready:
                await app.run_until_stopped()
        finally:
            await app.stop()
            await self._report(self._orders)

    async def _mind_the_supervisor(self) -> None:
        await self._channel.closed.wait()
        _log.warning("the supervisor has gone: draining")
        self._drain()

    async def _push(self) -> None:
        await self._begun.wait()
        while self._orders is not None:
            await asyncio.sleep(PUSH)
            await self._report(self._orders)

    async def _report(self, orders: Orders) -> None:
        with contextlib.suppress(ChannelClosedError):
            self._channel.send("report", await orders.state())

    async def _obey(self, kind: str, content: dict[str, Any], files: list[int]) -> object:
        if kind == "hello":
            return None  # whoever answers has loaded the program: all that takes long of a start
        if kind == "start":
            await self._start(content, files)
        elif kind in ("drain", "stop"):
            self._drain(at_once=kind == "stop")
        elif self._orders is None:
            raise RefusedError("the worker has not started yet")
        else:
            return await self._orders.obey(kind, content, files)
        return None

    async def _start(self, content: dict[str, Any], files: list[int]) -> None:
        lock, *sockets = files
        member = Member(content["workers"], self._connect, lock)
        app = App(await _loaded(content, sockets, member), member=member)
        orders = self._orders = Orders(app, member, self._channel)
        try:
            await app.start()
            orders.breakers.begin(content)
            gc.collect()
            gc.freeze()
        finally:
            self._begun.set()

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

    def _drain(self, *, at_once: bool = False) -> None:
        """Finish what is going on and end; `at_once` cuts it."""
        if self._orders is None:
            self._begun.set()
            return
        app = self._orders.app
        if not app.draining:
            app.signalled()
        if at_once:
            app.signalled()


class Orders:
    """What a worker that has a configuration does for its supervisor."""

    def __init__(self, app: App, member: Member, channel: Channel) -> None:
        self.app = app
        self.breakers = WorkerBreakers(app.plane, channel)
        self._member = member
        self._prepared: Prepared | None = None
        self._reports = itertools.count(1)

    async def obey(self, kind: str, content: dict[str, Any], files: list[int]) -> object:
        """Do one order. Raises what the supervisor is to be told as a refusal."""
        match kind:
            case "prepare":
                await self._prepare(content, files)
            case "commit":
                assert self._prepared is not None
                prepared, self._prepared = self._prepared, None
                await self.app.runtime.commit(prepared)
            case "abandon":
                if self._prepared is not None:
                    prepared, self._prepared = self._prepared, None
                    await self.app.runtime.abandon(prepared)
            case "state":
                return await self.state()
            case "page":
                return await self.app.live(content["name"])
            case "forget":
                self.app.plane.forget_key(content["limit"].encode("ascii"), bytes.fromhex(content["key"]))
            case "breaker":
                self.breakers.heard(content)
            case "breakers":
                return await self.app.order_breakers(content)
            case "reopen_logs":
                self.app.reopen_logs()
            case _:
                raise RefusedError(f"unknown order {kind}")
        return None

    async def _prepare(self, content: dict[str, Any], files: list[int]) -> None:
        try:
            self._prepared = await self.app.runtime.prepare(await _loaded(content, files, self._member))
        finally:
            # Sockets of a preparation that did not come to them.
            for sockets in self._member.sockets.values():
                close_all(sockets)
            self._member.sockets.clear()

    async def state(self) -> dict[str, Any]:
        """A report: what has been counted until now."""
        app, number = self.app, next(self._reports)
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
                [one.route, one.limit, one.digest.hex(), one.denied, one.error, one.client.hex()]
                for one in app.plane.top_keys.top()
            ],
            "cpu": usage.ru_utime + usage.ru_stime,
            "memory": _resident(),
        }


async def _loaded(content: dict[str, Any], files: list[int], member: Member) -> Loaded:
    """The configuration of an order. The sockets that came with it are the member's."""
    rest = iter(files)
    for host, port, path, count in content["listeners"]:
        sockets = [socket.socket(fileno=next(rest)) for _ in range(count)]
        for sock in sockets:
            sock.setblocking(False)
        member.sockets[host, port, path] = sockets
    return await off_loop(functools.partial(from_data, content["data"], Path(content["path"]), content["hash"]))


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
    sys.unraisablehook = unraisable
    sock = socket.socket(fileno=file)

    async def main() -> None:
        await Worker(sock).run()

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(main())
    except StartError:
        return 1
    return 0
