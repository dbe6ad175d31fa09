"""THE LIFE OF A REQUEST, in order. Order is semantics, so it is written once, here, and not assembled from middlewares.

1. Read the snapshot, once: the request lives in that world to its last byte (`server.py` binds it to the exchange).
2. Match the route, on the normalised path and the host that will be forwarded; refuse what is ambiguous.
3. Start the deadline: every later time limit is cut from it.
4. Admit locally: what needs no upstream is answered here; cheapest refusals first.
5. Rate limits: all of the route in one question; behind every refusal that costs less, so that none spends quota.
6. Forward: the attempt loop in `forward.py`.
7. Shape the response: fields. 8. Stream it. 9. Finish, whatever happened: metrics, access log, release.

Before the commit point (the final response head is written) a failure becomes a response; after it the only honest act is
to cut the connection.
"""

from __future__ import annotations

import logging
from random import getrandbits
from time import monotonic
from typing import TYPE_CHECKING

from gateway.errors import Failed, Failure
from gateway.headers import client_address, normalise_host, valid_request_id
from gateway.policies import timeout
from gateway.proxy import heads
from gateway.proxy.access_entry import access_entry
from gateway.proxy.body import Body, Outlet
from gateway.proxy.clock import WATCH_INTERVAL
from gateway.proxy.connection import NEVER
from gateway.proxy.exchange import Exchange, suspend
from gateway.proxy.forward import forward
from gateway.proxy.http1 import split_absolute
from gateway.proxy.local import ALLOW, answer_locally, spend_forward
from gateway.proxy.rate_limiting import ask_limits, wait_for_limits
from gateway.proxy.tunnel import Tunnel, websocket_accept
from gateway.router import AmbiguousPathError, Found, MethodNotAllowed, normalise_path

if TYPE_CHECKING:
    from gateway.proxy.http1_response import ResponseHead
    from gateway.proxy.upstream import UpstreamConnection
    from gateway.snapshot import Route

_log = logging.getLogger("gateway")


async def serve(x: Exchange) -> None:
    """Live one request from its head to its last byte. Never raises."""
    try:
        # 1 – 2
        route = x.route = match(x)
        route.metrics.in_flight += 1
        # 3
        start_deadline(x, route)
        # 4
        admit(x, route)
        # 5
        if route.rate_limit is not None and (asked := ask_limits(x, route, route.rate_limit)) is not None:
            await wait_for_limits(x, route, asked)
        upstream = route.upstream
        if x.head.fields.max_forwards >= 0 and spend_forward(x):
            pass
        elif upstream is None:
            answer_locally(x, route)
        else:
            # 6
            connection = await forward(x, route, upstream)
            # 7 – 8
            head = connection.response
            assert head is not None
            if x.request_body is not None and not x.request_body.done:
                x.keep_alive = False
            if head.status == 101:
                await _tunnel(x, route, connection, head)
            elif connection.body is None:
                send_whole(x, route, connection, head)
            else:
                await _stream(x, route, connection, head, connection.body)
    except Failed as failed:
        refuse(x, failed)
    except Exception:  # noqa: BLE001 - a bug must cost one request, not the connection's bookkeeping
        _log.exception("the gateway failed on a request")
        refuse(x, Failed(Failure.INTERNAL, close=True))
    finally:
        # 9
        finish(x)


# -- 2: match ----------------------------------------------------------------------------------------------------------


def match(x: Exchange) -> Route:
    """The route of the request; sets what later steps need of its address. Raises `Failed` when there is none."""
    head = x.head
    snapshot = x.snapshot
    x.request_id = b"%032x" % getrandbits(128)
    if x.client_connection.trusted:
        believe(x)
    if head.method == b"CONNECT":
        raise Failed(Failure.METHOD_NOT_IMPLEMENTED, close=True)
    target = head.target
    if target[0] != 0x2F:
        target = _other_form(x)
    elif b"#" in target:
        raise Failed(Failure.BAD_REQUEST, "the request target holds a fragment", close=True)
    else:
        x.host_field = head.fields.host or b""
    host = x.client_connection.host_of(x.host_field)
    if host is None:
        raise Failed(Failure.BAD_REQUEST, "the Host is not valid", close=True)
    x.host = host
    if head.method == b"TRACE":
        raise Failed(Failure.METHOD_NOT_ALLOWED, "TRACE is never served", fields=(ALLOW,))
    x.query_at = target.find(b"?")
    server = snapshot.server
    try:
        x.path = normalise_path(
            target if x.query_at < 0 else target[: x.query_at],
            encoded_slash=server.encoded_slash,
            double_slash=server.double_slash,
        )
    except AmbiguousPathError as error:
        raise Failed(Failure.PATH_AMBIGUOUS, str(error)) from None
    found = snapshot.router.match(host, x.path, head.method, x.field_value, x.query)
    if isinstance(found, Found):
        x.parameters = found.parameters
        return found.value
    if isinstance(found, MethodNotAllowed):
        raise Failed(Failure.METHOD_NOT_ALLOWED, fields=(b"Allow: " + b", ".join(found.allow),))
    raise Failed(Failure.ROUTE_NOT_FOUND if found.host_known else Failure.MISDIRECTED)


def _other_form(x: Exchange) -> bytes:
    """Absolute-form, whose authority wins over `Host` (RFC 9112 3.2.2), or asterisk-form; returns the target to match."""
    head = x.head
    if head.target == b"*" and head.method == b"OPTIONS":
        x.host_field = head.fields.host or b""
        return b"/"
    scheme, authority, target = split_absolute(head.target)
    if scheme not in (b"http", b"https"):
        raise Failed(Failure.BAD_REQUEST, "the scheme of the request target is not http", close=True)
    if scheme != x.client_connection.scheme:
        raise Failed(Failure.MISDIRECTED, "the scheme is not the connection's")
    if head.fields.host is not None and normalise_host(head.fields.host) is None:
        raise Failed(Failure.BAD_REQUEST, "the Host is not valid", close=True)
    x.host_field = authority
    head.target = target
    return target


def believe(x: Exchange) -> None:
    """Take over what a trusted peer says: the id of the request, and who its client is."""
    connection = x.client_connection
    fields = x.head.fields
    given = fields.values.get(x.snapshot.names.request_id, b"")
    if valid_request_id(given):
        x.request_id = given
    if fields.forwarded and b"x-forwarded-for" in fields.forwarded:
        x.client = client_address(connection.peer, fields.forwarded[b"x-forwarded-for"], x.snapshot.server.trusted_proxies)


# -- 3: the deadline ---------------------------------------------------------------------------------------------------


def start_deadline(x: Exchange, route: Route) -> None:
    """The budget runs from the complete request; while a client uploads, its progress is watched instead."""
    given = None
    if x.client_connection.trusted and x.head.fields.values:
        given = timeout.parse_budget_ms(x.head.fields.values.get(x.snapshot.names.budget, b""))
    budget = timeout.budget(route.timeout, given)
    x.budget = budget
    body = x.request_body
    if body is None or body.done or x.head.expect_continue:
        x.deadline = x.started + budget
    else:
        body.touched = x.started


# -- 4: admission ------------------------------------------------------------------------------------------------------


def admit(x: Exchange, route: Route) -> None:
    """Refuse what cannot succeed before anything is spent on it. Raises `Failed`."""
    head = x.head
    body = x.request_body
    if body is not None:
        body.limit = route.max_body
        if 0 <= route.max_body < max(head.fields.length, body.received):
            raise Failed(Failure.CONTENT_TOO_LARGE, close=True)
    elif head.expect_continue:
        head.expect_continue = False
    if head.fields.via and x.client_connection.came_by_us(head.fields.via):
        raise Failed(Failure.LOOP, close=True)
    if head.upgrade:
        if head.upgrade not in route.upgrades or head.method != b"GET" or body is not None:
            head.upgrade = b""
        elif x.client_connection.plane.metrics.tunnels >= x.snapshot.server.limits.tunnels:
            raise Failed(Failure.TUNNEL_LIMIT)


# -- 7, 8: the response ------------------------------------------------------------------------------------------------


def send_whole(x: Exchange, route: Route, connection: UpstreamConnection, head: ResponseHead) -> None:
    """Send a response that is all there, in one write. The upstream is free before the client is served."""
    data = connection.content
    connection.end()
    length = len(data)
    if not length and (x.head.method == b"HEAD" or head.status in (204, 304)):
        length = head.length if head.status != 204 else -1
    message = heads.client_head(x, route, head, length, chunked=False)
    x.status = head.status
    x.committed = True
    x.response_bytes = len(data)
    x.client_connection.transport.write(message + data if data else message)


async def _stream(x: Exchange, route: Route, connection: UpstreamConnection, head: ResponseHead, body: Body) -> None:
    """Send the head with what is there of the body, and the rest as it comes."""
    client = x.client_connection
    chunked = head.length < 0 and x.head.minor != 0
    if head.length < 0 and not chunked:
        x.keep_alive = x.framed = False
    outlet = Outlet(client, heads.client_head(x, route, head, head.length, chunked=chunked), chunked=chunked)
    x.status = head.status
    x.committed = True
    x.response_body = body
    body.on_done = x.wake
    now = body.touched = monotonic()
    x.due = NEVER
    client.alarm.set(now + min(route.timeout.idle, x.snapshot.server.timeouts.write_stall, WATCH_INTERVAL), now)
    try:
        body.attach(outlet, client)
        outlet.flush_head()
        while not body.done:
            await suspend()
    finally:
        client.source = None
        x.response_bytes = body.received
        x.upstream_seconds += monotonic() - now
        connection.end()


async def _tunnel(x: Exchange, route: Route, connection: UpstreamConnection, head: ResponseHead) -> None:
    """Switch protocols when the upstream agreed to exactly what the client asked (RFC 9110 7.8, RFC 6455 4.1)."""
    client = x.client_connection
    metrics = client.plane.metrics
    try:
        _check_switch(x, head)
        x.status = 101
        x.committed = True
        x.keep_alive = False
        x.due = NEVER
        client.transport.write(heads.switching_head(head) + connection.take_buffer())
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
        now = monotonic()
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


# -- failures ----------------------------------------------------------------------------------------------------------


def refuse(x: Exchange, failed: Failed) -> None:
    """The one place that turns a failure into what the client sees."""
    failure = x.failure = failed.failure
    client = x.client_connection
    if x.committed:
        x.keep_alive = False
        client.cut(flush=x.framed and failure is not Failure.WRITE_TIMEOUT)
        return
    x.status = failure.status
    if failure is Failure.CLIENT_CLOSED:
        x.keep_alive = False
        client.cut(flush=False)
        return
    if failed.close or not x.request_is_read():
        x.keep_alive = False
    name = x.route.name if x.route is not None else None
    body = heads.problem_body(failed, name, x.request_id)
    x.send_own(failure.status, heads.problem_lines(failed, x.snapshot.server.name), body)


# -- 9: finish ---------------------------------------------------------------------------------------------------------


def finish(x: Exchange) -> None:
    """Count and log the exchange."""
    now = monotonic()
    seconds = now - x.started
    client = x.client_connection
    plane = client.plane
    route = x.route
    metrics = x.snapshot.unmatched
    if route is not None:
        metrics = route.metrics
        metrics.in_flight -= 1
    metrics.finished(x.head.method, x.status, seconds)
    metrics.response_bytes += x.response_bytes
    if x.request_body is not None:
        metrics.request_bytes += x.request_body.received
    if x.failure is not None:
        metrics.rejected(x.failure.code)
    if x.tunnel is None:
        overhead = seconds - x.upstream_seconds
        plane.metrics.overhead.observe(overhead if overhead > 0 else 0.0)
    log = plane.log
    if log is not None and (route is None or route.access_log):
        log.record(access_entry(x, seconds))
