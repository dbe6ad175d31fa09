"""The arithmetic of rate limits.

Times are whole microseconds of one clock. A clock that steps back never loses what was counted, and never waits for the
clock to come back to where it was. Waits are rounded up, and one microsecond is added for the rounding of what led to them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from math import ceil
from typing import Any, ClassVar, Protocol

from gateway.policies.rate_limit.settings import MICROSECONDS, Algorithm, LimitSettings


class Rule(Protocol):
    """One limit's arithmetic, without a state of its own. `wait` comes behind `room` or `take` for the same `now`."""

    __slots__ = ()
    capacity: int
    """The most that ever fits."""
    weight: int
    """What one state costs in memory, in units of about 300 bytes."""
    form: ClassVar[type]
    """Of what type its states are."""

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
    form: ClassVar[type] = list

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

    def over(self, state: Any, now: int) -> bool:
        return _window_is_over(state, self.per, now)

    def converted(self, state: array[int], now: int) -> list[int]:
        """The counters of what an `ExactWindow` has counted, at their weight of now: the limit has become larger."""
        per = self.per
        index = now // per
        begin = bisect_left(state, index * per)
        last = begin - bisect_right(state, now - per)
        return [index, ceil(last * per / ((index + 1) * per - now)), len(state) - begin]


class SlidingLog:
    """The time of every admitted unit. State: an array of them, oldest first."""

    __slots__ = ("capacity", "per", "weight")
    form: ClassVar[type] = array

    def __init__(self, settings: LimitSettings) -> None:
        self.capacity = settings.limit
        self.per = round(settings.per * MICROSECONDS)
        self.weight = 1 + settings.limit // 32

    def fresh(self, now: int) -> array[int]:
        return array("q")

    def room(self, state: array[int], now: int) -> float:
        # Times that have left the window are dropped from the state.
        if state:
            gone = now - self.per
            if state[0] <= gone:
                del state[0]
                # It mostly was the only one.
                if state and state[0] <= gone:
                    del state[: bisect_right(state, gone)]
            if state and state[-1] > now:
                # The clock stepped back: what lies ahead counts from now on.
                state[:] = array("q", [min(time, now) for time in state])
        return self.capacity - len(state)

    def take(self, state: array[int], cost: int, now: int) -> tuple[int, int] | None:
        per = self.per
        if state and (state[0] <= now - per or state[-1] > now):
            self.room(state, now)
        left = self.capacity - len(state) - cost
        if left < 0:
            return None
        if cost == 1:
            state.append(now)
        else:
            state.extend([now] * cost)
        return left, state[0] + per - now

    def wait(self, state: array[int], cost: int, now: int) -> int:
        over = len(state) + cost - self.capacity
        if over <= 0:
            return 0
        return state[over - 1] + self.per - now if over <= len(state) else self.per

    def over(self, state: Any, now: int) -> bool:
        return _window_is_over(state, self.per, now)


class ExactWindow(SlidingLog):
    """A `sliding_window` of a small limit: the log, because two counters refuse who keeps a small limit."""

    __slots__ = ()

    def __init__(self, settings: LimitSettings) -> None:
        super().__init__(settings)
        # Few clients use all of their limit: most states are smaller than two counters.
        self.weight = 1

    def converted(self, state: list[int], now: int) -> array[int]:
        """The times of what a `SlidingWindow` has counted, taken as evenly spread: the limit has become smaller."""
        index, last, this = state
        start = now // self.per * self.per
        if index < now // self.per:
            last, this = this if index == now // self.per - 1 else 0, 0
        times = self._spread(last, start - self.per, self.per) + self._spread(this, start, now - start)
        return array("q", times[-self.capacity :])

    def _spread(self, count: int, start: int, span: int) -> list[int]:
        """The newest of so many times within `span`, as many as can matter."""
        return [start + int(span * number / count) for number in range(max(0, count - self.capacity) + 1, count + 1)]


def converted(rule: Rule, state: Any, now: int) -> Any:
    """A state in the form of this rule: a sliding window keeps times or counters, and the size of its limit has changed."""
    assert isinstance(rule, SlidingWindow | ExactWindow)
    return rule.converted(state, now)


def _window_is_over(state: Any, per: int, now: int) -> bool:
    """Either form: the limits of one id can be of both, by `overrides` or by a reload."""
    if type(state) is list:
        return bool(state[0] < now // per - 1)
    return not state or bool(state[-1] <= now - per)


class TokenBucket:
    """GCRA as a leaky bucket. State: [level, when it was that]."""

    __slots__ = ("capacity", "limit", "per", "weight")
    form: ClassVar[type] = list

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


def rule_of(settings: LimitSettings) -> Rule:
    """The arithmetic of these settings."""
    if settings.exact:
        return ExactWindow(settings)
    if settings.algorithm is Algorithm.SLIDING_WINDOW:
        return SlidingWindow(settings)
    return SlidingLog(settings) if settings.algorithm is Algorithm.SLIDING_LOG else TokenBucket(settings)
