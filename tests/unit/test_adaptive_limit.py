"""The adaptive limit: up while answers come in time, down when they do not, always within its bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.adaptive_limit import WINDOW, AdaptiveLimit, AdaptiveSettings

SETTINGS = AdaptiveSettings(min=10, max=100, latency=0.5)


def test_it_begins_within_its_bounds() -> None:
    """The limit to begin with is cut to the bounds."""
    assert [AdaptiveLimit(SETTINGS, limit).limit for limit in (1, 50, 1000)] == [10, 50, 100]


def test_it_rises_while_it_is_used_and_answers_come_in_time() -> None:
    """One window of good answers with at least half of the limit in use: up by the square root."""
    limit = AdaptiveLimit(SETTINGS, 50)
    limit.seen(0.1, 25, refused=False)

    assert limit.decide(1.0) == 57


def test_it_does_not_rise_unused() -> None:
    """A limit of which less than half was in use proves nothing."""
    limit = AdaptiveLimit(SETTINGS, 50)
    limit.seen(0.1, 24, refused=False)

    assert limit.decide(1.0) == 50


def test_it_falls_when_answers_are_late_or_refuse() -> None:
    """More bad answers than tolerated: down to nine tenths, whatever was in use."""
    late, refused = AdaptiveLimit(SETTINGS, 50), AdaptiveLimit(SETTINGS, 50)
    late.seen(0.6, 50, refused=False)
    refused.seen(0.001, 1, refused=True)

    assert (late.decide(1.0), refused.decide(1.0)) == (45, 45)


def test_some_bad_answers_are_tolerated() -> None:
    """A tenth of bad answers does not count."""
    limit = AdaptiveLimit(SETTINGS, 50)
    for number in range(10):
        limit.seen(0.1, 50, refused=number == 0)

    assert limit.decide(1.0) == 57


def test_one_change_per_window() -> None:
    """The next change comes no sooner than an answer takes: what was sent before tells nothing of it."""
    limit = AdaptiveLimit(SETTINGS, 50)
    limit.seen(0.4, 50, refused=True)
    limit.decide(1.0)
    limit.seen(0.4, 50, refused=True)

    assert limit.decide(1.39) == 45
    assert limit.decide(1.41) == 40


def test_nothing_seen_nothing_changed() -> None:
    """Without answers the limit stays."""
    assert AdaptiveLimit(SETTINGS, 50).decide(100.0) == 50


def test_it_finds_the_capacity_of_an_upstream() -> None:
    """In front of 40 workers that take 100 ms each, late from 200 ms on, it settles around 80 in flight."""
    limit = AdaptiveLimit(AdaptiveSettings(min=5, max=500, latency=0.2), 5)
    found, now = [], 0.0
    for _ in range(400):
        seconds = 0.1 * max(1.0, limit.limit / 40)
        for _ in range(20):
            limit.seen(seconds, limit.limit, refused=False)
        now += max(WINDOW, seconds) + 0.001
        found.append(limit.decide(now))

    assert all(70 <= one <= 90 for one in found[100:])


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 300), st.booleans(), st.floats(0, 1)), max_size=50))
def test_it_stays_within_its_bounds(answers: list[tuple[float, int, bool, float]]) -> None:
    """Whatever happens, the limit lies between `min` and `max`."""
    limit, now = AdaptiveLimit(SETTINGS, 20), 0.0
    for seconds, in_flight, refused, passed in answers:
        limit.seen(seconds, in_flight, refused=refused)
        now += passed
        assert SETTINGS.min <= limit.decide(now) <= SETTINGS.max
