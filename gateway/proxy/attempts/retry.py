"""Between two attempts: is there another one, what is recorded of the last, and the wait before the next.

Nothing here runs for a request whose first attempt succeeds.
"""

from __future__ import annotations

from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from gateway.errors import Failure
from gateway.policies.retry import Cause, Denied, Ended, cause_of, denial, repeatable, retry_after
from gateway.proxy.connection import NEVER
from gateway.proxy.exchange import Exchange, suspend

if TYPE_CHECKING:
    from gateway.endpoints import Endpoint
    from gateway.proxy.wire.http1_response import ResponseHead
    from gateway.snapshot import Retry, Route, Upstream

NO_MORE: Final = -1.0
"""In place of a delay: there is no further attempt."""

MAX_RECORDED: Final = 32
"""Attempts that are recorded one by one; a request has fewer by far."""

_QUIET: Final = frozenset({Denied.OFF, Denied.CONDITION})
"""Not counted as denied: nobody asked for a retry."""


class Tries:
    """What is remembered between the attempts of one request."""

    __slots__ = ("attempt_number", "fresh", "log", "retries")

    def __init__(self) -> None:
        self.attempt_number = 1
        """Attempts that count against `max_retries`. The name is tenacity's: its wait strategies read nothing else."""
        self.retries = 0
        self.fresh = False
        """A kept connection was stale: the next attempts take new ones."""
        self.log: list[dict[str, Any]] = []

    def record(self, endpoint: Endpoint, outcome: str, seconds: float, **why: str) -> None:
        """One attempt is over. `why` says by `retry` or `no_retry` why another follows or not."""
        if len(self.log) < MAX_RECORDED:
            self.log.append({"endpoint": endpoint.url, "outcome": outcome, "ms": round(seconds * 1000, 3), **why})


def after_failure(
    x: Exchange,
    route: Route,
    upstream: Upstream,
    endpoint: Endpoint,
    failure: Failure,
    began: float,
    *,
    sent: bool,
    stale: bool,
) -> float:
    """The attempt failed. Seconds to wait before the next one, which is paid for then; or NO_MORE."""
    tries = x.tries
    now = monotonic()
    cause = cause_of(failure, sent=sent)
    if stale and (tries is None or not tries.fresh):
        cause = Cause.STALE
    elif failure is Failure.CONNECTION_LIMIT and len(upstream.group.available) > 1:
        cause = Cause.CONNECT
    if cause is None:
        if tries is not None:
            tries.record(endpoint, failure.code, now - began)
        return NO_MORE
    x.tries = tries or Tries()
    return _decide(x, route, upstream, endpoint, cause, failure.code, cause.value, now, began, sent, 0, None)


def after_response(
    x: Exchange, route: Route, upstream: Upstream, endpoint: Endpoint, head: ResponseHead, began: float
) -> float:
    """A final response came. Seconds to wait before the next attempt if it is not to be the last; or NO_MORE."""
    retry = route.retry
    outcome = str(head.status)
    now = monotonic()
    if retry is None or head.status not in retry.settings.statuses:
        if x.tries is not None:
            x.tries.record(endpoint, outcome, now - began)
        return NO_MORE
    x.tries = x.tries or Tries()
    asked = retry_after(head.fields.kept, time())
    if head.status == 503 and any(other is not endpoint for other in upstream.group.available):
        # It is this endpoint that is busy, and it rests now (see `standing`). With 429 it is this client that is too fast.
        asked = None
    return _decide(x, route, upstream, endpoint, Cause.STATUS, outcome, outcome, now, began, True, head.status, asked)


def _decide(
    x: Exchange,
    route: Route,
    upstream: Upstream,
    endpoint: Endpoint,
    cause: Cause,
    outcome: str,
    reason: str,
    now: float,
    began: float,
    sent: bool,
    status: int,
    asked: float | None,
) -> float:
    tries, retry = x.tries, route.retry
    assert tries is not None
    denied: Denied | None = Denied.OFF
    delay = 0.0
    if retry is not None:
        delay = _delay(tries, retry, upstream, cause, asked)
        body = x.request_body
        denied = denial(
            retry.settings,
            Ended(
                cause=cause,
                retries=tries.attempt_number - 1,
                sent=sent,
                repeatable=repeatable(retry.settings, x.head.method, x.head.kept, status),
                replayable=body is None or body.replayable,
                delay=delay,
                endpoints=len(upstream.group.available),
                now=now,
                # While the client uploads, its budget has not begun.
                deadline=x.deadline if x.deadline != NEVER else now + x.budget,
            ),
            upstream.retry_budget,
        )
    metrics = upstream.metrics
    if denied is not None:
        if denied not in _QUIET:
            metrics.denied(denied.value)
        tries.record(endpoint, outcome, now - began, no_retry=denied.value)
        return NO_MORE
    metrics.retried(reason)
    tries.record(endpoint, outcome, now - began, retry=reason)
    tries.retries += 1
    if cause is Cause.STALE:
        tries.fresh = True
    else:
        tries.attempt_number += 1
    if x.request_body is not None:
        x.request_body.rewind()
    return delay


def _delay(tries: Tries, retry: Retry, upstream: Upstream, cause: Cause, asked: float | None) -> float:
    """The back-off, or what the upstream asks for. Nobody is spared by waiting when another endpoint takes the request
    that the first did not even accept."""
    if cause is Cause.STALE or (cause is Cause.CONNECT and tries.attempt_number == 1 and len(upstream.group.available) > 1):
        return 0.0
    delay = retry.wait(tries)
    return delay if asked is None or asked < delay else asked


async def pause(x: Exchange, delay: float) -> None:
    """Wait. A client that leaves, or an upload that goes wrong, ends it at once."""
    now = monotonic()
    until = now + delay
    x.limit(until, None, now)
    while now < until:
        await suspend()
        now = monotonic()
