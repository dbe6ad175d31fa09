"""What circuit breakers say to a request: a permit for an endpoint, or a refusal that costs little because there are many."""

from __future__ import annotations

from math import ceil
from random import random
from time import monotonic
from typing import Final

from gateway.endpoints import Endpoint
from gateway.errors import Failed, Failure
from gateway.policies import NEVER
from gateway.policies.circuit_breaker import UNCOUNTED, Breaker, BreakerState
from gateway.proxy.exchange import Exchange
from gateway.snapshot import Upstream

_HALF_OPEN: Final = BreakerState.HALF_OPEN


def refusal(upstream: Upstream) -> Failed | None:
    """No endpoint of the upstream is available: the failure of the request, if that is because of its breakers.

    Many requests share it, so it is not to be raised: a traceback would grow on it.
    """
    group = upstream.group
    now = monotonic()
    if now >= group.reopens_at:
        for endpoint in group.endpoints:
            if endpoint.breaker is not None:
                endpoint.breaker.advance(now)
    if group.available or not group.shut:
        return None
    upstream.metrics.breaker.rejected += 1
    seconds = 0 if group.retry_at == NEVER else max(1, ceil(group.retry_at - now))
    known = group.refusal
    if known is None or known[0] != seconds:
        known = group.refusal = (seconds, _refused(seconds))
        known[1].ready = {}
    return known[1]


def raise_refusal(upstream: Upstream) -> None:
    """Raise the same, in the middle of a request."""
    failed = refusal(upstream)
    if failed is not None:
        raise Failed(failed.failure, fields=failed.fields)


def _refused(seconds: int) -> Failed:
    """`seconds` 0: it is not known when to come back."""
    return Failed(Failure.CIRCUIT_OPEN, fields=(b"Retry-After: %d" % seconds,) if seconds else ())


def permitted(x: Exchange, upstream: Upstream, picked: Endpoint, guard: Breaker) -> tuple[Endpoint, object]:
    """An endpoint and a permit for it: the one that was picked if its breaker agrees, or another. Raises `Failed`."""
    now = monotonic()
    body = x.request_body
    whole = body is None or body.done
    permit = guard.admit(now, random(), picked.in_flight, whole=whole)
    if permit is not None:
        if permit is UNCOUNTED:
            upstream.metrics.breaker.would_reject += 1
        return picked, permit
    # Not another one that ramps: each would then be asked more often than its share.
    available = upstream.group.available
    calm = [endpoint for endpoint in available if endpoint.guard is None]
    if calm:
        endpoint = min(calm, key=lambda endpoint: endpoint.in_flight / endpoint.weight)
        return endpoint, endpoint.permit
    for endpoint in available:
        other = endpoint.guard
        if other is not None and other.state is _HALF_OPEN:
            permit = other.admit(now, 1.0, endpoint.in_flight, whole=whole)
            if permit is not None:
                return endpoint, permit
    upstream.metrics.breaker.rejected += 1
    raise _refused(1)
