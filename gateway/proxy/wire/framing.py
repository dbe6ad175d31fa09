"""Where a message body ends (RFC 9112 6, 7): decoders that take bytes as they arrive and say what of them is body.

`feed(data)` returns the body bytes found in `data`; afterwards `done` tells whether the body is complete and `rest` holds
what lies behind its end. A decoder raises `FramingError` once and is of no use after it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.headers import TOKEN
from gateway.proxy.wire.http1_request import FIELD_SECTION, PADDED_FIELD_SECTION

MAX_CHUNK_LINE: Final = 4096
"""Bytes of one chunk-size line with its extensions."""
MAX_EXTENSIONS: Final = 16 * 1024
"""Bytes of all chunk extensions of one body (RFC 9112 7.1.1 asks for a bound)."""
MAX_TRAILERS: Final = 16 * 1024
"""Bytes of a trailer section."""

_EXTENSION: Final = (
    rb"[ \t]*;[ \t]*"
    + TOKEN
    + rb"+(?:[ \t]*=[ \t]*(?:"
    + TOKEN
    + rb'+|"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"))?'
)
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})((?:" + _EXTENSION + rb")+[ \t]*)\r\n")
_PADDED_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})((?:" + _EXTENSION + rb")*[ \t]*)\r\n")
_PLAIN_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")


class FramingError(ValueError):
    """The bytes cannot be a body of this framing; the text says why and holds none of them."""


class Decoder(Protocol):
    """What `Body` needs of a framing."""

    done: bool
    rest: bytes

    def feed(self, data: bytes) -> bytes: ...


class LengthDecoder:
    """Content-Length: exactly `length` bytes."""

    __slots__ = ("_left", "done", "rest")

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        # Bytes that belong to the body are passed on without a copy.
        left = self._left - len(data)
        if left > 0:
            self._left = left
            return data
        self.done = True
        self._left = 0
        if left == 0:
            return data
        self.rest = data[left:]
        return data[:left]


@dataclass(slots=True, eq=False)
class UntilClose:
    """A response body that ends with the connection (RFC 9112 6.3, item 8). `done` is set by who sees the end."""

    done: bool = False
    rest: bytes = b""

    def feed(self, data: bytes) -> bytes:
        return data


class ChunkedDecoder:
    """Transfer-Encoding: chunked. Extensions are ignored, trailers are checked and dropped (RFC 9110 6.5.1 allows it)."""

    __slots__ = ("_extensions", "_held", "_left", "_trailers", "done", "rest")

    line = _CHUNK_LINE
    """A chunk-size line with extensions."""
    section = FIELD_SECTION
    """Trailers, with the empty line."""

    def __init__(self) -> None:
        self._held = b""
        """An incomplete line, kept until the rest of it arrives."""
        self._left = 0
        """Bytes of the current chunk still to come, plus 2 for the CRLF behind it; 0 between chunks."""
        self._extensions = 0
        self._trailers = False
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        if self._held:
            data = self._held + data
            self._held = b""
        found: list[bytes] = []
        at, size = 0, len(data)
        while at < size and not self._trailers:
            if self._left:
                at = self._take_chunk(data, at, size, found)
            else:
                line_end = self._start_chunk(data, at)
                if line_end == -1:
                    break
                at = line_end
        if self._trailers and (at < size):
            self._end(data, at)
        return found[0] if len(found) == 1 else b"".join(found)

    def _take_chunk(self, data: bytes, at: int, size: int, found: list[bytes]) -> int:
        left = self._left
        available = size - at
        if available < left - 2:
            found.append(data[at:])
            self._left = left - available
            return size
        end = at + left - 2
        if left > 2:
            found.append(data[at:end])
        if size < end + 2:
            if data[end:] not in (b"", b"\r"):
                raise FramingError("no CRLF behind the chunk data")
            self._left = 2
            self._held = data[end:]
            return size
        if data[end : end + 2] != b"\r\n":
            raise FramingError("no CRLF behind the chunk data")
        self._left = 0
        return end + 2

    def _start_chunk(self, data: bytes, at: int) -> int:
        """Read a chunk-size line at `at`; returns where its data starts, or -1 when the line is not complete."""
        match = _PLAIN_CHUNK_LINE.match(data, at)
        if match is None:
            if data.find(b"\n", at, at + MAX_CHUNK_LINE) == -1:
                if len(data) - at >= MAX_CHUNK_LINE:
                    raise FramingError("the chunk-size line is too long")
                self._held = data[at:]
                _check_partial_line(self._held)
                return -1
            match = self.line.match(data, at)
            if match is None:
                raise FramingError("the chunk-size line is not valid")
            self._extensions += len(match[2])
            if self._extensions > MAX_EXTENSIONS:
                raise FramingError("the chunk extensions are too long")
        size = int(match[1], 16)
        if size == 0:
            self._trailers = True
        else:
            self._left = size + 2
        return match.end()

    def _end(self, data: bytes, at: int) -> None:
        match = self.section.match(data, at)
        if (len(data) if match is None else match.end()) - at > MAX_TRAILERS:
            raise FramingError("the trailer section is too large")
        if match is not None:
            self.done = True
            self.rest = data[match.end() :]
            return
        if data.find(b"\r\n\r\n", at) != -1 or data.startswith(b"\r\n", at) or _BARE_LF.search(data, at) is not None:
            raise FramingError("the trailer section is not valid")
        self._held = data[at:]


class ResponseChunkedDecoder(ChunkedDecoder):
    """Of a response: blanks behind a chunk size and before the colon of a trailer are odd, but clear."""

    __slots__ = ()

    line = _PADDED_CHUNK_LINE
    section = PADDED_FIELD_SECTION


_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_PARTIAL_LINE: Final = re.compile(rb"[0-9A-Fa-f]{1,15}(?:[ \t;].*)?\r?", re.DOTALL)


def _check_partial_line(line: bytes) -> None:
    """Refuse at once what can no longer become a chunk-size line, rather than wait for more of it."""
    if _PARTIAL_LINE.fullmatch(line) is None or line.find(b"\r", 0, -1) != -1:
        raise FramingError("the chunk-size line is not valid")
