"""Who is refused most: the keys of rate limits with the most denials, in bounded memory."""

from __future__ import annotations

from typing import NamedTuple


class DeniedKey(NamedTuple):
    """A key that a rate limit has denied, and how often."""

    route: str
    limit: str
    digest: bytes
    denied: int
    error: int
    """By how many `denied` is too high at most."""
    client: bytes
    """The client's address, where it is a part of the key, as keys have it (`request_keys.address_key`); empty: it is none.
    The only part that is kept: the others may be secrets."""


class TopKeys:
    """The keys that were denied most, in bounded memory (Space-Saving: a new key takes the place and the count of the least).

    A count is too high by at most `error`; a key that was denied more often than the least count is always in it.
    """

    __slots__ = ("_counts", "_size")

    def __init__(self, size: int = 64) -> None:
        self._size = size
        self._counts: dict[tuple[str, str, bytes], tuple[list[int], bytes]] = {}

    def again(self, route: str, limit: str, digest: bytes) -> bool:
        """One more denial of a key that is listed. False: it is not, so `enter` it; only then its client is asked for."""
        entry = self._counts.get((route, limit, digest))
        if entry is None:
            return False
        entry[0][0] += 1
        return True

    def enter(self, route: str, limit: str, digest: bytes, client: bytes) -> None:
        """The first denial of a key that is not listed."""
        counts = self._counts
        error = 0
        if len(counts) >= self._size:
            least = min(counts, key=lambda one: counts[one][0][0])
            error = counts.pop(least)[0][0]
        counts[route, limit, digest] = [error + 1, error], client

    def top(self) -> list[DeniedKey]:
        """The highest count first."""
        ordered = sorted(self._counts.items(), key=lambda item: -item[1][0][0])
        return [DeniedKey(*key, count, error, client) for key, ((count, error), client) in ordered]
