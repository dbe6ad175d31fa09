"""Refusals and failures as the client sees them: RFC 9457 problems.

A failure that answers many requests (an open circuit breaker's) is rendered once a route and then only told apart by the id of
the request: while an upstream is shut off, a refusal must cost little.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import getrandbits
from typing import Any, Final

import orjson

from gateway.errors import Failed
from gateway.headers import quoted_string
from gateway.proxy.exchange import Exchange
from gateway.proxy.steps.own_answer import field_block, respond_own
from gateway.snapshot import Route, Snapshot

PROBLEM_TYPE: Final = "urn:problem-type:gateway:"
"""Prefix of the `type` of problem bodies; the failure's code follows."""

_PLACE: Final = b"%032x" % getrandbits(128)
"""Stands for the id of the request in a rendered body."""


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A problem without the id of a request; it holds in one snapshot."""

    snapshot: Snapshot
    block: bytes
    """Field lines."""
    parts: list[bytes]
    """The body, split where the id belongs."""


def send_problem(x: Exchange, failed: Failed) -> None:
    """Answer the exchange with the problem of its failure."""
    route = x.route
    told_apart = route is not None and route.response_edits is not None and route.response_edits.parts
    if failed.ready is None or told_apart:
        block = field_block(problem_lines(failed, x.snapshot.server.name, route), x)
        respond_own(x, failed.failure.status, block, problem_body(failed, route, x.request_id))
        return
    name = None if route is None else route.name
    rendered: _Rendered | None = failed.ready.get(name)
    if rendered is None or rendered.snapshot is not x.snapshot:
        block = field_block(problem_lines(failed, x.snapshot.server.name, route), x)
        rendered = failed.ready[name] = _Rendered(x.snapshot, block, problem_body(failed, route, _PLACE).split(_PLACE))
    respond_own(x, failed.failure.status, rendered.block, x.request_id.join(rendered.parts))


def problem_lines(failed: Failed, server_name: str, route: Route | None) -> tuple[bytes, ...]:
    """The field lines of a problem response, without CRLF: `Proxy-Status` (RFC 9209) says who failed and how."""
    status = b"Proxy-Status: %b; error=%b" % (server_name.encode("ascii"), failed.failure.code.encode("ascii"))
    if failed.detail:
        status += b"; details=" + quoted_string(failed.detail.encode("ascii", "replace"))
    return (
        b"Content-Type: application/problem+json",
        b"Cache-Control: no-store",
        b"X-Content-Type-Options: nosniff",
        status,
        *failed.fields,
        *((b"Vary: Accept-Encoding",) if route is not None and route.compression is not None else ()),
    )


def problem_body(failed: Failed, route: Route | None, request_id: bytes) -> bytes:
    """An RFC 9457 problem: static words of the failure table and our own ids, nothing the client sent."""
    failure = failed.failure
    problem: dict[str, Any] = {
        "type": PROBLEM_TYPE + failure.code,
        "title": failure.title,
        "status": failure.status,
        "detail": failed.detail or failure.title,
        "code": failure.code,
        "route": None if route is None else route.name,
        "request_id": request_id.decode("ascii"),
    }
    if failed.members:
        problem.update(failed.members)
    return orjson.dumps(problem)
