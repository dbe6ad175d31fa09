"""Durations, sizes and percentages as operators write them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.words.units import (
    DURATION_PATTERN,
    MAX_DURATION,
    PERCENT_PATTERN,
    SIZE_PATTERN,
    UnitError,
    format_duration,
    format_size,
    parse_duration,
    parse_percent,
    parse_size,
)


@pytest.mark.parametrize(
    "text,seconds",
    [
        ("250ms", 0.25),
        ("5s", 5.0),
        ("1.5s", 1.5),
        ("1m30s", 90.0),
        ("1h", 3600.0),
        ("1h1m1s1ms", 3661.001),
        ("0s", 0.0),
        ("05s", 5.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is a sum of hours, minutes, seconds and milliseconds, largest first."""
    assert parse_duration(text) == pytest.approx(seconds)
    assert re.search(DURATION_PATTERN, text)


@pytest.mark.parametrize(
    "text,hint",
    [
        ("5", "5s"),
        ("1.5", "1.5s"),
        ("5 s", "5s"),
        ("10sec", "10s"),
        ("2min", "2m"),
        ("3hours", "3h"),
        ("5M", "5m"),
        ("7 ms", "7ms"),
    ],
)
def test_almost_durations(text: str, hint: str) -> None:
    """A bare number or a foreign unit is refused with what was probably meant."""
    with pytest.raises(UnitError) as caught:
        parse_duration(text)

    assert caught.value.hint == hint
    assert not re.search(DURATION_PATTERN, text)


@pytest.mark.parametrize("text", ["", "s", "-5s", "1s1m", "1e3s", "5ss", "25h", "1_0s", "٥s", "9" * 500 + "s", "1d"])
def test_not_durations(text: str) -> None:
    """What is no duration, or longer than a day, is refused."""
    with pytest.raises(UnitError):
        parse_duration(text)


@pytest.mark.parametrize(
    "text,size", [("1024B", 1024), ("64KiB", 65536), ("10MiB", 10 << 20), ("10MB", 10_000_000), ("1GiB", 1 << 30), ("0B", 0)]
)
def test_sizes(text: str, size: int) -> None:
    """Sizes are whole bytes with a binary or a decimal unit."""
    assert parse_size(text) == size
    assert re.search(SIZE_PATTERN, text)


@pytest.mark.parametrize(
    "text,hint",
    [("64", "64B"), ("10M", "10MiB"), ("10mb", "10MB"), ("64 KiB", "64KiB"), ("64kib", "64KiB"), ("1x", ""), ("", "")],
)
def test_not_sizes(text: str, hint: str) -> None:
    """A size without a unit, or with one in another case, is refused with what was probably meant."""
    with pytest.raises(UnitError) as caught:
        parse_size(text)

    assert caught.value.hint == hint


def test_largest_size() -> None:
    """Sizes beyond 1024GiB are refused, so that nothing overflows."""
    assert parse_size("1024GiB") == 1 << 40
    with pytest.raises(UnitError):
        parse_size("1025GiB")


@pytest.mark.parametrize("text,share", [("50%", 0.5), ("12.5%", 0.125), ("100%", 1.0), ("0%", 0.0)])
def test_percentages(text: str, share: float) -> None:
    """A percentage is a share between 0 and 1."""
    assert parse_percent(text) == share
    assert re.search(PERCENT_PATTERN, text)


@pytest.mark.parametrize("text,hint", [("50", "50%"), ("0.5", "50%"), ("101%", ""), ("-1%", ""), ("%", "")])
def test_not_percentages(text: str, hint: str) -> None:
    """Percentages need their sign and end at 100."""
    with pytest.raises(UnitError) as caught:
        parse_percent(text)

    assert caught.value.hint == hint


@given(st.integers(0, int(MAX_DURATION * 1000)))
def test_durations_round_trip(millis: int) -> None:
    """What is formatted is parsed to the same duration, to the millisecond."""
    assert round(parse_duration(format_duration(millis / 1000)) * 1000) == millis


@given(st.integers(0, 1 << 40))
def test_sizes_round_trip(size: int) -> None:
    """What is formatted is parsed to the same size."""
    assert parse_size(format_size(size)) == size


@given(st.text(max_size=60))
def test_any_text_is_a_quantity_or_a_unit_error(text: str) -> None:
    """No text makes a parser fail in another way, and what the editor's pattern refuses the parser refuses too."""
    for parse, pattern in ((parse_duration, DURATION_PATTERN), (parse_size, SIZE_PATTERN), (parse_percent, PERCENT_PATTERN)):
        try:
            parse(text)
        except UnitError:
            continue
        assert re.search(pattern, text)
