"""THE LIFE OF A REQUEST, in order. Order is semantics, so it is written once, here, and not assembled from middlewares.

1. Read the snapshot, once: the request lives in that world to its last byte (it is bound when the exchange is made).
2. Match the route, on the normalised path and the host that will be forwarded; refuse what is ambiguous.
3. Start the deadline: every later time limit is cut from it.
4. Choose the upstream: that of the route, or its fallback. Admit locally, the cheapest refusal first: what cannot succeed,
   what is shed because the event loop is late, what finds no slot (`max_in_flight`). Who has to wait for a slot does so here,
   so a request that is refused for load has spent no quota. One that a rate limit would deny now is denied before it waits,
   and takes no place in the queue.
5. Rate limits: all of the route in one question; behind every refusal that costs less, so that none spends quota. The slot is
   held meanwhile, or it would be gone when the quota is spent; a denial gives it back at once.
6. Forward: the attempt loop in `attempts/forward.py`.
7. Shape the response: fields, content coding. 8. Stream it. 9. Finish, whatever happened: metrics, access log, release.

Before the commit point (the final response head is written) a failure becomes a response; after it the only honest act is
to cut the connection.
"""

from __future__ import annotations

import logging
from time import monotonic

from gateway.errors import Failed, Failure
from gateway.policies import timeout
from gateway.proxy.access_log.line import access_line
from gateway.proxy.attempts.circuit_breaker import raise_refusal, refusal
from gateway.proxy.attempts.forward import forward
from gateway.proxy.attempts.load_balancing import fallback_for, gates_to
from gateway.proxy.bodies.body import too_large
from gateway.proxy.exchange import Exchange
from gateway.proxy.steps.compression import prepare
from gateway.proxy.steps.match import match
from gateway.proxy.steps.max_in_flight import answered, not_answered, rank_of, release, shed, take_slots, wait_for_slots
from gateway.proxy.steps.own_answer import answer_locally, answer_options, forwards_spent
from gateway.proxy.steps.problem import send_problem
from gateway.proxy.steps.rate_limit import ask_limits, refuse_if_denied, wait_for_limits
from gateway.proxy.steps.response import send_coded, send_whole, stream
from gateway.proxy.steps.switch import allowed_upgrades, switch
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
        if not admit(x, route):
            return
        upstream = x.upstream
        if route.compression is not None:
            prepare(x, route.compression)
        if upstream is not None:
            rank = route.rank if not x.snapshot.names.priority else rank_of(x, route)
            if rank >= x.client.plane.shed_from:
                shed(x, rank)
            gates = route.gates if upstream is route.upstream else gates_to(route, upstream)
            if gates and not take_slots(x, gates, rank):
                if route.rate_limit is not None:
                    refuse_if_denied(x, route, route.rate_limit)
                await wait_for_slots(x, gates, rank)
                if not upstream.group.available:
                    raise_refusal(upstream)
        # 5
        if route.rate_limit is not None and (asked := ask_limits(x, route, route.rate_limit)) is not None:
            await wait_for_limits(x, route, asked)
        if x.head.fields.max_forwards >= 0 and forwards_spent(x):
            answer_options(x)
        elif upstream is None:
            answer_locally(x, route)
        else:
            # 6
            connection = await forward(x, route, upstream)
            # 7 – 8
            head = connection.response
            assert head is not None
            x.answer = head
            if x.request_body is not None and not x.request_body.done:
                x.keep_alive = False
            if upstream.gate is not None:
                answered(x, upstream.gate, head.status)
            if head.status == 101:
                release(x, monotonic())
                await switch(x, route, connection, head)
            elif connection.body is None:
                large = send_whole(x, route, connection, head)
                if large is not None:
                    await send_coded(x, route, head, large)
            else:
                await stream(x, route, connection, head, connection.body)
    except Failed as failed:
        refuse(x, failed)
    except Exception:  # noqa: BLE001 - a bug must cost one request, not the connection's bookkeeping
        _log.exception("the gateway failed on a request")
        refuse(x, Failed(Failure.INTERNAL, close=True))
    finally:
        # 9
        finish(x)


# -- 3: the deadline ---------------------------------------------------------------------------------------------------


def start_deadline(x: Exchange, route: Route) -> None:
    """The budget runs from the complete request; while a client uploads, its progress is watched instead."""
    given = None
    if x.client.trusted and x.head.fields.values:
        given = timeout.parse_budget_ms(x.head.fields.values.get(x.snapshot.names.budget, b""))
    budget = timeout.budget(route.timeout, given)
    x.budget = budget
    body = x.request_body
    if body is None or body.done or x.head.expect_continue:
        x.deadline = x.started + budget
    else:
        body.touched = x.started


# -- 4: admission ------------------------------------------------------------------------------------------------------


def admit(x: Exchange, route: Route) -> bool:
    """Choose the upstream; refuse what cannot succeed before anything is spent on it: False when done, or raises `Failed`."""
    upstream = route.upstream
    if upstream is not None and not upstream.group.fit:
        upstream = fallback_for(route, upstream)
    x.upstream = upstream
    if upstream is not None and not upstream.group.available and (failed := refusal(upstream)) is not None:
        refuse(x, failed)
        return False
    head = x.head
    body = x.request_body
    if body is not None:
        body.limit = route.max_body
        if 0 <= route.max_body < max(head.fields.length, body.received):
            raise too_large(route.max_body)
    elif head.expect_continue:
        head.expect_continue = False
    if head.fields.via and x.client.came_by_us(head.fields.via):
        raise Failed(Failure.LOOP, close=True)
    if head.upgrade:
        head.upgrade = allowed_upgrades(head, route.upgrades)
        if head.upgrade and x.client.plane.metrics.tunnels >= x.snapshot.server.limits.tunnels:
            raise Failed(Failure.TUNNEL_LIMIT, f"{x.snapshot.server.limits.tunnels} are open (server.limits.tunnels)")
    return True


# -- failures ----------------------------------------------------------------------------------------------------------


def refuse(x: Exchange, failed: Failed) -> None:
    """The one place that turns a failure into what the client sees."""
    failure = x.failure = failed.failure
    x.detail = failed.detail
    client = x.client
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
    send_problem(x, failed)


# -- 9: finish ---------------------------------------------------------------------------------------------------------


def finish(x: Exchange) -> None:
    """Count and log the exchange."""
    now = monotonic()
    if x.slots:
        release(x, now)
    seconds = now - x.started
    plane = x.client.plane
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
        metrics.rejections[x.failure.code] += 1
        if x.upstream is not None and x.upstream.gate is not None:
            not_answered(x, x.upstream.gate, x.failure)
    if x.attempts > 1 and x.upstream is not None:
        if x.failure is None and x.status < 500:
            x.upstream.metrics.retried_well += 1
        else:
            x.upstream.metrics.retried_in_vain += 1
    overhead = 0.0
    if x.tunnel is None:
        overhead = x.overhead(seconds)
        plane.metrics.overhead.observe(overhead)
    log = plane.log
    if log is not None:
        settings = x.snapshot.access_log if route is None else route.access_log
        if settings is not None and (line := access_line(x, settings, seconds, overhead)) is not None:
            log.record(line)
    # An attempt and its exchange know each other: neither is to wait for the collector of garbage.
    x.attempt = None
