"""What is configured of a limit, and its numbers on their way to who counts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from struct import pack, unpack
from typing import Final, TypeAlias

MICROSECONDS: Final = 1_000_000

LARGEST_LOG: Final = 1000
"""The largest limit of a `sliding_log`: it costs 8 bytes per admitted request and key."""
LARGEST_EXACT: Final = 100
"""The largest limit of a `sliding_window` that keeps times: at most 800 bytes per key. Larger ones keep two counters."""
LARGEST_LIMIT: Final = 999_999_999_999_999
"""The largest whole number that a response field can say (RFC 9651, 3.3.1); counts in doubles are exact up to nine times it."""

Verdict: TypeAlias = tuple[int, int, int]
"""Whole units left, microseconds until one more than that, and microseconds until the denied cost fits (0: it was admitted)."""


class Algorithm(Enum):
    """The words of `algorithm:`."""

    SLIDING_WINDOW = "sliding_window"
    SLIDING_LOG = "sliding_log"
    TOKEN_BUCKET = "token_bucket"  # noqa: S105 - no password


class Missing(Enum):
    """What holds for a request that lacks a part of the key."""

    SHARE = "share"
    """All of them share one count."""
    SKIP = "skip"
    """The limit does not apply."""
    DENY = "deny"


class OnStoreError(Enum):
    """What holds while the store does not answer."""

    LOCAL = "local"
    """The limit as it holds in process, divided by the expected number of gateways."""
    ALLOW = "allow"
    DENY = "deny"


class Headers(Enum):
    """Which response fields tell the client about the limit."""

    DRAFT = "draft"
    LEGACY = "legacy"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """`limit` units of cost per `per` seconds; `burst` is the depth of a token bucket."""

    limit: int
    per: float
    algorithm: Algorithm = Algorithm.SLIDING_WINDOW
    burst: int = 0
    """0: as `limit`."""

    @property
    def capacity(self) -> int:
        """The most that is ever admitted at once."""
        return (self.burst or self.limit) if self.algorithm is Algorithm.TOKEN_BUCKET else self.limit

    @property
    def exact(self) -> bool:
        """A sliding window so small that it keeps the time of each admitted unit."""
        return self.algorithm is Algorithm.SLIDING_WINDOW and self.limit <= LARGEST_EXACT

    def packed(self, *, enforce: bool) -> bytes:
        """As `limit_store.lua` reads them: algorithm and 8 for "enforced", capacity, limit, period in microseconds."""
        code = (_EXACT if self.exact else _CODES[self.algorithm]) + (8 if enforce else 0)
        return pack("<Bddd", code, self.capacity, self.limit, round(self.per * MICROSECONDS))

    def share(self, of: int, at_least: int) -> LimitSettings:
        """The settings of one of `of` gateways that cannot see each other; a request of cost `at_least` still fits."""
        limit = max(-(-self.limit // of), 1 if self.algorithm is Algorithm.TOKEN_BUCKET else at_least)
        burst = max(-(-self.capacity // of), at_least) if self.algorithm is Algorithm.TOKEN_BUCKET else 0
        return LimitSettings(limit, self.per, self.algorithm, burst)


_CODES: Final = {Algorithm.SLIDING_WINDOW: 0, Algorithm.SLIDING_LOG: 1, Algorithm.TOKEN_BUCKET: 2}
_EXACT: Final = 3
_ALGORITHMS: Final = (*_CODES, Algorithm.SLIDING_WINDOW)
"""By code."""


def unpacked_settings(packed: bytes) -> tuple[LimitSettings, bool]:
    """What `packed` was made of, and whether it is enforced. Raises ValueError."""
    code, capacity, limit, per = unpack("<Bddd", packed)
    if code & 7 > _EXACT:
        raise ValueError(f"no algorithm has the code {code & 7}")
    return LimitSettings(int(limit), per / MICROSECONDS, _ALGORITHMS[code & 7], int(capacity)), code >= 8
