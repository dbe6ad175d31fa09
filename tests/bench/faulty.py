"""Endpoints that can be told how to fail: `python -m tests.bench.faulty CONTROL PORT …`.

CONTROL is a Unix socket that takes lines: `mode PORT WORD` switches one port, `zero` forgets the counts, `counts` answers with
them as JSON. Words: `ok`, `500`, `503`, `reset`, `hang`, `refuse`, `slow:MS`, and `workers:N:MS` (so many at a time, each
taking that long, the rest waits).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections import deque
from typing import Final, cast

import orjson

from tests.bench.processes import HOST

_RESET: Final = struct.pack("ii", 1, 0)
_BODY: Final = b'{"id": 42, "name": "Ada"}\n'


def _answer(status: int) -> bytes:
    return b"HTTP/1.1 %d Whatever\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(_BODY),
        _BODY,
    )


_ANSWERS: Final = {word: _answer(int(word)) for word in ("200", "500", "503")}


class Port:
    """One endpoint and what it has seen."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.mode = "ok"
        self.server: asyncio.Server | None = None
        self.requests = self.in_flight = self.peak = self.busy = 0
        self.waiting: deque[Exchange] = deque()
        self.open: set[Exchange] = set()

    async def listen(self) -> None:
        """Take connections."""
        if self.server is None:
            loop = asyncio.get_running_loop()
            self.server = await loop.create_server(lambda: Exchange(self), HOST, self.number, backlog=1024, reuse_address=True)

    async def switch(self, mode: str) -> None:
        """Behave like this from now on."""
        self.mode = mode
        if mode == "refuse":
            if self.server is not None:
                self.server.close()
                self.server = None
            for exchange in list(self.open):
                exchange.transport.abort()
            return
        await self.listen()
        for exchange in list(self.waiting):
            exchange.go_on()
        self.waiting.clear()

    def counts(self) -> dict[str, int]:
        """Since `zero`."""
        return {"requests": self.requests, "in_flight": self.in_flight, "peak": self.peak}


class Exchange(asyncio.Protocol):
    """A connection of the gateway: one request at a time, no bodies."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.transport: asyncio.Transport
        self.under_way = self.served = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self.port.open.discard(self)
        if self.under_way:
            self._over()
        with contextlib.suppress(ValueError):
            self.port.waiting.remove(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        port = self.port
        port.requests += 1
        port.in_flight += 1
        port.peak = max(port.peak, port.in_flight)
        self.under_way = True
        self.go_on()

    def go_on(self) -> None:
        """Answer as the mode says; also what waited under another mode."""
        if not self.under_way:
            return
        port = self.port
        word, _, rest = port.mode.partition(":")
        if word == "hang":
            port.waiting.append(self)
        elif word == "reset":
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
        elif word == "slow":
            asyncio.get_running_loop().call_later(float(rest) / 1000, self._write, "200")
        elif word == "workers":
            most, _, millis = rest.partition(":")
            if port.busy >= int(most):
                port.waiting.append(self)
            else:
                port.busy += 1
                self.served = True
                asyncio.get_running_loop().call_later(float(millis) / 1000, self._write, "200")
        else:
            self._write("200" if word == "ok" else word)

    def _write(self, status: str) -> None:
        if self.under_way:
            if not self.transport.is_closing():
                self.transport.write(_ANSWERS[status])
            self._over()

    def _over(self) -> None:
        port = self.port
        self.under_way = False
        port.in_flight -= 1
        if self.served:
            self.served = False
            port.busy -= 1
            if port.waiting and port.mode.startswith("workers"):
                port.waiting.popleft().go_on()


async def main() -> None:
    """Serve until killed."""
    control, *numbers = sys.argv[1:]
    ports = {number: Port(int(number)) for number in numbers}
    for port in ports.values():
        await port.listen()

    async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := (await reader.readline()).decode().split():
            if line[0] == "mode":
                await ports[line[1]].switch(line[2])
                writer.write(b"{}\n")
            elif line[0] == "zero":
                for port in ports.values():
                    port.requests, port.peak = 0, port.in_flight
                writer.write(b"{}\n")
            else:
                writer.write(orjson.dumps({number: port.counts() for number, port in ports.items()}) + b"\n")

    async with await asyncio.start_unix_server(obey, control) as server:
        await server.serve_forever()


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(main())
    except ImportError:
        asyncio.run(main())
