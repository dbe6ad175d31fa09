"""HTTP/1.1 message heads on the wire (RFC 9112): read strictly, write canonically. The only file that parses heads.

A head is accepted when one bytes pattern per direction matches all of it; whatever does not match is refused, so nothing
ambiguous reaches routing or the other side. What is forwarded is always written anew from validated lines.
Why not a library's parser: `docs/decisions.md`. Body framing is in `framing.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Final

from gateway.errors import Failed, Failure
from gateway.headers import HOP_BY_HOP, NEVER_NOMINATED, TOKEN, list_members

_FIELDS: Final = rb"((?:" + TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n"
_REQUEST_LINE: Final = rb"(" + TOKEN + rb"{1,32}+) ([\x21-\x7e\x80-\xff]++) HTTP/1\.([0-9])\r\n"
_REQUEST: Final = re.compile(_REQUEST_LINE + _FIELDS)
_REQUEST_LINE_ONLY: Final = re.compile(_REQUEST_LINE)
_RESPONSE: Final = re.compile(rb"HTTP/1\.([0-9]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*+))?\r\n" + _FIELDS)
_ANY_VERSION: Final = re.compile(rb"[^ ]+ [^ ]+ HTTP/[0-9]\.[0-9]\r\n")
_LONG_METHOD: Final = re.compile(TOKEN + rb"{33}")
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_CHUNKED: Final = re.compile(rb"(?i:chunked)")
_TOKEN_START: Final = re.compile(TOKEN + rb"|\r")
_ABSOLUTE: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?#]*)([^#]*)")

MAX_EMPTY_LINES: Final = 8
"""Empty lines tolerated before a request line (RFC 9112 2.2 asks for at least one)."""

_LONGEST_LINE_OVERHEAD: Final = 64
"""Room for method, spaces and version beside the target."""


class Kind(IntEnum):
    """What the gateway does with a request field; fields without a kind are forwarded as they are."""

    HOST = 1
    CONNECTION = 2
    CONTENT_LENGTH = 3
    TRANSFER_ENCODING = 4
    EXPECT = 5
    UPGRADE = 6
    DROP = 7
    VIA = 8
    FORWARDED = 9
    """Kept apart: forwarded only from trusted peers."""
    MAX_FORWARDS = 10
    NOTED = 11
    """Not forwarded as received, but its value is needed (request id, budget)."""
    SEEN = 12
    """Forwarded, and its value is needed (routes match on it)."""


def request_kinds(noted: Iterable[bytes], seen: Iterable[bytes]) -> dict[bytes, int]:
    """The table by which request fields are read, by lower-case name.

    Names that differ from a framing or forwarding field only by `_` are dropped: CGI-like upstreams cannot tell them apart.
    """
    kinds = {name: Kind.SEEN for name in seen}
    kinds |= {name: Kind.DROP for name in HOP_BY_HOP}
    kinds |= {b"http2-settings": Kind.DROP, b"trailer": Kind.DROP}
    kinds |= {
        b"host": Kind.HOST,
        b"connection": Kind.CONNECTION,
        b"content-length": Kind.CONTENT_LENGTH,
        b"transfer-encoding": Kind.TRANSFER_ENCODING,
        b"expect": Kind.EXPECT,
        b"upgrade": Kind.UPGRADE,
        b"via": Kind.VIA,
        b"max-forwards": Kind.MAX_FORWARDS,
        b"forwarded": Kind.FORWARDED,
        b"x-real-ip": Kind.FORWARDED,
        b"x-forwarded-for": Kind.FORWARDED,
        b"x-forwarded-proto": Kind.FORWARDED,
        b"x-forwarded-host": Kind.FORWARDED,
        b"x-forwarded-port": Kind.FORWARDED,
        b"x-forwarded-prefix": Kind.FORWARDED,
    }
    kinds |= {name: Kind.NOTED for name in noted}
    kinds |= {name.replace(b"-", b"_"): Kind.DROP for name in list(kinds) if b"-" in name and kinds[name] is not Kind.SEEN}
    return {name: int(kind) for name, kind in kinds.items()}


_K_HOST: Final = int(Kind.HOST)
_K_CONNECTION: Final = int(Kind.CONNECTION)
_K_LENGTH: Final = int(Kind.CONTENT_LENGTH)
_K_CODING: Final = int(Kind.TRANSFER_ENCODING)
_K_EXPECT: Final = int(Kind.EXPECT)
_K_UPGRADE: Final = int(Kind.UPGRADE)
_K_DROP: Final = int(Kind.DROP)
_K_VIA: Final = int(Kind.VIA)
_K_FORWARDED: Final = int(Kind.FORWARDED)
_K_MAX_FORWARDS: Final = int(Kind.MAX_FORWARDS)
_K_SEEN: Final = int(Kind.SEEN)

_NO_VALUES: Final[Mapping[bytes, bytes]] = {}


class RequestHead:
    """A valid request head. `lines` are the field lines to forward as they are, without CRLF."""

    __slots__ = (
        "chunked",
        "expect_continue",
        "forwarded",
        "host",
        "keep_alive",
        "length",
        "lines",
        "max_forwards",
        "method",
        "minor",
        "target",
        "upgrade",
        "values",
        "via",
    )

    def __init__(self, method: bytes, target: bytes, minor: int, lines: list[bytes]) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        """The client's HTTP/1 minor version, 0 or 1."""
        self.lines = lines
        self.host: bytes | None = None
        self.length = -1
        """Content-Length, or -1 when there is none."""
        self.chunked = False
        self.keep_alive = minor != 0
        self.expect_continue = False
        self.upgrade = b""
        """The protocol asked for, lower case, when `Connection: upgrade` named it."""
        self.via: list[bytes] | None = None
        self.forwarded: dict[bytes, bytes] | None = None
        self.max_forwards = -1
        self.values: Mapping[bytes, bytes] = _NO_VALUES
        """Values of fields that policies asked for, by lower-case name."""


def parse_request(data: bytes, kinds: Mapping[bytes, int]) -> RequestHead:
    """The head at the start of `data` (which ends with the head's empty line or goes on behind it).

    Raises `Failed` with `close=True`: after a bad head nothing on the connection can be trusted.
    """
    match = _REQUEST.match(data)
    if match is None:
        raise _why_refused(data)
    method, target, minor, block = match.groups()
    lines: list[bytes] = []
    head = RequestHead(method, target, 0 if minor == b"0" else 1, lines)
    options: list[bytes] | None = None
    upgrade = b""
    for line in block.split(b"\r\n"):
        name, _, value = line.partition(b":")
        kind = kinds.get(name.lower())
        if kind is None:
            lines.append(line)
        elif kind == _K_HOST:
            if head.host is not None:
                raise Failed(Failure.BAD_REQUEST, "more than one Host field", close=True)
            head.host = value.strip(b" \t")
        elif kind == _K_CONNECTION:
            members = list_members(value)
            options = members if options is None else options + members
        elif kind == _K_UPGRADE:
            upgrade = value.strip(b" \t").lower()
        elif kind != _K_DROP:
            _special(head, kind, name, value.strip(b" \t"), line)
    lines.pop()  # what `split` leaves behind the last CRLF
    if head.host is None and head.minor:
        raise Failed(Failure.BAD_REQUEST, "an HTTP/1.1 request has a Host field", close=True)
    if head.chunked and (head.length >= 0 or not head.minor):
        raise Failed(Failure.BAD_REQUEST, "Transfer-Encoding beside Content-Length or in HTTP/1.0", close=True)
    if options is not None:
        _apply_connection(head, options, upgrade)
    if not target.isascii():
        head.target = escape_target(target)
    return head


def _special(head: RequestHead, kind: int, name: bytes, value: bytes, line: bytes) -> None:
    """The less common fields."""
    if kind == _K_LENGTH:
        if head.length >= 0 or _LENGTH.fullmatch(value) is None:
            raise Failed(Failure.BAD_REQUEST, "the Content-Length is not one plain number", close=True)
        head.length = int(value)
    elif kind == _K_CODING:
        if head.chunked or _CHUNKED.fullmatch(value) is None:
            failure = Failure.CODING_NOT_IMPLEMENTED if list_members(value)[-1:] == [b"chunked"] else Failure.BAD_REQUEST
            raise Failed(failure, "the only transfer coding is chunked, once", close=True)
        head.chunked = True
    elif kind == _K_EXPECT:
        if value.lower() != b"100-continue":
            raise Failed(Failure.EXPECTATION_FAILED, close=True)
        head.expect_continue = True
    elif kind == _K_VIA:
        head.via = [*(head.via or ()), value]
        head.lines.append(line)
    elif kind == _K_FORWARDED:
        key = name.lower()
        forwarded = head.forwarded = head.forwarded or {}
        forwarded[key] = forwarded[key] + b", " + value if key in forwarded else value
    elif kind == _K_MAX_FORWARDS:
        if head.max_forwards >= 0 or _LENGTH.fullmatch(value) is None:
            raise Failed(Failure.BAD_REQUEST, "Max-Forwards is not one plain number", close=True)
        head.max_forwards = int(value)
    else:
        key = name.lower()
        seen = head.values.get(key)
        head.values = {**head.values, key: value if seen is None else seen + b", " + value}
        if kind == _K_SEEN:
            head.lines.append(line)


def _apply_connection(head: RequestHead, options: list[bytes], upgrade: bytes) -> None:
    """Obey the client's `Connection` options (RFC 9110 7.6.1)."""
    if b"close" in options:
        head.keep_alive = False
    elif b"keep-alive" in options and not head.minor:
        head.keep_alive = True
    if upgrade and head.minor and b"upgrade" in options:
        head.upgrade = upgrade
    nominated = {option for option in options if option not in _ORDINARY_OPTIONS}
    if nominated:
        if not nominated.isdisjoint(_NOT_TO_NOMINATE):
            raise Failed(Failure.BAD_REQUEST, "Connection names a field that is not for one connection only", close=True)
        drop_lines(head.lines, nominated)


_ORDINARY_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"upgrade", b"te", b"http2-settings", b"proxy-connection"})
_NOT_TO_NOMINATE: Final = NEVER_NOMINATED | {b"transfer-encoding"}


def drop_lines(lines: list[bytes], names: Iterable[bytes]) -> None:
    """Remove, in place, the field lines of these lower-case names."""
    lines[:] = [line for line in lines if line.partition(b":")[0].lower() not in names]


def escape_target(target: bytes) -> bytes:
    """Percent-encode the bytes of a target that no URI may hold but some clients send (raw UTF-8)."""
    return b"".join(b"%%%02X" % byte if byte > 0x7F else bytes((byte,)) for byte in target)


def split_absolute(target: bytes) -> tuple[bytes, bytes, bytes]:
    """Scheme (lower case), authority and origin-form of an absolute-form target (RFC 9112 3.2.2). Raises `Failed`."""
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise Failed(Failure.BAD_REQUEST, "the request target has none of the four forms", close=True)
    scheme, authority, rest = match.groups()
    if not authority or b"@" in authority:
        raise Failed(Failure.BAD_REQUEST, "the authority of the request target is not valid", close=True)
    return scheme.lower(), authority, rest if rest.startswith(b"/") else b"/" + rest


def _why_refused(data: bytes) -> Failed:
    """The failure for a head that does not match. Runs on bad input only."""
    line_end = data.find(b"\r\n")
    line = data[: line_end + 2]
    if _REQUEST_LINE_ONLY.fullmatch(line) is not None:
        return Failed(Failure.BAD_REQUEST, "a field line is not valid", close=True)
    if _LONG_METHOD.match(line) is not None:
        return Failed(Failure.METHOD_NOT_IMPLEMENTED, close=True)
    if _ANY_VERSION.fullmatch(line) is not None and b" HTTP/1." not in line:
        return Failed(Failure.VERSION_NOT_SUPPORTED, close=True)
    return Failed(Failure.BAD_REQUEST, "the request line is not valid", close=True)


def check_partial_request(buffer: bytes | bytearray, scanned: int, max_target: int, max_fields: int) -> None:
    """Refuse early what can no longer become a valid head, and what has grown too large. `scanned` bytes were seen before."""
    if _TOKEN_START.match(buffer) is None:
        raise Failed(Failure.BAD_REQUEST, "this is not an HTTP/1 request", close=True)
    if _BARE_LF.search(buffer, scanned) is not None:
        raise Failed(Failure.BAD_REQUEST, "a line ends without CR", close=True)
    longest_line = max_target + _LONGEST_LINE_OVERHEAD
    line_end = buffer.find(b"\r\n", 0, longest_line)
    if line_end == -1:
        if len(buffer) > longest_line:
            raise _long_line(bytes(buffer[:longest_line]))
    elif line_end >= scanned - 1 and line_end > 0 and _REQUEST_LINE_ONLY.match(buffer) is None:
        raise _why_refused(bytes(buffer[: line_end + 2]))
    if len(buffer) > longest_line + max_fields:
        raise Failed(Failure.HEADERS_TOO_LARGE, close=True)


def check_request_size(data: bytes, end: int, head: RequestHead, max_target: int, max_fields: int, max_count: int) -> None:
    """Refuse a complete head that is over a limit. `end` is where the head ends in `data`."""
    if len(head.target) > max_target:
        raise Failed(Failure.TARGET_TOO_LONG, close=True)
    if end - len(head.target) > max_fields or data.count(b"\r\n", 0, end) - 2 > max_count:
        raise Failed(Failure.HEADERS_TOO_LARGE, close=True)


def _long_line(start: bytes) -> Failed:
    failure = Failure.TARGET_TOO_LONG if b" " in start[:33] else Failure.METHOD_NOT_IMPLEMENTED
    return Failed(failure, close=True)


class ResponseHead:
    """A valid response head. `lines` are the field lines to forward as they are, without CRLF."""

    __slots__ = ("chunked", "has_date", "keep_alive", "length", "lines", "minor", "options", "reason", "status", "upgrade", "values")

    def __init__(self, status: int, minor: int, reason: bytes, lines: list[bytes]) -> None:
        self.status = status
        self.minor = minor
        self.reason = reason
        self.lines = lines
        self.length = -1
        self.chunked = False
        self.keep_alive = minor != 0
        self.has_date = False
        self.upgrade = b""
        self.options: list[bytes] | None = None
        self.values: Mapping[bytes, bytes] = _NO_VALUES


_RESPONSE_KINDS: Final[Mapping[bytes, int]] = {
    **{name: int(Kind.DROP) for name in HOP_BY_HOP},
    b"trailer": int(Kind.DROP),
    b"connection": _K_CONNECTION,
    b"content-length": _K_LENGTH,
    b"transfer-encoding": _K_CODING,
    b"upgrade": _K_UPGRADE,
    b"date": int(Kind.HOST),
    b"content-type": _K_SEEN,
    b"sec-websocket-accept": _K_SEEN,
    b"retry-after": _K_SEEN,
}


def parse_response(data: bytes) -> ResponseHead:
    """The response head at the start of `data`. Raises `Failed(PROTOCOL)` for anything that is not canonical."""
    match = _RESPONSE.match(data)
    if match is None:
        raise Failed(Failure.PROTOCOL, "the response head is not valid")
    minor, status, reason, block = match.groups()
    lines: list[bytes] = []
    head = ResponseHead(int(status), 0 if minor == b"0" else 1, reason or b"", lines)
    for line in block.split(b"\r\n"):
        name, _, value = line.partition(b":")
        kind = _RESPONSE_KINDS.get(name.lower())
        if kind is None:
            lines.append(line)
        elif kind == _K_SEEN:
            lines.append(line)
            head.values = {**head.values, name.lower(): value.strip(b" \t")}
        elif kind == _K_HOST:
            lines.append(line)
            head.has_date = True
        elif kind != _K_DROP:
            _response_special(head, kind, value.strip(b" \t"))
    lines.pop()  # what `split` leaves behind the last CRLF
    if head.chunked and (head.length >= 0 or not head.minor):
        raise Failed(Failure.PROTOCOL, "Transfer-Encoding beside Content-Length or in HTTP/1.0")
    if head.options is not None:
        _apply_response_connection(head, head.options)
    return head


def _response_special(head: ResponseHead, kind: int, value: bytes) -> None:
    if kind == _K_CONNECTION:
        head.options = (head.options or []) + list_members(value)
    elif kind == _K_LENGTH:
        if _LENGTH.fullmatch(value) is None or head.length not in (-1, int(value)):
            raise Failed(Failure.PROTOCOL, "the Content-Length is not one plain number")
        head.length = int(value)
    elif kind == _K_CODING:
        if head.chunked or _CHUNKED.fullmatch(value) is None:
            raise Failed(Failure.PROTOCOL, "the only transfer coding is chunked, once")
        head.chunked = True
    else:
        head.upgrade = value.lower()


def _apply_response_connection(head: ResponseHead, options: list[bytes]) -> None:
    if b"close" in options:
        head.keep_alive = False
    elif b"keep-alive" in options and not head.minor:
        head.keep_alive = True
    nominated = {option for option in options if option not in _ORDINARY_OPTIONS} - NEVER_NOMINATED
    if nominated:
        drop_lines(head.lines, nominated)


REASONS: Final[Mapping[int, bytes]] = {
    200: b"OK",
    204: b"No Content",
    301: b"Moved Permanently",
    302: b"Found",
    303: b"See Other",
    307: b"Temporary Redirect",
    308: b"Permanent Redirect",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    417: b"Expectation Failed",
    421: b"Misdirected Request",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}
"""Reason phrases of the responses made here; others go out without one, which RFC 9112 4 allows."""
