"""Shedding by the lag of the event loop: the lowest rank first, the highest never, a single pause harmless."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.overload import NOBODY, Overload, OverloadSettings

DEFAULT, SHEDDABLE = 1, 2


def after(lags: list[float], settings: OverloadSettings | None = None) -> Overload:
    """An overload that has measured these."""
    overload = Overload(settings or OverloadSettings())
    for lag in lags:
        overload.measured(lag)
    return overload


def test_nobody_is_shed_at_first() -> None:
    """A loop in time sheds nobody."""
    assert after([]).shed_from == after([0.001] * 100).shed_from == NOBODY


def test_the_lowest_rank_first() -> None:
    """Lag above the threshold of a rank sheds it and what is below it."""
    assert after([0.2] * 20).shed_from == SHEDDABLE
    assert after([1.5] * 20).shed_from == DEFAULT


def test_one_pause_sheds_no_default() -> None:
    """One pause, however long (a stopped process), does not shed requests of the default rank."""
    assert after([3600.0]).shed_from == SHEDDABLE


def test_it_ends_below_half_of_the_threshold() -> None:
    """Shedding does not flap around its threshold: it ends when the lag is below half of it."""
    overload = after([0.2] * 20)
    for _ in range(100):
        overload.measured(0.06)
    assert overload.shed_from == SHEDDABLE

    for _ in range(10):
        overload.measured(0.0)
    assert overload.shed_from == NOBODY


def test_off_is_never() -> None:
    """An infinite threshold sheds nobody."""
    never = OverloadSettings(float("inf"), float("inf"))

    assert after([100.0] * 100, never).shed_from == NOBODY


def test_other_thresholds_hold_at_once() -> None:
    """After a change the next measurement decides by the new thresholds."""
    overload = after([0.2] * 20)
    overload.configure(OverloadSettings(default=10.0, sheddable=5.0))
    overload.measured(0.2)

    assert overload.shed_from == NOBODY


@given(st.lists(st.floats(-10, 1e6), max_size=60))
def test_critical_is_never_shed(lags: list[float]) -> None:
    """Whatever is measured, rank 0 stays; the smoothed lag is bounded, so shedding ends soon after the trouble."""
    overload = after(lags)

    assert overload.shed_from >= DEFAULT
    assert 0.0 <= overload.lag <= 2.0
