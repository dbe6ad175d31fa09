"""The keys that are denied most."""

from __future__ import annotations

from gateway.metrics.top_keys import TopKeys


def denied(top: TopKeys, digest: bytes, client: bytes = b"") -> None:
    """One more denial."""
    if not top.again("r", "l", digest):
        top.enter("r", "l", digest, client)


def test_the_worst_keys_are_found_among_many() -> None:
    """A key denied more often than the rest is on top, whatever else was denied in between, in bounded memory."""
    top = TopKeys(size=16)
    for number in range(5000):
        denied(top, b"%d" % (number % 1000))
        if number % 10 == 0:
            denied(top, b"worst")
    rows = top.top()

    assert len(rows) == 16
    assert rows[0].digest == b"worst"
    assert rows[0].denied - rows[0].error <= 500 <= rows[0].denied


def test_a_key_keeps_the_address_it_came_with_until_it_leaves() -> None:
    """Addresses are kept for the keys that are listed, and for no others."""
    top = TopKeys(size=2)
    for number in range(4):
        denied(top, b"%d" % number, bytes([192, 0, 2, number]))
    denied(top, b"3")

    assert [(one.digest, one.client) for one in top.top()] == [(b"3", bytes([192, 0, 2, 3])), (b"2", bytes([192, 0, 2, 2]))]
