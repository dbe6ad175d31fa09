"""A client's connection as such: who is at the other end, and how to close it without losing or faking an answer."""

from __future__ import annotations

import asyncio
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from time import monotonic
from typing import Final

from gateway.errors import Failure
from gateway.headers import forwarded_node, normalise_host, parse_address
from gateway.ports import Check
from gateway.proxy.client import Client, Matched
from gateway.proxy.connection import Alarm, Connection
from gateway.proxy.exchange import Exchange
from gateway.proxy.plane import DataPlane
from gateway.proxy.rate_limit_store.local import Counter
from gateway.snapshot import Limit

_RESET: Final = struct.pack("ii", 1, 0)


class ClientConnection(Connection, Client):
    """The facts that hold for all requests of a connection; subclasses add the requests."""

    __slots__ = (
        "_host", "_host_field", "alarm", "closing", "ended", "exchange", "forwarded_line", "limit_key", "limits_asked",
        "listener", "matched", "peer", "peer_node", "peer_text", "plane", "scheme", "told", "told_host", "trusted", "via_line",
    )  # fmt: skip

    def __init__(self, plane: DataPlane, scheme: bytes, listener: bytes = b"") -> None:
        super().__init__()
        self.plane = plane
        self.scheme = scheme
        self.listener = listener
        self.peer: IPv4Address | IPv6Address | None = None
        self.peer_node = b""
        self.peer_text = b""
        self.limit_key: bytes | None = None
        self.limits_asked: tuple[tuple[Limit, ...], bytes, list[Check], list[Counter]] | None = None
        self.matched: Matched | None = None
        self.exchange: Exchange | None = None
        """The exchange under way; there is one at a time."""
        self.ended = False
        self.trusted = False
        self.forwarded_line = b""
        self.told_host: bytes | None = None
        self.told = b""
        self.via_line = plane.via_line
        self.closing = False
        """No further request is read."""
        self.alarm = Alarm(plane.loop, self.time_passed)
        self._host_field = b""
        self._host: bytes | None = b""

    def meet(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport, and note who is there and whether to believe it."""
        self.adopt(transport)
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self.peer = parse_address(str(name[0]))
            self.peer_node = self.peer_text = str(self.peer).encode("ascii")
        else:
            self.peer_node = forwarded_node(None)
        self.renew()
        self.forwarded_line = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (self.peer_node, self.scheme)

    def renew(self) -> None:
        """Another snapshot holds: look anew at what is remembered from the last one."""
        self.matched = None
        self.via_line = self.plane.via_line
        self.trusted = self.peer in self.plane.snapshot.server.trusted_proxies

    def time_passed(self, now: float) -> None:
        """The timer rang."""
        raise NotImplementedError

    def host_of(self, field: bytes) -> bytes | None:
        # Remembered, since clients send the same one again and again.
        if field != self._host_field:
            self._host = normalise_host(field)
            self._host_field = field
        return self._host

    def came_by_us(self, via: tuple[bytes, ...]) -> bool:
        name = self.plane.snapshot.server.name.encode("ascii")
        return any(member.split()[1:2] == [name] for value in via for member in value.split(b","))

    # -- closing -----------------------------------------------------------------------------------------------------

    def close_behind_output(self) -> None:
        """Close when the client has taken what it was sent; a client that stalls is cut by the timer."""
        self.closing = True
        now = monotonic()
        self.watch_output(now)
        self.close()

    def gone(self) -> bool:
        return self.is_reset()

    def local_address(self) -> object:
        return self.transport.get_extra_info("sockname")

    def abort(self) -> None:
        self.transport.abort()

    def cut(self, *, flush: bool) -> None:
        if flush:
            self.close_behind_output()
            return
        self.closing = True
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def watch_output(self, now: float) -> None:
        """Look soon whether the client takes what it was sent."""
        self.alarm.set(now + self.plane.snapshot.server.timeouts.write_stall / 4, now)

    def check_output(self, now: float) -> None:
        """Cut a client that has stopped taking what it was sent."""
        self.check_progress(now)
        if now - self.stalled_since < self.plane.snapshot.server.timeouts.write_stall:
            self.watch_output(now)
            return
        self.count_error(Failure.WRITE_TIMEOUT)
        self.transport.abort()

    def count_error(self, failure: Failure) -> None:
        """Count a failure that belongs to the connection and to no request."""
        self.plane.metrics.protocol_errors[failure.code] += 1
