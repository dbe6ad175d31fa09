"""Steps 7 and 8 of the life of a request: the response is shaped, and goes out whole or as a stream. Tunnels: `switch.py`."""

from __future__ import annotations

from time import monotonic
from typing import TypeAlias

from gateway.errors import Failed, Failure
from gateway.policies import NEVER
from gateway.proxy.bodies.body import Body, Sink
from gateway.proxy.exchange import Exchange, suspend
from gateway.proxy.steps.coded_stream import CodedSink
from gateway.proxy.steps.compression import Coding, WholeCoding, encode_whole, shape
from gateway.proxy.steps.response_fields import response_lines
from gateway.proxy.time_limits import WATCH_INTERVAL
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.proxy.wire.http1_response import ResponseHead
from gateway.snapshot import Route

Large: TypeAlias = "tuple[bytes, Coding, bytes]"
"""Field lines, coding and body of a response that a thread has to encode."""


def send_whole(x: Exchange, route: Route, connection: UpstreamConnection, head: ResponseHead) -> Large | None:
    """Send a response that is all there. The upstream is free before the client is served.

    A body that takes long to encode is not sent: it is returned, for `send_coded`.
    """
    data = connection.content
    connection.end()
    length = len(data)
    if not length and (x.head.method == b"HEAD" or head.status in (204, 304)):
        length = head.length if head.status != 204 else -1
    shaped = None
    if route.compression is not None:
        shaped, coding = shape(x, route, route.compression, head, length)
        if coding is not None:
            if not data:
                # Nobody knows how long the coded body would be that a GET gets.
                length = -1
            elif length > coding[0].inline:
                return shaped, coding, data
            else:
                data = encode_whole(x, coding, data)
                length = len(data)
        elif head.status == 304:
            fields = head.fields.coding
            assert fields is not None
            if shaped is not fields.plain:
                # Nor how long the one is that a 304 confirms (RFC 9110 8.6).
                length = -1
    _respond(x, head, response_lines(x, route, head, shaped), data, length)
    return None


async def send_coded(x: Exchange, route: Route, head: ResponseHead, large: Large) -> None:
    """Send a response that is all there and that a thread has to encode first."""
    shaped, coding, data = large
    work = WholeCoding(x, coding, data)
    while not work.done:
        await suspend()
    if work.content is None:
        raise Failed(Failure.INTERNAL)
    _respond(x, head, response_lines(x, route, head, shaped), work.content, len(work.content))


def _respond(x: Exchange, head: ResponseHead, lines: list[bytes], content: bytes, length: int) -> None:
    x.status = head.status
    x.committed = True
    x.response_bytes = len(content)
    x.client.respond(head.status, head.reason, lines, content, length)


async def stream(x: Exchange, route: Route, connection: UpstreamConnection, head: ResponseHead, body: Body) -> None:
    """Send the head with what is there of the body, and the rest as it comes."""
    client = x.client
    shaped = None
    coded: CodedSink | None = None
    if route.compression is not None:
        shaped, coding = shape(x, route, route.compression, head, head.length)
        if coding is not None:
            coded = CodedSink(x, route, head, shaped, coding, body)
    sink: Sink
    if coded is not None:
        sink = coded
    else:
        sink = client.open(head.status, head.reason, response_lines(x, route, head, shaped), head.length)
    now = _begin_stream(x, route, head, body)
    try:
        body.attach(sink, client)
        if coded is not None:
            client.source = coded
        sink.flush()
        while not (body.done and (coded is None or coded.done)):
            await suspend()
    finally:
        client.source = None
        x.response_bytes = body.received
        if coded is not None:
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
    x.client.alarm.set(now + min(route.timeout.idle, timeouts.write_stall, WATCH_INTERVAL), now)
    return now
