"""How much may come out of a coded request body, and the decoders that keep to it."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import brotli
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.decompress_request import GRACE, DecompressRequestSettings, allowance
from gateway.proxy.bodies.coders import DECODERS, TooMuchError

ENCODERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": lambda data: zlib.compress(data, 9, 31),
    b"x-gzip": lambda data: zlib.compress(data, 1, 31),
    b"br": lambda data: brotli.compress(data, quality=5),
    b"zstd": zstd.compress,
}


@pytest.mark.parametrize(
    "received, decoded, left",
    [
        (0, 0, GRACE),
        (10, 0, GRACE),
        (10, GRACE, 0),
        (1000, 0, 100_000),
        (1000, 99_999, 1),
        (10**6, 0, 10**7),
        (10**6, 10**8, 0),
    ],
)
def test_ratio_and_size_bound_what_comes_out(received: int, decoded: int, left: int) -> None:
    """At most `max_ratio` bytes per byte received, beyond a grace, and never more than `max_size`."""
    assert allowance(DecompressRequestSettings(10**7, 100), received, decoded) == left


@given(st.binary(max_size=2000), st.sampled_from(sorted(DECODERS)), st.integers(1, 300))
def test_any_split_decodes_to_the_same_bytes(data: bytes, coding: bytes, size: int) -> None:
    """However a coded body is cut, the same bytes come out, and its end is known."""
    coded = ENCODERS[coding](data)
    decoder = DECODERS[coding]()

    found = b"".join(decoder.feed(coded[at : at + size], 10_000) for at in range(0, len(coded), size))

    assert found == data
    assert decoder.complete


@pytest.mark.parametrize("coding", [b"gzip", b"zstd"])
def test_members_one_behind_the_other_are_one_body(coding: bytes) -> None:
    """gzip members and Zstandard frames may be joined (RFC 1952 2.2, RFC 8878 3.1), in one piece or in many."""
    coded = ENCODERS[coding](b"one") + ENCODERS[coding](b"two")
    whole, bits = DECODERS[coding](), DECODERS[coding]()

    assert whole.feed(coded, 100) == b"onetwo"
    assert b"".join(bits.feed(coded[at : at + 1], 100) for at in range(len(coded))) == b"onetwo"
    assert whole.complete and bits.complete


@pytest.mark.parametrize("coding", [b"gzip", b"zstd"])
def test_empty_members_are_bounded(coding: bytes) -> None:
    """Each costs a decoder, so that a body of nothing but empty ones is refused; some are let through."""
    coded = ENCODERS[coding](b"")

    assert DECODERS[coding]().feed(coded * 16, 100) == b""
    with pytest.raises(ValueError, match="too many"):
        DECODERS[coding]().feed(coded * 2000, 100)


@pytest.mark.parametrize("coding", sorted(DECODERS))
def test_what_follows_the_end_is_refused(coding: bytes) -> None:
    """Bytes behind a coded body are part of it, and not valid there."""
    decoder = DECODERS[coding]()
    decoder.feed(ENCODERS[coding](b"text"), 100)

    assert decoder.complete
    with pytest.raises(ValueError, match="not valid"):
        decoder.feed(b"more and more and more", 100)


@pytest.mark.parametrize("coding", sorted(DECODERS))
def test_a_bomb_is_stopped(coding: bytes) -> None:
    """Not a byte more than may is kept, and exactly as many as may are let through."""
    coded = ENCODERS[coding](bytes(1_000_000))

    assert len(DECODERS[coding]().feed(coded, 1_000_000)) == 1_000_000
    with pytest.raises(TooMuchError):
        DECODERS[coding]().feed(coded, 999_999)


@pytest.mark.parametrize("coding", sorted(DECODERS))
def test_what_is_not_coded_so_is_refused(coding: bytes) -> None:
    """Garbage is an error, half a body is not complete."""
    half = DECODERS[coding]()
    half.feed(ENCODERS[coding](b"text" * 100)[:-3], 10_000)

    assert not half.complete
    with pytest.raises(ValueError, match="not valid"):
        DECODERS[coding]().feed(b"\xff\xff\xff this is not coded at all", 10_000)
