"""THE ATTEMPT LOOP: (a) pick an endpoint with a permit, (b) get a connection, (c) one attempt, (d) settle it, (e) again?

Returns the upstream connection once a final response head is on it that is the client's, or raises `Failed`. The caller
relays the body and ends the connection. A response that another attempt follows is dropped: its connection is kept when all
of it is there, else closed. A deadline, a client that leaves and an upstream that fails all arrive here as `Failed`, thrown
in where the attempt waits; the connection of a failed attempt is closed at once.
"""

from __future__ import annotations

from random import random
from time import monotonic

from gateway.endpoints import Endpoint
from gateway.errors import Failed, Failure
from gateway.policies.retry import repeatable
from gateway.proxy.attempts.attempt import connect, dispatch, kept_connection
from gateway.proxy.attempts.hedge import Leg, first_answer, may_hedge
from gateway.proxy.attempts.load_balancing import steered
from gateway.proxy.attempts.outcome import settle
from gateway.proxy.attempts.retry import after_failure, after_response, pause
from gateway.proxy.exchange import Exchange, suspend
from gateway.proxy.steps.decompress_request import decompressed
from gateway.proxy.steps.fields import rewritten_target
from gateway.proxy.upstream.circuit_breaker import permitted, raise_refusal
from gateway.proxy.upstream.connection import EndpointPool, UpstreamConnection
from gateway.snapshot import Route, Upstream


async def forward(x: Exchange, route: Route, upstream: Upstream) -> UpstreamConnection:
    """See the module's docstring."""
    retry, hedge = route.retry, route.hedge
    body = x.request_body if route.decompression is None else decompressed(x, route.decompression)
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
            raise_refusal(upstream)
            raise Failed(Failure.NO_ENDPOINT)
        permit = endpoint.permit
        if endpoint.guard is not None:
            endpoint, permit = permitted(x, upstream, endpoint, endpoint.guard)
        connection: UpstreamConnection | None = None
        reused = stale = False
        try:
            # (b) a connection: the one used last, or a new one
            pool = endpoint.pool
            assert isinstance(pool, EndpointPool)
            x.endpoint = endpoint
            x.attempts += 1
            connection = kept_connection(x, pool)
            reused = connection is not None
            if connection is None:
                connection = await connect(x, route, pool)
            if replay:
                assert body is not None and retry is not None
                body.keep_for_replay(retry.settings.replay)

            # (c) one attempt
            dispatch(x, route, upstream, endpoint, connection, target)
            if hedge is not None and x.tries is None and may_hedge(x, upstream):
                leg = await first_answer(
                    x, route, upstream, hedge, target, Leg(x, endpoint, permit, began, connection, reused=reused)
                )
                connection, reused = leg.connection, leg.reused
                endpoint, permit, began = leg.endpoint, leg.permit, leg.began
                if leg.failed is not None:
                    raise leg.failed
                assert connection is not None
            while connection.response is None:
                await suspend()
        except Failed as failed:
            # (d) settle
            failure = failed.failure
            stale = connection is not None and _ended_stale(connection, failure, reused=reused)
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
        # A stale connection is no reason to leave the endpoint that a key or a cookie leads to.
        failed_on = None if stale and steering is not None else endpoint
        if delay > 0:
            await pause(x, delay)


def _ended_stale(connection: UpstreamConnection, failure: Failure, *, reused: bool) -> bool:
    """Close the connection of a failed attempt. Whether it was one that the upstream had closed before it saw the request."""
    connection.end()
    return reused and connection.silent and failure is Failure.TERMINATED
