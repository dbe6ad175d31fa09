"""One worker's place: its process, its channel, its sockets, and what it has counted, across all who have held the place."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Final, TypeAlias

import orjson

from gateway.event_loop import wait_at_most
from gateway.metrics.sums import Pieces, Sums
from gateway.proxy.downstream.listeners import close_all
from gateway.supervisor.channel import Channel, ChannelClosedError, RefusedError

STEADY: Final = 10.0
"""Seconds after which a worker counts as having worked: the next one is started without a delay that grows."""
FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 30.0
"""Seconds before a worker is started again: doubled each time it ends early."""
KEEP_SOCKETS: Final = 0.5
"""Seconds of delay up to which the sockets of a worker stay open: who connects meanwhile waits for the next one. With longer
delays they are closed, and the kernel sends everybody to the other workers."""
START: Final = 60.0
"""Seconds that a worker may take to start."""
SILENCE: Final = 30.0
"""Seconds without a report after which a worker is taken for hung, and killed."""

Place: TypeAlias = tuple[str, int, str]
Files: TypeAlias = dict[Place, list[socket.socket]]
Opened: TypeAlias = dict[Place, list[list[socket.socket]]]
"""New sockets by their place, for each worker."""
Word: TypeAlias = Callable[[int, dict[str, Any]], None]
"""Worker number so-and-so says this."""

_log = logging.getLogger("gateway")


class StartFailedError(Exception):
    """A worker could not start; the text says why."""


class Slot:
    """The place of one worker: its process, and what all who have held it have counted."""

    def __init__(self, index: int, count: Callable[[socket.socket], None], breaker: Word) -> None:
        self.index = index
        self.sockets: Files = {}
        """Bound, and kept open here, so that what waits in their queues outlives a worker."""
        self.process: asyncio.subprocess.Process | None = None
        self.channel: Channel | None = None
        self.up = False
        """It serves."""
        self.restarts = 0
        self.report: dict[str, Any] = {}
        """The last one of the worker that holds the place."""
        self.before = Sums()
        """What those before it have counted."""
        self.cpu_before = 0.0
        self._heard_at = 0.0
        self._started_at = 0.0
        self._early = 0
        self._count = count
        self._breaker = breaker

    # -- the process -------------------------------------------------------------------------------------------------

    async def spawn(self) -> None:
        """Start a process that waits for its configuration. Raises StartFailedError, as `begin` does; then the process is
        ending or has ended."""
        ours, theirs = socket.socketpair()
        self._started_at = self._heard_at = monotonic()
        try:
            # A session of its own: Ctrl-C in a terminal is for the supervisor.
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "_worker", str(theirs.fileno()), str(self.index),
                pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            ours.close()
            raise StartFailedError(f"cannot start a process: {error.strerror}") from None
        finally:
            theirs.close()
        self.channel = Channel(ours, self._heard)
        await self._ask_to_start("hello", {}, ())

    async def begin(self, content: dict[str, Any], lock: int, now: Callable[[], dict[str, Any]]) -> None:
        """Let it serve this configuration; `now` says what it must know besides, at the moment when it is told."""
        files = [lock, *(sock.fileno() for sockets in self.sockets.values() for sock in sockets)]
        await self._ask_to_start("start", content | now() | {"listeners": listeners(self.sockets)}, files)
        self._heard_at = monotonic()
        self.up = True

    async def _ask_to_start(self, kind: str, content: dict[str, Any], files: Sequence[int]) -> None:
        try:
            if self.channel is None:
                raise ChannelClosedError
            await self.channel.ask(kind, content, files, within=START)
        except RefusedError as error:
            raise StartFailedError(str(error)) from None
        except (ChannelClosedError, TimeoutError):
            self.kill()
            raise StartFailedError("it ended, or did not get ready in time") from None

    async def ended(self) -> int:
        """Wait for the end of the process; its exit code, negative for a signal."""
        code = await self.process.wait() if self.process is not None else 1
        self.up = False
        if self.channel is not None:
            # The last report may still be in the socket.
            await wait_at_most(1.0, self.channel.closed)
            await self.channel.drained()
            await self.channel.close()
            self.channel = None
        self.process = None
        last = [piece async for part in parts(self.report) for piece in part]
        self.before.add(last, gauges=False)
        self.cpu_before += self.report.get("cpu", 0.0)
        self.report = {}
        return code

    def delay(self, now: float) -> float:
        """Seconds to wait before the next start of a worker that has ended `now`, without jitter."""
        self._early = 0 if now - self._started_at >= STEADY else self._early + 1
        return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** max(0, min(20, self._early - 1)))

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGKILL)

    def look(self) -> None:
        """Kill a worker that is not heard of any more."""
        if self.up and monotonic() - self._heard_at > SILENCE:
            _log.error("worker %d has not been heard of for %.0f s: killed", self.index, SILENCE)
            self._heard_at = monotonic()
            self.kill()

    def close_sockets(self) -> None:
        """Give the sockets back."""
        for sockets in self.sockets.values():
            close_all(sockets)
        self.sockets = {}

    # -- the channel -------------------------------------------------------------------------------------------------

    def tell(self, kind: str, content: dict[str, Any] | None = None) -> None:
        """Tell the worker, if there is one."""
        if self.channel is not None:
            with contextlib.suppress(ChannelClosedError):
                self.channel.send(kind, content)

    async def ask(
        self, kind: str, content: dict[str, Any] | None = None, *, within: float, sockets: Files | None = None
    ) -> Any:
        if self.channel is None:
            raise ChannelClosedError
        if sockets is None:
            return await self.channel.ask(kind, content, within=within)
        files = [sock.fileno() for found in sockets.values() for sock in found]
        return await self.channel.ask(kind, (content or {}) | {"listeners": listeners(sockets)}, files, within=within)

    async def refresh(self) -> None:
        """Ask for a report now; a worker that does not answer keeps its last one."""
        if self.up:
            with contextlib.suppress(ChannelClosedError, RefusedError, TimeoutError):
                self._note(await self.ask("state", within=1.0))

    async def _heard(self, kind: str, content: dict[str, Any], files: list[int]) -> None:
        if kind == "report":
            self._note(content)
        elif kind == "breaker":
            self._breaker(self.index, content)
        elif kind == "count":
            for file in files:
                self._count(socket.socket(fileno=file))
        else:
            for file in files:
                os.close(file)

    def _note(self, report: dict[str, Any]) -> None:
        self._heard_at = monotonic()
        # A report that was made before one that was asked for may arrive behind it.
        if report["number"] > self.report.get("number", 0):
            self.report = report


async def ask_all(
    slots: Iterable[Slot], kind: str, content: dict[str, Any], *, within: float, opened: Opened | None = None
) -> dict[int, Any]:
    """What each of these workers answers, by its number, or the RefusedError, ChannelClosedError or TimeoutError with which it
    does not. `opened` are sockets for each of them."""

    async def ask(slot: Slot) -> tuple[int, Any]:
        sockets = None if opened is None else {place: found[slot.index] for place, found in opened.items()}
        try:
            return slot.index, await slot.ask(kind, content, within=within, sockets=sockets)
        except (RefusedError, ChannelClosedError, TimeoutError) as error:
            return slot.index, error

    return dict(await asyncio.gather(*map(ask, slots)))


async def parts(report: dict[str, Any]) -> AsyncIterator[Pieces]:
    """The metrics of a report, read in parts: there may be thousands of routes, and rate limits wait meanwhile."""
    for text in report.get("metrics", ()):
        yield orjson.loads(text)
        await asyncio.sleep(0)


def listeners(sockets: Files) -> list[list[Any]]:
    """Which sockets belong to which listener, in the order in which they go along."""
    return [[*place, len(found)] for place, found in sockets.items()]
