"""One attempt: a connection, the request on it, and the time it has for its response head."""

from __future__ import annotations

from time import monotonic

from gateway.errors import Failure
from gateway.policies import NEVER
from gateway.policies.retry import IDEMPOTENT
from gateway.policies.timeout import BLAMED_FROM
from gateway.proxy import time_limits
from gateway.proxy.exchange import Attempt, Exchange, suspend
from gateway.proxy.steps.request_fields import host_for, request_lines
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.proxy.upstream.pool import EndpointPool
from gateway.proxy.wire.http1_writer import request_message
from gateway.snapshot import Route


async def connect(attempt: Attempt) -> UpstreamConnection:
    """The kept connection that was used last, or a new one. Raises `Failed`."""
    x = attempt.x
    pool = attempt.endpoint.pool
    assert isinstance(pool, EndpointPool)
    connection = _kept_connection(x, pool)
    if connection is not None:
        attempt.reused = True
    else:
        connection = await _new_connection(x, attempt.route, pool)
    attempt.connection = connection
    return connection


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


async def _new_connection(x: Exchange, route: Route, pool: EndpointPool) -> UpstreamConnection:
    now = monotonic()
    due = now + route.timeout.connect
    if x.deadline < due:
        short = x.deadline - now < BLAMED_FROM * route.timeout.connect
        x.expect_by(x.deadline, Failure.DEADLINE if short else Failure.CONNECT_TIMEOUT, now)
    else:
        x.expect_by(due, Failure.CONNECT_TIMEOUT, now)
    opening = pool.open(x.wake)
    try:
        while not opening.done:
            await suspend()
    except BaseException:
        opening.abandon()
        raise
    finally:
        x.connect_seconds += monotonic() - now
    return opening.connection()


def send(attempt: Attempt, target: bytes) -> None:
    """Send the request on the attempt's connection, as much of it as is there; the rest follows as it comes."""
    x, connection = attempt.x, attempt.connection
    assert connection is not None
    now = monotonic()
    attempt.dispatched_at = now
    attempt.endpoint.requests += 1
    head, body = x.head, x.request_body
    if body is not None and attempt.racing:
        body = body.copy()
    connection.begin(attempt, x.snapshot, head.method, body)
    message = request_message(head, target, host_for(attempt), request_lines(attempt, now))
    connection.send(message, chunked=head.fields.chunked)


def await_answer(attempt: Attempt) -> None:
    """The request is sent: its time counts from now on, or from the end of its upload, whose progress counts until then."""
    x = attempt.x
    body = x.request_body
    if body is None or body.done or (x.head.expect_continue and not body.received):
        time_limits.attempt_began(x, attempt.route, attempt.dispatched_at)
    else:
        x.deadline = NEVER
        x.expect_by(NEVER, Failure.BODY_TIMEOUT, attempt.dispatched_at)
