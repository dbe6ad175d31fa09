"""The operator's changes to field lines: `request_fields` and `response_fields`, with facts of the request in their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.headers import forwarded_node, visible
from gateway.proxy.wire.http1_request import without
from gateway.snapshot import Fact

if TYPE_CHECKING:
    from gateway.proxy.exchange import Exchange
    from gateway.snapshot import FieldEdits, FieldPart

# A member looked up on its Enum class costs 0.07 µs on CPython 3.11, a global 0.01 µs.
_CLIENT_IP: Final = Fact.CLIENT_IP
_REQUEST_ID: Final = Fact.REQUEST_ID
_HOST: Final = Fact.HOST
_SCHEME: Final = Fact.SCHEME
_METHOD: Final = Fact.METHOD


def edited(block: bytes, edits: FieldEdits, x: Exchange) -> bytes:
    """The field lines of `block` with the operator's changes."""
    if edits.drop:
        block = without(block, edits.drop)
    block += b"".join([line + b"\r\n" for line in edits.lines])
    return block + told(edits.parts, x) if edits.parts else block


def edited_lines(lines: tuple[bytes, ...], edits: FieldEdits, x: Exchange) -> bytes:
    """The field lines, none of which has its CRLF, with the operator's changes, as a block."""
    kept = (line for line in lines if line.partition(b":")[0].lower() not in edits.drop)
    return b"".join([line + b"\r\n" for line in (*kept, *edits.lines)]) + told(edits.parts, x)


def told(parts: tuple[FieldPart, ...], x: Exchange) -> bytes:
    """Field lines with the facts of this request in them."""
    return b"".join([part if isinstance(part, bytes) else fact(*part, x) for part in parts])


def fact(kind: Fact, name: str, x: Exchange) -> bytes:
    """A fact of the request, in bytes that a field may hold; nothing where the request has none."""
    if kind is _CLIENT_IP:
        return forwarded_node(None) if (address := x.client_ip or x.client.peer) is None else str(address).encode("ascii")
    if kind is _REQUEST_ID:
        return x.request_id
    if kind is _HOST:
        return x.host
    if kind is _SCHEME:
        return x.scheme()
    if kind is _METHOD:
        return x.head.method
    return next((visible(value) for parameter, value in x.parameters if parameter == name), b"")
