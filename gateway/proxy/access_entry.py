"""One exchange as a flat record for the access log. Never Authorization, never Cookie, never a body."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.errors import Failure
    from gateway.proxy.exchange import Exchange
    from gateway.proxy.server import DownstreamConnection


def access_entry(x: Exchange, seconds: float) -> dict[str, Any]:
    """The record; times in milliseconds, `ts` in seconds since the epoch at the end of the exchange.

    The query string is left out unless the operator asked for it: it is where secrets hide in URLs.
    """
    head = x.head
    client = x.client_connection
    route = x.route
    failure = x.failure
    body = x.request_body
    upstream = x.upstream
    if upstream is None and route is not None:
        upstream = route.upstream
    target = head.target if client.plane.log_query else head.target.partition(b"?")[0]
    tries = x.tries
    entry = {
        "ts": time(),
        "request_id": x.request_id.decode("ascii"),
        "client_ip": str(x.client) if x.client is not None else client.peer_text,
        "method": head.method.decode("ascii"),
        "scheme": client.scheme.decode("ascii"),
        "host": x.host.decode("latin-1"),
        "path": target.decode("latin-1"),
        "proto": "HTTP/1.1" if head.minor else "HTTP/1.0",
        "status": x.status,
        "failure": failure.code if failure is not None else None,
        "flags": failure.flag if failure is not None else "-",
        "route": route.name if route is not None else None,
        "upstream": upstream.name if upstream is not None else None,
        "upstream_addr": x.endpoint.label if x.endpoint is not None else None,
        "attempts": x.attempts,
        "retries": tries.retries if tries is not None else 0,
        "bytes_in": body.received if body is not None else 0,
        "bytes_out": x.response_bytes,
        "coding": x.coding.decode("ascii") or None,
        "duration_ms": round(seconds * 1000, 3),
        "queue_ms": round(x.queued * 1000, 3),
        "upstream_ms": round(x.upstream_seconds * 1000, 3),
        "config": x.snapshot.config_hash,
    }
    if route is not None and upstream is not route.upstream and route.upstream is not None:
        entry["fallback_for"] = route.upstream.name
    if tries is not None:
        entry["attempt_log"] = tries.log
    return entry


def refused_entry(client: DownstreamConnection, failure: Failure) -> dict[str, Any]:
    """The record of a connection that was answered before a request could be read from it."""
    return {
        "ts": time(),
        "client_ip": client.peer_text,
        "scheme": client.scheme.decode("ascii"),
        "status": failure.status,
        "failure": failure.code,
        "flags": failure.flag,
    }
