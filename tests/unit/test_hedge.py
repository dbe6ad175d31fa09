"""When a hedge is sent: after a fixed time, or after a percentile of the recent answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.hedge import ENOUGH, LEAST_DELAY, PERIOD, HedgeDelay, HedgeSettings, quantile

BOUNDS = (0.01, 0.1, 1.0)
P95 = HedgeSettings(quantile=0.95)


@pytest.mark.parametrize(
    "counts,share,expected",
    [
        ((100, 0, 0, 0), 0.5, 0.005),
        ((50, 50, 0, 0), 0.75, 0.055),
        ((50, 50, 0, 0), 0.5, 0.01),
        ((0, 0, 0, 10), 0.95, 1.0),
        ((0, 0, 10, 0), 0.9, 0.91),
    ],
)
def test_quantile(counts: tuple[int, ...], share: float, expected: float) -> None:
    """Interpolated inside its bucket; what lies above the last bound is at least that."""
    assert quantile(BOUNDS, counts, share) == pytest.approx(expected)


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(any), st.floats(0.5, 0.999))
def test_a_quantile_is_within_the_bounds(counts: list[int], share: float) -> None:
    """Whatever was counted, the answer is a time."""
    assert 0 <= quantile(BOUNDS, counts, share) <= 1.0


def test_a_fixed_time_needs_no_answers() -> None:
    """`after: 50ms` holds from the first request on."""
    assert HedgeDelay(HedgeSettings(after=0.05)).seconds(0.0, BOUNDS, (0, 0, 0, 0)) == 0.05


def test_nothing_is_hedged_before_enough_is_known() -> None:
    """A percentile of few answers is an accident."""
    delay = HedgeDelay(P95)
    assert delay.seconds(100.0, BOUNDS, (0, 0, 0, 0)) is None
    assert delay.seconds(101.0, BOUNDS, (ENOUGH - 1, 0, 0, 0)) is None
    assert delay.seconds(102.0, BOUNDS, (ENOUGH, 0, 0, 0)) == pytest.approx(0.0095)


def test_it_is_looked_at_once_a_second() -> None:
    """In between the last answer holds."""
    delay = HedgeDelay(P95)
    delay.seconds(100.0, BOUNDS, (0, 0, 0, 0))
    first = delay.seconds(101.0, BOUNDS, (100, 0, 0, 0))

    assert delay.seconds(101.9, BOUNDS, (100, 0, 10_000, 0)) == first
    assert delay.seconds(102.0, BOUNDS, (100, 0, 10_000, 0)) != first


def test_the_past_is_forgotten() -> None:
    """Only the current period and the one before count."""
    delay = HedgeDelay(P95)
    delay.seconds(100.0, BOUNDS, (0, 0, 0, 0))
    delay.seconds(101.0, BOUNDS, (0, 0, 1000, 0))
    delay.seconds(100.0 + PERIOD, BOUNDS, (0, 0, 1000, 0))
    found = delay.seconds(101.0 + 2 * PERIOD, BOUNDS, (100, 0, 1000, 0))

    assert found == pytest.approx(0.0095)


def test_a_long_silence_is_a_new_beginning() -> None:
    """What was before it is not recent."""
    delay = HedgeDelay(P95)
    delay.seconds(100.0, BOUNDS, (0, 0, 0, 0))

    assert delay.seconds(1000.0, BOUNDS, (0, 0, 1000, 0)) is None


def test_a_hedge_is_never_sent_at_once() -> None:
    """However fast the answers are, the first copy has a moment."""
    delay = HedgeDelay(P95)
    delay.seconds(100.0, (0.0001, 1.0), (0, 0, 0))

    assert delay.seconds(101.0, (0.0001, 1.0), (100, 0, 0)) == LEAST_DELAY
