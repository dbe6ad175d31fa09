"""A connection that changes its protocol (RFC 9110 7.8): what may be asked for, and the tunnel that a 101 opens.

Nothing is tunnelled before the upstream has said 101 to what the client asked: until then what comes behind the request is the
client's next request, and an upstream that does not switch has answered as any other.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from gateway.errors import Failed, Failure
from gateway.headers import list_members
from gateway.policies import NEVER
from gateway.proxy.bodies.tunnel import websocket_accept
from gateway.proxy.exchange import Exchange, suspend
from gateway.proxy.steps.response_fields import switching_lines

if TYPE_CHECKING:
    from gateway.proxy.upstream.connection import UpstreamConnection
    from gateway.proxy.wire.http1_request import RequestHead
    from gateway.proxy.wire.http1_response import ResponseHead
    from gateway.snapshot import Route

WEBSOCKET: Final = b"websocket"


def allowed_upgrades(head: RequestHead, allowed: frozenset[bytes]) -> bytes:
    """Those of the protocols asked for that go on, as the client spelt them and in its order; empty: it is no upgrade.

    `allowed` are in lower case. A WebSocket begins with a GET without content (RFC 6455 4.1); `docker exec` posts a body.
    """
    plain = head.method == b"GET" and not head.fields.chunked and head.fields.length <= 0
    members = [member.strip(b" \t") for member in head.upgrade.split(b",")]
    return b", ".join(one for one in members if (name := one.lower()) in allowed and (plain or name != WEBSOCKET))


async def switch(x: Exchange, route: Route, connection: UpstreamConnection, head: ResponseHead) -> None:
    """Switch protocols when the upstream agreed to something that the client asked for."""
    client = x.client
    metrics = client.plane.metrics
    try:
        _check_switch(x, head)
        await _rest_of_request(x, connection)
        x.status = 101
        x.committed = True
        x.keep_alive = False
        x.due = NEVER
        tunnel = client.switch(switching_lines(x, head), head, connection, connection.take_buffer(), x.wake)
        x.tunnel = connection.tunnel = tunnel
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


async def _rest_of_request(x: Exchange, connection: UpstreamConnection) -> None:
    """An upstream may agree before it has the whole request; its protocol begins behind that. Raises `Failed`."""
    if x.request_is_read():
        return
    connection.pause_reading()
    while not x.request_is_read():
        await suspend()
    connection.resume_reading()


def _check_switch(x: Exchange, head: ResponseHead) -> None:
    fields = head.fields
    protocol = fields.upgrade.lower()
    if not fields.switches or protocol not in list_members(x.head.upgrade):
        raise Failed(Failure.UPGRADE_FAILED, "the upstream switched to what was not asked for")
    if protocol == WEBSOCKET:
        lines = x.head.kept.split(b"\r\n")
        key = next((line[18:].strip() for line in lines if line[:18].lower() == b"sec-websocket-key:"), b"")
        if fields.websocket_accept != websocket_accept(key):
            raise Failed(Failure.UPGRADE_FAILED, "the Sec-WebSocket-Accept is not the answer to the key")
