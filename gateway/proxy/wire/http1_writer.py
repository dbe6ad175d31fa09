"""HTTP/1.1 messages as bytes (RFC 9112): start lines and framing around the field lines that the steps have chosen.

Field lines arrive as a list of blocks: each block is any number of bytes, and all of them joined are complete lines, each with
its CRLF. So a head is joined once, however many steps had something to say in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from gateway.proxy.wire.http1_request import RequestHead
from gateway.proxy.wire.http1_response import ResponseHead

REASONS: Final[Mapping[int, bytes]] = {
    **{status.value: status.phrase.encode("ascii") for status in HTTPStatus},
    413: b"Content Too Large",
    414: b"URI Too Long",
}
"""Reason phrases of the responses made here; a status that nobody registered goes out without one, which RFC 9112 4 allows."""

_STATUS_LINES: Final = {status: (reason, b"HTTP/1.1 %d %b\r\n" % (status, reason)) for status, reason in REASONS.items()}
"""Status lines as they mostly are: to look one up costs a third of formatting it."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def request_message(head: RequestHead, target: bytes, host: bytes, lines: list[bytes]) -> bytes:
    """The head of a request to an upstream, for the client's request `head`."""
    fields = head.fields
    if fields.length >= 0:
        lines.append(b"Content-Length: %d\r\n" % fields.length)
    elif fields.chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    if head.upgrade:
        lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade)
    return b"".join((head.method, b" ", target, b" HTTP/1.1\r\nHost: ", host, b"\r\n", *lines, b"\r\n"))


def response_message(status: int, reason: bytes, lines: list[bytes], content: bytes = b"") -> bytes:
    """A final response: its head, and `content` behind it; `lines` hold what frames that too."""
    known = _STATUS_LINES.get(status)
    if known is not None and known[0] == reason:
        return b"".join((known[1], *lines, b"\r\n", content))
    return b"".join((b"HTTP/1.1 %d %b\r\n" % (status, reason), *lines, b"\r\n", content))


def switching_head(head: ResponseHead, lines: list[bytes]) -> bytes:
    """The 101 for the client (RFC 9110 7.8)."""
    upgrade = b"Connection: Upgrade\r\nUpgrade: %b\r\n\r\n" % head.fields.upgrade
    return b"".join((b"HTTP/1.1 101 Switching Protocols\r\n", *lines, upgrade))


def interim_head(head: ResponseHead) -> bytes:
    """A 1xx on its way through."""
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (head.status, head.reason, head.fields.kept)
