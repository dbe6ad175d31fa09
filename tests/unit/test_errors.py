"""The failure table: one word per failure, everywhere, and nothing in it that must not be seen."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from gateway.errors import DOWNSTREAM, GATEWAY, UPSTREAM, Failed, Failure

ALL = list(Failure)


def test_codes_are_unique() -> None:
    """A code names one failure, so Enum may not have folded two rows into one."""
    assert Counter(failure.code for failure in ALL).most_common(1)[0][1] == 1


@pytest.mark.parametrize("failure", ALL, ids=lambda failure: str(failure.code))
def test_every_row_is_complete(failure: Failure) -> None:
    """A code fit for a metric label and a token (RFC 9209 2), an error status, a source, a flag, a title."""
    assert re.fullmatch(r"[a-z][a-z0-9_]{2,40}", failure.code)
    assert 400 <= failure.status <= 599
    assert failure.source in {DOWNSTREAM, GATEWAY, UPSTREAM}
    assert re.fullmatch(r"[A-Z]{2,4}", failure.flag)
    assert failure.title and not failure.title.endswith(".")


@pytest.mark.parametrize("failure", ALL, ids=lambda failure: str(failure.code))
def test_the_status_says_whose_fault_it_is(failure: Failure) -> None:
    """The client's side is 4xx (or what it asked is not implemented), an upstream's 502 or 504 (RFC 9110 15.5, 15.6)."""
    if failure.source == DOWNSTREAM:
        assert failure.status < 500 or failure.status in {501, 505}
    elif failure.source == UPSTREAM:
        assert failure.status in {502, 504}
    else:
        assert failure.status >= 500


def test_failures_are_cheap_to_look_up() -> None:
    """Members are singletons and hash as objects."""
    assert {Failure.DEADLINE: 1}[Failure.DEADLINE] == 1
    assert hash(Failure.DEADLINE) == object.__hash__(Failure.DEADLINE)


def test_a_failure_that_is_raised_carries_what_the_answer_needs() -> None:
    """Detail, whether to close, and extra fields; nothing unless it is said."""
    plain, full = Failed(Failure.LOOP), Failed(Failure.METHOD_NOT_ALLOWED, "why", close=True, fields=(b"Allow: GET",))

    assert (plain.failure, plain.detail, plain.close, plain.fields) == (Failure.LOOP, "", False, ())
    assert (full.detail, full.close, full.fields) == ("why", True, (b"Allow: GET",))
