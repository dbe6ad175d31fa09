"""An upstream that misbehaves by path: `python -m tests.bench.rude PORT [BYTES_PER_SECOND]`.

Everything under `/rude/` names what is wrong with the answer; `/rude/sink` only reads the request body slowly and answers
how many bytes it got. Any other path is served like `/rude/sink`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha1
from typing import Final

from tests.bench.processes import HOST

BLOCK: Final = 64 * 1024
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with zero seconds: close sends RST."""

_WEBSOCKET: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Pacer:
    """Says how long to sleep so that bytes do not flow faster than `rate` per second (0: no limit)."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._start = time.perf_counter()
        self._bytes = 0

    def took(self, size: int) -> float:
        """Count `size` bytes; seconds to wait before the next ones."""
        self._bytes += size
        if not self._rate:
            return 0.0
        return max(0.0, self._start + self._bytes / self._rate - time.perf_counter())


@dataclass(frozen=True, slots=True)
class Request:
    """A request head."""

    method: str
    path: str
    fields: dict[str, str]


class Connection:
    """The streams of one accepted connection and what is done on them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: float) -> None:
        self.reader = reader
        self.writer = writer
        self.rate = rate

    async def serve(self) -> None:
        """Requests until one behaviour ends the connection."""
        with contextlib.suppress(OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            while await self._exchange():
                pass
        with contextlib.suppress(OSError):
            self.writer.close()
            await self.writer.wait_closed()

    async def _exchange(self) -> bool:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        request = Request(method, path.partition("?")[0], fields)
        behaviour = BEHAVIOURS.get(request.path.removeprefix("/rude/"), Connection.sink)
        return await behaviour(self, request)

    async def _body(self, request: Request) -> int:
        """Read the request body at the given pace; its size."""
        pacer, total = Pacer(self.rate), 0
        if "chunked" in request.fields.get("transfer-encoding", ""):
            while size := int((await self.reader.readuntil(b"\r\n")).partition(b";")[0], 16):
                total += await self._read(size, pacer)
                await self.reader.readexactly(2)
            await self.reader.readuntil(b"\r\n")
            return total
        return await self._read(int(request.fields.get("content-length", "0")), pacer)

    async def _read(self, size: int, pacer: Pacer) -> int:
        left = size
        while left:
            block = await self.reader.read(min(left, BLOCK))
            if not block:
                raise EOFError
            left -= len(block)
            if wait := pacer.took(len(block)):
                await asyncio.sleep(wait)
        return size

    async def _send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    async def sink(self, request: Request) -> bool:
        """Correct but slow."""
        text = str(await self._body(request)).encode()
        await self._send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text), text)
        return True

    async def drip(self, request: Request) -> bool:
        """Twenty small chunks, one every 50 ms."""
        await self._body(request)
        await self._send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            await self._send(b"5\r\ndrip \r\n")
            await asyncio.sleep(0.05)
        await self._send(b"0\r\n\r\n")
        return True

    async def half(self, request: Request) -> bool:
        """Half of the promised body, then the end."""
        await self._body(request)
        await self._send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"h" * 500)
        return False

    async def broken_chunk(self, request: Request) -> bool:
        """A chunk size that is none."""
        await self._body(request)
        await self._send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\nzz\r\nbad\r\n")
        return False

    async def reset(self, request: Request) -> bool:
        """RST in place of an answer."""
        await self._body(request)
        abort(self.writer)
        return False

    async def reset_mid_head(self, request: Request) -> bool:
        """Part of a head, then RST."""
        await self._body(request)
        await self._send(b"HTTP/1.1 200 OK\r\nContent-Le")
        abort(self.writer)
        return False

    async def reset_mid_body(self, request: Request) -> bool:
        """Part of a body, then RST."""
        await self._body(request)
        await self._send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"r" * 100_000)
        abort(self.writer)
        return False

    async def hang(self, _: Request) -> bool:
        """No answer at all while the other side stays."""
        await self.reader.read()
        return False

    async def early(self, _: Request) -> bool:
        """A final answer before the request body was read."""
        await self._send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return False

    async def garbage(self, _: Request) -> bool:
        """Not HTTP."""
        await self._send(b"\x16\x03\x01 what is this?\r\n\r\n")
        return False

    async def interim(self, request: Request) -> bool:
        """A 103 before the answer."""
        await self._send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
        return await self.sink(request)

    async def unavailable(self, request: Request) -> bool:
        """503."""
        await self._body(request)
        await self._send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")
        return True

    async def big(self, request: Request) -> bool:
        """Ten MiB in chunks of 64 KiB."""
        await self._body(request)
        await self._send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(160):
            await self._send(b"%x\r\n" % BLOCK, b"b" * BLOCK, b"\r\n")
        await self._send(b"0\r\n\r\n")
        return True

    async def upgrade(self, request: Request) -> bool:
        """101, then an echo of raw bytes; 426 to one that did not ask."""
        if "upgrade" not in request.fields:
            await self._send(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
            return True
        key = request.fields.get("sec-websocket-key", "")
        accept = b64encode(sha1((key + _WEBSOCKET).encode(), usedforsecurity=False).digest())
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        await self._send(head, b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept)
        while block := await self.reader.read(BLOCK):
            await self._send(block)
        return False


BEHAVIOURS: Final[dict[str, Callable[[Connection, Request], Awaitable[bool]]]] = {
    "sink": Connection.sink,
    "drip": Connection.drip,
    "half": Connection.half,
    "broken-chunk": Connection.broken_chunk,
    "reset": Connection.reset,
    "reset-mid-head": Connection.reset_mid_head,
    "reset-mid-body": Connection.reset_mid_body,
    "hang": Connection.hang,
    "early": Connection.early,
    "garbage": Connection.garbage,
    "interim": Connection.interim,
    "unavailable": Connection.unavailable,
    "big": Connection.big,
    "upgrade": Connection.upgrade,
}


def abort(writer: asyncio.StreamWriter) -> None:
    """Close with RST."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


async def serve(port: int, rate: float = 0.0) -> None:
    """Accept until cancelled. The receive buffer is small, so that a slow reader is felt at once."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Connection(reader, writer, rate).serve()

    listener = socket.create_server((HOST, port), backlog=1024)
    if rate:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BLOCK)
    async with await asyncio.start_server(connected, sock=listener) as server:
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0))
