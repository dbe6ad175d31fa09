"""Steps 7 and 8 of the life of a request: the response is shaped, and goes out whole, as a stream or as a tunnel."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, TypeAlias

from gateway.errors import Failed, Failure
from gateway.proxy import heads
from gateway.proxy.body import Body, Outlet
from gateway.proxy.clock import WATCH_INTERVAL
from gateway.proxy.coding import CodedOutlet, WholeCoding, encode_whole, shape
from gateway.proxy.connection import NEVER
from gateway.proxy.exchange import Exchange, suspend
from gateway.proxy.tunnel import Tunnel, websocket_accept

if TYPE_CHECKING:
    from gateway.ports import Coder
    from gateway.proxy.http1_response import ResponseHead
    from gateway.proxy.upstream import UpstreamConnection
    from gateway.snapshot import Route

Large: TypeAlias = "tuple[bytes, Coder, bytes]"
"""Field lines, coder and body of a response that a thread has to encode."""


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
    compression = route.compression
    if compression is not None:
        lines, coder = shape(x, route, compression, head, length)
        if coder is not None:
            if not data:
                # Nobody knows how long the coded body would be that a GET gets.
                length = -1
            elif length > coder.inline:
                return lines, coder, data
            else:
                data = encode_whole(x, compression, coder, data)
                length = len(data)
    message = heads.client_head(x, route, head, length, chunked=False, lines=lines)
    x.status = head.status
    x.committed = True
    x.response_bytes = len(data)
    x.client_connection.transport.write(message + data if data else message)
    return None


async def send_coded(x: Exchange, route: Route, head: ResponseHead, large: Large) -> None:
    """Send a response that is all there and that a thread has to encode first."""
    lines, coder, data = large
    assert route.compression is not None
    coding = WholeCoding(x, route.compression, coder, data)
    while not coding.done:
        await suspend()
    content = coding.content
    if content is None:
        raise Failed(Failure.INTERNAL)
    message = heads.client_head(x, route, head, len(content), chunked=False, lines=lines)
    x.status = head.status
    x.committed = True
    x.response_bytes = len(content)
    x.client_connection.transport.writelines((message, content))


async def stream(x: Exchange, route: Route, connection: UpstreamConnection, head: ResponseHead, body: Body) -> None:
    """Send the head with what is there of the body, and the rest as it comes."""
    client = x.client_connection
    length = head.length
    lines = coder = coded = None
    if route.compression is not None:
        lines, coder = shape(x, route, route.compression, head, length)
        if coder is not None:
            length = -1
    chunked = length < 0 and x.head.minor != 0
    if length < 0 and not chunked:
        x.keep_alive = x.framed = False
    message = heads.client_head(x, route, head, length, chunked=chunked, lines=lines)
    outlet: Outlet | CodedOutlet
    if coder is None or route.compression is None:
        outlet = Outlet(client, message, chunked=chunked)
    else:
        outlet = coded = CodedOutlet(x, route.compression, body, message, coder, head, chunked=chunked)
    x.status = head.status
    x.committed = True
    x.response_body = body
    body.on_done = x.wake
    now = body.touched = x.responded_at = monotonic()
    x.due = NEVER
    client.alarm.set(now + min(route.timeout.idle, x.snapshot.server.timeouts.write_stall, WATCH_INTERVAL), now)
    try:
        body.attach(outlet, client)
        if coded is not None:
            client.source = coded
        outlet.flush_head()
        while not body.done or (coded is not None and not coded.done):
            await suspend()
    finally:
        client.source = None
        x.response_bytes = body.received if coded is None else coded.close()
        x.upstream_seconds += monotonic() - now
        connection.end()


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
