"""Operators' regular expressions cannot be made slow by clients (threat: ReDoS)."""

from __future__ import annotations

import pytest

from gateway.control.words.patterns import slow_pattern


@pytest.mark.parametrize(
    "source",
    ["(a+)+$", "(a|a)*$", "(a|aa)+$", "(?:x*)*", "(a?b?)*", ".*.*.*", "([a-z]+,)*", "(a{1,5}){1,1000}", "(?=(a+)+)b"],
)
def test_what_can_be_slow_is_refused(source: str) -> None:
    """A repeat of what varies, or too many unbounded repeats, is refused at load."""
    assert slow_pattern(source) is not None


@pytest.mark.parametrize(
    "source",
    [
        "",
        "a",
        "v[12]",
        "Bearer .+",
        "(foo|bar)",
        "[a-z]+/[0-9]+",
        "(?:abc)*",
        "(?>[a-z]+,)*+",
        "(?:[a-z]++,)*+x",
        "a{2,5}b*",
        "(a)?",
    ],
)
def test_what_is_always_fast_is_accepted(source: str) -> None:
    """Simple and possessive patterns are left alone."""
    assert slow_pattern(source) is None
