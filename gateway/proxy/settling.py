"""The outcome of an attempt: succeeded, failed or abandoned. One place records it, whatever ended the attempt.

A client that leaves, or whose upload stalls, abandons the attempt: that says nothing about the endpoint.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from gateway.errors import Failure
from gateway.proxy import standing

if TYPE_CHECKING:
    from gateway.endpoints import Endpoint
    from gateway.errors import Failed
    from gateway.proxy.exchange import Exchange
    from gateway.snapshot import Upstream

_OURS: Final = frozenset({Failure.CONNECTION_LIMIT, Failure.TUNNEL_LIMIT, Failure.INTERNAL})
"""Failures that say nothing about the endpoint. A spent deadline does: it was the endpoint that did not answer."""


def settle(x: Exchange, upstream: Upstream, endpoint: Endpoint, failed: Failed | None) -> None:
    """The attempt on `endpoint` has a final response head (`failed` is None), or failed: count it, once."""
    metrics = upstream.metrics
    if upstream.group.timed:
        _observe(x, upstream, endpoint, failed)
    if x.dispatched_at:
        seconds = monotonic() - x.dispatched_at
        x.upstream_seconds += seconds
        x.dispatched_at = 0.0
        if failed is None:
            metrics.duration.observe(seconds)
    if failed is not None:
        failure = failed.failure
        if failure.source == "downstream":
            metrics.attempted("cancelled")
        else:
            metrics.attempted(failure.code)
            if failure not in _OURS:
                standing.failed(endpoint, metrics, failure.code, monotonic())
        return
    connection = x.upstream_connection
    assert connection is not None and connection.response is not None
    status = connection.response.status
    if status < 429:
        metrics.attempts["ok"] += 1
        if endpoint.failures:
            endpoint.failures = 0
        return
    if status >= 500:
        metrics.attempted("http_5xx")
    else:
        metrics.attempts["ok"] += 1
    standing.answered(endpoint, metrics, connection.response, monotonic())


def _observe(x: Exchange, upstream: Upstream, endpoint: Endpoint, failed: Failed | None) -> None:
    """Tell the balancer how slow the endpoint was; an abandoned attempt says nothing."""
    now = monotonic()
    seconds = now - x.dispatched_at if x.dispatched_at else 0.0
    if failed is not None:
        if failed.failure.source != "downstream":
            upstream.group.observe(endpoint, seconds, now, failed=True)
        return
    connection = x.upstream_connection
    assert connection is not None and connection.response is not None
    status = connection.response.status
    # With 429 an endpoint sheds load, and fast; that must not make it the preferred one.
    upstream.group.observe(endpoint, seconds, now, failed=status >= 500 or status == 429)
