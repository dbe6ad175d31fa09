"""One connection to an endpoint: a request out, its response in, one occupant at a time.

Bytes that arrive while nobody occupies it retire the connection: they answer no request (RFC 9112 9.2).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from time import monotonic
from typing import Final, Protocol

from gateway.endpoints import Endpoint
from gateway.errors import Failed, Failure
from gateway.proxy.bodies.body import Body, Outlet
from gateway.proxy.bodies.tunnel import Tunnel
from gateway.proxy.connection import Connection
from gateway.proxy.wire.framing import Decoder, LengthDecoder, ResponseChunkedDecoder, UntilClose
from gateway.proxy.wire.http1_response import ResponseFields, ResponseHead, check_partial_response, read_response
from gateway.snapshot import Snapshot

MAX_INTERIM: Final = 64
"""1xx responses before one final response; a flood of them is not an answer."""


class Occupant(Protocol):
    """Who a connection works for: an attempt, or whatever else sends a request upstream."""

    def wake(self) -> None:
        """The final response head is there."""

    def fail(self, failed: Failed) -> None:
        """There will be no response, or not all of it."""

    def interim(self, head: ResponseHead) -> None:
        """A 1xx has come."""


class Home(Protocol):
    """Where a connection belongs; `EndpointPool` is one."""

    @property
    def endpoint(self) -> Endpoint: ...
    def put(self, connection: UpstreamConnection) -> None: ...
    def forget(self, connection: UpstreamConnection) -> None: ...


class UpstreamConnection(Connection):
    """A connection with at most one occupant."""

    __slots__ = (
        "_buffer", "_fields", "_interim", "_method", "_request_body", "_scanned", "_snapshot", "body", "content", "idle_since",
        "occupant", "pool", "response", "reusable", "silent", "tunnel",
    )  # fmt: skip

    _snapshot: Snapshot
    """The world of the occupant: it says how large a response head may be, and which field is ours."""
    _method: bytes

    def __init__(self, pool: Home) -> None:
        super().__init__()
        self.pool = pool
        self.occupant: Occupant | None = None
        self._request_body: Body | None = None
        self.response: ResponseHead | None = None
        """The final response head, once it is there."""
        self.body: Body | None = None
        """The response's body, when more of it is still to come than arrived with the head."""
        self.content = b""
        """The response's whole content, when it arrived with the head."""
        self.idle_since = 0.0
        self.reusable = False
        self.silent = True
        """No byte of a response has arrived for this occupant."""
        self.tunnel: Tunnel | None = None
        self._buffer = b""
        self._interim = 0
        self._scanned = 0
        self._fields: ResponseFields | None = None
        """Those of the last response."""

    # -- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.adopt(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self.occupant is not None and self.response is None:
            self._read_last_words()
        super().connection_lost(exc)
        self.pool.forget(self)
        self.reusable = False
        occupant = self.occupant
        if self.tunnel is not None:
            self.tunnel.lost(self)
        elif occupant is None:
            return
        elif self.response is None or self.response.status == 101:
            occupant.fail(Failed(Failure.TERMINATED, self._how_it_ended(exc)))
        elif self.body is not None and not self.body.done:
            if exc is None and isinstance(self.body.decoder, UntilClose):
                self.body.finish()
            else:
                self._body_broke(occupant, _how_much(self.body, self.response))

    def _how_it_ended(self, exc: Exception | None) -> str:
        """For people: services that restart, crash, or are asked in the wrong protocol look different here."""
        how = "closed" if exc is None else "reset"
        if self.silent:
            return f"{how} before any byte of a response"
        return f"{how} within the response head" if self._buffer else f"{how} behind an interim response"

    def _body_broke(self, occupant: Occupant, how: str) -> None:
        endpoint = self.pool.endpoint
        endpoint.group.cut(endpoint, Failure.INCOMPLETE.code, monotonic())
        occupant.fail(Failed(Failure.INCOMPLETE, how))

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
        occupant = self.occupant
        if self.tunnel is not None:
            self.tunnel.received(self, data)
        elif occupant is None:
            self.transport.abort()
        elif self.response is None:
            self.silent = False
            try:
                self._read_head(self._buffer + data if self._buffer else data, occupant)
            except Failed as failed:
                occupant.fail(failed)
        elif self.body is not None and not self.body.done:
            self._feed(self.body, data, occupant)
        else:
            self.reusable = False

    def _feed(self, body: Body, data: bytes, occupant: Occupant) -> None:
        try:
            body.feed(data)
        except Failed as failed:
            self._body_broke(occupant, failed.detail)
            return
        if body.done and body.decoder.rest:
            self.reusable = False

    # -- one occupant ------------------------------------------------------------------------------------------------

    def begin(self, occupant: Occupant, snapshot: Snapshot, method: bytes, body: Body | None) -> None:
        """Bind an occupant that will send a request of this method and body."""
        self.occupant = occupant
        self._snapshot = snapshot
        self._method = method
        self._request_body = body
        self.response = None
        self.body = None
        self.content = b""
        self.reusable = True
        self.silent = True
        self._interim = 0

    def send(self, message: bytes, *, chunked: bool) -> None:
        """Send the request: its head and what is there of its body; the rest of that follows as it comes."""
        body = self._request_body
        if body is None:
            self.transport.write(message)
        else:
            outlet = Outlet(self, message, chunked=chunked)
            body.attach(outlet, self)
            outlet.flush()

    def end(self) -> None:
        """Unbind the occupant: back to the pool when nothing speaks against it, closed otherwise."""
        if self.occupant is None:
            return
        self.occupant = None
        self.source = None
        request_body, self._request_body = self._request_body, None
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

    def _read_head(self, data: bytes, occupant: Occupant) -> None:
        while True:
            end = data.find(b"\r\n\r\n", self._scanned)
            limit = self._snapshot.server.limits.response_headers
            if end == -1 or end > limit:
                if len(data) > limit:
                    raise Failed(Failure.RESPONSE_HEAD_TOO_LARGE, f"more than {limit} bytes (server.limits.response_headers)")
                check_partial_response(data, self._scanned)
                self._buffer = data
                self._scanned = max(0, len(data) - 3)
                return
            self._buffer = b""
            self._scanned = 0
            end += 4
            head = read_response(data, end, self._snapshot.names.request_id, self._fields)
            self._fields = head.fields
            rest = data[end:] if len(data) > end else b""
            if head.status >= 200 or head.status == 101:
                break
            self._interim_response(head, occupant)
            if not rest:
                return
            data = rest
        self._final_response(head, rest, occupant)

    def _interim_response(self, head: ResponseHead, occupant: Occupant) -> None:
        self._interim += 1
        if self._interim > MAX_INTERIM:
            raise Failed(Failure.PROTOCOL, "too many interim responses")
        occupant.interim(head)

    def _final_response(self, head: ResponseHead, rest: bytes, occupant: Occupant) -> None:
        if not head.keep_alive or head.status == 101:
            self.reusable = False
        status = head.status
        if self._method == b"HEAD" or status in (101, 204, 304):
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
        occupant.wake()

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


def _how_much(body: Body, response: ResponseHead) -> str:
    """For people: what has arrived of a body that broke."""
    if response.length >= 0:
        return f"{body.received} of {response.length} bytes of the body have arrived"
    return f"{body.received} bytes of the body have arrived, and no end of it"


def _decoder(head: ResponseHead) -> Decoder:
    """How the response's body is framed (RFC 9112 6.3)."""
    if head.chunked:
        return ResponseChunkedDecoder()
    if head.length >= 0:
        return LengthDecoder(head.length)
    return UntilClose()
