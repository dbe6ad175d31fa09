"""The script in Redis and the rules in process, on one clock that the test moves: the same verdicts, to the last bit."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.policies.rate_limit import LARGEST_EXACT, MICROSECONDS, Algorithm, LimitSettings, Verdict, rule_of
from gateway.ports import Check, LimitCall
from gateway.proxy.rate_limit_store.local import LocalStore
from gateway.proxy.rate_limit_store.redis_link import SCRIPT, packed_calls, unpacked
from tests.redis_server import Server

PER = 3600
"""Seconds. Keys expire by the server's clock, which hardly moves meanwhile."""
BEGIN = 1_700_000_000 * MICROSECONDS

LIMITS = st.one_of(
    st.tuples(st.just(Algorithm.SLIDING_WINDOW), st.integers(1, LARGEST_EXACT)),
    st.tuples(st.just(Algorithm.SLIDING_WINDOW), st.integers(LARGEST_EXACT + 1, 10_000)),
    st.tuples(st.just(Algorithm.SLIDING_LOG), st.integers(1, 100)),
    st.tuples(st.just(Algorithm.TOKEN_BUCKET), st.integers(1, 1000)),
)
STEPS = st.lists(st.tuples(st.integers(0, 2 * PER * MICROSECONDS), st.floats(0, 1)), max_size=40)
"""How far the clock goes, and the share of a limit that is asked for; 0 only looks."""


class Limit:
    """A limit, and its own tier."""

    enforce = True

    def __init__(self, limit_id: str, made_of: LimitSettings) -> None:
        self.id = limit_id.encode()
        self.rule = rule_of(made_of)
        self.packed = made_of.packed(enforce=True)


class OnTheTestsClock:
    """The script, with another time than the server's."""

    def __init__(self, client: Any) -> None:
        self._client = client
        moved = SCRIPT.replace(b"ARGV[2]", b"ARGV[4]")
        self._script = moved.replace(b"redis.call('TIME')", b"{ARGV[2], ARGV[3]}")
        assert moved not in (SCRIPT, self._script)

    def decide(self, calls: list[list[Check]], now: int) -> list[Verdict]:
        """The verdicts of several requests in one call."""
        keys, blob = packed_calls(b"agreement", [LimitCall(checks) for checks in calls])
        seconds, microseconds = divmod(now, MICROSECONDS)
        return unpacked(self._client.eval(self._script, len(keys), *keys, blob, seconds, microseconds), len(keys))

    def stored(self, check: Check) -> bytes:
        """What the server keeps of a key."""
        (key,), _ = packed_calls(b"agreement", [LimitCall([check])])
        value = self._client.get(key)
        assert isinstance(value, bytes)
        return value


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnTheTestsClock]:
    """On a server of its own."""
    server = Server(tmp_path_factory.mktemp("redis"))
    try:
        with server.client() as client:
            yield OnTheTestsClock(client)
    finally:
        server.kill()


def check(limit: Limit, share: float) -> Check:
    """A question for a share of the limit."""
    return Check(limit, limit, b"k" * 16, round(share * limit.rule.capacity))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(LIMITS, min_size=1, max_size=3), STEPS)
def test_both_say_the_same_of_every_algorithm(
    script: OnTheTestsClock, made_of: list[tuple[Algorithm, int]], steps: list[tuple[int, float]]
) -> None:
    """Several limits at once, all or none; costs, and looks without a charge."""
    run = uuid4().hex[:8]
    limits = [Limit(f"{run}{number}", LimitSettings(limit, PER, kind)) for number, (kind, limit) in enumerate(made_of)]
    local, now = LocalStore(1000), BEGIN
    for passed, share in steps:
        now += passed
        checks = [check(limit, share) for limit in limits]
        assert script.decide([checks], now) == local.decide(checks, now)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 7, 60, LARGEST_EXACT, LARGEST_EXACT + 1, 600, 50_000]),
            st.integers(0, PER * MICROSECONDS),
            st.floats(0, 1),
        ),
        max_size=40,
    )
)
def test_both_go_on_with_the_counts_when_the_size_of_a_limit_changes(
    script: OnTheTestsClock, steps: list[tuple[int, int, float]]
) -> None:
    """A sliding window whose limit goes up and down past the size up to which it is exact, also within one call."""
    name = uuid4().hex[:12]
    local, now = LocalStore(1000), BEGIN
    for size, passed, share in steps:
        now += passed
        calls = [[check(Limit(name, LimitSettings(limit, PER)), share)] for limit in (size, 60, 600, size)]
        assert script.decide(calls, now) == [verdict for checks in calls for verdict in local.decide(checks, now)]


@pytest.mark.parametrize("size", [1, 100, 101, 5000])
@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_clock_that_steps_back_blocks_nobody_for_long(script: OnTheTestsClock, algorithm: Algorithm, size: int) -> None:
    """After a step of a day what was taken still counts, and who keeps asking is admitted within two periods."""
    limit = Limit(uuid4().hex[:12], LimitSettings(size, PER, algorithm))
    script.decide([[check(limit, 1)]], BEGIN)
    now = BEGIN - 86_400 * MICROSECONDS
    ((left, _, wait),) = script.decide([[check(limit, 1)]], now)
    assert left < size
    assert 0 < wait <= 2 * PER * MICROSECONDS
    while wait:
        now += PER * MICROSECONDS // 10
        ((_, _, wait),) = script.decide([[check(limit, 1)]], now)

    assert now <= BEGIN + (2 * PER - 86_400) * MICROSECONDS + PER * MICROSECONDS // 10


def test_what_an_exact_window_keeps(script: OnTheTestsClock) -> None:
    """Eight bytes per unit that was admitted within the period, and one; nothing of what was refused or only asked."""
    limit = Limit(uuid4().hex[:12], LimitSettings(4, PER))
    for number in range(9):
        script.decide([[Check(limit, limit, b"k" * 16, number % 2)]], BEGIN + number)
    kept = script.stored(Check(limit, limit, b"k" * 16, 1))
    assert struct.unpack("<4d", kept[:-1]) == (BEGIN + 1, BEGIN + 3, BEGIN + 5, BEGIN + 7)

    script.decide([[Check(limit, limit, b"k" * 16, 1)]], BEGIN + 3 + PER * MICROSECONDS)
    kept = script.stored(Check(limit, limit, b"k" * 16, 1))
    assert struct.unpack("<3d", kept[:-1]) == (BEGIN + 5, BEGIN + 7, BEGIN + 3 + PER * MICROSECONDS)


@pytest.mark.parametrize("garbage", [b"", b".", b"x" * 7, b"\0" * 16, b"\0" * 24])
@pytest.mark.parametrize("size", [5, 500])
def test_a_value_that_is_none_of_ours_counts_as_nothing(script: OnTheTestsClock, garbage: bytes, size: int) -> None:
    """Whatever stands under a key, such as what another version has written, the script answers."""
    limit = Limit(uuid4().hex[:12], LimitSettings(size, PER))
    (key,), _ = packed_calls(b"agreement", [LimitCall([check(limit, 1)])])
    script._client.set(key, garbage)
    left, _, wait = script.decide([[Check(limit, limit, b"k" * 16, 1)]], BEGIN)[0]

    assert (left, wait) == (size - 1, 0)
