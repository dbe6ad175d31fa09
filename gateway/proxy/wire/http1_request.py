"""HTTP/1.1 request heads on the wire (RFC 9112), read strictly. Responses: `http1_response.py`; bodies: `framing.py`.

A head is accepted when the patterns of its line and of its field section match all of it; whatever does not is refused, so
nothing ambiguous reaches routing or the other side. What is forwarded is always written anew from validated lines.
Why not a library's parser: `docs/decisions.md`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from typing import Final

from gateway.errors import Failed, Failure
from gateway.headers import HOP_BY_HOP, NEVER_NOMINATED, TOKEN, list_members

FIELD_SECTION: Final = re.compile(rb"(?:" + TOKEN + rb"++:[\t\x20-\x7e\x80-\xff]*+\r\n)*\r\n")
"""Field lines and the empty line behind them."""
PADDED_FIELD_SECTION: Final = re.compile(rb"(?:" + TOKEN + rb"++[\t ]*+:[\t\x20-\x7e\x80-\xff]*+\r\n)*\r\n")
"""The same with blanks before colons, which a response may have and a request may not (RFC 9112 5.1)."""
_REQUEST_LINE: Final = re.compile(rb"(" + TOKEN + rb"{1,32}+) ([\x21-\x7e\x80-\xff]++) HTTP/1\.([0-9])\r\n")
_ANY_VERSION: Final = re.compile(rb"[^ ]+ [^ ]+ HTTP/[0-9]\.[0-9]\r\n")
_LONG_METHOD: Final = re.compile(TOKEN + rb"{33}")
BARE: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_TOKEN_START: Final = re.compile(TOKEN + rb"|\r")
_ABSOLUTE: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?#]*)([^#]*)")

MAX_EMPTY_LINES: Final = 8
"""Empty lines tolerated before a request line (RFC 9112 2.2 asks for at least one)."""

_LONGEST_LINE_OVERHEAD: Final = 64
"""Room for method, spaces and version beside the target."""


# What the gateway does with a request field, by its kind.
KEEP: Final = 0
"""Forward it as it is."""
K_HOST: Final = 1
K_CONNECTION: Final = 2
K_LENGTH: Final = 3
K_CODING: Final = 4
K_EXPECT: Final = 5
K_UPGRADE: Final = 6
K_DROP: Final = 7
K_VIA: Final = 8
K_FORWARDED: Final = 9
"""Kept apart: forwarded only from trusted peers."""
K_MAX_FORWARDS: Final = 10
K_NOTED: Final = 11
"""Not forwarded as received, but its value is needed (request id, budget)."""
K_SEEN: Final = 12
"""Forwarded, and its value is needed (routes match on it)."""


def request_kinds(noted: Iterable[bytes], seen: Iterable[bytes]) -> dict[bytes, int]:
    """The table by which request fields are read, by lower-case name."""
    return {
        **dict.fromkeys(seen, K_SEEN),
        **dict.fromkeys(HOP_BY_HOP, K_DROP),
        b"http2-settings": K_DROP,
        b"trailer": K_DROP,
        b"host": K_HOST,
        b"connection": K_CONNECTION,
        b"content-length": K_LENGTH,
        b"transfer-encoding": K_CODING,
        b"expect": K_EXPECT,
        b"upgrade": K_UPGRADE,
        b"via": K_VIA,
        b"max-forwards": K_MAX_FORWARDS,
        b"forwarded": K_FORWARDED,
        b"x-real-ip": K_FORWARDED,
        b"x-forwarded-for": K_FORWARDED,
        b"x-forwarded-proto": K_FORWARDED,
        b"x-forwarded-host": K_FORWARDED,
        b"x-forwarded-port": K_FORWARDED,
        b"x-forwarded-prefix": K_FORWARDED,
        **dict.fromkeys(noted, K_NOTED),
    }


MOST_NAMES: Final = 1024
"""Spellings of field names that a table remembers."""


class FieldTable(dict[bytes, int]):
    """The kind of a field by its name as spelt: looked up as it stands, worked out on first sight and remembered."""

    __slots__ = ("_kinds",)

    def __init__(self, kinds: Mapping[bytes, int]) -> None:
        """`kinds` go by lower-case name."""
        super().__init__()
        self._kinds = kinds

    def __missing__(self, name: bytes) -> int:
        lower = name.lower()
        kind = self._kinds.get(lower, KEEP)
        # CGI-like upstreams read `_` as `-`, so what only looks like a field of ours does not pass.
        if kind == KEEP and b"_" in name and self._kinds.get(lower.replace(b"_", b"-"), K_SEEN) != K_SEEN:
            kind = K_DROP
        if len(self) < MOST_NAMES:
            self[name] = kind
        return kind


_NO_VALUES: Final[Mapping[bytes, bytes]] = {}


class RequestFields:
    """What a field section says. Never changed once read: a client that sends the same bytes again gets the same object."""

    __slots__ = (
        "asked", "block", "chunked", "expect_continue", "forwarded", "host", "keep_alive", "kept", "length", "max_forwards",
        "table", "upgrade", "values", "via",
    )  # fmt: skip

    def __init__(self, block: bytes, table: FieldTable) -> None:
        self.block = block
        """The bytes of the section, with the empty line."""
        self.table = table
        self.kept = b""
        """The field lines to forward as they are, each with its CRLF."""
        self.host: bytes | None = None
        self.length = -1
        """Content-Length, or -1 when there is none."""
        self.chunked = False
        self.keep_alive: bool | None = None
        """What `Connection` says about it; None: nothing, so the version decides."""
        self.expect_continue = False
        self.upgrade = b""
        """The protocols asked for, as sent, when `Connection: upgrade` named the field."""
        self.via: tuple[bytes, ...] = ()
        self.forwarded: dict[bytes, bytes] | None = None
        self.max_forwards = -1
        self.values: Mapping[bytes, bytes] = _NO_VALUES
        """Values of fields that policies asked for, by lower-case name."""
        self.asked: object = None
        """What they mean for compression; see `steps/compression.py`."""


class RequestHead:
    """A valid request head: the request line, its fields, and the marks that the steps change."""

    __slots__ = ("expect_continue", "fields", "keep_alive", "kept", "method", "minor", "target", "upgrade")

    def __init__(self, method: bytes, target: bytes, minor: int, fields: RequestFields) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        """The client's HTTP/1 minor version, 0 or 1."""
        self.fields = fields
        self.kept = fields.kept
        self.keep_alive = bool(minor) if fields.keep_alive is None else fields.keep_alive
        self.expect_continue = fields.expect_continue
        self.upgrade = fields.upgrade if minor else b""


class RequestReader:
    """Reads request heads."""

    __slots__ = ("_table",)

    def __init__(self, kinds: Mapping[bytes, int]) -> None:
        self._table = FieldTable(kinds)

    def read(self, data: bytes, end: int, at: int = 0, last: RequestFields | None = None) -> RequestHead:
        """The head that stands in `data` from `at` to (with its empty line) `end`.

        `last` are the fields of the connection's request before: clients repeat theirs byte for byte, and then they are not
        read again. Raises `Failed` with `close=True`: after a bad head nothing on the connection can be trusted.
        """
        match = _REQUEST_LINE.match(data, at)
        if match is None:
            raise _why_refused(data[at:end])
        method, target, version = match.groups()
        minor = 0 if version == b"0" else 1
        block = data[match.end() : end]
        if last is not None and last.block == block and last.table is self._table:
            fields = last
        else:
            fields = read_request_fields(block, self._table)
        if minor:
            if fields.host is None:
                raise Failed(Failure.BAD_REQUEST, "an HTTP/1.1 request has a Host field", close=True)
        elif fields.chunked:
            raise Failed(Failure.BAD_REQUEST, "Transfer-Encoding in HTTP/1.0", close=True)
        return RequestHead(method, target if target.isascii() else escape_target(target), minor, fields)


def read_request_fields(block: bytes, table: FieldTable) -> RequestFields:
    """The meaning of a field section. Raises `Failed` for what is not valid, ambiguous, or not for us to pass on."""
    if FIELD_SECTION.fullmatch(block) is None:
        raise Failed(Failure.BAD_REQUEST, _why_no_field(block), close=True)
    fields = RequestFields(block, table)
    lines: list[bytes] = []
    options: list[bytes] = []
    upgrade = b""
    for line in block.split(b"\r\n")[:-2]:
        name = line[: line.find(b":")]
        kind = table[name]
        if kind == KEEP:
            lines.append(line)
        elif kind == K_HOST:
            if fields.host is not None:
                raise Failed(Failure.BAD_REQUEST, "more than one Host field", close=True)
            fields.host = line[5:].strip(b" \t")
        elif kind == K_CONNECTION:
            options += PLAIN_OPTIONS.get(line[11:]) or list_members(line[11:])
        elif kind == K_UPGRADE:
            value = line[8:].strip(b" \t")
            upgrade = upgrade + b", " + value if upgrade else value
        elif kind != K_DROP:
            if kind in (K_VIA, K_SEEN):
                lines.append(line)
            _special(fields, kind, name.lower(), line[len(name) + 1 :].strip(b" \t"))
    if fields.chunked and fields.length >= 0:
        raise Failed(Failure.BAD_REQUEST, "Transfer-Encoding beside Content-Length", close=True)
    lines.append(b"")
    fields.kept = b"\r\n".join(lines)
    if options:
        _apply_connection(fields, options, upgrade)
    return fields


def _special(fields: RequestFields, kind: int, name: bytes, value: bytes) -> None:
    """The less common fields."""
    if kind == K_LENGTH:
        if fields.length >= 0 or LENGTH.fullmatch(value) is None:
            raise Failed(Failure.BAD_REQUEST, "the Content-Length is not one plain number", close=True)
        fields.length = int(value)
    elif kind == K_CODING:
        codings = list_members(value)
        if fields.chunked or codings != [b"chunked"]:
            # Chunked twice, or not as the last, is wrong whatever else is implemented (RFC 9112 6.1, 6.3).
            framed = not fields.chunked and codings.count(b"chunked") == 1 and codings[-1] == b"chunked"
            failure = Failure.CODING_NOT_IMPLEMENTED if framed else Failure.BAD_REQUEST
            raise Failed(failure, "the only transfer coding is chunked, once", close=True)
        fields.chunked = True
    elif kind == K_EXPECT:
        expected = list_members(value)
        if any(one != b"100-continue" for one in expected):
            raise Failed(Failure.EXPECTATION_FAILED, close=True)
        fields.expect_continue |= bool(expected)
    elif kind == K_VIA:
        fields.via = (*fields.via, value)
    elif kind == K_FORWARDED:
        fields.forwarded = _with(fields.forwarded or {}, name, value)
    elif kind == K_MAX_FORWARDS:
        if fields.max_forwards >= 0 or LENGTH.fullmatch(value) is None:
            raise Failed(Failure.BAD_REQUEST, "Max-Forwards is not one plain number", close=True)
        fields.max_forwards = int(value)
    else:
        fields.values = _with(fields.values, name, value)


def _with(values: Mapping[bytes, bytes], name: bytes, value: bytes) -> dict[bytes, bytes]:
    """The values and one more; repeated fields are one list (RFC 9110 5.3)."""
    return {**values, name: values[name] + b", " + value if name in values else value}


def _apply_connection(fields: RequestFields, options: list[bytes], upgrade: bytes) -> None:
    """Obey the client's `Connection` options (RFC 9110 7.6.1)."""
    if b"close" in options:
        fields.keep_alive = False
    elif b"keep-alive" in options:
        fields.keep_alive = True
    if upgrade and b"upgrade" in options:
        fields.upgrade = upgrade
    if not ORDINARY_OPTIONS.issuperset(options):
        nominated = set(options) - ORDINARY_OPTIONS
        if not nominated.isdisjoint(_NOT_TO_NOMINATE):
            raise Failed(Failure.BAD_REQUEST, "Connection names a field that is not for one connection only", close=True)
        fields.kept = without(fields.kept, nominated)


ORDINARY_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"upgrade", b"te", b"http2-settings", b"proxy-connection"})
"""`Connection` options that nominate nothing, or only what is dropped anyway."""
PLAIN_OPTIONS: Final[Mapping[bytes, list[bytes]]] = {
    b" " + value: [value.lower()] for value in (b"keep-alive", b"Keep-Alive", b"close", b"Close", b"Upgrade", b"upgrade")
}
"""What `Connection` nearly always says, as it stands behind the colon."""

_NOT_TO_NOMINATE: Final = NEVER_NOMINATED | {b"transfer-encoding"}


def without(block: bytes, names: Container[bytes]) -> bytes:
    """The lines of `block` (each with its CRLF) without the fields of these lower-case names."""
    lines = block.split(b"\r\n")[:-1]
    return b"".join([line + b"\r\n" for line in lines if line.partition(b":")[0].lower() not in names])


def escape_target(target: bytes) -> bytes:
    """Percent-encode the characters of a target that no URI may hold but some clients send as UTF-8. Raises `Failed` for bytes
    that are none: nobody knows what they are."""
    try:
        target.decode("utf-8")
    except UnicodeDecodeError:
        raise Failed(Failure.BAD_REQUEST, "the request target holds bytes that are not UTF-8", close=True) from None
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
    """The failure for a request line that does not match. Runs on bad input only."""
    line = data[: data.find(b"\r\n") + 2]
    if _LONG_METHOD.match(line) is not None:
        return Failed(Failure.METHOD_NOT_IMPLEMENTED, close=True)
    if _ANY_VERSION.fullmatch(line) is not None and b" HTTP/1." not in line:
        return Failed(Failure.VERSION_NOT_SUPPORTED, close=True)
    return Failed(Failure.BAD_REQUEST, "the request line is not valid", close=True)


_FIELD_FAULTS: Final = (
    (re.compile(rb"[\t ]"), "a field line is folded: it begins with a blank"),
    (re.compile(TOKEN + rb"*+[\t ]++:"), "a blank stands before the colon of a field"),
    (re.compile(rb"[^:]*\Z"), "a field line has no colon"),
    (re.compile(TOKEN + rb"++:"), "the value of a field holds a control character"),
)


def _why_no_field(block: bytes) -> str:
    """What is wrong with a field section, in words. Runs on bad input only."""
    for line in block.split(b"\r\n")[:-2]:
        if FIELD_SECTION.fullmatch(line + b"\r\n\r\n") is None:
            return next(
                (why for pattern, why in _FIELD_FAULTS if pattern.match(line) is not None), "the name of a field is not valid"
            )
    return "a field line is not valid"


def check_partial_request(buffer: bytes | bytearray, scanned: int, max_target: int, max_fields: int) -> None:
    """Refuse early what can no longer become a valid head, and what has grown too large. `scanned` bytes were seen before."""
    if _TOKEN_START.match(buffer) is None:
        raise Failed(Failure.BAD_REQUEST, "this is not an HTTP/1 request", close=True)
    if BARE.search(buffer, scanned) is not None:
        raise Failed(Failure.BAD_REQUEST, "a line does not end with CRLF", close=True)
    longest_line = max_target + _LONGEST_LINE_OVERHEAD
    line_end = buffer.find(b"\r\n", 0, longest_line)
    if line_end == -1:
        if len(buffer) > longest_line:
            raise _long_line(bytes(buffer[:longest_line]), max_target)
    elif line_end >= scanned - 1 and line_end > 0 and _REQUEST_LINE.match(buffer) is None:
        raise _why_refused(bytes(buffer[: line_end + 2]))
    if len(buffer) > longest_line + max_fields:
        raise _fields_too_large(max_fields)


def check_request_size(block: bytes, head: RequestHead, max_target: int, max_fields: int, max_count: int) -> None:
    """Refuse a complete head that is over a limit. `block` is all of it."""
    if len(head.target) > max_target:
        raise _target_too_long(max_target)
    if len(block) - len(head.target) > max_fields:
        raise _fields_too_large(max_fields)
    if block.count(b"\r\n") - 2 > max_count:
        raise Failed(Failure.HEADERS_TOO_LARGE, f"more than {max_count} fields (server.limits.header_count)", close=True)


def _fields_too_large(most: int) -> Failed:
    return Failed(Failure.HEADERS_TOO_LARGE, f"more than {most} bytes (server.limits.headers)", close=True)


def _target_too_long(most: int) -> Failed:
    return Failed(Failure.TARGET_TOO_LONG, f"more than {most} bytes (server.limits.target)", close=True)


def _long_line(start: bytes, max_target: int) -> Failed:
    return _target_too_long(max_target) if b" " in start[:33] else Failed(Failure.METHOD_NOT_IMPLEMENTED, close=True)
