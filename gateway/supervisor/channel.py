"""Messages between the supervisor and one worker: length-prefixed JSON over a socket pair, with open files where needed.

Either side may tell (`send`) or ask (`ask`). What is asked is answered by the other side's handler, in the order of arrival.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

import orjson

LARGEST: Final = 256 << 20
"""Bytes of one message, and of what waits to be sent. More is a fault of the other side."""
MOST_FILES: Final = 250
"""Open files that go with one message; the kernel takes at most 253."""
_READ: Final = 1 << 18
_LENGTH: Final = struct.Struct("<I")

Handler: TypeAlias = Callable[[str, dict[str, Any], list[int]], Awaitable[object]]
"""Kind, content and open files of a message ▸ the answer. What it raises is the answer of one who asked."""


class ChannelClosedError(Exception):
    """The other side has gone."""


class RefusedError(Exception):
    """The other side could not do what it was asked for; the text says why."""


class Channel:
    """One side. Owns its socket."""

    def __init__(self, sock: socket.socket, handler: Handler) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._in = bytearray()
        self._files: deque[int] = deque()
        """Received, and not yet claimed by their message."""
        self._out: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._waiting = 0
        self._todo: asyncio.Queue[tuple[str, dict[str, Any], list[int], int]] = asyncio.Queue()
        self.closed = asyncio.Event()
        self._worker = self._loop.create_task(self._handle())
        self._loop.add_reader(sock, self._readable)

    # -- what the owner calls ----------------------------------------------------------------------------------------

    def send(self, kind: str, content: dict[str, Any] | None = None, files: Sequence[int] = ()) -> None:
        """Tell the other side. Lost when it has gone. The files are duplicated: close yours when you like."""
        self._put({"kind": kind, "content": content or {}, "files": len(files)}, files)

    async def ask(self, kind: str, content: dict[str, Any] | None = None, files: Sequence[int] = (), *, within: float) -> Any:
        """The answer of the other side. Raises RefusedError, ChannelClosedError, or TimeoutError after so many seconds."""
        number = next(self._numbers)
        answer = self._asked[number] = self._loop.create_future()
        try:
            self._put({"kind": kind, "content": content or {}, "files": len(files), "number": number}, files)
            async with asyncio.timeout(within):
                return await answer
        finally:
            del self._asked[number]

    async def drained(self) -> None:
        """Wait until what has arrived is handled."""
        await self._todo.join()

    async def close(self) -> None:
        """Hang up."""
        self._hang_up()
        self._worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._worker

    # -- sending -----------------------------------------------------------------------------------------------------

    def _put(self, message: dict[str, Any], files: Sequence[int]) -> None:
        if self.closed.is_set():
            raise ChannelClosedError
        body = orjson.dumps(message, option=orjson.OPT_NON_STR_KEYS)
        self._waiting += len(body)
        if len(body) > LARGEST or self._waiting > LARGEST or len(files) > MOST_FILES:
            self._hang_up()
            raise ChannelClosedError
        # The files go with the first byte; ours may be closed before it leaves.
        copies = [os.dup(file) for file in files]
        self._out.append((memoryview(_LENGTH.pack(len(body)) + body), copies))
        if len(self._out) == 1:
            self._writable()
            if self._out:
                self._loop.add_writer(self._sock, self._writable)

    def _writable(self) -> None:
        while self._out:
            data, files = self._out[0]
            try:
                sent = socket.send_fds(self._sock, [data[:_READ]], files) if files else self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._hang_up()
                return
            for file in files:
                os.close(file)
            self._waiting -= sent
            if sent < len(data):
                self._out[0] = (data[sent:], ())
            else:
                self._out.popleft()
        self._loop.remove_writer(self._sock)

    # -- receiving ---------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data, files, _, _ = socket.recv_fds(self._sock, _READ, MOST_FILES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, files = b"", []
        self._files += files
        if not data:
            self._hang_up()
            return
        self._in += data
        while len(self._in) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._in)
            if length > LARGEST:
                self._hang_up()
                return
            if len(self._in) < _LENGTH.size + length:
                return
            body = bytes(memoryview(self._in)[_LENGTH.size : _LENGTH.size + length])
            del self._in[: _LENGTH.size + length]
            self._take(orjson.loads(body))

    def _take(self, message: dict[str, Any]) -> None:
        if "answer_to" in message:
            waiting = self._asked.get(message["answer_to"])
            if waiting is None or waiting.done():
                return
            if message["ok"]:
                waiting.set_result(message["answer"])
            else:
                waiting.set_exception(RefusedError(message["answer"]))
            return
        files = [self._files.popleft() for _ in range(message["files"])]
        self._todo.put_nowait((message["kind"], message["content"], files, message.get("number", 0)))

    async def _handle(self) -> None:
        while True:
            kind, content, files, number = await self._todo.get()
            try:
                answer, ok = await self._handler(kind, content, files), True
            except Exception as error:  # noqa: BLE001 - the one who asked is told
                answer, ok = f"{error}" or type(error).__name__, False
            if number:
                with contextlib.suppress(ChannelClosedError):
                    self._put({"answer_to": number, "ok": ok, "answer": answer}, ())
            self._todo.task_done()

    def _hang_up(self) -> None:
        if self.closed.is_set():
            return
        self.closed.set()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        for _, files in self._out:
            for file in files:
                os.close(file)
        for file in self._files:
            os.close(file)
        self._out.clear()
        self._files.clear()
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(ChannelClosedError())
