"""Encoders and decoders of content codings, from libraries: Zstandard and Brotli when they are installed, gzip always.

A coding is encoded in blocks that end where a decoder can show everything so far, so that no byte waits inside an encoder.
Windows are bounded (RFC 9659: at most 8 MiB; here far less), so that a response costs a few MiB at most whatever its size.
"""

from __future__ import annotations

import functools
import importlib
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.ports import Coder, ContentDecoder, Encoder


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


brotli: Final = _library("brotli")
isal_zlib: Final = _library("isal.isal_zlib")
zstd: Final = _library("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")

LIBRARIES: Final = {
    "zstd": "" if zstd is not None else "backports.zstd",
    "br": "" if brotli is not None else "brotli",
    "gzip": "",
}
"""What is missing for a coding; empty: it can be offered."""

LEVELS: Final = {"zstd": (1, 19), "br": (0, 11), "gzip": (1, 9)}
DEFAULT_LEVELS: Final = {"zstd": 1, "br": 4, "gzip": 1}

LONGEST: Final = 100.0
"""Microseconds of encoding in one go on the event loop; about what it costs to have a thread do it."""

_SPEEDS: Final[dict[str, tuple[float, ...]]] = {
    "zstd": (1.3, 1.4, 1.6, 2, 5, 9, 11, 12, 17, 28, 36, 48, 100, 190, 200, 330, 330, 370, 1100),
    "br": (1.3, 1.9, 3.7, 5, 6.2, 10, 20, 40, 55, 100, 500, 1200),
    "gzip": (2.5, 2.5, 4.6, 5, 7.2, 12, 16, 30, 40),
    "isal": (1.0, 1.0),
}
"""Microseconds per KiB of JSON, by level from the lowest; measured (tests/bench/compression.py speed)."""

_STREAM_WINDOW: Final = 18
"""log2 of how far back an encoder of a stream looks: 256 KiB. It costs 2 % of size and saves half of the memory."""


def _inline(speeds: str, place: int) -> int:
    return max(1024, int(LONGEST / _SPEEDS[speeds][place] * 1024))


def _zstd(level: int) -> Coder:
    """Zstandard (RFC 8878)."""
    names = zstd.CompressionParameter
    options = {names.compression_level: level}
    if level == 1:
        # Of 16 KiB of JSON a tenth faster and 1 % smaller; of other text 2 % larger.
        options |= {names.min_match: 6, names.hash_log: 13}
    # The context is kept: to make one costs as much as to compress some KiB. Only the event loop uses it.
    whole = zstd.ZstdCompressor(options=options).compress

    def encoder() -> Encoder:
        # Unasked, the tables would be as large as a body without end deserves: 10 MiB from level 9 on.
        tables = {names.hash_log: 15 if level <= 4 else 17, names.chain_log: 15 if level <= 4 else 17}
        bounded = {names.compression_level: level, names.window_log: _STREAM_WINDOW, **tables}
        compress = zstd.ZstdCompressor(options=bounded).compress
        return Encoder(lambda data: compress(data, 1), lambda data: compress(data, 2))

    return Coder(b"zstd", _inline("zstd", level - 1), lambda data: whole(data, 2), encoder)


def _brotli(level: int) -> Coder:
    """Brotli (RFC 7932)."""

    def encoder() -> Encoder:
        # From 7 to 9 the tables are 8 to 32 MiB, unless the window is 64 KiB.
        stream = brotli.Compressor(quality=level, lgwin=16 if 7 <= level <= 9 else _STREAM_WINDOW)
        return Encoder(lambda data: stream.process(data) + stream.flush(), lambda data: stream.process(data) + stream.finish())

    return Coder(b"br", _inline("br", level), lambda data: brotli.compress(data, quality=level, lgwin=_STREAM_WINDOW), encoder)


def _gzip(level: int) -> Coder:
    """gzip (RFC 1952): levels 1 and 2 by isal where it is installed, which is faster and smaller; all else by zlib."""
    fast = isal_zlib is not None and level <= 2
    library: Any = isal_zlib if fast else zlib

    def encoder() -> Encoder:
        stream = library.compressobj(level, zlib.DEFLATED, 31)
        return Encoder(
            lambda data: stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH),
            lambda data: stream.compress(data) + stream.flush(zlib.Z_FINISH),
        )

    inline = _inline("isal" if fast else "gzip", level - 1)
    return Coder(b"gzip", inline, lambda data: library.compress(data, level, 31), encoder)


# -- decoders ----------------------------------------------------------------------------------------------------------


class TooMuchError(Exception):
    """More comes out than may."""


class _Members:
    """gzip and Zstandard: members or frames, one behind the other (RFC 1952 2.2, RFC 8878 3.1).

    A decoder of an empty one costs as much as one of a large one, so that they are bounded: 16, and one more per KiB.
    """

    __slots__ = ("_decoder", "_empty", "_error", "_left", "_make")

    def __init__(self, make: Callable[[], Any], error: type[Exception]) -> None:
        self._make = make
        self._error = error
        self._decoder = make()
        self._empty = True
        """Nothing of the current member has come."""
        self._left = 16.0
        """How many members more there may be."""

    @property
    def complete(self) -> bool:
        return self._decoder.eof or self._empty

    def feed(self, data: bytes, most: int) -> bytes:
        found: list[bytes] = []
        left = most
        self._left += len(data) / 1024
        while data:
            if self._decoder.eof:
                self._left -= 1
                if self._left < 0:
                    raise ValueError("too many members")
                self._decoder = self._make()
            self._empty = False
            try:
                piece = self._decoder.decompress(data, left + 1)
            except self._error as error:
                raise ValueError("not valid") from error
            left -= len(piece)
            if left < 0:
                raise TooMuchError
            found.append(piece)
            data = self._decoder.unused_data if self._decoder.eof else getattr(self._decoder, "unconsumed_tail", b"")
        return b"".join(found)


class _BrotliDecoder:
    __slots__ = ("_decoder", "complete")

    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()
        self.complete = True

    def feed(self, data: bytes, most: int) -> bytes:
        found: list[bytes] = []
        left = most
        try:
            while True:
                piece = self._decoder.process(data, output_buffer_limit=left + 1)
                data = b""
                left -= len(piece)
                if left < 0:
                    raise TooMuchError
                found.append(piece)
                if self._decoder.can_accept_more_data() or not piece:
                    break
        except brotli.error as error:
            raise ValueError("not valid") from error
        self.complete = self._decoder.is_finished()
        return b"".join(found)


def _gzip_decoder() -> ContentDecoder:
    return _Members(lambda: zlib.decompressobj(31), zlib.error)


def _zstd_decoder() -> ContentDecoder:
    options = {zstd.DecompressionParameter.window_log_max: 23}
    return _Members(lambda: zstd.ZstdDecompressor(options=options), zstd.ZstdError)


DECODERS: Final[Mapping[bytes, Callable[[], ContentDecoder]]] = {
    b"gzip": _gzip_decoder,
    b"x-gzip": _gzip_decoder,
    **({b"br": _BrotliDecoder} if brotli is not None else {}),
    **({b"zstd": _zstd_decoder} if zstd is not None else {}),
}
"""By what `Content-Encoding` says."""


@functools.cache
def coder(coding: str, level: int | None = None) -> Coder | None:
    """The coder of a coding, one for all routes; None when its library is not installed."""
    if LIBRARIES[coding]:
        return None
    make = {"zstd": _zstd, "br": _brotli, "gzip": _gzip}[coding]
    return make(DEFAULT_LEVELS[coding] if level is None else level)
