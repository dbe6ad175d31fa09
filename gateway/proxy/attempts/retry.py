"""Between two attempts: is there another one, what is recorded of the last, and the wait before the next.

Nothing here runs for a request whose first attempt succeeds.
"""

from __future__ import annotations

from time import monotonic, time
from typing import Final

from gateway.errors import Failure
from gateway.headers import retry_after
from gateway.policies import NEVER, status_meant
from gateway.policies.retry import Cause, Denied, Ended, cause_of, denial, repeatable
from gateway.proxy.exchange import Attempt, Exchange, Tries, suspend
from gateway.proxy.wire.http1_response import ResponseHead
from gateway.snapshot import Retry, Upstream

NO_MORE: Final = -1.0
"""In place of a delay: there is no further attempt."""

_QUIET: Final = frozenset({Denied.OFF, Denied.CONDITION})
"""Not counted as denied: nobody asked for a retry."""


def after_failure(attempt: Attempt, failure: Failure) -> float:
    """The attempt failed. Seconds to wait before the next one, which is paid for then; or NO_MORE."""
    x = attempt.x
    tries = x.tries
    sent = attempt.connection is not None
    cause = cause_of(failure, sent=sent)
    if attempt.stale and (tries is None or not tries.fresh):
        cause = Cause.STALE
    elif failure is Failure.CONNECTION_LIMIT and len(attempt.upstream.group.available) > 1:
        cause = Cause.CONNECT
    now = monotonic()
    if cause is None or now >= x.deadline:
        if tries is not None:
            tries.record(attempt.endpoint, failure.code, now - attempt.began)
        return NO_MORE
    return _decide(attempt, cause, failure.code, cause.value)


def after_response(attempt: Attempt, head: ResponseHead) -> float:
    """A final response came. Seconds to wait before the next attempt if it is not to be the last; or NO_MORE."""
    tries = attempt.x.tries
    retry = attempt.route.retry
    outcome, status = str(head.status), status_meant(head.status)
    if retry is None or status not in retry.settings.statuses:
        if tries is not None:
            tries.record(attempt.endpoint, outcome, monotonic() - attempt.began)
        return NO_MORE
    asked = retry_after(head.fields.kept, time())
    if status == 503 and any(other is not attempt.endpoint for other in attempt.upstream.group.available):
        # This endpoint is busy, and it rests now (`upstream/health.py`). With 429 this client is too fast.
        asked = None
    return _decide(attempt, Cause.STATUS, outcome, str(status), status=status, asked=asked)


def _decide(attempt: Attempt, cause: Cause, outcome: str, reason: str, *, status: int = 0, asked: float | None = None) -> float:
    """Whether another attempt follows this one, and after how many seconds. `outcome` is for the log, `reason` for metrics."""
    x, upstream, retry = attempt.x, attempt.upstream, attempt.route.retry
    tries = x.tries = x.tries or Tries()
    now = monotonic()
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
                sent=attempt.connection is not None,
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
            metrics.denials[denied.value] += 1
        tries.record(attempt.endpoint, outcome, now - attempt.began, no_retry=denied.value)
        return NO_MORE
    metrics.retries[reason] += 1
    tries.record(attempt.endpoint, outcome, now - attempt.began, retry=reason)
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
    """Wait, and remember how long. A client that leaves, or an upload that goes wrong, ends it at once."""
    tries = x.tries
    assert tries is not None
    began = now = monotonic()
    until = now + delay
    x.expect_by(until, None, now)
    try:
        while now < until:
            await suspend()
            now = monotonic()
    finally:
        tries.backoff += monotonic() - began
