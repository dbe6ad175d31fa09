"""The time budget: one deadline, from which every other limit is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.timeout import TimeoutSettings, attempt_ends, budget, parse_budget_ms, remaining_ms

SETTINGS = TimeoutSettings(request=2.0, attempt=0.5)


@pytest.mark.parametrize("value,seconds", [(b"1500", 1.5), (b"0", 0.0), (b"00250", 0.25), (b"99999999", 86_400.0)])
def test_budget_field(value: bytes, seconds: float) -> None:
    """The remaining-time field holds whole milliseconds, capped at a day."""
    assert parse_budget_ms(value) == seconds


@pytest.mark.parametrize("value", [b"", b"-1", b"+5", b"1.5", b" 1", b"1 ", b"1_0", b"0x10", b"1e3", b"123456789", b"\xb2"])
def test_budget_field_that_is_no_number(value: bytes) -> None:
    """A remaining-time field that is not one to eight digits is ignored."""
    assert parse_budget_ms(value) is None


def test_a_client_can_only_shorten_the_deadline() -> None:
    """The deadline is the smaller of the route's budget and the client's."""
    assert budget(SETTINGS, None) == 2.0
    assert budget(SETTINGS, 0.5) == 0.5
    assert budget(SETTINGS, 60.0) == 2.0


def test_an_attempt_never_outlives_the_request() -> None:
    """An attempt gets its own timeout or what is left, whichever is less."""
    assert attempt_ends(SETTINGS, 100.0, 102.0) == 100.5
    assert attempt_ends(SETTINGS, 101.8, 102.0) == 102.0


@given(st.floats(0, 1e6), st.floats(-10, 1e5))
def test_the_upstream_is_told_what_is_left_and_never_zero(now: float, left: float) -> None:
    """What is left is rounded down, so that the upstream gives up before we do, and is at least one millisecond."""
    told = remaining_ms(now, now + left)

    assert told >= 1
    assert told <= max(1.0, ((now + left) - now) * 1000)
