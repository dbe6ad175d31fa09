"""THE ATTEMPT LOOP: (a) pick an endpoint with a permit, (b) get a connection, (c) one attempt, (d) settle it, (e) again?

A response that another attempt follows is dropped: its connection is kept when all of it is there, else closed. A deadline,
a client that leaves and an upstream that fails all arrive here as `Failed`, thrown in where the attempt waits; the connection
of a failed attempt is closed at once.
"""

from __future__ import annotations

from time import monotonic

from gateway.endpoints import Endpoint
from gateway.errors import Failed, Failure
from gateway.policies.retry import repeatable
from gateway.proxy.attempts import hedge
from gateway.proxy.attempts.attempt import await_answer, connect, send
from gateway.proxy.attempts.circuit_breaker import permitted, raise_refusal
from gateway.proxy.attempts.load_balancing import pick, states_of
from gateway.proxy.attempts.outcome import settle
from gateway.proxy.attempts.retry import after_failure, after_response, pause
from gateway.proxy.exchange import Attempt, Exchange, suspend
from gateway.proxy.steps.decompress_request import decompressed
from gateway.proxy.steps.request_fields import rewritten_target
from gateway.proxy.time_limits import limit_in_words
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.snapshot import Route, Upstream


async def forward(x: Exchange, route: Route, upstream: Upstream) -> UpstreamConnection:
    """The upstream connection with the final response head that is the client's on it. Raises `Failed`.

    The caller relays the body and ends the connection.
    """
    retry = route.retry
    body = x.request_body if route.decompress_request is None else decompressed(x, route.decompress_request)
    replay = body is not None and retry is not None and repeatable(retry.settings, x.head.method, x.head.kept)
    target = x.head.target if route.rewrite is None else rewritten_target(x.head.target, route.rewrite)
    upstream.retry_budget.requests += 1
    failed_on: Endpoint | None = None
    while True:
        # (a) pick an endpoint, another one than the last, unless the time is up
        attempt = _begin(x, route, upstream, failed_on)
        try:
            # (b) a connection: the one used last, or a new one
            connection = await connect(attempt)
            if replay:
                assert body is not None and retry is not None
                body.keep_for_replay(retry.settings.replay)

            # (c) one attempt, or several side by side of which one is kept
            send(attempt, target)
            await_answer(attempt)
            if route.hedge is not None and x.tries is None and hedge.allowed(attempt):
                attempt, connection = await hedge.first_answer(attempt, route.hedge, target)
            while connection.response is None:
                await suspend()
        except Failed as failed:
            # (d) settle
            attempt = x.attempt or attempt
            attempt.failed = failed
            if attempt.connection is not None:
                attempt.connection.end()
                # The upstream had closed it before it saw the request.
                attempt.stale = attempt.reused and attempt.connection.silent and failed.failure is Failure.TERMINATED
            settle(attempt)

            # (e) again?
            delay = after_failure(attempt, failed.failure)
            if delay < 0:
                raise
        except BaseException:
            attempt.failed = Failed(Failure.INTERNAL)
            if attempt.connection is not None:
                attempt.connection.end()
            settle(attempt)
            raise
        else:
            settle(attempt)
            head = connection.response
            if head.status < 400 and x.tries is None:
                return connection
            delay = after_response(attempt, head)
            if delay < 0:
                return connection
            connection.end()
        # A stale connection is no reason to leave the endpoint that a key or a cookie leads to.
        failed_on = None if attempt.stale and upstream.affinity is not None else attempt.endpoint
        if delay > 0:
            await pause(x, delay)


def _begin(x: Exchange, route: Route, upstream: Upstream, failed_on: Endpoint | None) -> Attempt:
    """The next attempt, on an endpoint that takes it. Raises `Failed`."""
    began = monotonic()
    if x.deadline <= began:
        raise Failed(Failure.DEADLINE, limit_in_words(x, Failure.DEADLINE))
    endpoint = pick(x, route, upstream, failed_on)
    if endpoint is None:
        raise_refusal(upstream)
        raise Failed(Failure.NO_ENDPOINT, states_of(upstream))
    permit = endpoint.permit
    if endpoint.guard is not None:
        endpoint, permit = permitted(x, upstream, endpoint, endpoint.guard)
    attempt = x.attempt = Attempt(x, route, upstream, endpoint, permit, began)
    x.attempts += 1
    return attempt
