"""The keys that are denied most."""

from __future__ import annotations

from gateway.metrics.top_keys import TopKeys


def test_the_worst_keys_are_found_among_many() -> None:
    """A key denied more often than the rest is on top, whatever else was denied in between, in bounded memory."""
    top = TopKeys(size=16)
    for number in range(5000):
        top.denied("r", "l", b"%d" % (number % 1000))
        if number % 10 == 0:
            top.denied("r", "l", b"worst")
    rows = top.top()

    assert len(rows) == 16
    assert rows[0][2] == b"worst"
    assert rows[0][3] - rows[0][4] <= 500 <= rows[0][3]
