"""What the gateway writes: the head towards the upstream, the head towards the client, and its own answers.

Everything it adds is added after hop-by-hop fields were removed, so that a client cannot strip it (RFC 9110 7.6.1).
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.errors import Failed, Failure
from gateway.headers import forwarded_node, quoted_string
from gateway.policies.timeout import remaining_ms
from gateway.proxy.attempts.load_balancing import cookie_line
from gateway.proxy.connection import NEVER
from gateway.proxy.wire.http1_request import without
from gateway.proxy.wire.http1_response import REASONS, ResponseHead
from gateway.snapshot import FieldEdits, ForwardedFields, Rewrite, ServerTiming

if TYPE_CHECKING:
    from gateway.endpoints import Endpoint
    from gateway.proxy.downstream.http1_connection import DownstreamConnection
    from gateway.proxy.exchange import Exchange
    from gateway.snapshot import Route, Upstream

# A member looked up on its Enum class costs 0.07 µs on CPython 3.11, a global 0.01 µs.
_X_FORWARDED: Final = ForwardedFields.X_FORWARDED
_ON_REQUEST: Final = ServerTiming.ON_REQUEST

PROBLEM_TYPE: Final = "urn:problem-type:gateway:"
"""Prefix of the `type` of problem bodies; the failure's code follows."""


def upstream_head(x: Exchange, route: Route, upstream: Upstream, endpoint: Endpoint, target: bytes, now: float) -> bytes:
    """The request head of one attempt on `endpoint`, with what is left of the budget at `now`."""
    head = x.head
    names = x.snapshot.names
    host = upstream.host
    if host is None:
        host = x.host_field or endpoint.authority
    elif not host:
        host = endpoint.authority
    deadline = x.deadline if x.deadline != NEVER else now + x.budget
    edits = route.request_edits
    fields = head.fields
    framing = b""
    if fields.length >= 0:
        framing = b"Content-Length: %d\r\n" % fields.length
    elif fields.chunked:
        framing = b"Transfer-Encoding: chunked\r\n"
    if head.expect_continue:
        framing += b"Expect: 100-continue\r\n"
    if head.upgrade:
        framing += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b%b%b%b\r\n%b%d\r\n%b\r\n" % (
        head.method,
        target,
        host,
        head.kept if edits is None else edited(head.kept, edits),
        x.client_connection.via_line,
        forwarded_lines(x),
        names.request_id_line,
        x.request_id,
        names.budget_line,
        remaining_ms(now, deadline),
        framing,
    )


def rewritten_target(target: bytes, rewrite: Rewrite) -> bytes:
    """The client's target with the configured prefix replaced, and not a byte else changed."""
    rest = target[len(rewrite.old) :]
    if not target.startswith(rewrite.old) or (rest and rest[0] not in b"/?"):
        raise Failed(Failure.PATH_AMBIGUOUS, "the path is written in a way that its prefix cannot be replaced")
    rewritten = rewrite.new + rest
    return rewritten if rewritten.startswith(b"/") else b"/" + rewritten


def edited(block: bytes, edits: FieldEdits) -> bytes:
    """The field lines of `block` with the operator's changes."""
    if edits.drop:
        block = without(block, edits.drop)
    return block + b"".join([line + b"\r\n" for line in edits.lines])


def edited_lines(lines: tuple[bytes, ...], edits: FieldEdits) -> tuple[bytes, ...]:
    """The same for lines without CRLF."""
    kept = (line for line in lines if line.partition(b":")[0].lower() not in edits.drop)
    return (*kept, *edits.lines)


def forwarded_lines(x: Exchange) -> bytes:
    """Who the request came from, for the upstream: what trusted proxies said and this hop."""
    connection = x.client_connection
    mode = x.snapshot.server.forwarded
    if mode is _X_FORWARDED and not (connection.trusted and x.head.fields.forwarded):
        return b"%bX-Forwarded-Host: %b\r\n" % (connection.forwarded_line, x.host_field)
    if mode is ForwardedFields.OFF:
        return b""
    return b"".join([line + b"\r\n" for line in _forwarded_in_full(x, connection, mode)])


def _forwarded_in_full(x: Exchange, connection: DownstreamConnection, mode: ForwardedFields) -> list[bytes]:
    received = (x.head.fields.forwarded if connection.trusted else None) or {}
    lines = []
    if mode is not ForwardedFields.FORWARDED:
        hops = [hop for hop in (received.get(b"x-forwarded-for"), connection.peer_node) if hop]
        lines += [
            b"X-Forwarded-For: " + b", ".join(hops),
            b"X-Forwarded-Proto: " + received.get(b"x-forwarded-proto", connection.scheme),
            b"X-Forwarded-Host: " + received.get(b"x-forwarded-host", x.host_field),
        ]
        lines += [
            name.title().replace(b"Ip", b"IP") + b": " + received[name]
            for name in (b"x-forwarded-port", b"x-forwarded-prefix", b"x-real-ip")
            if name in received
        ]
    if mode is not ForwardedFields.X_FORWARDED:
        element = b"for=%b;host=%b;proto=%b" % (forwarded_node(connection.peer), quoted_string(x.host_field), connection.scheme)
        lines.append(b"Forwarded: " + b", ".join(part for part in (received.get(b"forwarded"), element) if part))
    return lines


def client_head(
    x: Exchange, route: Route, head: ResponseHead, length: int, *, chunked: bool, lines: bytes | None = None
) -> bytes:
    """The head of the upstream's response as the client gets it. `length` -1: no Content-Length.

    `lines` are its field lines where they were shaped already; None: the upstream's, with the operator's changes.
    """
    fields = head.fields
    framing = b""
    if length >= 0:
        framing = b"Content-Length: %d\r\n" % length
    elif chunked:
        framing = b"Transfer-Encoding: chunked\r\n"
    if not x.keep_alive:
        framing += b"Connection: close\r\n"
    elif not x.head.minor:
        framing += b"Connection: keep-alive\r\n"
    if not fields.has_date:
        framing += b"Date: %b\r\n" % x.client_connection.plane.date
    if x.head.fields.values or route.server_timing is not _ON_REQUEST:
        framing += server_timing(x, route)
    if x.limit_lines:
        framing += x.limit_lines
    if x.legacy_limit_lines and b"x-ratelimit-" not in fields.kept.lower():
        framing += x.legacy_limit_lines
    upstream = x.upstream
    if upstream is not None and upstream.steering is not None and upstream.steering.sticky is not None:
        framing += cookie_line(x, upstream.steering.sticky, head.status)
    if lines is None:
        edits = route.response_edits
        lines = fields.kept if edits is None else edited(fields.kept, edits)
    return b"HTTP/1.1 %d %b\r\n%b%b%b\r\n%b\r\n" % (
        head.status,
        head.reason,
        lines,
        x.snapshot.names.request_id_line,
        x.request_id,
        framing,
    )


def server_timing(x: Exchange, route: Route) -> bytes:
    """The `Server-Timing` line where one is wanted: milliseconds so far here and at the upstream, and the attempts."""
    if route.server_timing is ServerTiming.OFF:
        return b""
    if route.server_timing is _ON_REQUEST and x.head.fields.values.get(b"x-server-timing") != b"1":
        return b""
    total = monotonic() - x.started
    upstream = x.upstream_seconds
    line = b'Server-Timing: gateway;dur=%.1f, upstream;dur=%.1f;desc="%d attempt(s)"' % (
        (total - upstream) * 1000,
        upstream * 1000,
        x.attempts,
    )
    for number, attempt in enumerate(x.tries.log if x.tries is not None else (), 1):
        line += b', attempt-%d;dur=%.1f;desc="%b"' % (number, attempt["ms"], attempt["outcome"].encode("ascii"))
    return line + b"\r\n"


def switching_head(x: Exchange, head: ResponseHead) -> bytes:
    """The 101 for the client."""
    fields = head.fields
    kept = fields.kept
    if x.upstream is not None and x.upstream.steering is not None and x.upstream.steering.sticky is not None:
        kept += cookie_line(x, x.upstream.steering.sticky, head.status)
    return b"HTTP/1.1 101 Switching Protocols\r\n%bConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (kept, fields.upgrade)


def interim_head(head: ResponseHead) -> bytes:
    """A 1xx on its way through."""
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (head.status, head.reason, head.fields.kept)


def own_answer(
    status: int,
    lines: tuple[bytes, ...],
    body: bytes,
    *,
    date: bytes,
    keep_alive: bool,
    minor: int = 1,
    with_body: bool = True,
) -> bytes:
    """A complete response made here. HEAD gets the head alone (`with_body` False)."""
    parts = [b"HTTP/1.1 %d %b" % (status, REASONS.get(status, b"")), b"Date: " + date, *lines]
    if status not in (204, 304):
        parts.append(b"Content-Length: %d" % len(body))
    if not keep_alive:
        parts.append(b"Connection: close")
    elif not minor:
        parts.append(b"Connection: keep-alive")
    parts.append(b"\r\n")
    if with_body and status not in (204, 304):
        parts[-1] += body
    return b"\r\n".join(parts)


def problem_lines(failed: Failed, server_name: str, route: Route | None) -> tuple[bytes, ...]:
    """The field lines of a problem response: `Proxy-Status` (RFC 9209) says who failed and how."""
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


def problem_body(failed: Failed, route: str | None, request_id: bytes) -> bytes:
    """An RFC 9457 problem: static words of the failure table and our own ids, nothing the client sent."""
    failure = failed.failure
    problem: dict[str, Any] = {
        "type": PROBLEM_TYPE + failure.code,
        "title": failure.title,
        "status": failure.status,
        "detail": failed.detail or failure.title,
        "code": failure.code,
        "route": route,
        "request_id": request_id.decode("ascii"),
    }
    if failed.members:
        problem.update(failed.members)
    return orjson.dumps(problem)
