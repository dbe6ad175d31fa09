"""Which time limit holds for an exchange now, and what moves it. One timer per connection asks here when it rings.

| phase | ends | failure | moved by |
|---|---|---|---|
| connecting | `connect`, or the deadline | connection_timeout, deadline_exceeded | – |
| uploading | silence for `body_idle`, or less than `upload_rate` | body_timeout | every byte of the client |
| uploading, upstream full | `write_stall` without progress | http_response_timeout | every byte the upstream takes |
| backing off before a retry | the delay | – (it goes on) | – |
| waiting for the response | `attempt`, or the deadline | http_response_timeout, deadline_exceeded | – |
| streaming | silence for `idle` | connection_read_timeout | every byte of the upstream |
| streaming, client full | `write_stall` without progress | connection_write_timeout | every byte the client takes |
| tunnel | silence for `idle` | connection_read_timeout | every byte |

In the phases that end at an instant `Exchange.due` holds it; it is NEVER in those that watch bytes.
"""

from __future__ import annotations

from typing import Final

from gateway.errors import Failed, Failure
from gateway.policies import NEVER
from gateway.policies.timeout import BLAMED_FROM, attempt_ends
from gateway.proxy.exchange import Exchange
from gateway.snapshot import Route

# A member looked up on its Enum class costs 0.07 µs on CPython 3.11, a global 0.01 µs.
_DEADLINE: Final = Failure.DEADLINE
_ATTEMPT_TIMEOUT: Final = Failure.ATTEMPT_TIMEOUT

WATCH_INTERVAL: Final = 1.0
"""Seconds between looks at a body in motion: who stalls, who has gone."""

UPLOAD_GRACE: Final = 5.0
"""Seconds, beyond `body_idle`, before a client must have sent at the least rate."""


def attempt_began(x: Exchange, route: Route, now: float) -> None:
    """The whole request is with the upstream: from now on its time counts."""
    due = attempt_ends(route.timeout, now, x.deadline)
    # A deadline that leaves the upstream too little of its time says nothing about the upstream.
    short = due >= x.deadline and due - now < BLAMED_FROM * route.timeout.attempt
    x.expect_by(due, _DEADLINE if short else _ATTEMPT_TIMEOUT, now)


def upload_done(x: Exchange, now: float) -> None:
    """The last byte of the request body has arrived: now the upstream's time counts."""
    if x.route is not None and not x.committed and x.budget:
        x.deadline = now + x.budget
        if x.attempt is not None and x.attempt.dispatched_at:
            attempt_began(x, x.route, now)


def upload_began(x: Exchange, now: float) -> None:
    """The client sends the body it held back, asked by a 100 or not: until it is complete, its progress counts."""
    body = x.request_body
    if body is None or body.done or x.deadline == NEVER:
        return
    if x.attempt is not None and x.attempt.dispatched_at:
        body.touched = now
        x.deadline = NEVER
        x.expect_by(NEVER, Failure.BODY_TIMEOUT, now)


def check_time(x: Exchange, now: float) -> None:
    """The exchange's timer rang: fail it when its current phase has taken too long, or set the timer anew."""
    due, failure = _time_limit(x, now)
    if now >= due:
        if failure is None:
            x.wake()
        else:
            x.fail(Failed(failure, limit_in_words(x, failure)))
        return
    if x.due == NEVER:
        # Which limit applies changes as buffers fill and drain, so look again before the one of now is due.
        due = min(due, now + WATCH_INTERVAL)
        if x.client.reading_paused and x.client.gone():
            x.client.abort()
            return
    x.client.alarm.set(due, now)


def limit_in_words(x: Exchange, failure: Failure) -> str:
    """Which limit was hit, and its value: the word of the configuration, for whoever reads the answer or the log."""
    route, server = x.route, x.snapshot.server.timeouts
    if failure is Failure.WRITE_TIMEOUT:
        return f"nothing was taken for {server.write_stall:g} s (server.timeouts.write_stall)"
    if failure is Failure.BODY_TIMEOUT:
        return f"silence for {server.body_idle:g} s (server.timeouts.body_idle), or less than server.limits.upload_rate"
    if route is None:
        return ""
    timeout = route.timeout
    if failure is Failure.STREAM_IDLE:
        return f"silence for {timeout.idle:g} s (timeout.idle)"
    if failure is Failure.CONNECT_TIMEOUT and x.due < x.deadline:
        return f"no connection within {timeout.connect:g} s (timeout.connect)"
    if failure is _ATTEMPT_TIMEOUT and x.due < x.deadline:
        return f"no response within {timeout.attempt:g} s (timeout.attempt)"
    whose = "timeout.request" if x.budget == timeout.request else "what the client gives it"
    if failure is Failure.CONNECT_TIMEOUT:
        return f"no connection within what was left of {x.budget:g} s ({whose})"
    return f"no response within {x.budget:g} s ({whose})"


def _time_limit(x: Exchange, now: float) -> tuple[float, Failure | None]:
    route = x.route
    client = x.client
    timeouts = x.snapshot.server.timeouts
    if route is None or x.due != NEVER:
        return x.due, x.due_failure
    if x.tunnel is not None:
        return x.tunnel.touched + route.timeout.idle, Failure.STREAM_IDLE
    if x.committed:
        if client.write_paused:
            client.check_progress(now)
            return client.stalled_since + timeouts.write_stall, Failure.WRITE_TIMEOUT
        touched = x.response_body.touched if x.response_body is not None else x.started
        return touched + route.timeout.idle, Failure.STREAM_IDLE
    upstream = x.attempt.connection if x.attempt is not None else None
    if upstream is not None and upstream.write_paused:
        upstream.check_progress(now)
        return upstream.stalled_since + timeouts.write_stall, _ATTEMPT_TIMEOUT
    body = x.request_body
    assert body is not None
    due = body.touched + timeouts.body_idle
    rate = x.snapshot.server.limits.upload_rate
    if rate:
        # Every byte buys time: a client that drips one now and then runs out of it.
        due = min(due, x.started + timeouts.body_idle + UPLOAD_GRACE + body.held_for + body.received / rate)
    return due, Failure.BODY_TIMEOUT
