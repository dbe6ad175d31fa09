"""The counts in process: bounded, and all or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic_ns, thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.rate_limit import Algorithm, LimitSettings, Rule, rule_of, seconds_up
from gateway.ports import Check
from gateway.proxy.rate_limit_store.local import LocalStore

NOW = 1_000_000_000


@dataclass
class Tier:
    """Settings without the rest."""

    rule: Rule
    packed: bytes = b""


@dataclass
class Limit:
    """What a store knows of a limit."""

    id: bytes
    enforce: bool = True


def check(name: str, limit: int, key: bytes = b"k", *, cost: int = 1, enforce: bool = True, per: float = 60.0) -> Check:
    """One limit asked for one key."""
    return Check(Limit(name.encode(), enforce), Tier(rule_of(LimitSettings(limit, per))), key, cost)


def admitted(store: LocalStore, *checks: Check, now: int = NOW) -> list[bool]:
    """Ask them together."""
    return [wait == 0 for _, _, wait in store.decide(checks, now)]


def test_when_one_limit_denies_none_is_charged() -> None:
    """The limits of a request are all charged or none is."""
    store = LocalStore(1000)
    for _ in range(3):
        assert admitted(store, check("a", 5), check("b", 3)) == [True, True]
    for _ in range(4):
        assert admitted(store, check("a", 5), check("b", 3)) == [True, False]

    assert store.decide([check("a", 5, cost=0)], NOW)[0][0] == 2


def test_a_shadow_limit_changes_nothing_for_the_others() -> None:
    """It is charged when it would admit, and its denial is only a verdict."""
    store = LocalStore(1000)
    shadow = check("s", 2, enforce=False)
    verdicts = [admitted(store, check("a", 5), shadow) for _ in range(6)]

    assert verdicts == [[True, True], [True, True], [True, False], [True, False], [True, False], [False, False]]
    assert store.decide([check("s", 2, cost=0, enforce=False)], NOW)[0][0] == 0


@given(
    st.lists(
        st.tuples(
            st.integers(1, 6),
            st.sampled_from([(algorithm, 1) for algorithm in Algorithm] + [(Algorithm.SLIDING_WINDOW, 1000)]),
            st.integers(1, 3),
        ),
        min_size=1,
        max_size=3,
    ),
    st.lists(st.integers(0, 20_000_000), min_size=1, max_size=40),
)
def test_the_short_way_says_and_charges_what_the_long_way_does(
    limits: list[tuple[int, tuple[Algorithm, int], int]], steps: list[int]
) -> None:
    """`admit` is `decide` for requests that all limits admit, and leaves the rest to it with nothing charged."""
    short, long = LocalStore(1000), LocalStore(1000)
    checks = []
    for number, (limit, (algorithm, unit), cost) in enumerate(limits):
        rule = rule_of(LimitSettings(limit * unit, 60.0, algorithm, limit if algorithm is Algorithm.TOKEN_BUCKET else 0))
        checks.append(Check(Limit(b"%d" % number), Tier(rule), b"k", cost * unit))
    counters = short.counters(checks)
    now = NOW
    for step in steps:
        now += step
        expected = long.decide(checks, now)
        numbers = short.admit(counters, now)
        if numbers is None:
            assert short.decide(checks, now) == expected
        else:
            assert numbers == [number for left, reset, _ in expected for number in (left, seconds_up(reset))]
            assert not any(wait for _, _, wait in expected)


@pytest.mark.parametrize("how", ["reset", "pushed_out", "swept"])
def test_the_short_way_finds_no_state_that_has_left(how: str) -> None:
    """A key that was reset, pushed out or swept begins anew, also where its state was found before."""
    store = LocalStore(10)
    one = check("a", 5)
    counters = store.counters([one])
    now = monotonic_ns() // 1000 - 1000 * 60_000_000 if how == "swept" else NOW
    store.decide([one], now)
    found = store.admit(counters, now)
    assert found is not None and found[0] == 3
    if how == "reset":
        store.reset(b"a", b"k")
    elif how == "pushed_out":
        for number in range(10):
            store.decide([check("a", 5, b"%d" % number)], now)
    else:
        store.sweep()

    assert store.admit(counters, now) is None
    assert store.decide([one], now)[0][0] == 4
    assert store.admit(counters, now) is not None


def test_the_least_recently_charged_key_leaves_first() -> None:
    """A key that is in use keeps its count while others come and go."""
    store = LocalStore(100)
    for number in range(1000):
        admitted(store, check("a", 10_000, b"%d" % number))
        admitted(store, check("a", 10_000, b"busy"))

    assert len(store) == 100
    assert store.decide([check("a", 10_000, b"busy", cost=0)], NOW)[0][0] == 9000


def test_a_flood_at_one_limit_leaves_the_keys_of_another() -> None:
    """Who fills the store loses keys."""
    store = LocalStore(100)
    for number in range(10):
        admitted(store, check("quiet", 5, b"%d" % number))
    for number in range(10_000):
        admitted(store, check("flooded", 5, b"%d" % number))

    assert len(store) == 100
    assert store.decide([check("quiet", 5, b"0", cost=0)], NOW)[0][0] == 4


def test_what_says_nothing_any_more_is_dropped() -> None:
    """Keys whose windows are over leave with the next new keys, two at a time."""
    store = LocalStore(1000)
    for number in range(100):
        admitted(store, check("a", 5, b"%d" % number, per=1.0))
    for number in range(60):
        admitted(store, check("a", 5, b"later %d" % number, per=1.0), now=NOW + 10_000_000)

    assert len(store) == 60


def test_denied_keys_that_were_never_charged_take_no_room() -> None:
    """Only what is charged is kept."""
    store = LocalStore(1000)
    admitted(store, check("full", 1))
    for number in range(100):
        admitted(store, check("full", 1), check("a", 5, b"%d" % number))

    assert len(store) == 1


def test_a_log_counts_for_its_size() -> None:
    """The bound is on memory: a key of a log of 1000 takes the place of 32 others."""
    store = LocalStore(320)
    tier = Tier(rule_of(LimitSettings(1000, 60.0, Algorithm.SLIDING_LOG)))
    for number in range(100):
        store.decide([Check(Limit(b"log"), tier, b"%d" % number, 1)], NOW)

    assert len(store) == 10


@pytest.mark.parametrize("before,after", [(60, 600), (600, 60)])
def test_counts_go_on_when_the_size_of_a_limit_changes(before: int, after: int) -> None:
    """A reload that takes a sliding window past the size up to which it is exact keeps what was counted, on every way to it."""
    store = LocalStore(1000)
    old, new = check("a", before, cost=50), check("a", after, cost=20)
    counters = store.counters([new])
    assert admitted(store, old) == [True]
    now = monotonic_ns() // 1000
    known = LocalStore(1000)
    known.decide([old], now)

    assert known.denies([check("a", after, cost=20)]) is (after == 60)
    assert store.admit(counters, NOW) is None
    assert store.decide([check("a", after, cost=0)], NOW)[0][0] == after - 50
    assert admitted(store, new) == [after == 600]
    assert len(store) == 1


def test_what_was_found_before_the_size_changed_counts_no_longer() -> None:
    """A connection that still lives by the old settings looks its key up again."""
    store = LocalStore(1000)
    old, new = check("a", 60), check("a", 600)
    counters = store.counters([old])
    store.decide([old], NOW)
    assert store.admit(counters, NOW) is not None
    store.decide([new], NOW)

    assert store.admit(counters, NOW) is None
    assert store.decide([new], NOW)[0][0] == 596


@pytest.mark.parametrize("first,second", [(60, 600), (600, 60)])
def test_keys_of_both_sizes_leave_when_they_say_nothing_any_more(first: int, second: int) -> None:
    """A limit with an override keeps keys of both kinds: neither leaves early, neither stays."""
    store = LocalStore(1000)
    begin = monotonic_ns() // 1000
    for number, limit in enumerate((first, second, first, second)):
        store.decide([check("a", limit, b"%d" % number)], begin)
    store.sweep()
    assert len(store) == 4
    store.decide([check("a", 5, b"later")], begin + 121_000_000)
    store.decide([check("a", 5, b"later still")], begin + 121_000_000)

    assert len(store) == 2


def test_a_reset_key_begins_anew() -> None:
    """`reset` tells whether there was something to forget."""
    store = LocalStore(10)
    admitted(store, check("a", 1))

    assert store.reset(b"a", b"k")
    assert not store.reset(b"a", b"k")
    assert admitted(store, check("a", 1)) == [True]


@pytest.mark.slow
def test_a_million_keys_cost_the_same_per_check_in_bounded_memory() -> None:
    """Constant time: the last hundred thousand keys cost about what the first did, with the store full all the while."""
    store = LocalStore(100_000)
    limit, tier = Limit(b"a"), Tier(rule_of(LimitSettings(10, 60.0)))
    laps = []
    for lap in range(10):
        start = thread_time()
        for number in range(100_000):
            store.decide([Check(limit, tier, b"%d/%d" % (lap, number), 1)], NOW)
        laps.append(thread_time() - start)

    assert len(store) == 100_000
    assert min(laps[5:]) < 3 * min(laps[:2])
