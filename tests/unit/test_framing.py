"""Body decoders: the same body however the bytes are cut, and nothing but bodies."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.proxy.wire.framing import (
    MAX_CHUNK_LINE,
    MAX_EXTENSIONS,
    MAX_TRAILERS,
    ChunkedDecoder,
    Decoder,
    FramingError,
    LengthDecoder,
    ResponseChunkedDecoder,
    UntilClose,
)


def feed(decoder: Decoder, *parts: bytes) -> bytes:
    """All body bytes in these parts; the last part is the one that ends the body."""
    found = b""
    for part in parts:
        assert not decoder.done
        found += decoder.feed(part)
    return found


CHUNKED = b'5\r\nhello\r\nA;a=b;c="d\\"; e" ; f\t\r\n0123456789\r\n001\r\n!\r\n0;last\r\nX-T: 1\r\nY:\r\n\r\n'
BODY = b"hello0123456789!"


@pytest.mark.parametrize("at", range(1, len(CHUNKED)))
def test_a_chunked_body_may_be_cut_anywhere(at: int) -> None:
    """TCP may split between any two bytes (RFC 9112 7.1); what is behind the end is the rest."""
    decoder = ChunkedDecoder()

    assert feed(decoder, CHUNKED[:at], CHUNKED[at:] + b"GET") == BODY
    assert (decoder.done, decoder.rest) == (True, b"GET")


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_a_chunked_body_may_come_in_pieces(step: int) -> None:
    """Down to single bytes."""
    decoder = ChunkedDecoder()

    assert feed(decoder, *(CHUNKED[at : at + step] for at in range(0, len(CHUNKED), step))) == BODY
    assert (decoder.done, decoder.rest) == (True, b"")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.lists(st.integers(0, 600), max_size=8))
def test_what_is_chunked_is_decoded(chunks: list[bytes], cuts: list[int]) -> None:
    """Any body, in any chunks, cut anywhere, comes out as it was."""
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    decoder = ChunkedDecoder()

    assert feed(decoder, *(data[a:b] for a, b in pairwise(edges))) == b"".join(chunks)
    assert decoder.done


WRONG = [
    b"5\nhello\r\n0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhelloX\r\n0\r\n\r\n",
    b"5\r\nhello\rX0\r\n\r\n",
    b"\r\n",
    b"g\r\n",
    b"0x5\r\nhello\r\n",
    b"+5\r\nhello\r\n",
    b"-5\r\n",
    b" 5\r\nhello\r\n",
    b"5_0\r\n",
    b"\xb2\r\n",
    b"1" * 16 + b"\r\n",
    b"ffffffffffffffff\r\n",
    b"5 a\r\nhello\r\n",
    b"5 \r\nhello\r\n",
    b"5\t\r\nhello\r\n",
    b"5 \t \r\nhello\r\n",
    b"5\r\nhello\r\n0 \r\n\r\n",
    b"5;\r\nhello\r\n",
    b"5;a=\r\nhello\r\n",
    b'5;a="b\r\nhello\r\n',
    b"5;a=\x00\r\nhello\r\n",
    b"5;a\rb\r\nhello\r\n",
    b"5;a\nb\r\nhello\r\n",
    b"0\r\nno colon\r\n\r\n",
    b"0\r\n X: fold\r\n\r\n",
    b"0\r\nX : 1\r\n\r\n",
    b"0\r\nX: \x00\r\n\r\n",
    b"0\r\nX: 1\n\r\n",
    b"0\r\n\n",
]


@pytest.mark.parametrize("data", WRONG)
@pytest.mark.parametrize("step", [1, 1000], ids=["bytes", "whole"])
def test_broken_chunks_are_refused(data: bytes, step: int) -> None:
    """Sizes are hex digits and nothing else, lines end in CRLF, trailers are fields (RFC 9112 7.1); however it is cut."""
    decoder = ChunkedDecoder()

    with pytest.raises(FramingError):
        feed(decoder, *(data[at : at + step] for at in range(0, len(data), step)), b"\r\n\r\n")


PADDED = (
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"5\t \r\nhello\r\n0   \r\n\r\n",
    b"5 ; a = b \r\nhello\r\n0\r\nX-T : 1\r\nX-U\t:\r\n\r\n",
)


@pytest.mark.parametrize("data", PADDED)
@pytest.mark.parametrize("step", [1, 1000], ids=["bytes", "whole"])
def test_a_response_may_be_padded(data: bytes, step: int) -> None:
    """Some servers pad chunk sizes with blanks: that is clear, and the blanks go no further."""
    decoder = ResponseChunkedDecoder()

    assert feed(decoder, *(data[at : at + step] for at in range(0, len(data), step))) == b"hello"
    assert (decoder.done, decoder.rest) == (True, b"")


CLEAR = {b"5 \r\nhello\r\n", b"5\t\r\nhello\r\n", b"5 \t \r\nhello\r\n", b"5\r\nhello\r\n0 \r\n\r\n", b"0\r\nX : 1\r\n\r\n"}
"""Those of WRONG that are wrong in a request only."""


@pytest.mark.parametrize("data", [data for data in WRONG if data not in CLEAR])
def test_what_is_not_clear_is_refused_in_a_response_too(data: bytes) -> None:
    """Blanks are all that a response has ahead of a request."""
    with pytest.raises(FramingError):
        feed(ResponseChunkedDecoder(), data, b"\r\n\r\n")


def test_a_chunk_of_any_size_we_can_count_is_begun() -> None:
    """15 hex digits are enough for every body, and overflow nothing (RFC 9112 7.1)."""
    decoder = ChunkedDecoder()

    assert decoder.feed(b"fffffffffffffff\r\nabc") == b"abc"
    assert not decoder.done


@pytest.mark.parametrize(
    "data",
    [
        b"1;" + b"a" * MAX_CHUNK_LINE + b"\r\n",
        b"1;a=" + b"b" * MAX_CHUNK_LINE,
        (b"1;" + b"a" * 3000 + b"\r\nx\r\n") * (MAX_EXTENSIONS // 3000 + 1),
        b"0\r\n" + b"X: " + b"a" * MAX_TRAILERS,
        b"0\r\n" + b"X: a\r\n" * (MAX_TRAILERS // 6 + 1) + b"\r\n",
    ],
    ids=["line", "unfinished-line", "extensions", "unfinished-trailers", "trailers"],
)
@pytest.mark.parametrize("step", [500, 1 << 20])
def test_what_is_ignored_is_bounded(data: bytes, step: int) -> None:
    """Extensions and trailers cost no memory without end (RFC 9112 7.1.1; threat: header floods)."""
    decoder = ChunkedDecoder()

    with pytest.raises(FramingError):
        feed(decoder, *(data[at : at + step] for at in range(0, len(data), step)))


@pytest.mark.parametrize("at", range(1, 8))
def test_a_sized_body_may_be_cut_anywhere(at: int) -> None:
    """Exactly so many bytes are body, the others are the rest (RFC 9112 6.3)."""
    decoder = LengthDecoder(5)
    data = b"hello..."
    parts = [data[:at], data[at:]] if at < 5 else [data[:at]]

    assert feed(decoder, *parts) == b"hello"
    assert decoder.done
    assert decoder.rest == (b"..." if at < 5 else data[5:at])


def test_an_empty_sized_body_is_done_at_once() -> None:
    """Content-Length: 0 needs no byte."""
    assert LengthDecoder(0).done


def test_a_body_until_close_is_never_done_by_itself() -> None:
    """Only the end of the connection ends it (RFC 9112 6.3, item 8)."""
    decoder = UntilClose()

    assert feed(decoder, b"a", b"0\r\n\r\n") == b"a0\r\n\r\n"
    assert not decoder.done
