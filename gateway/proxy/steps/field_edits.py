"""The operator's changes to field lines: `request_fields` and `response_fields`."""

from __future__ import annotations

from gateway.proxy.wire.http1_request import without
from gateway.snapshot import FieldEdits


def edited(block: bytes, edits: FieldEdits) -> bytes:
    """The field lines of `block` with the operator's changes."""
    if edits.drop:
        block = without(block, edits.drop)
    return block + b"".join([line + b"\r\n" for line in edits.lines])


def edited_lines(lines: tuple[bytes, ...], edits: FieldEdits) -> tuple[bytes, ...]:
    """The field lines, none of which has its CRLF, with the operator's changes."""
    kept = (line for line in lines if line.partition(b":")[0].lower() not in edits.drop)
    return (*kept, *edits.lines)
