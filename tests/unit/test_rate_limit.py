"""The arithmetic of rate limits, against exact simulators with a clock that the test moves."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from fractions import Fraction
from itertools import cycle
from typing import Protocol, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.rate_limit import (
    LARGEST_EXACT,
    LARGEST_LIMIT,
    MICROSECONDS,
    Algorithm,
    CostSettings,
    ExactWindow,
    KeyDigest,
    LimitSettings,
    Rule,
    SlidingWindow,
    converted,
    legacy_lines,
    policy_item,
    rule_of,
    seconds_up,
)

STEPS = st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(1, 3)), max_size=60)
"""Pauses in microseconds, and the cost of what follows."""
UNITS = {
    "exact_window": (Algorithm.SLIDING_WINDOW, 1),
    "two_counters": (Algorithm.SLIDING_WINDOW, 1000),
    "two_large_counters": (Algorithm.SLIDING_WINDOW, LARGEST_LIMIT // 20),
    "sliding_log": (Algorithm.SLIDING_LOG, 1),
    "token_bucket": (Algorithm.TOKEN_BUCKET, 1),
}
"""What a rule is made of: the algorithm, and what limits and costs are multiplied by, so that they have its size."""
Limited: TypeAlias = tuple[LimitSettings, int]
LIMITS = st.builds(
    lambda kind, limit, per: (LimitSettings(limit * UNITS[kind][1], per, UNITS[kind][0]), UNITS[kind][1]),
    st.sampled_from(sorted(UNITS)),
    st.integers(3, 20),
    st.sampled_from([0.1, 1.0, 7.0, 60.0]),
)
"""Settings and their unit."""


class Exact(Protocol):
    """A simulator: slow, obvious and without rounding."""

    def admits(self, cost: int, now: int) -> bool: ...


class ExactCounters:
    """Every admitted unit by window number; the last window counts by the share that still overlaps."""

    def __init__(self, settings: LimitSettings) -> None:
        self.limit, self.per = settings.limit, round(settings.per * MICROSECONDS)
        self.taken: dict[int, int] = {}

    def admits(self, cost: int, now: int) -> bool:
        """Whether it fits; then it is taken."""
        index, into = divmod(now, self.per)
        used = Fraction(self.taken.get(index - 1, 0) * (self.per - into), self.per) + self.taken.get(index, 0)
        if used + cost > self.limit:
            return False
        self.taken[index] = self.taken.get(index, 0) + cost
        return True


class ExactLog:
    """The time of every admitted unit."""

    def __init__(self, settings: LimitSettings) -> None:
        self.limit, self.per = settings.limit, round(settings.per * MICROSECONDS)
        self.times: deque[int] = deque()

    def admits(self, cost: int, now: int) -> bool:
        """Whether it fits; then it is taken."""
        while self.times and self.times[0] <= now - self.per:
            self.times.popleft()
        if len(self.times) + cost > self.limit:
            return False
        self.times.extend([now] * cost)
        return True


class ExactBucket:
    """GCRA in its own words: the theoretical arrival time."""

    def __init__(self, settings: LimitSettings) -> None:
        self.interval = Fraction(round(settings.per * MICROSECONDS), settings.limit)
        self.burst = settings.capacity
        self.arrival = Fraction(-(10**12))

    def admits(self, cost: int, now: int) -> bool:
        """Whether it fits; then it is taken."""
        arrival = max(self.arrival, Fraction(now)) + self.interval * cost
        if arrival - self.interval * self.burst > now:
            return False
        self.arrival = arrival
        return True


def exact_of(settings: LimitSettings) -> Exact:
    """The simulator of these settings."""
    if settings.algorithm is Algorithm.TOKEN_BUCKET:
        return ExactBucket(settings)
    if settings.algorithm is Algorithm.SLIDING_WINDOW and settings.limit > LARGEST_EXACT:
        return ExactCounters(settings)
    return ExactLog(settings)


def wait_for(rule: Rule, state: object, cost: int, now: int) -> int:
    """How long until the cost fits."""
    rule.room(state, now)
    return rule.wait(state, cost, now)


def ask(rule: Rule, state: object, cost: int, now: int) -> bool:
    """Take `cost`, whether it fitted. `take` must agree with `room`, and its wait with `wait`."""
    room = rule.room(state, now)
    taken = rule.take(state, cost, now)
    assert (taken is not None) == (cost <= room)
    if taken is not None:
        assert taken == (int(room - cost), rule.wait(state, int(room - cost) + 1, now))
    return taken is not None


def most_in_a_window(times: list[int], per: int) -> int:
    """The most of these instants, in order, that lie in one window, wherever it begins."""
    return max((bisect_left(times, start + per) - number for number, start in enumerate(times)), default=0)


@given(LIMITS, STEPS)
def test_verdicts_are_those_of_the_exact_simulator(limited: Limited, steps: list[tuple[int, int]]) -> None:
    """Floating point changes no verdict: where a simulator in fractions disagrees, it is within a microsecond of the border."""
    settings, unit = limited
    rule, exact = rule_of(settings), exact_of(settings)
    now = 1_700_000_000 * MICROSECONDS
    state = rule.fresh(now)
    for pause, cost in steps:
        now += pause
        admitted = ask(rule, state, cost * unit, now)
        if admitted != exact.admits(cost * unit, now):
            assert not isinstance(exact, ExactLog)
            assert rule.wait(state, cost * unit, now) <= 2 or admitted
            return


@given(LIMITS, STEPS)
def test_who_waits_as_told_is_admitted(limited: Limited, steps: list[tuple[int, int]]) -> None:
    """After `wait` microseconds the cost fits, and one thousandth of the wait earlier it did not."""
    settings, unit = limited
    rule = rule_of(settings)
    now = 1_700_000_000 * MICROSECONDS
    state = rule.fresh(now)
    for pause, factor in steps:
        now += pause
        cost = factor * unit
        if ask(rule, state, cost, now):
            continue
        wait = rule.wait(state, cost, now)
        assert wait > 0
        early = now + wait - wait // 1000 - 3
        if early > now:
            assert wait_for(rule, state, cost, early) > 0
        now += wait
        assert wait_for(rule, state, cost, now) == 0
        assert ask(rule, state, cost, now)


@given(st.integers(1, LARGEST_EXACT), STEPS)
def test_the_wait_of_an_exact_window_is_the_very_microsecond(limit: int, steps: list[tuple[int, int]]) -> None:
    """One microsecond before the wait is over, the cost does not fit: `Retry-After` is when the next request is admitted."""
    rule = rule_of(LimitSettings(limit, 1.0))
    state = rule.fresh(0)
    now = 0
    for pause, factor in steps:
        now += pause
        cost = min(factor, limit)
        if not ask(rule, state, cost, now):
            now += rule.wait(state, cost, now)
            assert wait_for(rule, state, cost, now - 1) == 1
            assert ask(rule, state, cost, now)


@given(LIMITS, STEPS)
def test_no_window_takes_more_than_the_documented_bound(limited: Limited, steps: list[tuple[int, int]]) -> None:
    """In any window of `per`: times admit at most the limit, two counters less than twice it, the bucket limit plus burst."""
    settings, unit = limited
    rule = rule_of(settings)
    bound = settings.limit // unit
    if not isinstance(exact_of(settings), ExactLog):
        bound *= 2
    now = 0
    state = rule.fresh(now)
    admitted: list[int] = []
    for pause, cost in steps:
        now += pause
        if ask(rule, state, cost * unit, now):
            admitted += [now] * cost
    assert most_in_a_window(admitted, round(settings.per * MICROSECONDS)) <= bound


# -- what clients get ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.integers(1, 3 * LARGEST_EXACT), st.integers(0, MICROSECONDS), st.lists(st.integers(5_000, 50_000), min_size=1))
def test_who_always_asks_gets_the_limit(limit: int, begin: int, pauses: list[int]) -> None:
    """However unevenly it asks: over 20 windows at least 90 % of the limit, and of a small one at most 100 % in any window."""
    rule = rule_of(LimitSettings(limit, 1.0))
    state = rule.fresh(begin)
    now = begin
    admitted: list[int] = []
    for pause in cycle(pauses):
        while ask(rule, state, 1, now):
            admitted.append(now)
        now += pause
        if now >= begin + 20 * MICROSECONDS:
            break

    assert len(admitted) >= 0.9 * 20 * limit
    assert most_in_a_window(admitted, MICROSECONDS) <= limit * (1 if limit <= LARGEST_EXACT else 2)


@given(st.integers(1, LARGEST_EXACT), st.integers(0, MICROSECONDS), st.lists(st.integers(0, MICROSECONDS), max_size=300))
def test_who_keeps_a_small_limit_is_never_refused(limit: int, begin: int, pauses: list[int]) -> None:
    """However unevenly its requests come: where no window of the client's holds more than the limit, all are admitted."""
    settings = LimitSettings(limit, 1.0)
    rule, keeps = rule_of(settings), ExactLog(settings)
    state = rule.fresh(begin)
    now = begin
    for pause in pauses:
        now += pause
        if keeps.admits(1, now):
            assert ask(rule, state, 1, now)


@given(st.integers(1, 2000), st.integers(0, MICROSECONDS))
def test_who_sends_evenly_below_the_rate_is_never_refused(limit: int, begin: int) -> None:
    """One request per 1.01 s under `1/s`, and the same of every limit, small or large, wherever its windows begin."""
    rule = rule_of(LimitSettings(limit, 1.0))
    state = rule.fresh(begin)
    for number in range(min(3 * limit, 1000) + 20):
        assert ask(rule, state, 1, begin + 1_010_000 * number // limit)


# -- when the size of a limit changes ----------------------------------------------------------------------------------


@given(st.integers(1, LARGEST_EXACT), st.integers(0, MICROSECONDS), STEPS)
def test_a_limit_that_grows_goes_on_with_its_counts(limit: int, begin: int, steps: list[tuple[int, int]]) -> None:
    """Two counters that follow upon times leave as much of the new limit as the times do, and a unit less at most."""
    small, large = rule_of(LimitSettings(limit, 1.0)), rule_of(LimitSettings(1000, 1.0))
    assert (type(small), type(large)) == (ExactWindow, SlidingWindow)
    state = small.fresh(begin)
    now = begin
    for pause, _ in steps:
        now += pause // 4
        small.take(state, 1, now)
    used = limit - small.room(state, now)

    assert used <= round(1000 - large.room(converted(large, state, now), now), 6) < used + 1


@given(
    st.integers(1, LARGEST_EXACT), st.integers(0, 10 * MICROSECONDS), st.integers(0, LARGEST_LIMIT),
    st.integers(0, LARGEST_LIMIT), st.integers(-2 * MICROSECONDS, 3 * MICROSECONDS),
)  # fmt: skip
def test_a_limit_that_shrinks_goes_on_with_its_counts(limit: int, begin: int, last: int, this: int, passed: int) -> None:
    """Times that follow upon two counters are in order, none of them ahead, and no more than the new limit can use."""
    rule = rule_of(LimitSettings(limit, 1.0))
    now = begin + passed + 2 * MICROSECONDS
    index = (begin + 2 * MICROSECONDS) // MICROSECONDS
    state = converted(rule, [index, last, this], now)

    assert list(state) == sorted(state)
    assert all(time <= now for time in state)
    assert len(state) <= limit
    if now // MICROSECONDS <= index:
        assert rule.room(state, now) <= max(0, limit - this)
    elif now // MICROSECONDS > index + 1:
        assert rule.room(state, now) == limit


# -- every algorithm ---------------------------------------------------------------------------------------------------


@given(LIMITS, st.integers(0, 10**9), STEPS)
def test_a_clock_that_steps_back_loses_no_count_and_blocks_nobody(
    limited: Limited, step: int, steps: list[tuple[int, int]]
) -> None:
    """What was taken still counts after the step, and two periods later the whole limit is free again."""
    settings, unit = limited
    rule = rule_of(settings)
    now = 1_700_000_000 * MICROSECONDS
    state = rule.fresh(now)
    while ask(rule, state, unit, now):
        pass
    now -= step
    room = rule.room(state, now)
    assert room < unit or step == 0 or isinstance(rule, SlidingWindow)
    assert room <= settings.capacity
    for pause, cost in steps:
        now += pause
        ask(rule, state, cost * unit, now)
    now += 2 * round(settings.per * MICROSECONDS) * max(1, settings.capacity // settings.limit) + 2
    assert wait_for(rule, state, settings.capacity, now) == 0


def test_two_counters_are_kept_when_the_clock_steps_back_into_another_window() -> None:
    """Both counters move with the clock; only their weight is taken anew."""
    rule = rule_of(LimitSettings(1000, 1.0))
    state = rule.fresh(5_900_000)
    for _ in range(10):
        assert ask(rule, state, 100, 5_900_000)

    assert rule.room(state, 2_900_000) == 0


@pytest.mark.parametrize("kind", UNITS)
def test_denials_are_free(kind: str) -> None:
    """Asking a thousand times while denied moves the next admission not at all."""
    algorithm, unit = UNITS[kind]
    rule = rule_of(LimitSettings(5 * unit, 10.0, algorithm))
    state = rule.fresh(0)
    while ask(rule, state, unit, 0):
        pass
    wait = rule.wait(state, unit, 0)
    for now in range(0, wait - 2, max(1, wait // 1000)):
        assert not ask(rule, state, unit, now)

    assert ask(rule, state, unit, wait)


@pytest.mark.parametrize("kind", UNITS)
def test_a_state_is_over_only_when_it_says_nothing(kind: str) -> None:
    """What is dropped as over would have given the same verdicts as a fresh state."""
    algorithm, unit = UNITS[kind]
    rule = rule_of(LimitSettings(5 * unit, 1.0, algorithm))
    state = rule.fresh(0)
    ask(rule, state, 5 * unit, 0)
    now = 0
    while not rule.over(state, now):
        assert now < 10 * MICROSECONDS
        now += 100_000

    assert wait_for(rule, state, 5 * unit, now) == 0


@pytest.mark.parametrize(
    "settings,of,least,limit,capacity",
    [
        (LimitSettings(100, 60.0), 4, 1, 25, 25),
        (LimitSettings(10, 60.0), 4, 1, 3, 3),
        (LimitSettings(10, 60.0), 100, 5, 5, 5),
        (LimitSettings(100, 60.0, Algorithm.TOKEN_BUCKET, 20), 4, 1, 25, 5),
        (LimitSettings(1, 60.0, Algorithm.TOKEN_BUCKET, 20), 4, 8, 1, 8),
    ],
)
def test_the_share_of_one_gateway(settings: LimitSettings, of: int, least: int, limit: int, capacity: int) -> None:
    """A gateway on its own takes its part, rounded up, and never so little that a request cannot pass at all."""
    share = settings.share(of, least)

    assert (share.limit, share.capacity) == (limit, capacity)


def test_the_share_of_one_gateway_is_exact_when_it_is_small() -> None:
    """What holds while the store is down is chosen by the size of the share, not of the limit."""
    settings = LimitSettings(4 * LARGEST_EXACT, 60.0)

    assert type(rule_of(settings)) is SlidingWindow
    assert type(rule_of(settings.share(4, 1))) is ExactWindow


# -- keys, costs, fields -----------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.none(), st.binary(max_size=20)), min_size=1, max_size=4))
def test_a_digest_has_a_fixed_length_whatever_the_key_holds(values: list[bytes | None]) -> None:
    """A client cannot choose anything about the key but its identity."""
    assert len(KeyDigest(["header:x"] * len(values)).many(values)) == 16


@given(st.lists(st.one_of(st.none(), st.binary(max_size=4)), min_size=2, max_size=2, unique=True))
def test_different_keys_have_different_digests(values: list[bytes | None]) -> None:
    """Parts are told apart by their lengths: `a` + `bc` is not `ab` + `c`, and a missing part is not an empty one."""
    digest = KeyDigest(["header:x", "header:y"])

    assert digest.many(values) != digest.many(values[::-1])
    assert digest.many([b"a", b"bc"]) != digest.many([b"ab", b"c"])
    assert digest.many([None, b"x"]) != digest.many([b"", b"x"])


def test_equal_values_of_different_keys_do_not_meet() -> None:
    """Which part a value comes from belongs to the key."""
    assert KeyDigest(["header:x-tenant"]).one(b"a") != KeyDigest(["query:tenant"]).one(b"a")


def test_remembered_digests_are_bounded() -> None:
    """A flood of distinct keys costs no memory that stays."""
    digest = KeyDigest(["header:x"])
    for number in range(10_000):
        digest.one(b"%d" % number)
    digest.one(bytes(1_000_000))

    assert len(digest._known) <= 4096
    assert max(map(len, digest._known)) <= 128


@pytest.mark.parametrize(
    "value,cost",
    [
        (None, 2),
        (b"", 2),
        (b"5", 5),
        (b"0", 1),
        (b"999", 50),
        (b"-3", 2),
        (b"1e3", 2),
        (b"\xb2", 2),
        (b"9" * 19, 2),
        (b" 5", 2),
    ],
)
def test_cost_from_a_field_stays_in_its_bounds(value: bytes | None, cost: int) -> None:
    """A whole number is taken between the bounds, anything else as if the field were missing."""
    assert CostSettings(default=2, least=1, most=50).of(value) == cost


@given(st.integers(1, 10**12))
def test_seconds_are_rounded_up(microseconds: int) -> None:
    """Retry-After counts whole seconds (RFC 9110 10.2.3) and never points earlier than the truth."""
    assert 0 <= seconds_up(microseconds) * MICROSECONDS - microseconds < MICROSECONDS


def test_policy_item() -> None:
    """The draft's item: the name as a string, quota and window as whole numbers."""
    assert policy_item("client", LimitSettings(100, 60.0)) == b'"client";q=100;w=60'
    assert policy_item("fast", LimitSettings(5, 0.25)) == b'"fast";q=5;w=1'


def test_legacy_reset_is_a_number_of_seconds() -> None:
    """`X-RateLimit-Reset` counts from now, not from the epoch."""
    assert b"X-RateLimit-Reset: 3\r\n" in legacy_lines(10, (0, 2_000_001, 2_000_001))


# -- top keys ----------------------------------------------------------------------------------------------------------
