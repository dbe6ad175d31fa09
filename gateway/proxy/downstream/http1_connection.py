"""HTTP/1.1 with a client: bytes ↔ exchanges on one connection.

A connection has at most one exchange; what a client pipelines behind it waits, bounded, and is answered in order
(RFC 9112 9.3.2). Step 0 of the life of a request happens here; the rest is `pipeline.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from random import getrandbits
from time import monotonic
from typing import Final

from gateway.errors import Failed, Failure
from gateway.proxy import pipeline, time_limits
from gateway.proxy.access_log.line import refused_line
from gateway.proxy.bodies.body import Body
from gateway.proxy.bodies.tunnel import Tunnel
from gateway.proxy.connection import Connection
from gateway.proxy.downstream import half_close
from gateway.proxy.downstream.http1_answers import Http1Answers
from gateway.proxy.exchange import Exchange
from gateway.proxy.plane import DataPlane
from gateway.proxy.steps.own_answer import field_block
from gateway.proxy.steps.problem import problem_body, problem_lines
from gateway.proxy.wire.framing import ChunkedDecoder, LengthDecoder
from gateway.proxy.wire.http1_request import (
    MAX_EMPTY_LINES,
    RequestFields,
    RequestHead,
    check_partial_request,
    check_request_size,
)
from gateway.proxy.wire.http1_response import ResponseHead
from gateway.proxy.wire.http1_writer import REASONS, response_message, switching_head

PIPELINE_LIMIT: Final = 64 * 1024
"""Bytes a client may send ahead of the response it waits for, before its socket is no longer read."""

LINGER: Final = 5.0
"""Seconds that unread input is read and thrown away after a final response, so that a reset does not destroy the
response on its way (RFC 9112 9.6)."""

LOGGED: Final = 2048
"""Bytes of what is no request that are looked at for what the access log can say of it."""

FAIR_SHARE: Final = 32
"""Requests of one connection that are answered here in a row before other connections have their turn."""


class Http1Connection(Http1Answers):
    """One client connection and its requests."""

    __slots__ = (
        "_at", "_buffer", "_empty_lines", "_fields", "_lingering", "_reading", "_scanned", "_served", "_turn_scheduled",
        "tunnel",
    )  # fmt: skip

    def __init__(self, plane: DataPlane, scheme: bytes, listener: bytes = b"") -> None:
        super().__init__(plane, scheme, listener)
        self.tunnel: Tunnel | None = None
        self._buffer = b""
        """Received and not yet understood: a partial head, or what was pipelined."""
        self._scanned = 0
        self._empty_lines = 0
        self._fields: RequestFields | None = None
        """Those of the last request."""
        self._reading = False
        self._at = 0
        """Where in the buffer the next request begins."""
        self._turn_scheduled = False
        """The loop will call to go on with the buffer."""
        self._lingering = False
        self._served = 0

    # -- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.meet(transport)
        plane = self.plane
        plane.connections.add(self)
        plane.metrics.connections += 1
        plane.metrics.accepted += 1
        if plane.metrics.connections > plane.limits.connections:
            self._refuse_connection(
                Failed(Failure.CONNECTION_LIMIT, f"{plane.limits.connections} are open (server.limits.connections)", close=True)
            )
            return
        now = monotonic()
        self.alarm.set(now + plane.snapshot.server.timeouts.header, now)

    def renew(self) -> None:
        # The fields of the last request were read for the routes there were then.
        super().renew()
        self._fields = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.plane.connections.discard(self)
        self.plane.metrics.connections -= 1
        self.closing = True
        self.take_buffer()
        if self.tunnel is not None:
            self.tunnel.lost(self)
        if self.exchange is not None:
            self.exchange.fail(Failed(Failure.CLIENT_CLOSED))
        self.alarm.cancel()

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            if self._lingering:
                return
            self._keep(data)
            if not self._turn_scheduled and not self.write_paused:
                self._read_heads()
            elif len(self._buffer) > PIPELINE_LIMIT:
                self.pause_reading()
        elif self.tunnel is not None:
            self.tunnel.received(self, data)
        elif exchange.request_body is not None and not exchange.request_body.done:
            self._read_body(exchange, exchange.request_body, data)
        else:
            self._keep(data)
            if len(self._buffer) > PIPELINE_LIMIT:
                self.pause_reading()

    def _keep(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer[self._at :] + data
            self._at = 0
        self._buffer = data

    def eof_received(self) -> bool:
        """The client sends no more; True keeps the connection open for what it may still read."""
        self.ended = True
        if self.tunnel is not None:
            return self.tunnel.ended(self)
        if self.scheme == b"https":
            return False
        if self.exchange is None:
            return self._turn_scheduled or self.write_paused
        return half_close.may_still_read(self, self.exchange)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.exchange is None and not self.closing:
            self._next()

    # -- requests ----------------------------------------------------------------------------------------------------

    def _read_heads(self) -> None:
        """Start the exchanges that the buffer holds, one after the other, until one has to wait or a head is incomplete.

        Answers made here take no time to wait in, so what makes them wait is the client (it must take what it was sent) and
        fairness: after some of them the other connections have their turn.
        """
        if self._reading:
            return
        self._reading = True
        turns = FAIR_SHARE
        try:
            while self._buffer and self.exchange is None and not self.closing and not self.write_paused:
                if turns == 0:
                    self._turn_scheduled = True
                    self.plane.loop.call_soon(self._take_turn)
                    return
                turns -= 1
                if not self._read_head():
                    break
        except Failed as failed:
            self._refuse_connection(failed)
        finally:
            self._reading = False
        if self.ended and self.exchange is None and not self.closing and not self.write_paused:
            self._close(unread=False)

    def _take_turn(self) -> None:
        self._turn_scheduled = False
        if self.exchange is None and not self.closing:
            self._next()

    def _read_head(self) -> bool:
        """Start the exchange whose head is next in the buffer; False when there is no whole head."""
        data, at = self._buffer, self._at
        if data[at] == 0x0D:
            return self._skip_empty_line(data, at)
        end = data.find(b"\r\n\r\n", at or self._scanned)
        limits = self.plane.limits
        if end < 0:
            data = data[at:]
            check_partial_request(data, 0 if at else self._scanned, limits.target, limits.headers)
            self._wait_for_more(data, at)
            return False
        end += 4
        head = self.plane.reader.read(data, end, at, self._fields)
        self._fields = head.fields
        if end - at > self.plane.surely_small:
            check_request_size(data[at:end], head, limits.target, limits.headers, limits.header_count)
        self._scanned = 0
        self._empty_lines = 0
        self._advance(end)
        self._begin(head)
        return True

    def _advance(self, at: int) -> None:
        if at == len(self._buffer):
            self._buffer = b""
            self._at = 0
        else:
            self._at = at

    def _skip_empty_line(self, data: bytes, at: int) -> bool:
        if at + 1 == len(data):
            self._wait_for_more(data[at:], at)
            return False
        self._empty_lines += 1
        if data[at + 1] != 0x0A or self._empty_lines > MAX_EMPTY_LINES:
            raise Failed(Failure.BAD_REQUEST, "this is not an HTTP/1 request", close=True)
        self._advance(at + 2)
        return True

    def _wait_for_more(self, data: bytes, at: int) -> None:
        if at or not self._scanned:
            now = monotonic()
            self.alarm.set(now + self.plane.snapshot.server.timeouts.header, now)
        self._buffer = data
        self._at = 0
        self._scanned = max(1, len(data) - 3)

    def _begin(self, head: RequestHead) -> None:
        now = monotonic()
        self._served += 1
        exchange = Exchange(self, self.plane.snapshot, head, now)
        fields = head.fields
        if fields.chunked or fields.length > 0:
            body = exchange.request_body = Body(self, ChunkedDecoder() if fields.chunked else LengthDecoder(fields.length))
            if self._buffer:
                try:
                    body.feed(self.take_buffer())
                except Failed as failed:
                    self._refuse_connection(failed, b"%b %b" % (head.method, head.target))
                    return
                self._buffer = body.decoder.rest
            if not head.minor:
                head.expect_continue = False
        if self.plane.draining or self._served >= self.plane.limits.requests_per_connection:
            exchange.keep_alive = False
        self.exchange = exchange
        exchange.start(pipeline.serve(exchange))
        if self.ended and self.exchange is exchange and not half_close.may_still_read(self, exchange):
            self.close()

    def _read_body(self, exchange: Exchange, body: Body, data: bytes) -> None:
        try:
            body.feed(data)
        except Failed as failed:
            exchange.fail(failed)
            return
        if body.done:
            self._buffer = body.decoder.rest
            time_limits.upload_done(exchange, monotonic())
            if exchange.head.upgrade:
                exchange.wake()
        elif exchange.head.expect_continue:
            time_limits.upload_began(exchange, monotonic())

    def take_buffer(self) -> bytes:
        """What came behind the head: the beginning of a body, or of what an upgrade leads to."""
        data = self._buffer[self._at :]
        self._buffer = b""
        self._at = 0
        return data

    def exchange_over(self) -> None:
        """Close, read what was pipelined, or wait for the next request."""
        exchange, self.exchange = self.exchange, None
        assert exchange is not None
        self.source = None
        if self.transport.is_closing():
            self.closing = True
            return
        if not exchange.keep_alive or (self.ended and not self._buffer):
            self._close(unread=bool(self._buffer) or not exchange.request_is_read())
        else:
            self._next()

    def _next(self) -> None:
        """Go on with what the client sent ahead, or wait for more; not before it has taken what it was sent."""
        now = monotonic()
        if self.write_paused:
            self.pause_reading()
            self.watch_output(now)
            return
        self.alarm.set(now + self.plane.snapshot.server.timeouts.keep_alive, now)
        if self._buffer:
            self._read_heads()
        # A head may be larger than what may be sent ahead: while one is incomplete, its rest is read.
        if self.reading_paused and (self._scanned or len(self._buffer) - self._at <= PIPELINE_LIMIT):
            self.resume_reading()

    # -- closing -----------------------------------------------------------------------------------------------------

    def _close(self, *, unread: bool) -> None:
        self.take_buffer()
        if not unread or self.ended:
            self.close_behind_output()
            return
        self.closing = self._lingering = True
        self.resume_reading()
        if self.transport.can_write_eof():
            # asyncio shuts the socket down here and now, and that fails when the client has reset it.
            with contextlib.suppress(OSError):
                self.transport.write_eof()
        now = monotonic()
        self.alarm.set(now + LINGER, now)

    def close_when_idle(self) -> None:
        if self.exchange is not None:
            self.exchange.keep_alive = False
        elif not self._buffer and not self._lingering:
            self.close_behind_output()

    def _refuse_connection(self, failed: Failed, received: bytes = b"") -> None:
        """Answer what is not even a request, and close. `received`: its beginning, when that is not in the buffer any more."""
        failure = failed.failure
        plane = self.plane
        self.count_error(failure)
        server, names = plane.snapshot.server, plane.snapshot.names
        request_id = b"%032x" % getrandbits(128)
        body = problem_body(failed, None, request_id)
        lines = [b"Date: ", plane.date, b"\r\n", field_block(problem_lines(failed, server.name, None), None)]
        lines += [names.request_id_line, request_id, b"\r\nContent-Length: %d\r\nConnection: close\r\n" % len(body)]
        self.transport.write(response_message(failure.status, REASONS.get(failure.status, b""), lines, body))
        settings = plane.snapshot.access_log
        if plane.log is not None and settings is not None:
            received = received or self._buffer[self._at : self._at + LOGGED]
            plane.log.record(refused_line(self, failed, request_id, received, settings))
        self._close(unread=True)

    def _patience(self) -> str:
        return f"it takes longer than {self.plane.snapshot.server.timeouts.header:g} s (server.timeouts.header)"

    def time_passed(self, now: float) -> None:
        exchange = self.exchange
        if exchange is not None:
            time_limits.check_time(exchange, now)
        elif self._lingering and not self.unsent():
            self._lingering = False
            self.close_behind_output()
        elif self.closing or self.write_paused:
            self.check_output(now)
        elif self._buffer:
            self._refuse_connection(Failed(Failure.HEADER_TIMEOUT, self._patience(), close=True))
        else:
            self.closing = True
            self.close()

    # -- Client ------------------------------------------------------------------------------------------------------

    def switch(
        self, lines: list[bytes], head: ResponseHead, upstream: Connection, first: bytes, on_closed: Callable[[], None]
    ) -> Tunnel:
        self.transport.write(switching_head(head, lines) + first)
        tunnel = self.tunnel = Tunnel(self, upstream, on_closed)
        early = self.take_buffer()
        if early:
            tunnel.received(self, early)
        if not upstream.write_paused:
            self.resume_reading()
        if self.ended:
            tunnel.ended(self)
        return tunnel

    def waits(self) -> None:
        if self.ended and self.exchange is not None:
            half_close.may_still_read(self, self.exchange)
