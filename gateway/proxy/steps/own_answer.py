"""Responses that are made here: redirects, fixed responses, problems; and what `Max-Forwards` asks of a hop."""

from __future__ import annotations

from typing import Final

from gateway.proxy.exchange import Exchange
from gateway.proxy.steps.field_edits import edited_lines
from gateway.proxy.wire.http1_writer import REASONS
from gateway.snapshot import Redirect, Route

ALLOW: Final = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
"""For answers that are not about one route's methods."""


def respond_own(x: Exchange, status: int, block: bytes, content: bytes) -> None:
    """Send a whole response made here. It counts as the answer of the exchange. `block`: complete field lines."""
    x.status = status
    client = x.client
    size = len(content)
    if x.head.method == b"HEAD" or status in (204, 304):
        content = b""
    x.response_bytes = len(content)
    lines = [b"Date: ", client.plane.date, b"\r\n", block, x.snapshot.names.request_id_line, x.request_id, b"\r\n", x.added]
    if x.legacy_limit_lines:
        lines.append(x.legacy_limit_lines)
    client.respond(status, REASONS.get(status, b""), lines, content, -1 if status in (204, 304) else size)


def field_block(lines: tuple[bytes, ...], x: Exchange | None) -> bytes:
    """Field lines without CRLF as one block, with the operator's changes for the route of the exchange, if there is one."""
    route = None if x is None else x.route
    if x is not None and route is not None and route.response_edits is not None:
        return edited_lines(lines, route.response_edits, x)
    return b"".join([line + b"\r\n" for line in lines])


def answer_locally(x: Exchange, route: Route) -> None:
    """Send the route's redirect or fixed response."""
    if not x.request_is_read():
        x.keep_alive = False
    x.committed = True
    if route.redirect is not None:
        line = b"Location: " + location(x, route.redirect)
        respond_own(x, route.redirect.status, field_block((line,), x), b"")
        return
    respond = route.respond
    assert respond is not None
    respond_own(x, respond.status, field_block(respond.lines, x), respond.body)


def location(x: Exchange, redirect: Redirect) -> bytes:
    """Where to: the request's own bytes are appended undecoded, so an encoded CRLF stays encoded."""
    target = redirect.to
    if redirect.to_https is not None:
        _, colon, port = x.host_field.rpartition(b":")
        target = b"https://" + x.host + redirect.to_https[bool(colon) and port.isdigit() and port != b"80"]
    path, question, query = x.head.target.partition(b"?")
    if redirect.keep_path:
        # `//` or `/\` at the beginning would name another host.
        target = target.rstrip(b"/") + b"/" + path.lstrip(b"/\\")
    if redirect.keep_query and question:
        target += (b"&" if b"?" in target else b"?") + query
    return target


def forwards_spent(x: Exchange) -> bool:
    """Take one off `Max-Forwards` (RFC 9110 7.6.2), which is given. True: an OPTIONS request has come as far as it may."""
    head = x.head
    left = head.fields.max_forwards
    if head.method == b"OPTIONS":
        if left == 0:
            return True
        left -= 1
    head.kept += b"Max-Forwards: %d\r\n" % left
    return False


def answer_options(x: Exchange) -> None:
    """Answer an OPTIONS request that goes no further, for the gateway itself."""
    x.committed = True
    respond_own(x, 204, field_block((ALLOW,), x), b"")
