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
from typing import Final

from gateway.errors import Failure
from gateway.policies import NEVER, status_meant
from gateway.policies.timeout import BLAMED_FROM
from gateway.proxy.exchange import Attempt
from gateway.proxy.upstream import health

_DEADLINE: Final = Failure.DEADLINE


def settle(attempt: Attempt) -> None:
    """The attempt has a final response head, or has `failed`: count it, once."""
    metrics = attempt.upstream.metrics
    now = monotonic()
    seconds = 0.0
    if attempt.dispatched_at:
        seconds = now - attempt.dispatched_at
        attempt.x.upstream_seconds += seconds
        attempt.dispatched_at = 0.0
        if attempt.failed is None:
            metrics.duration.observe(seconds)
    if attempt.failed is not None:
        _settle_failed(attempt, attempt.failed.failure, now, seconds)
        return
    assert attempt.connection is not None
    response = attempt.connection.response
    assert response is not None
    status = response.status
    endpoint = attempt.endpoint
    breaker = endpoint.breaker
    group = attempt.upstream.group
    if group.timed:
        # With 429 an endpoint sheds load, and fast; that must not make it the preferred one.
        group.observe(endpoint, seconds, now, failed=status >= 500 or status == 429)
    if status < 429:
        metrics.attempts["ok"] += 1
        if endpoint.errors:
            endpoint.errors = endpoint.failures = 0
        if breaker is not None:
            window = breaker.window
            if attempt.permit is breaker.healthy and now < window.turns_at and seconds < breaker.slow_call:
                window.passed += 1
            else:
                breaker.succeeded(attempt.permit, now, _waited(attempt, now), random())
        return
    if status >= 500:
        metrics.attempted("http_5xx")
    else:
        metrics.attempts["ok"] += 1
    health.answered(endpoint, metrics, response, now)
    if breaker is not None:
        judge = breaker.failed if status_meant(status) in breaker.settings.statuses else breaker.succeeded
        judge(attempt.permit, now, _waited(attempt, now), random())


def _settle_failed(attempt: Attempt, failure: Failure, now: float, seconds: float) -> None:
    endpoint, upstream = attempt.endpoint, attempt.upstream
    metrics = upstream.metrics
    metrics.attempted("cancelled" if failure.source == "downstream" else failure.code)
    waited = _waited(attempt, now)
    its_fault = not attempt.stale and _is_its_fault(attempt, failure, waited)
    if its_fault:
        if upstream.group.timed:
            upstream.group.observe(endpoint, seconds, now, failed=True)
        health.failed(endpoint, metrics, failure.code, now)
    breaker = endpoint.breaker
    if breaker is None:
        return
    if its_fault:
        breaker.failed(attempt.permit, now, waited, random())
    else:
        breaker.abandoned(attempt.permit)


def _waited(attempt: Attempt, now: float) -> float:
    """Seconds that the endpoint has kept us waiting: since the attempt began, or since the request was complete."""
    x = attempt.x
    if x.deadline == NEVER:
        return 0.0
    return now - max(attempt.began, x.deadline - x.budget)


def _is_its_fault(attempt: Attempt, failure: Failure, waited: float) -> bool:
    if failure is _DEADLINE:
        return waited >= BLAMED_FROM * attempt.route.timeout.attempt
    return failure.source == "upstream"
