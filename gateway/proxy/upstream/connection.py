"""Connections to one endpoint: reading a response, and the pool that keeps idle connections (last in, first out).

Last in, first out keeps few connections warm and lets the rest age out, so fewer requests meet a connection that the
upstream is just closing. Bytes that arrive on an idle connection retire it: they answer no request (RFC 9112 9.2).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from time import monotonic
from typing import Final

from gateway.endpoints import Endpoint
from gateway.errors import Failed, Failure
from gateway.metrics import UpstreamMetrics
from gateway.proxy.bodies.body import Body
from gateway.proxy.bodies.tunnel import Tunnel
from gateway.proxy.connection import Connection
from gateway.proxy.exchange import Exchange, suspend
from gateway.proxy.wire.framing import ChunkedDecoder, Decoder, LengthDecoder, UntilClose
from gateway.proxy.wire.http1_response import ResponseFields, ResponseHead, check_partial_response, read_response
from gateway.snapshot import UpstreamSettings

MAX_INTERIM: Final = 64
"""1xx responses before one final response; a flood of them is not an answer."""


class UpstreamConnection(Connection):
    """One connection to an endpoint, with at most one exchange on it."""

    __slots__ = (
        "_buffer",
        "_fields",
        "_interim",
        "_scanned",
        "body",
        "content",
        "exchange",
        "idle_since",
        "pool",
        "response",
        "reusable",
        "silent",
        "tunnel",
    )

    def __init__(self, pool: EndpointPool) -> None:
        super().__init__()
        self.pool = pool
        self.exchange: Exchange | None = None
        self.response: ResponseHead | None = None
        """The final response head, once it is there."""
        self.body: Body | None = None
        """The response's body, when more of it is still to come than arrived with the head."""
        self.content = b""
        """The response's whole content, when it arrived with the head."""
        self.idle_since = 0.0
        self.reusable = False
        self.silent = True
        """No byte of a response has arrived in this exchange."""
        self.tunnel: Tunnel | None = None
        self._buffer = b""
        self._interim = 0
        self._scanned = 0
        self._fields: ResponseFields | None = None
        """Those of the last response."""

    # -- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self.adopt(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        if exc is not None and self.exchange is not None and self.response is None:
            self._read_last_words()
        self.pool.forget(self)
        self.reusable = False
        exchange = self.exchange
        if self.tunnel is not None:
            self.tunnel.lost(self)
        elif exchange is None:
            return
        elif self.response is None:
            exchange.fail(Failed(Failure.TERMINATED))
        elif self.body is not None and not self.body.done:
            if exc is None and isinstance(self.body.decoder, UntilClose):
                self.body.finish()
            else:
                exchange.fail(Failed(Failure.INCOMPLETE))

    def _read_last_words(self) -> None:
        """An upstream that refuses an upload answers and closes; writing then fails before the answer was read.

        RFC 9112 9.5 asks a client to look for a response while it sends.
        """
        if self.transport.get_extra_info("sslcontext") is None:
            with contextlib.suppress(OSError):
                data = os.read(self.transport.get_extra_info("socket").fileno(), 64 * 1024)
                if data:
                    self.data_received(data)

    def eof_received(self) -> bool:
        """The upstream sends no more. A tunnel may still carry bytes the other way."""
        if self.tunnel is not None:
            return self.tunnel.ended(self)
        return False

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        exchange = self.exchange
        if self.tunnel is not None:
            self.tunnel.received(self, data)
        elif exchange is None:
            self.transport.abort()
        elif self.response is None:
            self.silent = False
            try:
                self._read_head(self._buffer + data if self._buffer else data, exchange)
            except Failed as failed:
                exchange.fail(failed)
        elif self.body is not None and not self.body.done:
            self._feed(self.body, data, exchange)
        else:
            self.reusable = False

    def _feed(self, body: Body, data: bytes, exchange: Exchange) -> None:
        try:
            body.feed(data)
        except Failed as failed:
            exchange.fail(Failed(Failure.INCOMPLETE, failed.detail))
            return
        if body.done and body.decoder.rest:
            self.reusable = False

    # -- one exchange ------------------------------------------------------------------------------------------------

    def begin(self, exchange: Exchange) -> None:
        """Bind an exchange; the caller then writes the request."""
        self.exchange = exchange
        self.response = None
        self.body = None
        self.content = b""
        self.reusable = True
        self.silent = True
        self._interim = 0

    def end(self) -> None:
        """Unbind the exchange: back to the pool when nothing speaks against it, closed otherwise."""
        exchange = self.exchange
        if exchange is None:
            return
        self.exchange = None
        self.source = None
        request_body = exchange.request_body
        if self.tunnel is not None:
            self.pool.endpoint.in_flight -= 1
        elif (
            self.reusable
            and self.response is not None
            and (self.body is None or self.body.done)
            and (request_body is None or (request_body.done and not self.transport.get_write_buffer_size()))
            and not self.transport.is_closing()
        ):
            self.body = None
            self.content = b""
            if self.reading_paused:
                self.resume_reading()
            self.pool.put(self)
        else:
            self.transport.abort()
            self.pool.endpoint.in_flight -= 1

    def _read_head(self, data: bytes, exchange: Exchange) -> None:
        while True:
            end = data.find(b"\r\n\r\n", self._scanned)
            limit = exchange.snapshot.server.limits.response_headers
            if end == -1 or end > limit:
                if len(data) > limit:
                    raise Failed(Failure.RESPONSE_HEAD_TOO_LARGE)
                check_partial_response(data, self._scanned)
                self._buffer = data
                self._scanned = max(0, len(data) - 3)
                return
            self._buffer = b""
            self._scanned = 0
            end += 4
            head = read_response(data, end, exchange.snapshot.names.request_id, self._fields)
            self._fields = head.fields
            rest = data[end:] if len(data) > end else b""
            if head.status >= 200 or head.status == 101:
                break
            self._interim_response(head, exchange)
            if not rest:
                return
            data = rest
        self._final_response(head, rest, exchange)

    def _interim_response(self, head: ResponseHead, exchange: Exchange) -> None:
        self._interim += 1
        if self._interim > MAX_INTERIM:
            raise Failed(Failure.PROTOCOL, "too many interim responses")
        exchange.client_connection.interim(head)

    def _final_response(self, head: ResponseHead, rest: bytes, exchange: Exchange) -> None:
        if not head.keep_alive or head.status == 101:
            self.reusable = False
        status = head.status
        if exchange.head.method == b"HEAD" or status in (101, 204, 304):
            # RFC 9112 6.3, item 1: no body, whatever the fields say.
            if status == 101:
                self._buffer = rest
            elif rest:
                self.reusable = False
        elif head.length == len(rest):
            self.content = rest
        else:
            self._begin_body(head, rest)
        self.response = head
        exchange.wake()

    def _begin_body(self, head: ResponseHead, rest: bytes) -> None:
        decoder = _decoder(head)
        body = Body(self, decoder)
        if isinstance(decoder, UntilClose):
            self.reusable = False
        if rest:
            try:
                body.feed(rest)
            except Failed as failed:
                raise Failed(Failure.PROTOCOL, failed.detail) from None
            if body.done and decoder.rest:
                self.reusable = False
        if body.done:
            self.content = body.whole()
        else:
            self.body = body

    def take_buffer(self) -> bytes:
        """Bytes that came behind a 101 head: the first of the tunnel."""
        data, self._buffer = self._buffer, b""
        return data


def _decoder(head: ResponseHead) -> Decoder:
    """How the response's body is framed (RFC 9112 6.3)."""
    if head.chunked:
        return ChunkedDecoder()
    if head.length >= 0:
        return LengthDecoder(head.length)
    return UntilClose()


class EndpointPool:
    """The connections of one endpoint."""

    __slots__ = ("_all", "_idle", "_loop", "_opening", "_retired", "endpoint", "metrics", "settings")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint, settings: UpstreamSettings, metrics: UpstreamMetrics
    ) -> None:
        self._loop = loop
        self.endpoint = endpoint
        self.settings = settings
        self.metrics = metrics
        self._idle: list[UpstreamConnection] = []
        self._all: set[UpstreamConnection] = set()
        self._opening = 0
        self._retired = False

    def take(self) -> UpstreamConnection | None:
        """The idle connection used last, or None. Counts an exchange in flight when it returns one."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.transport.is_closing():
                self.endpoint.in_flight += 1
                return connection
        return None

    def drop(self, connection: UpstreamConnection) -> None:
        """Close one that `take` gave, unused."""
        self.endpoint.in_flight -= 1
        connection.transport.abort()

    def put(self, connection: UpstreamConnection) -> None:
        """The exchange on it is over and the connection can serve another."""
        self.endpoint.in_flight -= 1
        if self._retired or len(self._idle) >= self.settings.max_idle:
            connection.transport.close()
            return
        connection.idle_since = monotonic()
        self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is closed."""
        self._all.discard(connection)
        if connection.exchange is None and connection in self._idle:
            self._idle.remove(connection)

    def sweep(self, now: float) -> None:
        """Close connections idle for longer than the settings say. The oldest stand first."""
        oldest = now - self.settings.idle_timeout
        expired = 0
        for connection in self._idle:
            if connection.idle_since > oldest:
                break
            expired += 1
        for connection in self._idle[:expired]:
            connection.transport.close()
        del self._idle[:expired]

    def retire(self) -> None:
        """See `ports.Pool`."""
        self._retired = True
        for connection in self._idle:
            connection.transport.close()
        self._idle.clear()

    def counts(self) -> dict[str, int]:
        """See `ports.Pool`."""
        return {"open": len(self._all), "idle": len(self._idle)}

    async def connect(self, exchange: Exchange) -> UpstreamConnection:
        """Open a connection and count an exchange in flight on it. Raises `Failed` with the cause.

        The one place on the request path that makes an asyncio task: opening a connection is rare and needs the loop's
        name resolution and TLS. When the exchange fails meanwhile, the task is cancelled and leaves nothing behind.
        """
        if len(self._all) + self._opening >= self.settings.max_connections:
            raise Failed(Failure.CONNECTION_LIMIT, "of the endpoint")
        self.endpoint.in_flight += 1
        self._opening += 1
        task = self._loop.create_task(self._open())
        task.add_done_callback(lambda _: exchange.wake())
        try:
            while not task.done():
                await suspend()
            connection = task.result()
        except BaseException as error:
            self.endpoint.in_flight -= 1
            if not task.cancel() and not task.cancelled() and task.exception() is None:
                task.result().transport.abort()
            if isinstance(error, OSError | ssl.SSLError | ValueError):
                raise _connect_failure(error) from None
            raise
        finally:
            self._opening -= 1
        if connection.transport.is_closing():
            self.endpoint.in_flight -= 1
            raise Failed(Failure.TERMINATED, "as soon as it was open")
        self._all.add(connection)
        self.metrics.connects += 1
        return connection

    async def _open(self) -> UpstreamConnection:
        endpoint, settings = self.endpoint, self.settings
        tls = settings.tls if endpoint.tls else None
        name = (settings.server_name or endpoint.host) if tls is not None else None
        if endpoint.path:
            _, made = await self._loop.create_unix_connection(self._make, endpoint.path, ssl=tls, server_hostname=name)
        else:
            _, made = await self._loop.create_connection(
                self._make, endpoint.address, endpoint.port, ssl=tls, server_hostname=name
            )
        return made

    def _make(self) -> UpstreamConnection:
        return UpstreamConnection(self)


def _connect_failure(error: Exception) -> Failed:
    """The row of the failure table for what opening a connection raised."""
    if isinstance(error, socket.gaierror):
        return Failed(Failure.DNS)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return Failed(Failure.CONNECTION_LIMIT, "of open files")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failed(Failure.TLS_CERTIFICATE, error.verify_message)
    if isinstance(error, ssl.SSLError):
        return Failed(Failure.TLS_PROTOCOL)
    if isinstance(error, ConnectionRefusedError | FileNotFoundError) or f"[Errno {errno.ECONNREFUSED}]" in str(error):
        return Failed(Failure.REFUSED)
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return Failed(Failure.TERMINATED)
    if isinstance(error, TimeoutError):
        return Failed(Failure.CONNECT_TIMEOUT)
    return Failed(Failure.UNREACHABLE)
