"""Passive ejection: how many, how long, how often."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.ejection import EjectionSettings, in_a_row, lasts, most_ejected, too_many

SETTINGS = EjectionSettings()


@pytest.mark.parametrize("endpoints,most", [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5)])
def test_at_most_half_of_the_endpoints_are_out(endpoints: int, most: int) -> None:
    """By default half of the endpoints, rounded down, may be ejected."""
    assert most_ejected(SETTINGS, endpoints) == most


@pytest.mark.parametrize(
    "share,endpoints,most", [(0.34, 3, 1), (0.33, 3, 1), (0.66, 3, 1), (0.67, 3, 2), (0.1, 3, 1), (1.0, 3, 2), (0.29, 100, 29)]
)
def test_a_share_is_a_bound(share: float, endpoints: int, most: int) -> None:
    """No more than the share is out, counted in hundredths as it is written; one may always go."""
    assert most_ejected(EjectionSettings(max_ejected=share), endpoints) == most


@given(st.floats(0.01, 1.0), st.integers(1, 2000))
def test_the_last_endpoint_is_never_ejected(share: float, endpoints: int) -> None:
    """Whatever share is configured, one endpoint stays; with two, one may go."""
    most = most_ejected(EjectionSettings(max_ejected=share), endpoints)

    assert most <= endpoints - 1
    assert most >= 1 or endpoints == 1


@pytest.mark.parametrize(
    "failures,errors,enough", [(4, 4, False), (5, 5, True), (0, 49, False), (0, 50, True), (4, 49, False), (4, 50, True)]
)
def test_failures_eject_sooner_than_errors(failures: int, errors: int, enough: bool) -> None:
    """Five failures in a row, or fifty in a row with answers such as 500 among them."""
    assert too_many(SETTINGS, failures, errors) is enough


def test_errors_need_not_count() -> None:
    """With 0 no number of them ejects."""
    assert not too_many(EjectionSettings(errors=0), 0, 1000)


@given(st.integers(1, 1000), st.floats(0, 1, exclude_max=True))
def test_an_ejection_lasts_longer_each_time_up_to_a_bound(number: int, chance: float) -> None:
    """The n-th ejection in a row lasts n times the first, 5 minutes at most, plus or minus 10 %."""
    nominal = min(30.0 * number, 300.0)

    assert 0.9 * nominal <= lasts(SETTINGS, number, chance) <= 1.1 * nominal


@pytest.mark.parametrize(
    "before,after_seconds,number", [(0, 0.0, 1), (1, 0.0, 2), (1, 29.0, 2), (2, 31.0, 2), (3, 65.0, 2), (3, 1e6, 1)]
)
def test_good_behaviour_is_remembered(before: int, after_seconds: float, number: int) -> None:
    """Each 30 s without an ejection take one back from the count."""
    assert in_a_row(SETTINGS, before, 1000.0, 1000.0 + after_seconds) == number
