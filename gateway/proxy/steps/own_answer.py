"""Answers that need no upstream: redirects and fixed responses; and what `Max-Forwards` asks of a hop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.proxy.exchange import Exchange
    from gateway.snapshot import Redirect, Route

ALLOW: Final = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
"""For answers that are not about one route's methods."""


def answer_locally(x: Exchange, route: Route) -> None:
    """Send the route's redirect or fixed response."""
    if not x.request_is_read():
        x.keep_alive = False
    x.committed = True
    if route.redirect is not None:
        x.send_own(route.redirect.status, (b"Location: " + location(x, route.redirect),), b"")
        return
    respond = route.respond
    assert respond is not None
    x.send_own(respond.status, respond.lines, respond.body)


def location(x: Exchange, redirect: Redirect) -> bytes:
    """Where to: the request's own bytes are appended undecoded, so an encoded CRLF stays encoded."""
    target = redirect.to
    path, question, query = x.head.target.partition(b"?")
    if redirect.keep_path:
        # `//` or `/\` at the beginning would name another host.
        target = target.rstrip(b"/") + b"/" + path.lstrip(b"/\\")
    if redirect.keep_query and question:
        target += (b"&" if b"?" in target else b"?") + query
    return target


def spend_forward(x: Exchange) -> bool:
    """`Max-Forwards` (RFC 9110 7.6.2): on OPTIONS, 0 is answered here (True), anything else goes on as one less."""
    head = x.head
    left = head.fields.max_forwards
    if head.method == b"OPTIONS":
        if left == 0:
            x.committed = True
            x.send_own(204, (ALLOW,), b"")
            return True
        left -= 1
    head.kept += b"Max-Forwards: %d\r\n" % left
    return False
