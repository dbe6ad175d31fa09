"""Health: what probes say, panic, slow start, rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.health import AvailabilitySettings, ProbeRecord, Thresholds, least_healthy, ramp, rests

THREE_TWO = Thresholds(fall=3, rise=2)


def verdicts(record: ProbeRecord, results: str) -> str:
    """The verdict after each probe: `+` up, `-` down."""
    return "".join("+" if record.heard(result == "+", THREE_TWO) is not None and record.up else "-" for result in results)


@pytest.mark.parametrize(
    "up,results,expected",
    [
        (True, "+--+---", "++++++-"),
        (True, "+---", "+++-"),
        (True, "+----++", "+++---+"),
        (True, "+---+-++", "+++----+"),
        (False, "-+", "--"),
        (False, "-++", "--+"),
    ],
)
def test_probes_must_agree(up: bool, results: str, expected: str) -> None:
    """Three failures in a row make an endpoint unhealthy, two successes in a row healthy again."""
    assert verdicts(ProbeRecord(up=up), results) == expected


@pytest.mark.parametrize("up,first,after", [(True, False, False), (False, True, True), (True, True, True)])
def test_the_first_probe_decides_alone(up: bool, first: bool, after: bool) -> None:
    """Nothing is known before it, so nothing has to be outvoted."""
    record = ProbeRecord(up=up)

    assert record.heard(first, THREE_TWO) is (up is not after)
    assert record.up is after


@given(st.lists(st.booleans()))
def test_a_change_is_told_exactly_when_it_happens(results: list[bool]) -> None:
    """`heard` is true when the verdict is another than before; then there is no doubt left."""
    record = ProbeRecord(up=True)
    for ok in results:
        before = record.up
        assert record.heard(ok, THREE_TWO) is (record.up is not before)
        assert record.in_doubt <= (ok is not record.up)


@pytest.mark.parametrize("endpoints,least", [(0, 0), (1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5)])
def test_half_of_the_endpoints_must_be_healthy(endpoints: int, least: int) -> None:
    """Rounded down, so that one of three carries on alone; at least one."""
    assert least_healthy(AvailabilitySettings(), endpoints) == least


def test_panic_can_be_switched_off() -> None:
    """With a share of 0 no number of endpoints is too few."""
    assert least_healthy(AvailabilitySettings(panic=0.0), 10) == 0


@given(st.floats(0, 100), st.floats(0.1, 60))
def test_a_ramp_only_rises(elapsed: float, slow_start: float) -> None:
    """From a tenth to the whole weight, evenly, within the window."""
    settings = AvailabilitySettings(slow_start=slow_start)

    share = ramp(settings, 50.0, 50.0 + elapsed)

    assert 0.1 <= share <= ramp(settings, 50.0, 50.0 + elapsed + 1.0) <= 1.0
    assert ramp(settings, 50.0, 50.0) == pytest.approx(0.1)
    assert ramp(settings, 50.0, 50.0 + slow_start / 2) == pytest.approx(0.55)
    assert ramp(settings, 50.0, 51.0 + slow_start) == 1.0


def test_without_slow_start_the_share_is_whole_at_once() -> None:
    """`slow_start: 0s` means none."""
    assert ramp(AvailabilitySettings(slow_start=0.0), 50.0, 50.0) == 1.0


@pytest.mark.parametrize("asked,granted", [(0.0, 0.0), (-1.0, 0.0), (2.0, 2.0), (86_400.0, 30.0)])
def test_a_rest_is_bounded(asked: float, granted: float) -> None:
    """An endpoint that asks for an hour is tried again after half a minute."""
    assert rests(asked) == granted
