"""Who is refused most: the keys of rate limits with the most denials, in bounded memory."""

from __future__ import annotations


class TopKeys:
    """The keys that were denied most, in bounded memory (Space-Saving: a new key takes the place and the count of the least).

    A count is too high by at most `error`; a key that was denied more often than the least count is always in it.
    """

    __slots__ = ("_counts", "_size")

    def __init__(self, size: int = 64) -> None:
        self._size = size
        self._counts: dict[tuple[str, str, bytes], list[int]] = {}

    def denied(self, route: str, limit: str, digest: bytes) -> None:
        """One more denial."""
        key = (route, limit, digest)
        counts = self._counts
        entry = counts.get(key)
        if entry is not None:
            entry[0] += 1
            return
        error = 0
        if len(counts) >= self._size:
            least = min(counts, key=lambda one: counts[one][0])
            error = counts.pop(least)[0]
        counts[key] = [error + 1, error]

    def top(self) -> list[tuple[str, str, bytes, int, int]]:
        """Route, limit, digest, count and error, the highest count first."""
        ordered = sorted(self._counts.items(), key=lambda item: -item[1][0])
        return [(*key, count, error) for key, (count, error) in ordered]
