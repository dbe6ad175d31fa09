"""Rate limits: how much of a quota is left, when more of it is, and what the client is told.

Three algorithms behind one settings type. All count in whole microseconds and in units of cost, and none looks at anything
but its own state: the shells (`proxy/rate_limit_store/local.py` and its Lua twin) keep the state and agree to the last bit.

- `sliding_window`: two counters, this window's and the last one's, weighted by how much of that still overlaps. Approximate: it
  takes the last window's requests as evenly spread. A client that times its requests against that gets at most twice the
  limit in one window of its choosing; Poisson traffic is within 1 %.
- `sliding_log`: the times of what was admitted. Exact: never more than the limit in any window. Memory grows with the limit.
- `token_bucket`: GCRA, kept as the level of a leaky bucket: `burst` at once, and `limit` per `per` in the long run.

A request asks all its limits; when one denies, none is charged. So denials are free: who is over a limit and keeps asking is
admitted as soon as there is room.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from math import ceil
from struct import pack, unpack
from typing import Any, Final, Protocol, TypeAlias

MICROSECONDS: Final = 1_000_000

LARGEST_LOG: Final = 1000
"""The largest limit of a `sliding_log`: it costs 8 bytes per admitted request and key."""
LARGEST_LIMIT: Final = 100_000_000

_REMEMBERED: Final = 4096
_LONGEST_REMEMBERED: Final = 128

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

    def packed(self, *, enforce: bool) -> bytes:
        """As `limit_store.lua` reads them: algorithm and 8 for "enforced", capacity, limit, period in microseconds."""
        code = _CODES[self.algorithm] + (8 if enforce else 0)
        return pack("<Bddd", code, self.capacity, self.limit, round(self.per * MICROSECONDS))

    def share(self, of: int, at_least: int) -> LimitSettings:
        """The settings of one of `of` gateways that cannot see each other; a request of cost `at_least` still fits."""
        limit = max(-(-self.limit // of), 1 if self.algorithm is Algorithm.TOKEN_BUCKET else at_least)
        burst = max(-(-self.capacity // of), at_least) if self.algorithm is Algorithm.TOKEN_BUCKET else 0
        return LimitSettings(limit, self.per, self.algorithm, burst)


_CODES: Final = {Algorithm.SLIDING_WINDOW: 0, Algorithm.SLIDING_LOG: 1, Algorithm.TOKEN_BUCKET: 2}


def unpacked_settings(packed: bytes) -> tuple[LimitSettings, bool]:
    """What `packed` was made of, and whether it is enforced. Raises ValueError."""
    code, capacity, limit, per = unpack("<Bddd", packed)
    algorithm = list(_CODES)[code & 7]
    return LimitSettings(int(limit), per / MICROSECONDS, algorithm, int(capacity)), code >= 8


# -- the algorithms ----------------------------------------------------------------------------------------------------
# Times are whole microseconds of one clock. A clock that steps back never loses what was counted, and never waits for the
# clock to come back to where it was. Waits are rounded up, and one microsecond is added for the rounding of what led to them.


class Rule(Protocol):
    """One limit's arithmetic, without a state of its own. `wait` comes behind `room` or `take` for the same `now`."""

    __slots__ = ()
    capacity: int
    """The most that ever fits."""
    weight: int
    """What one state costs in memory, in units of about 300 bytes."""

    def fresh(self, now: int) -> Any:
        """The state of a key that was never seen."""

    def room(self, state: Any, now: int) -> float:
        """How much fits at `now`, as a real number."""

    def take(self, state: Any, cost: int, now: int) -> tuple[int, int] | None:
        """Charge `cost` (not 0) if it fits: whole units left, and microseconds until one more than that. None: it does not."""

    def wait(self, state: Any, cost: int, now: int) -> int:
        """Microseconds until `cost` fits if nobody else takes anything: 0 when it does now. After them it does."""

    def over(self, state: Any, now: int) -> bool:
        """The state says no more than a fresh one would."""


class SlidingWindow:
    """Two counters. State: [window number, units in the last window, units in this one]."""

    __slots__ = ("capacity", "per", "weight")

    def __init__(self, settings: LimitSettings) -> None:
        self.capacity = settings.limit
        self.per = round(settings.per * MICROSECONDS)
        self.weight = 1

    def fresh(self, now: int) -> list[int]:
        return [now // self.per, 0, 0]

    def room(self, state: list[int], now: int) -> float:
        # Windows that have passed are rolled over in the state.
        per = self.per
        index = now // per
        if state[0] != index:
            if state[0] == index - 1:
                state[1] = state[2]
                state[2] = 0
            elif state[0] < index:
                state[1] = state[2] = 0
            state[0] = index
        if not state[1]:
            return self.capacity - state[2]
        return self.capacity - (state[1] * (per - now % per) / per + state[2])

    def take(self, state: list[int], cost: int, now: int) -> tuple[int, int] | None:
        # `room` and `wait` in one: two calls less, and most of what a limit costs.
        index, last, this = state
        per = self.per
        rest = (index + 1) * per - now
        if not 0 < rest <= per:
            self.room(state, now)
            index, last, this = state
            rest = (index + 1) * per - now
        old = last * rest / per if last else 0
        room = self.capacity - (old + this)
        if cost > room:
            return None
        this += cost
        state[2] = this
        left = int(room - cost)
        most = self.capacity - left - 1
        if this > most:
            return left, rest + ceil(per - most * per / this) + 1
        return left, ceil(rest - (most - this) * per / last) + 1 if old + this > most else 0

    def wait(self, state: list[int], cost: int, now: int) -> int:
        per = self.per
        _, last, this = state
        rest = per - now % per
        left = self.capacity - cost
        if this <= left:
            if last * rest / per + this <= left:
                return 0
            return ceil(rest - (left - this) * per / last) + 1
        if left < 0:
            return rest + per
        return rest + ceil(per - left * per / this) + 1

    def over(self, state: list[int], now: int) -> bool:
        return state[0] < now // self.per - 1


class SlidingLog:
    """The time of every admitted unit. State: an array of them, oldest first."""

    __slots__ = ("capacity", "per", "weight")

    def __init__(self, settings: LimitSettings) -> None:
        self.capacity = settings.limit
        self.per = round(settings.per * MICROSECONDS)
        self.weight = 1 + settings.limit // 32

    def fresh(self, now: int) -> array[int]:
        return array("q")

    def room(self, state: array[int], now: int) -> float:
        # Times that have left the window are dropped from the state.
        if state:
            if state[-1] > now:
                state[:] = array("q", [min(time, now) for time in state])
            if state[0] <= now - self.per:
                del state[: bisect_right(state, now - self.per)]
        return self.capacity - len(state)

    def take(self, state: array[int], cost: int, now: int) -> tuple[int, int] | None:
        left = int(self.room(state, now)) - cost
        if left < 0:
            return None
        state.extend([now] * cost)
        return left, self.wait(state, left + 1, now)

    def wait(self, state: array[int], cost: int, now: int) -> int:
        over = len(state) + cost - self.capacity
        if over <= 0:
            return 0
        return state[over - 1] + self.per - now if over <= len(state) else self.per

    def over(self, state: array[int], now: int) -> bool:
        return not state or state[-1] <= now - self.per


class TokenBucket:
    """GCRA as a leaky bucket. State: [level, when it was that]."""

    __slots__ = ("capacity", "limit", "per", "weight")

    def __init__(self, settings: LimitSettings) -> None:
        self.capacity = settings.capacity
        self.limit = settings.limit
        self.per = round(settings.per * MICROSECONDS)
        self.weight = 1

    def fresh(self, now: int) -> list[float]:
        return [0.0, now]

    def room(self, state: list[float], now: int) -> float:
        level = self._level(state, now)
        return self.capacity - level

    def take(self, state: list[float], cost: int, now: int) -> tuple[int, int] | None:
        level = self._level(state, now)
        room = self.capacity - level
        if cost > room:
            return None
        state[0] = level + cost
        state[1] = now
        left = int(room - cost)
        return left, self.wait(state, left + 1, now)

    def wait(self, state: list[float], cost: int, now: int) -> int:
        over = self._level(state, now) + cost - self.capacity
        return ceil(over * self.per / self.limit) + 1 if over > 0 else 0

    def over(self, state: list[float], now: int) -> bool:
        return self._level(state, now) <= 0

    def _level(self, state: list[float], now: int) -> float:
        state[1] = min(state[1], now)
        level = state[0] - (now - state[1]) * self.limit / self.per
        return level if level > 0 else 0.0


_RULES: Final[dict[Algorithm, type[SlidingWindow | SlidingLog | TokenBucket]]] = {
    Algorithm.SLIDING_WINDOW: SlidingWindow,
    Algorithm.SLIDING_LOG: SlidingLog,
    Algorithm.TOKEN_BUCKET: TokenBucket,
}


def rule_of(settings: LimitSettings) -> Rule:
    """The arithmetic of these settings."""
    return _RULES[settings.algorithm](settings)


# -- keys --------------------------------------------------------------------------------------------------------------


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


# -- cost --------------------------------------------------------------------------------------------------------------


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


# -- what the client is told -------------------------------------------------------------------------------------------


def seconds_up(microseconds: int) -> int:
    """Whole seconds, rounded up: who waits that long has waited long enough."""
    return -(-microseconds // MICROSECONDS)


def policy_item(name: str, settings: LimitSettings) -> bytes:
    """One item of `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers): quota and window in whole seconds."""
    window = ceil(settings.per)
    burst = b";burst=%d" % settings.capacity if settings.algorithm is Algorithm.TOKEN_BUCKET else b""
    return b'"%b";q=%d;w=%d%b' % (name.encode("ascii"), settings.limit, window, burst)


def legacy_lines(limit: int, verdict: Verdict) -> bytes:
    """`X-RateLimit-*`; `Reset` is in seconds from now."""
    remaining, reset, _ = verdict
    return b"X-RateLimit-Limit: %d\r\nX-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n" % (
        limit,
        remaining,
        seconds_up(reset),
    )
