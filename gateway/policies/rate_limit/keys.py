"""What a request is counted by, and what it takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

_REMEMBERED: Final = 4096
_LONGEST_REMEMBERED: Final = 128


class KeyDigest:
    """Turns the values of a key's parts into 16 bytes: whatever a client sends, a key has this length and no other bytes.

    `kinds` (such as `header:x-tenant`) are part of it, so that equal values of different keys never meet. The digests of
    short values are remembered, up to a bound.
    """

    __slots__ = ("_known", "_prefix")

    def __init__(self, kinds: Sequence[str]) -> None:
        self._prefix = _joined(kind.encode("utf-8") for kind in kinds)
        self._known: dict[bytes, bytes] = {}

    def one(self, value: bytes) -> bytes:
        """The digest of a key of one part."""
        digest = self._known.get(value)
        if digest is None:
            digest = blake2b(self._prefix + value, digest_size=16).digest()
            if len(value) <= _LONGEST_REMEMBERED:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[value] = digest
        return digest

    def many(self, values: Sequence[bytes | None]) -> bytes:
        """The digest of a key of several parts; None is a part that is missing, which is not an empty one."""
        if len(values) == 1 and values[0] is not None:
            return self.one(values[0])
        return self.one(_joined(values))


def _joined(parts: Iterable[bytes | None]) -> bytes:
    """The parts with their lengths before them, so that no two lists of parts read the same."""
    return b"".join(b"-" if part is None else b"%d:%b" % (len(part), part) for part in parts)


@dataclass(frozen=True, slots=True)
class CostSettings:
    """What a request takes: `default`, or what its field says, kept between `least` and `most`."""

    default: int = 1
    least: int = 1
    most: int = 1

    def of(self, value: bytes | None) -> int:
        """The cost that a field's value asks for; what is no whole number is as if it were not there."""
        if value is None or not 0 < len(value) <= 18 or not value.isdigit():
            return self.default
        asked = int(value)
        return self.least if asked < self.least else self.most if asked > self.most else asked
