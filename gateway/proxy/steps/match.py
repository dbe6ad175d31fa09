"""Step 2 of the life of a request: which route takes it, on the normalised path and the host that will be forwarded."""

from __future__ import annotations

from random import getrandbits
from typing import Final

from gateway.errors import Failed, Failure
from gateway.headers import client_address, normalise_host, valid_request_id
from gateway.proxy.exchange import Exchange
from gateway.proxy.steps.own_answer import ALLOW
from gateway.proxy.wire.http1_request import RequestHead, split_absolute
from gateway.router import AmbiguousPathError, DotSegmentError, Found, MethodNotAllowed, normalise_path
from gateway.snapshot import Route

ACME: Final = b"/.well-known/acme-challenge/"
"""What a certificate authority asks for over plain HTTP before there is a certificate (RFC 8555 8.3)."""


def match(x: Exchange) -> Route:
    """The route of the request; sets its id and what later steps need of its address. Raises `Failed` when there is none."""
    x.request_id = b"%032x" % getrandbits(128)
    if x.client.trusted:
        believe(x)
    head = x.head
    matched = x.client.matched
    # Everything that decides about a route stands in the request line and the fields, and says the same as the last time.
    if (
        matched is not None
        and matched[1] is head.fields
        and matched[3] == head.target
        and matched[2] == head.method
        and matched[0] is x.snapshot
        and matched[4] == head.minor
    ):
        _, _, _, _, _, route, x.host_field, x.host, x.path, x.query_at, x.parameters = matched
        return route
    return _look_up(x, head, head.target)


def _look_up(x: Exchange, head: RequestHead, target: bytes) -> Route:
    snapshot = x.snapshot
    if head.method == b"CONNECT":
        raise Failed(Failure.METHOD_NOT_IMPLEMENTED, close=True)
    origin_form = target[0] == 0x2F
    if not origin_form:
        target = _other_form(x)
    elif b"#" in target:
        raise Failed(Failure.BAD_REQUEST, "the request target holds a fragment", close=True)
    else:
        x.host_field = head.fields.host or b""
    host = x.client.host_of(x.host_field)
    if host is None:
        raise Failed(Failure.BAD_REQUEST, "the Host is not valid", close=True)
    x.host = host
    if head.method == b"TRACE":
        raise Failed(Failure.METHOD_NOT_ALLOWED, "TRACE is never served", fields=(ALLOW,))
    x.query_at = target.find(b"?")
    server = snapshot.server
    sent = target if x.query_at < 0 else target[: x.query_at]
    dots: DotSegmentError | None = None
    try:
        x.path = normalise_path(sent, encoded_slash=server.encoded_slash, double_slash=server.double_slash)
    except DotSegmentError as error:
        # Some routes forward it as it is, and only by what it is they are found.
        x.path, dots = sent, error
    except AmbiguousPathError as error:
        raise Failed(Failure.PATH_AMBIGUOUS, str(error)) from None
    if snapshot.to_https and x.client.listener in snapshot.to_https and _is_plain(x, dots):
        if not host:
            raise Failed(Failure.BAD_REQUEST, "without a Host nobody can be sent to HTTPS")
        return snapshot.to_https[x.client.listener]
    found = snapshot.router.match(host, x.path, head.method, x.field_value, x.query)
    if dots is not None and not (isinstance(found, Found) and found.value.forwards_dots):
        raise Failed(Failure.PATH_AMBIGUOUS, str(dots))
    if isinstance(found, Found):
        route = found.value
        x.parameters = found.parameters
        if origin_form:
            x.client.matched = (
                snapshot,
                head.fields,
                head.method,
                target,
                head.minor,
                route,
                x.host_field,
                host,
                x.path,
                x.query_at,
                x.parameters,
            )
        return route
    if isinstance(found, MethodNotAllowed):
        raise Failed(Failure.METHOD_NOT_ALLOWED, fields=(b"Allow: " + b", ".join(found.allow),))
    raise Failed(Failure.ROUTE_NOT_FOUND if found.host_known else Failure.MISDIRECTED)


def _is_plain(x: Exchange, dots: DotSegmentError | None) -> bool:
    """It came by plain HTTP, and is no challenge of ACME; what an upstream may take for another path never is one."""
    return x.scheme() == b"http" and (dots is not None or not x.path.startswith(ACME))


def _other_form(x: Exchange) -> bytes:
    """Absolute-form, whose authority wins over `Host` (RFC 9112 3.2.2), or asterisk-form; returns the target to match."""
    head = x.head
    if head.target == b"*" and head.method == b"OPTIONS":
        x.host_field = head.fields.host or b""
        return b"/"
    scheme, authority, target = split_absolute(head.target)
    if scheme not in (b"http", b"https"):
        raise Failed(Failure.BAD_REQUEST, "the scheme of the request target is not http", close=True)
    if scheme != x.client.scheme:
        raise Failed(Failure.MISDIRECTED, "the scheme is not the connection's")
    host = head.fields.host
    if host is not None and (not host or normalise_host(host) is None):
        raise Failed(Failure.BAD_REQUEST, "the Host is empty or not valid beside a target that names one", close=True)
    x.host_field = authority
    head.target = target
    return target


def believe(x: Exchange) -> None:
    """Take over what a trusted peer says: the id of the request, and who its client is."""
    connection = x.client
    fields = x.head.fields
    given = fields.values.get(x.snapshot.names.request_id, b"")
    if valid_request_id(given):
        x.request_id = given
    if fields.forwarded and b"x-forwarded-for" in fields.forwarded:
        x.client_ip = client_address(connection.peer, fields.forwarded[b"x-forwarded-for"], x.snapshot.server.trusted_proxies)
