"""The outcome of an attempt: succeeded, failed or abandoned. One place records it, whatever ended the attempt.

| what ended it | for breaker, ejection and balancer |
|---|---|
| a response head, its status not among `statuses` | succeeded |
| one of `statuses`; no connection; a reset; not HTTP; the connect or attempt timeout | failed |
| the request's deadline, after the endpoint kept silent for half of `timeout.attempt` or longer | failed |
| the deadline otherwise: what was left of the budget was too short to judge anybody | abandoned |
| the client left, or its upload stalled | abandoned |
| a kept connection that had gone stale | abandoned |
| something that the gateway itself was short of | abandoned |

The deadline counts because with the defaults it ends together with the attempt: an endpoint that hangs must not escape. Half,
because a client that is trusted to shorten the budget must not be able to open the breaker with it.
"""

from __future__ import annotations

from random import random
from time import monotonic
from typing import TYPE_CHECKING, Final

from gateway.errors import Failure
from gateway.proxy.connection import NEVER
from gateway.proxy.upstream import health as standing

if TYPE_CHECKING:
    from gateway.endpoints import Endpoint
    from gateway.errors import Failed
    from gateway.proxy.exchange import Exchange
    from gateway.snapshot import Upstream

_DEADLINE: Final = Failure.DEADLINE


def settle(
    x: Exchange,
    upstream: Upstream,
    endpoint: Endpoint,
    permit: object,
    began: float,
    failed: Failed | None,
    *,
    stale: bool = False,
) -> None:
    """The attempt that began at `began` on `endpoint` has a final response head (`failed` is None), or failed: count it, once.

    `permit` is what the breaker gave for it. `stale`: a kept connection turned out to be closed.
    """
    metrics = upstream.metrics
    now = monotonic()
    seconds = 0.0
    if x.dispatched_at:
        seconds = now - x.dispatched_at
        x.upstream_seconds += seconds
        x.dispatched_at = 0.0
        if failed is None:
            metrics.duration.observe(seconds)
    if failed is not None:
        _settle_failed(x, upstream, endpoint, permit, began, now, seconds, failed.failure, stale)
        return
    connection = x.upstream_connection
    assert connection is not None and connection.response is not None
    status = connection.response.status
    breaker = endpoint.breaker
    if upstream.group.timed:
        # With 429 an endpoint sheds load, and fast; that must not make it the preferred one.
        upstream.group.observe(endpoint, seconds, now, failed=status >= 500 or status == 429)
    if status < 429:
        metrics.attempts["ok"] += 1
        if endpoint.errors:
            endpoint.errors = endpoint.failures = 0
        if breaker is not None:
            window = breaker.window
            if permit is breaker.healthy and now < window.turns_at and seconds < breaker.slow_call:
                window.passed += 1
            else:
                breaker.succeeded(permit, now, _waited(x, began, now), random())
        return
    if status >= 500:
        metrics.attempted("http_5xx")
    else:
        metrics.attempts["ok"] += 1
    standing.answered(endpoint, metrics, connection.response, now)
    if breaker is not None:
        judge = breaker.failed if status in breaker.settings.statuses else breaker.succeeded
        judge(permit, now, _waited(x, began, now), random())


def _settle_failed(
    x: Exchange,
    upstream: Upstream,
    endpoint: Endpoint,
    permit: object,
    began: float,
    now: float,
    seconds: float,
    failure: Failure,
    stale: bool,
) -> None:
    metrics = upstream.metrics
    metrics.attempted("cancelled" if failure.source == "downstream" else failure.code)
    waited = _waited(x, began, now)
    its_fault = not stale and _is_its_fault(x, failure, waited)
    if its_fault:
        if upstream.group.timed:
            upstream.group.observe(endpoint, seconds, now, failed=True)
        standing.failed(endpoint, metrics, failure.code, now)
    breaker = endpoint.breaker
    if breaker is None:
        return
    if its_fault:
        breaker.failed(permit, now, waited, random())
    else:
        breaker.abandoned(permit)


def _waited(x: Exchange, began: float, now: float) -> float:
    """Seconds that the endpoint has kept us waiting: since the attempt began, or since the request was complete."""
    if x.deadline == NEVER:
        return 0.0
    return now - max(began, x.deadline - x.budget)


def _is_its_fault(x: Exchange, failure: Failure, waited: float) -> bool:
    if failure is _DEADLINE:
        return x.route is not None and waited >= x.route.timeout.attempt / 2
    return failure.source == "upstream"
