"""The arithmetic of rate limits, against exact simulators with a clock that the test moves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from fractions import Fraction
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.rate_limit import (
    MICROSECONDS,
    Algorithm,
    CostSettings,
    KeyDigest,
    LimitSettings,
    Rule,
    legacy_lines,
    policy_item,
    rule_of,
    seconds_up,
)

STEPS = st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(1, 3)), max_size=60)
"""Pauses in microseconds, and the cost of what follows."""
LIMITS = st.builds(LimitSettings, st.integers(3, 20), st.sampled_from([0.1, 1.0, 7.0, 60.0]), st.sampled_from(Algorithm))


class Exact(Protocol):
    """A simulator: slow, obvious and without rounding."""

    def admits(self, cost: int, now: int) -> bool: ...


class ExactWindow:
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


EXACT: dict[Algorithm, Callable[[LimitSettings], Exact]] = {
    Algorithm.SLIDING_WINDOW: ExactWindow,
    Algorithm.SLIDING_LOG: ExactLog,
    Algorithm.TOKEN_BUCKET: ExactBucket,
}


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


@given(LIMITS, STEPS)
def test_verdicts_are_those_of_the_exact_simulator(settings: LimitSettings, steps: list[tuple[int, int]]) -> None:
    """Floating point changes no verdict: where a simulator in fractions disagrees, it is within a microsecond of the border."""
    rule, exact = rule_of(settings), EXACT[settings.algorithm](settings)
    now = 1_700_000_000 * MICROSECONDS
    state = rule.fresh(now)
    for pause, cost in steps:
        now += pause
        admitted = ask(rule, state, cost, now)
        if admitted != exact.admits(cost, now):
            assert settings.algorithm is not Algorithm.SLIDING_LOG
            assert rule.wait(state, cost, now) <= 2 or admitted
            return


@given(LIMITS, STEPS)
def test_who_waits_as_told_is_admitted(settings: LimitSettings, steps: list[tuple[int, int]]) -> None:
    """After `wait` microseconds the cost fits, and one thousandth of the wait earlier it did not."""
    rule = rule_of(settings)
    now = 1_700_000_000 * MICROSECONDS
    state = rule.fresh(now)
    for pause, cost in steps:
        now += pause
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


@given(LIMITS, STEPS)
def test_no_window_takes_more_than_the_documented_bound(settings: LimitSettings, steps: list[tuple[int, int]]) -> None:
    """In any window of `per`: the log admits at most the limit, the window less than twice it, the bucket limit plus burst."""
    rule = rule_of(settings)
    bound = {
        Algorithm.SLIDING_LOG: settings.limit,
        Algorithm.SLIDING_WINDOW: 2 * settings.limit,
        Algorithm.TOKEN_BUCKET: settings.limit + settings.capacity,
    }[settings.algorithm]
    now = 0
    state = rule.fresh(now)
    admitted: list[int] = []
    for pause, cost in steps:
        now += pause
        if ask(rule, state, cost, now):
            admitted += [now] * cost
    per = round(settings.per * MICROSECONDS)
    assert all(sum(start <= time < start + per for time in admitted) <= bound for start in admitted)


@given(LIMITS, st.integers(0, 10**9), STEPS)
def test_a_clock_that_steps_back_loses_no_count_and_blocks_nobody(
    settings: LimitSettings, step: int, steps: list[tuple[int, int]]
) -> None:
    """What was taken still counts after the step, and two periods later the whole limit is free again."""
    rule = rule_of(settings)
    now = 1_700_000_000 * MICROSECONDS
    state = rule.fresh(now)
    while ask(rule, state, 1, now):
        pass
    now -= step
    room = rule.room(state, now)
    assert room < 1 or step == 0 or settings.algorithm is Algorithm.SLIDING_WINDOW
    assert room <= settings.capacity
    for pause, cost in steps:
        now += pause
        ask(rule, state, cost, now)
    now += 2 * round(settings.per * MICROSECONDS) * max(1, settings.capacity // settings.limit) + 2
    assert wait_for(rule, state, settings.capacity, now) == 0


def test_a_sliding_window_keeps_its_counts_when_the_clock_steps_back_into_another_window() -> None:
    """Both counters move with the clock; only their weight is taken anew."""
    rule = rule_of(LimitSettings(10, 1.0))
    state = rule.fresh(5_900_000)
    for _ in range(10):
        assert ask(rule, state, 1, 5_900_000)

    assert rule.room(state, 2_900_000) == 0


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_denials_are_free(algorithm: Algorithm) -> None:
    """Asking a thousand times while denied moves the next admission not at all."""
    rule = rule_of(LimitSettings(5, 10.0, algorithm))
    state = rule.fresh(0)
    while ask(rule, state, 1, 0):
        pass
    wait = rule.wait(state, 1, 0)
    for now in range(0, wait - 2, max(1, wait // 1000)):
        assert not ask(rule, state, 1, now)

    assert ask(rule, state, 1, wait)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_state_is_over_only_when_it_says_nothing(algorithm: Algorithm) -> None:
    """What is dropped as over would have given the same verdicts as a fresh state."""
    rule = rule_of(LimitSettings(5, 1.0, algorithm))
    state = rule.fresh(0)
    ask(rule, state, 5, 0)
    now = 0
    while not rule.over(state, now):
        assert now < 10 * MICROSECONDS
        now += 100_000

    assert wait_for(rule, state, 5, now) == 0


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
