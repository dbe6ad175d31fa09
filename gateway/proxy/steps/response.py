"""Steps 7 and 8 of the life of a request: the response is shaped, and goes out whole, as a stream or as a tunnel."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, TypeAlias

from gateway.errors import Failed, Failure
from gateway.proxy.bodies.body import Body, Outlet
from gateway.proxy.bodies.coded_body import CodedOutlet
from gateway.proxy.bodies.tunnel import Tunnel, websocket_accept
from gateway.proxy.connection import NEVER
from gateway.proxy.downstream.time_limits import WATCH_INTERVAL
from gateway.proxy.exchange import Exchange, suspend
from gateway.proxy.steps import fields as heads
from gateway.proxy.steps.compression import WholeCoding, encode_whole, shape

if TYPE_CHECKING:
    from gateway.proxy.steps.compression import Coding
    from gateway.proxy.upstream.connection import UpstreamConnection
    from gateway.proxy.wire.http1_response import ResponseHead
    from gateway.snapshot import Route

Large: TypeAlias = "tuple[bytes, Coding, bytes]"
"""Field lines, coding and body of a response that a thread has to encode."""


def send_whole(x: Exchange, route: Route, connection: UpstreamConnection, head: ResponseHead) -> Large | None:
    """Send a response that is all there, in one write. The upstream is free before the client is served.

    A body that takes long to encode is not sent: it is returned, for `send_coded`.
    """
    data = connection.content
    connection.end()
    length = len(data)
    if not length and (x.head.method == b"HEAD" or head.status in (204, 304)):
        length = head.length if head.status != 204 else -1
    lines = None
    if route.compression is not None:
        lines, coding = shape(x, route, route.compression, head, length)
        if coding is not None:
            if not data:
                # Nobody knows how long the coded body would be that a GET gets.
                length = -1
            elif length > coding[0].inline:
                return lines, coding, data
            else:
                data = encode_whole(x, coding, data)
                length = len(data)
        elif head.status == 304:
            fields = head.fields.coding
            assert fields is not None
            if lines is not fields.plain:
                # The same for what a 304 confirms (RFC 9110 8.6).
                length = -1
    message = heads.client_head(x, route, head, length, chunked=False, lines=lines)
    x.status = head.status
    x.committed = True
    x.response_bytes = len(data)
    x.client_connection.transport.write(message + data if data else message)
    return None


async def send_coded(x: Exchange, route: Route, head: ResponseHead, large: Large) -> None:
    """Send a response that is all there and that a thread has to encode first."""
    lines, coding, data = large
    work = WholeCoding(x, coding, data)
    while not work.done:
        await suspend()
    content = work.content
    if content is None:
        raise Failed(Failure.INTERNAL)
    message = heads.client_head(x, route, head, len(content), chunked=False, lines=lines)
    x.status = head.status
    x.committed = True
    x.response_bytes = len(content)
    x.client_connection.transport.writelines((message, content))


async def stream(x: Exchange, route: Route, connection: UpstreamConnection, head: ResponseHead, body: Body) -> None:
    """Send the head with what is there of the body, and the rest as it comes."""
    lines = None
    if route.compression is not None:
        lines, coding = shape(x, route, route.compression, head, head.length)
        if coding is not None:
            coded = CodedOutlet(x, route, route.compression, head, lines, coding, body)
            await _stream_coded(x, route, connection, head, body, coded)
            return
    chunked = head.length < 0 and x.head.minor != 0
    if head.length < 0 and not chunked:
        x.keep_alive = x.framed = False
    outlet = Outlet(
        x.client_connection, heads.client_head(x, route, head, head.length, chunked=chunked, lines=lines), chunked=chunked
    )
    now = _begin_stream(x, route, head, body)
    try:
        body.attach(outlet, x.client_connection)
        outlet.flush_head()
        while not body.done:
            await suspend()
    finally:
        x.client_connection.source = None
        x.response_bytes = body.received
        x.upstream_seconds += monotonic() - now
        connection.end()


async def _stream_coded(
    x: Exchange, route: Route, connection: UpstreamConnection, head: ResponseHead, body: Body, coded: CodedOutlet
) -> None:
    """The same through an encoder, which writes the head: only then is known whether there is a length."""
    client = x.client_connection
    now = _begin_stream(x, route, head, body)
    try:
        body.attach(coded, client)
        client.source = coded
        coded.flush_head()
        while not (body.done and coded.done):
            await suspend()
    finally:
        client.source = None
        coded.close()
        x.committed = coded.opened
        x.response_bytes = coded.sent
        x.upstream_seconds += monotonic() - now
        connection.end()


def _begin_stream(x: Exchange, route: Route, head: ResponseHead, body: Body) -> float:
    """From now on the progress of the body counts. Returns the time."""
    x.status = head.status
    x.committed = True
    x.response_body = body
    body.on_done = x.wake
    now = body.touched = x.responded_at = monotonic()
    x.due = NEVER
    timeouts = x.snapshot.server.timeouts
    x.client_connection.alarm.set(now + min(route.timeout.idle, timeouts.write_stall, WATCH_INTERVAL), now)
    return now


async def switch(x: Exchange, route: Route, connection: UpstreamConnection, head: ResponseHead) -> None:
    """Switch protocols when the upstream agreed to exactly what the client asked (RFC 9110 7.8, RFC 6455 4.1)."""
    client = x.client_connection
    metrics = client.plane.metrics
    try:
        _check_switch(x, head)
        x.status = 101
        x.committed = True
        x.keep_alive = False
        x.due = NEVER
        client.transport.write(heads.switching_head(x, head) + connection.take_buffer())
        tunnel = x.tunnel = Tunnel(client, connection, x.wake)
        client.tunnel = connection.tunnel = tunnel
        early = client.take_buffer()
        if early:
            tunnel.received(client, early)
        if not connection.write_paused:
            client.resume_reading()
        if client.ended:
            tunnel.ended(client)
        metrics.tunnels += 1
        now = x.responded_at = monotonic()
        client.alarm.set(now + route.timeout.idle, now)
        try:
            while tunnel.open:
                await suspend()
        finally:
            metrics.tunnels -= 1
            x.response_bytes = tunnel.sent_bytes
            x.upstream_seconds += monotonic() - now
            tunnel.close()
    finally:
        connection.end()


def _check_switch(x: Exchange, head: ResponseHead) -> None:
    asked = x.head.upgrade
    fields = head.fields
    if not asked or fields.upgrade != asked or not fields.switches:
        raise Failed(Failure.UPGRADE_FAILED, "the upstream switched to what was not asked for")
    if asked == b"websocket":
        lines = x.head.kept.split(b"\r\n")
        key = next((line[18:].strip() for line in lines if line[:18].lower() == b"sec-websocket-key:"), b"")
        if fields.websocket_accept != websocket_accept(key):
            raise Failed(Failure.UPGRADE_FAILED, "the Sec-WebSocket-Accept is not the answer to the key")
