"""What the upstream is told beside the client's own words: field lines of the request, version-neutral.

Everything the gateway adds is added after hop-by-hop fields were removed, so that a client cannot strip it (RFC 9110 7.6.1).
"""

from __future__ import annotations

from typing import Final

from gateway.errors import Failed, Failure
from gateway.headers import forwarded_node, port_of, quoted_string
from gateway.policies import NEVER
from gateway.policies.timeout import remaining_ms
from gateway.proxy.client import Client
from gateway.proxy.exchange import Attempt, Exchange
from gateway.proxy.steps.field_edits import edited
from gateway.server_settings import ForwardedFields
from gateway.snapshot import Rewrite, Route

# A member looked up on its Enum class costs 0.07 µs on CPython 3.11, a global 0.01 µs.
_X_FORWARDED: Final = ForwardedFields.X_FORWARDED

_PREFIX: Final = b"x-forwarded-prefix"


def host_for(attempt: Attempt) -> bytes:
    """The `Host` that the endpoint is asked for."""
    host = attempt.upstream.host
    if host is None:
        return attempt.x.host_field or attempt.endpoint.authority
    return host or attempt.endpoint.authority


def request_lines(attempt: Attempt, now: float) -> list[bytes]:
    """The field lines of the request to the endpoint, with what is left of the budget at `now`; none that frame a message."""
    x = attempt.x
    head = x.head
    names = x.snapshot.names
    edits = attempt.route.request_edits
    deadline = x.deadline if x.deadline != NEVER else now + x.budget
    lines = [
        head.kept if edits is None else edited(head.kept, edits, x),
        x.client.via_line,
        forwarded_lines(x, attempt.route),
        names.request_id_line,
        x.request_id,
        b"\r\n",
        names.budget_line,
        b"%d\r\n" % remaining_ms(now, deadline),
    ]
    if head.expect_continue:
        lines.append(b"Expect: 100-continue\r\n")
    return lines


def rewritten_target(target: bytes, rewrite: Rewrite) -> bytes:
    """The client's target with the configured prefix replaced, and not a byte else changed."""
    rest = target[len(rewrite.old) :]
    if not target.startswith(rewrite.old) or (rest and rest[0] not in b"/?"):
        raise Failed(Failure.PATH_AMBIGUOUS, "the path is written in a way that its prefix cannot be replaced")
    rewritten = rewrite.new + rest
    return rewritten if rewritten.startswith(b"/") else b"/" + rewritten


def forwarded_lines(x: Exchange, route: Route) -> bytes:
    """Who the request came from and what of its address is gone, for the upstream: what trusted proxies said and this hop."""
    client = x.client
    mode = x.snapshot.server.forwarded
    if mode is _X_FORWARDED and x.host_field and not (client.trusted and x.head.fields.forwarded):
        if client.told_host != x.host_field:
            client.told_host = x.host_field
            lines = (client.forwarded_line, x.host_field, port_of(x.host_field, client.scheme))
            client.told = b"%bX-Forwarded-Host: %b\r\nX-Forwarded-Port: %b\r\n" % lines
        if route.rewrite is not None and (prefix := stripped_prefix(route, route.rewrite)):
            return b"%bX-Forwarded-Prefix: %b\r\n" % (client.told, prefix)
        return client.told
    if mode is ForwardedFields.OFF:
        return b""
    return b"".join([line + b"\r\n" for line in _forwarded_in_full(x, route, client, mode)])


def stripped_prefix(route: Route, rewrite: Rewrite) -> bytes:
    """The prefix that the upstream does not see; empty when it is replaced by another, or when the operator has the say."""
    if rewrite.new or (route.request_edits is not None and _PREFIX in route.request_edits.drop):
        return b""
    return rewrite.old


def _forwarded_in_full(x: Exchange, route: Route, client: Client, mode: ForwardedFields) -> list[bytes]:
    """Line by line. What nobody knows, such as the host of an HTTP/1.0 request without `Host`, is not told."""
    received = (x.head.fields.forwarded if client.trusted else None) or {}
    # A field of empty members says nothing: it is as if it had not been sent.
    received = {name: value for name, value in received.items() if value.strip(b" \t,")}
    lines = []
    if mode is not ForwardedFields.FORWARDED:
        hops = [hop for hop in (received.get(b"x-forwarded-for"), client.peer_node) if hop]
        lines += [
            b"X-Forwarded-For: " + b", ".join(hops),
            b"X-Forwarded-Proto: " + received.get(b"x-forwarded-proto", client.scheme),
        ]
        host = received.get(b"x-forwarded-host", x.host_field)
        if host:
            lines.append(b"X-Forwarded-Host: " + host)
        port = received.get(b"x-forwarded-port") or (port_of(host, x.scheme()) if host else b"")
        if port:
            lines.append(b"X-Forwarded-Port: " + port)
        prefix = received.get(_PREFIX, b"")
        if own := b"" if route.rewrite is None else stripped_prefix(route, route.rewrite):
            prefix = prefix.rstrip(b"/") + own
        if prefix:
            lines.append(b"X-Forwarded-Prefix: " + prefix)
        if b"x-real-ip" in received:
            lines.append(b"X-Real-IP: " + received[b"x-real-ip"])
    if mode is not ForwardedFields.X_FORWARDED:
        host = b"host=%b;" % quoted_string(x.host_field) if x.host_field else b""
        element = b"for=%b;%bproto=%b" % (forwarded_node(client.peer), host, client.scheme)
        lines.append(b"Forwarded: " + b", ".join(part for part in (received.get(b"forwarded"), element) if part))
    return lines
