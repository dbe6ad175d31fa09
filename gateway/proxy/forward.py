"""THE ATTEMPT LOOP: (a) pick an endpoint with a permit, (b) get a connection, (c) one attempt, (d) settle it, (e) again?

Returns the upstream connection once a final response head is on it that is the client's, or raises `Failed`. The caller
relays the body and ends the connection. A response that another attempt follows is dropped: its connection is kept when all
of it is there, else closed. A deadline, a client that leaves and an upstream that fails all arrive here as `Failed`, thrown
in where the attempt waits; the connection of a failed attempt is closed at once.
"""

from __future__ import annotations

from random import random
from time import monotonic
from typing import Final

from gateway.endpoints import Endpoint
from gateway.errors import Failed, Failure
from gateway.policies.retry import IDEMPOTENT, repeatable
from gateway.policies.timeout import attempt_ends
from gateway.proxy.body import Outlet
from gateway.proxy.breaking import permitted, refuse_while_open
from gateway.proxy.connection import NEVER
from gateway.proxy.exchange import Exchange, suspend
from gateway.proxy.heads import rewritten_target, upstream_head
from gateway.proxy.retrying import after_failure, after_response, pause
from gateway.proxy.settling import settle
from gateway.proxy.steering import steered
from gateway.proxy.upstream import EndpointPool, UpstreamConnection
from gateway.snapshot import Route, Upstream

# A member looked up on its Enum class costs 0.07 µs on CPython 3.11, a global 0.01 µs.
_DEADLINE: Final = Failure.DEADLINE
_ATTEMPT_TIMEOUT: Final = Failure.ATTEMPT_TIMEOUT


async def forward(x: Exchange, route: Route, upstream: Upstream) -> UpstreamConnection:
    """See the module's docstring."""
    body, retry = x.request_body, route.retry
    replay = body is not None and retry is not None and repeatable(retry.settings, x.head.method, x.head.kept)
    target = x.head.target if route.rewrite is None else rewritten_target(x.head.target, route.rewrite)
    upstream.retry_budget.requests += 1
    failed_on: Endpoint | None = None
    while True:
        # (a) pick an endpoint, another one than the last, unless the time is up
        began = monotonic()
        if x.deadline <= began:
            raise Failed(Failure.DEADLINE)
        steering = upstream.steering
        endpoint = (
            upstream.group.pick(random(), failed_on) if steering is None else steered(x, route, upstream, steering, failed_on)
        )
        if endpoint is None:
            refuse_while_open(upstream)
            raise Failed(Failure.NO_ENDPOINT)
        permit = endpoint.permit
        if endpoint.guard is not None:
            endpoint, permit = permitted(x, upstream, endpoint, endpoint.guard)
        connection: UpstreamConnection | None = None
        reused = False
        try:
            # (b) a connection: the one used last, or a new one
            pool = endpoint.pool
            assert isinstance(pool, EndpointPool)
            x.endpoint = endpoint
            x.attempts += 1
            connection = _kept_connection(x, pool)
            reused = connection is not None
            if connection is None:
                connection = await _connect(x, route, pool)
            if replay:
                assert body is not None and retry is not None
                body.keep_for_replay(retry.settings.replay)

            # (c) one attempt
            dispatch(x, route, upstream, endpoint, connection, target)
            while connection.response is None:
                await suspend()
        except Failed as failed:
            # (d) settle
            failure = failed.failure
            stale = False
            if connection is not None:
                stale = reused and connection.silent and failure is Failure.TERMINATED
                connection.end()
            settle(x, upstream, endpoint, permit, began, failed, stale=stale)

            # (e) again?
            delay = after_failure(x, route, upstream, endpoint, failure, began, sent=connection is not None, stale=stale)
            if delay < 0:
                raise
        except BaseException:
            if connection is not None:
                connection.end()
            settle(x, upstream, endpoint, permit, began, Failed(Failure.INTERNAL))
            raise
        else:
            settle(x, upstream, endpoint, permit, began, None)
            head = connection.response
            if head.status < 400 and x.tries is None:
                return connection
            delay = after_response(x, route, upstream, endpoint, head, began)
            if delay < 0:
                return connection
            connection.end()
        failed_on = endpoint
        if delay > 0:
            await pause(x, delay)


def _kept_connection(x: Exchange, pool: EndpointPool) -> UpstreamConnection | None:
    """An idle connection to use again, if there is one and the request may be lost on it.

    What cannot be repeated takes none that the upstream has closed already, even if the loop has not seen that yet.
    """
    if x.tries is not None and x.tries.fresh:
        return None
    connection = pool.take()
    if x.head.method not in IDEMPOTENT:
        while connection is not None and connection.peer_closed():
            pool.drop(connection)
            connection = pool.take()
    return connection


async def _connect(x: Exchange, route: Route, pool: EndpointPool) -> UpstreamConnection:
    now = monotonic()
    due = now + route.timeout.connect
    if x.deadline < due:
        x.limit(x.deadline, Failure.DEADLINE, now)
    else:
        x.limit(due, Failure.CONNECT_TIMEOUT, now)
    return await pool.connect(x)


def dispatch(
    x: Exchange, route: Route, upstream: Upstream, endpoint: Endpoint, connection: UpstreamConnection, target: bytes
) -> None:
    """Send the request on `connection`, as much of it as is there; the rest follows as it comes."""
    now = monotonic()
    x.dispatched_at = now
    x.upstream_connection = connection
    connection.begin(x)
    head = upstream_head(x, route, upstream, endpoint, target, now)
    body = x.request_body
    if body is None:
        connection.transport.write(head)
    else:
        outlet = Outlet(connection, head, chunked=x.head.fields.chunked)
        body.attach(outlet, connection)
        outlet.flush_head()
    if body is None or body.done or (x.head.expect_continue and not body.received):
        limit_attempt(x, route, now)
    else:
        x.deadline = NEVER
        x.limit(NEVER, Failure.BODY_TIMEOUT, now)


def limit_attempt(x: Exchange, route: Route, now: float) -> None:
    """The request is with the upstream: from now on its time counts."""
    due = attempt_ends(route.timeout, now, x.deadline)
    x.limit(due, _DEADLINE if due >= x.deadline else _ATTEMPT_TIMEOUT, now)
