"""HTTP/1.1 response heads on the wire (RFC 9112): an upstream's mistake must not become the client's problem.

What is odd but clear goes on: a status that nobody registered, a blank before a colon. What is not clear is answered 502.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.errors import Failed, Failure
from gateway.headers import HOP_BY_HOP, NEVER_NOMINATED, TOKEN, list_members
from gateway.policies.compression import Fields
from gateway.proxy.wire.http1_request import (
    BARE,
    FIELD_SECTION,
    KEEP,
    LENGTH,
    ORDINARY_OPTIONS,
    PADDED_FIELD_SECTION,
    PLAIN_OPTIONS,
    FieldTable,
    without,
)

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*+))?\r\n")
_STATUS_START: Final = b"HTTP/1."
_SPOKEN: Final = (
    (b"\x15\x03", "it answers in TLS: is it an `https://` endpoint?"),
    (b"\x00\x00", "it answers in HTTP/2 or another binary protocol"),
    (b"SSH-", "it answers in SSH"),
    (b"220", "it answers as a mail or FTP server does"),
    (b"-ERR", "it answers as Redis does"),
    (b"<", "it answers with a document and no response head"),
)
"""How answers in other protocols begin."""
_BLANK_BEFORE_COLON: Final = re.compile(rb"^(" + TOKEN + rb"++)[\t ]++:", re.MULTILINE)
"""RFC 9112 5.1: a proxy removes the blanks from a response. (In a request they are 400.)"""

_CONNECTION: Final = 1
_CONTENT_LENGTH: Final = 2
_TRANSFER_ENCODING: Final = 3
_UPGRADE: Final = 4
_DATE: Final = 5
_WEBSOCKET_ACCEPT: Final = 6
_DROP: Final = 7

_KINDS: Final[Mapping[bytes, int]] = {
    **dict.fromkeys(HOP_BY_HOP, _DROP),
    b"trailer": _DROP,
    b"connection": _CONNECTION,
    b"content-length": _CONTENT_LENGTH,
    b"transfer-encoding": _TRANSFER_ENCODING,
    b"upgrade": _UPGRADE,
    b"date": _DATE,
    b"sec-websocket-accept": _WEBSOCKET_ACCEPT,
}

_TABLE: Final = FieldTable(_KINDS)


@dataclass(slots=True, eq=False)
class ResponseFields:
    """What a field section says. Never changed once read: an upstream that sends the same bytes again gets the same object."""

    block: bytes
    """The bytes of the section, with the empty line, and without blanks before colons."""
    own: bytes
    """Lower-case name of the field that was left out because the gateway sets it."""
    kept: bytes = b""
    """The field lines to forward as they are, each with its CRLF."""
    length: int = -1
    chunked: bool = False
    keep_alive: bool | None = None
    """What `Connection` says about it; None: nothing, so the version decides."""
    has_date: bool = False
    coding: Fields | None = None
    """What they mean for compression; read when a route first asks."""
    upgrade: bytes = b""
    """The protocol switched to, as sent."""
    switches: bool = False
    """`Connection: upgrade` was sent."""
    websocket_accept: bytes = b""


class ResponseHead:
    """A valid response head."""

    __slots__ = ("chunked", "fields", "keep_alive", "length", "reason", "status")

    def __init__(self, status: int, minor: int, reason: bytes, fields: ResponseFields) -> None:
        self.status = status
        self.reason = reason
        self.fields = fields
        self.length = fields.length
        self.chunked = fields.chunked
        self.keep_alive = bool(minor) if fields.keep_alive is None else fields.keep_alive


def read_response(data: bytes, end: int, own: bytes, last: ResponseFields | None = None) -> ResponseHead:
    """The head at the start of `data` that ends (with its empty line) at `end`. Raises `Failed(PROTOCOL)`.

    `own` is the lower-case name of the field that the gateway sets itself (the request id): the upstream's is left out.
    `last` are the fields of the connection's response before; the same bytes are not read again.
    """
    match = _STATUS_LINE.match(data)
    if match is None:
        raise Failed(Failure.PROTOCOL, _spoken(data) or "the status line is not valid")
    version, status, reason = match.groups()
    block = data[match.end() : end]
    known = last is not None and last.block == block and last.own == own
    fields = last if known and last is not None else read_response_fields(block, own)
    if fields.chunked and version == b"0":
        raise Failed(Failure.PROTOCOL, "Transfer-Encoding in HTTP/1.0")
    return ResponseHead(int(status), 0 if version == b"0" else 1, reason or b"", fields)


def read_response_fields(block: bytes, own: bytes = b"") -> ResponseFields:
    """The meaning of a field section. Raises `Failed(PROTOCOL)` for what is not valid, and for broken framing."""
    if FIELD_SECTION.fullmatch(block) is None:
        if PADDED_FIELD_SECTION.fullmatch(block) is None:
            raise Failed(Failure.PROTOCOL, "a field line is not valid")
        block = _BLANK_BEFORE_COLON.sub(rb"\1:", block)
    fields = ResponseFields(block, own)
    lines: list[bytes] = []
    options: list[bytes] = []
    for line in block.split(b"\r\n")[:-2]:
        name = line[: line.find(b":")]
        kind = _TABLE[name]
        if kind == KEEP:
            if len(name) != len(own) or name.lower() != own:
                lines.append(line)
        elif kind == _DATE:
            lines.append(line)
            fields.has_date = True
        elif kind == _CONTENT_LENGTH:
            value = line[15:].strip(b" \t")
            length = int(value) if LENGTH.fullmatch(value) is not None else -1
            if length < 0 or fields.length not in (-1, length):
                raise Failed(Failure.PROTOCOL, "the Content-Length is not one plain number")
            fields.length = length
        elif kind == _CONNECTION:
            options += PLAIN_OPTIONS.get(line[11:]) or list_members(line[11:])
        elif kind != _DROP:
            _special(fields, kind, line[len(name) + 1 :].strip(b" \t"))
            if kind == _WEBSOCKET_ACCEPT:
                lines.append(line)
    if fields.chunked and fields.length >= 0:
        raise Failed(Failure.PROTOCOL, "Transfer-Encoding beside Content-Length")
    lines.append(b"")
    fields.kept = b"\r\n".join(lines)
    if options:
        _apply_connection(fields, options)
    return fields


def _special(fields: ResponseFields, kind: int, value: bytes) -> None:
    if kind == _TRANSFER_ENCODING:
        if fields.chunked or list_members(value) != [b"chunked"]:
            raise Failed(Failure.PROTOCOL, "the only transfer coding is chunked, once")
        fields.chunked = True
    elif kind == _UPGRADE:
        fields.upgrade = value
    else:
        fields.websocket_accept = value


def _apply_connection(fields: ResponseFields, options: list[bytes]) -> None:
    """Obey the upstream's `Connection` options (RFC 9110 7.6.1)."""
    if b"close" in options:
        fields.keep_alive = False
    elif b"keep-alive" in options:
        fields.keep_alive = True
    fields.switches = b"upgrade" in options
    if not ORDINARY_OPTIONS.issuperset(options):
        fields.kept = without(fields.kept, set(options) - ORDINARY_OPTIONS - NEVER_NOMINATED)


def check_partial_response(buffer: bytes, scanned: int = 0) -> None:
    """Refuse early what can no longer become a valid response head. `scanned` bytes were seen before."""
    if not buffer.startswith(_STATUS_START[: len(buffer)]) or BARE.search(buffer, scanned) is not None:
        raise Failed(Failure.PROTOCOL, _spoken(buffer) or "the response head is not valid")


def _spoken(data: bytes) -> str:
    """For people: what a service speaks that does not speak HTTP/1.1; empty when it cannot be told."""
    return next((says for begins, says in _SPOKEN if data.startswith(begins)), "")
