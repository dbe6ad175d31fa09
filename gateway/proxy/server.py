"""The downstream side: bytes ↔ exchanges on one client connection.

A connection has at most one exchange; what a client pipelines behind it waits, bounded, and is answered in order
(RFC 9112 9.3.2). Step 0 of the life of a request happens here; the rest is `pipeline.py`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from time import monotonic
from typing import Final

from gateway.errors import Failed, Failure
from gateway.headers import forwarded_node, normalise_host, parse_address
from gateway.proxy import heads, pipeline
from gateway.proxy.access_entry import refused_entry
from gateway.proxy.body import Body
from gateway.proxy.connection import Alarm, Connection
from gateway.proxy.exchange import Exchange
from gateway.proxy.framing import ChunkedDecoder, LengthDecoder
from gateway.proxy.http1 import (
    MAX_EMPTY_LINES,
    RequestHead,
    check_partial_request,
    check_request_size,
)
from gateway.proxy.http1_response import ResponseHead
from gateway.proxy.plane import DataPlane
from gateway.proxy.tunnel import Tunnel

PIPELINE_LIMIT: Final = 64 * 1024
"""Bytes a client may send ahead of the response it waits for, before its socket is no longer read."""

LINGER: Final = 5.0
"""Seconds that unread input is read and thrown away after a final response, so that a reset does not destroy the
response on its way (RFC 9112 9.6)."""

HALF_CLOSE_PROBE: Final = 0.25
"""Seconds after a client's FIN until it is asked, with an interim response, whether it is still there; and between looks
for its answer, which is a reset when it is not."""

_RESET: Final = struct.pack("ii", 1, 0)


class DownstreamConnection(Connection):
    """One client connection."""

    __slots__ = (
        "_buffer",
        "_empty_lines",
        "_ended",
        "_host",
        "_host_field",
        "_lingering",
        "_reading",
        "_scanned",
        "_served",
        "alarm",
        "closing",
        "exchange",
        "forwarded_line",
        "peer",
        "peer_node",
        "plane",
        "scheme",
        "trusted",
        "tunnel",
        "via_line",
    )

    def __init__(self, plane: DataPlane, scheme: bytes) -> None:
        super().__init__()
        self.plane = plane
        self.scheme = scheme
        self.exchange: Exchange | None = None
        self.tunnel: Tunnel | None = None
        self.peer: IPv4Address | IPv6Address | None = None
        self.peer_node = b""
        """The peer's address as `X-Forwarded-For` names it."""
        self.trusted = False
        self.forwarded_line = b""
        self.via_line = plane.via_line
        self.closing = False
        """No further request is read."""
        self.alarm = Alarm(plane.loop, self._time_passed)
        self._buffer = b""
        """Received and not yet understood: a partial head, or what was pipelined."""
        self._scanned = 0
        self._empty_lines = 0
        self._reading = False
        self._ended = False
        self._lingering = False
        self._served = 0
        self._host_field = b""
        self._host: bytes | None = b""

    # -- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self.adopt(transport)
        plane = self.plane
        plane.connections.add(self)
        plane.metrics.connections += 1
        server = plane.snapshot.server
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self.peer = parse_address(str(name[0]))
            self.peer_node = str(self.peer).encode("ascii")
            self.trusted = self.peer in server.trusted_proxies
        else:
            self.peer_node = forwarded_node(None)
        self.forwarded_line = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (self.peer_node, self.scheme)
        if plane.metrics.connections > server.limits.connections:
            self._refuse_connection(Failed(Failure.CONNECTION_LIMIT, close=True))
            return
        now = monotonic()
        self.alarm.set(now + server.timeouts.header, now)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self.plane.connections.discard(self)
        self.plane.metrics.connections -= 1
        self.closing = True
        self._buffer = b""
        if self.tunnel is not None:
            self.tunnel.lost(self)
        if self.exchange is not None:
            self.exchange.fail(Failed(Failure.CLIENT_CLOSED))
        self.alarm.cancel()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        exchange = self.exchange
        if exchange is None:
            if self._lingering:
                return
            self._read_heads(self._buffer + data if self._buffer else data)
        elif self.tunnel is not None:
            self.tunnel.received(self, data)
        elif exchange.request_body is not None and not exchange.request_body.done:
            self._read_body(exchange, exchange.request_body, data)
        else:
            self._buffer += data
            if len(self._buffer) > PIPELINE_LIMIT:
                self.pause_reading()

    def eof_received(self) -> bool:
        """The client sends no more. It may still read (half-close), or be gone: a FIN alone does not tell.

        Before the response has begun it is taken for half-closed, and asked by an interim response a moment later: a peer
        that is gone answers that with a reset. Once a response streams, a FIN is taken for leaving.
        """
        exchange = self.exchange
        self._ended = True
        if self.tunnel is not None:
            return self.tunnel.ended(self)
        if exchange is None or self.scheme == b"https":
            return False
        if not exchange.request_is_read() or exchange.committed:
            exchange.fail(Failed(Failure.CLIENT_CLOSED))
            return False
        self.plane.loop.call_later(HALF_CLOSE_PROBE, self._probe, exchange)
        return True

    def resume_writing(self) -> None:
        """See asyncio."""
        super().resume_writing()
        if self.exchange is not None:
            self.exchange.wake()

    def _probe(self, exchange: Exchange) -> None:
        if self._waits_for_response(exchange) and exchange.head.minor:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.plane.loop.call_later(HALF_CLOSE_PROBE / 4, self._look, exchange)

    def _look(self, exchange: Exchange) -> None:
        """After a FIN the loop does not read any more, so it does not see a reset either; the socket has noted it."""
        if not self._waits_for_response(exchange):
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self.plane.loop.call_later(HALF_CLOSE_PROBE, self._look, exchange)

    def _waits_for_response(self, exchange: Exchange) -> bool:
        return self.exchange is exchange and not exchange.committed and not self.transport.is_closing()

    # -- requests ----------------------------------------------------------------------------------------------------

    def _read_heads(self, data: bytes) -> None:
        """Start the exchanges that `data` holds, one after the other, until one has to wait or a head is incomplete."""
        self._reading = True
        self._buffer = b""
        try:
            while data and self.exchange is None and not self.closing:
                if data[0] == 0x0D:
                    data = self._skip_empty_lines(data)
                    continue
                data = self._read_head(data)
        except Failed as failed:
            self._refuse_connection(failed)
        finally:
            self._reading = False

    def _skip_empty_lines(self, data: bytes) -> bytes:
        if len(data) == 1:
            self._wait_for_more(data)
            return b""
        self._empty_lines += 1
        if data[1] != 0x0A or self._empty_lines > MAX_EMPTY_LINES:
            raise Failed(Failure.BAD_REQUEST, "this is not an HTTP/1 request", close=True)
        return data[2:]

    def _read_head(self, data: bytes) -> bytes:
        """Start the exchange whose head begins `data`; returns what is left to read after it is over."""
        end = data.find(b"\r\n\r\n", self._scanned)
        limits = self.plane.limits
        if end < 0:
            check_partial_request(data, self._scanned, limits.target, limits.headers)
            self._wait_for_more(data)
            return b""
        self._scanned = 0
        self._empty_lines = 0
        end += 4
        head = self.plane.reader.read(data, end)
        if end > self.plane.surely_small:
            check_request_size(data, end, head, limits.target, limits.headers, limits.header_count)
        self._begin(head, data[end:] if len(data) > end else b"")
        if self.exchange is not None:
            return b""
        data, self._buffer = self._buffer, b""
        return data

    def _wait_for_more(self, data: bytes) -> None:
        if not self._buffer and not self._scanned:
            now = monotonic()
            self.alarm.set(now + self.plane.snapshot.server.timeouts.header, now)
        self._buffer = data
        self._scanned = max(0, len(data) - 3)

    def _begin(self, head: RequestHead, rest: bytes) -> None:
        now = monotonic()
        self._served += 1
        exchange = Exchange(self, self.plane.snapshot, head, now)
        fields = head.fields
        if fields.chunked:
            body = exchange.request_body = Body(self, ChunkedDecoder())
        elif fields.length > 0:
            body = exchange.request_body = Body(self, LengthDecoder(fields.length))
        else:
            body = None
        if body is not None:
            if rest:
                body.feed(rest)
                rest = body.decoder.rest
            if not head.minor:
                head.expect_continue = False
        self._buffer = rest
        if self.plane.draining or self._served >= self.plane.limits.requests_per_connection:
            exchange.keep_alive = False
        self.exchange = exchange
        exchange.start(pipeline.serve(exchange))

    def _read_body(self, exchange: Exchange, body: Body, data: bytes) -> None:
        try:
            body.feed(data)
        except Failed as failed:
            exchange.fail(failed)
            return
        if body.done:
            self._buffer = body.decoder.rest
            pipeline.upload_done(exchange, monotonic())

    def take_buffer(self) -> bytes:
        """What came behind an upgrade request before the upstream answered it."""
        data, self._buffer = self._buffer, b""
        self.resume_reading()
        return data

    def exchange_over(self, exchange: Exchange) -> None:
        """The exchange is finished: close, read what was pipelined, or wait for the next request."""
        self.exchange = None
        self.source = None
        if self.transport.is_closing():
            return
        if not exchange.keep_alive or (self._ended and not self._buffer):
            self._close(unread=bool(self._buffer) or not exchange.request_is_read())
            return
        self.resume_reading()
        now = monotonic()
        timeouts = self.plane.snapshot.server.timeouts
        self.alarm.set(now + timeouts.keep_alive, now)
        if self._buffer and not self._reading:
            self._read_heads(self._buffer)
            if self._ended and self.exchange is None:
                self._close(unread=False)

    # -- closing -----------------------------------------------------------------------------------------------------

    def _close(self, *, unread: bool) -> None:
        self.closing = True
        self._buffer = b""
        if not unread or self._ended:
            self.transport.close()
            return
        self._lingering = True
        self.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        now = monotonic()
        self.alarm.set(now + LINGER, now)

    def cut(self, *, flush: bool) -> None:
        """Close so that a broken message cannot be taken for a whole one: `flush` when its framing shows that it is cut."""
        self.closing = True
        if flush:
            self.transport.close()
            now = monotonic()
            self.alarm.set(now + self.plane.snapshot.server.timeouts.write_stall, now)
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def close_when_idle(self) -> None:
        """Draining: no request is read from now on."""
        if self.exchange is not None:
            self.exchange.keep_alive = False
        elif not self._buffer:
            self.closing = True
            self.transport.close()

    def _refuse_connection(self, failed: Failed) -> None:
        """Answer what is not even a request, and close."""
        failure = failed.failure
        plane = self.plane
        errors = plane.metrics.protocol_errors
        errors[failure.code] = errors.get(failure.code, 0) + 1
        server = plane.snapshot.server
        body = heads.problem_body(failed, None, b"")
        lines = heads.problem_lines(failed, server.name)
        self.transport.write(heads.own_answer(failure.status, lines, body, date=plane.date, keep_alive=False))
        if plane.log is not None:
            plane.log.record(refused_entry(self, failure))
        self._close(unread=True)

    def _time_passed(self, now: float) -> None:
        exchange = self.exchange
        if exchange is not None:
            pipeline.check_time(exchange, now)
        elif self._lingering or self.closing:
            self.transport.abort()
        elif self._buffer:
            self._refuse_connection(Failed(Failure.HEADER_TIMEOUT, close=True))
        else:
            self.closing = True
            self.transport.close()

    # -- what the steps ask ------------------------------------------------------------------------------------------

    def interim(self, head: ResponseHead) -> None:
        """Pass a 1xx on (RFC 9110 15.2): never to HTTP/1.0, and a 100 only to who expects it."""
        exchange = self.exchange
        if exchange is None or not exchange.head.minor:
            return
        if head.status == 100:
            if not exchange.head.expect_continue:
                return
            exchange.head.expect_continue = False
            pipeline.continued(exchange, monotonic())
        self.transport.write(heads.interim_head(head))

    def host_of(self, field: bytes) -> bytes | None:
        """The normalised host of a Host value; remembered, since clients send the same one again and again."""
        if field != self._host_field:
            self._host = normalise_host(field)
            self._host_field = field
        return self._host

    def came_by_us(self, via: tuple[bytes, ...]) -> bool:
        """Our own pseudonym stands in the request's `Via`: it has come round (RFC 9110 7.3)."""
        name = self.plane.snapshot.server.name.encode("ascii")
        return any(member.split()[1:2] == [name] for value in via for member in value.split(b","))
