"""The retry policy: what may be sent again, when, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import Failure
from gateway.policies.retry import (
    BudgetSettings,
    Cause,
    Denied,
    Ended,
    RetryBudget,
    RetrySettings,
    cause_of,
    denial,
    repeatable,
)

DEFAULT = RetrySettings()
ENDED = Ended(
    cause=Cause.RESET,
    retries=0,
    sent=True,
    repeatable=True,
    replayable=True,
    delay=0.02,
    endpoints=1,
    now=100.0,
    deadline=115.0,
)
UNSENT = replace(ENDED, cause=Cause.CONNECT, sent=False)


def budget(**given: float) -> RetryBudget:
    """A budget at second 100."""
    return RetryBudget(BudgetSettings(**given), 100.0)


@pytest.mark.parametrize(
    "ended,expected",
    [
        (ENDED, None),
        (replace(ENDED, cause=Cause.INVALID), Denied.CONDITION),
        (replace(ENDED, cause=Cause.STATUS), None),
        (replace(ENDED, repeatable=False), Denied.METHOD),
        (replace(ENDED, replayable=False), Denied.BODY),
        (replace(ENDED, retries=1), Denied.LIMIT),
        (replace(ENDED, delay=15.0), Denied.DEADLINE),
        (replace(ENDED, delay=14.9995), Denied.DEADLINE),
        (replace(ENDED, delay=14.99), None),
        (replace(ENDED, deadline=99.0, delay=0.0), Denied.DEADLINE),
        (replace(ENDED, endpoints=0), Denied.ENDPOINT),
        (UNSENT, None),
        (replace(UNSENT, repeatable=False, replayable=False), None),
        (replace(UNSENT, retries=1), Denied.LIMIT),
        (replace(ENDED, cause=Cause.STALE, retries=1), None),
        (replace(ENDED, cause=Cause.STALE, repeatable=False), Denied.METHOD),
        (replace(ENDED, cause=Cause.STALE, replayable=False), Denied.BODY),
    ],
)
def test_the_decision_table(ended: Ended, expected: Denied | None) -> None:
    """Cause, method, body, number and time decide, in this order; a stale connection does not count as an attempt."""
    assert denial(DEFAULT, ended, budget()) is expected


def test_only_a_retry_is_paid_for() -> None:
    """What is denied for another reason costs nothing; without budget nothing is retried, not even a stale connection."""
    spent = budget(ratio=0.0, min_per_second=1.0)
    assert denial(DEFAULT, replace(ENDED, repeatable=False), spent) is Denied.METHOD
    assert denial(DEFAULT, ENDED, spent) is None
    assert denial(DEFAULT, ENDED, spent) is Denied.BUDGET
    assert denial(DEFAULT, replace(ENDED, cause=Cause.STALE), spent) is Denied.BUDGET


def test_a_stale_connection_is_no_condition() -> None:
    """It is an accident of keeping connections: it is repeated whatever `on` says."""
    assert denial(replace(DEFAULT, causes=frozenset(), max_retries=0), replace(ENDED, cause=Cause.STALE), budget()) is None


MEANINGS: dict[Failure, tuple[Cause | None, Cause | None]] = {
    # before any of the request was sent, and after that
    Failure.DNS: (Cause.CONNECT, None),
    Failure.REFUSED: (Cause.CONNECT, None),
    Failure.UNREACHABLE: (Cause.CONNECT, None),
    Failure.TLS_PROTOCOL: (Cause.CONNECT, None),
    Failure.TLS_CERTIFICATE: (Cause.CONNECT, None),
    Failure.CONNECT_TIMEOUT: (Cause.CONNECT, None),
    Failure.TERMINATED: (Cause.CONNECT, Cause.RESET),
    Failure.ATTEMPT_TIMEOUT: (None, Cause.TIMEOUT),
    Failure.PROTOCOL: (None, Cause.INVALID),
    Failure.RESPONSE_HEAD_TOO_LARGE: (None, Cause.INVALID),
    # of the upstream too, but its response had begun, or it is the next attempt's as well
    Failure.UPGRADE_FAILED: (None, None),
    Failure.INCOMPLETE: (None, None),
    Failure.STREAM_IDLE: (None, None),
    # the gateway
    Failure.INTERNAL: (None, None),
    Failure.LOOP: (None, None),
    Failure.NO_ENDPOINT: (None, None),
    Failure.CIRCUIT_OPEN: (None, None),
    Failure.CONNECTION_LIMIT: (None, None),
    Failure.TUNNEL_LIMIT: (None, None),
    Failure.OVERLOADED: (None, None),
    Failure.CONCURRENCY_LIMIT: (None, None),
    Failure.QUEUE_FULL: (None, None),
    Failure.QUEUE_TIMEOUT: (None, None),
    Failure.STORE_UNAVAILABLE: (None, None),
    Failure.DEADLINE: (None, None),
    # the client
    Failure.BAD_REQUEST: (None, None),
    Failure.PATH_AMBIGUOUS: (None, None),
    Failure.ROUTE_NOT_FOUND: (None, None),
    Failure.METHOD_NOT_ALLOWED: (None, None),
    Failure.NOT_ACCEPTABLE: (None, None),
    Failure.HEADER_TIMEOUT: (None, None),
    Failure.BODY_TIMEOUT: (None, None),
    Failure.CONTENT_TOO_LARGE: (None, None),
    Failure.TARGET_TOO_LONG: (None, None),
    Failure.CODING_NOT_SUPPORTED: (None, None),
    Failure.EXPECTATION_FAILED: (None, None),
    Failure.MISDIRECTED: (None, None),
    Failure.RATE_LIMITED: (None, None),
    Failure.HEADERS_TOO_LARGE: (None, None),
    Failure.CLIENT_CLOSED: (None, None),
    Failure.WRITE_TIMEOUT: (None, None),
    Failure.METHOD_NOT_IMPLEMENTED: (None, None),
    Failure.CODING_NOT_IMPLEMENTED: (None, None),
    Failure.VERSION_NOT_SUPPORTED: (None, None),
}
"""Every row of the failure table; a new one has to say what it means for retries."""


@pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.code)
def test_what_a_failure_means(failure: Failure) -> None:
    """Only what went wrong with the upstream leads to another attempt; the deadline and the client never do."""
    assert (cause_of(failure, sent=False), cause_of(failure, sent=True)) == MEANINGS[failure]


@pytest.mark.parametrize(
    "method,key,status,expected",
    [
        (b"GET", False, 0, True),
        (b"PUT", False, 409, True),
        (b"DELETE", False, 0, True),
        (b"POST", False, 0, False),
        (b"POST", True, 0, True),
        (b"POST", True, 503, True),
        (b"POST", True, 409, False),
        (b"POST", True, 422, False),
        (b"get", False, 0, False),
    ],
)
def test_what_may_be_repeated(method: bytes, key: bool, status: int, expected: bool) -> None:
    """The idempotent methods (RFC 9110 9.2.2), and what brings a believed key, unless the answer is about the key."""
    fields = b'Accept: */*\r\nIdempotency-Key: "x"\r\n'

    assert repeatable(replace(DEFAULT, idempotency_key=key), method, fields, status) is expected


@pytest.mark.parametrize(
    "fields",
    [b"", b"Idempotency-Key:\r\n", b"Idempotency-Key: \t \r\n", b"X-Idempotency-Key: a\r\n", b"idempotency-key: a\r\n" * 2],
)
def test_a_key_must_be_there_once(fields: bytes) -> None:
    """No key, an empty one or two make nothing repeatable."""
    assert not repeatable(replace(DEFAULT, idempotency_key=True), b"POST", fields)


# -- the budget --------------------------------------------------------------------------------------------------------


def taken(wallet: RetryBudget, now: float) -> int:
    """Withdraw until it is spent."""
    count = 0
    while wallet.withdraw(now):
        count += 1
    return count


def test_a_share_of_the_requests_and_a_floor() -> None:
    """20 % of the requests, and ten more in a second."""
    wallet = budget(window=1.0)
    assert taken(wallet, 100.0) == 10
    wallet.requests = 1000
    assert wallet.left(100.0) == 200
    assert taken(wallet, 100.0) == 200
    assert taken(wallet, 100.5) == 5

    assert wallet.left(100.5) == 0


def test_every_fifth_request_however_few_there_are() -> None:
    """Shares of a retry are saved up until they are a whole one."""
    wallet = budget(min_per_second=0.0)
    counts = []
    for second in range(10):
        wallet.requests += 1
        counts.append(taken(wallet, 100.0 + second))

    assert counts == [0, 0, 0, 0, 1] * 2


def test_the_floor_fills_at_its_rate() -> None:
    """So many a second, of which at most a second's worth is saved up."""
    wallet = budget(ratio=0.0)
    assert taken(wallet, 100.0) == 10
    assert taken(wallet, 100.55) == 5
    assert taken(wallet, 160.0) == 10


def test_a_floor_of_less_than_one_a_second() -> None:
    """One every two seconds is one every two seconds, not never."""
    wallet = budget(ratio=0.0, min_per_second=0.5)
    counts = [taken(wallet, 100.0 + second) for second in range(7)]

    assert counts == [1, 0, 1, 0, 1, 0, 1]


def test_nothing_at_all() -> None:
    """Without share and floor there are no retries."""
    wallet = budget(ratio=0.0, min_per_second=0.0)
    wallet.requests = 1000

    assert not wallet.withdraw(150.0)


@pytest.mark.parametrize("window,saved", [(0.1, 20), (1.0, 200), (10.0, 2000)])
def test_little_is_saved_up(window: float, saved: int) -> None:
    """A minute in which all went well leaves the share of a window, or a second's floor."""
    wallet = budget(window=window)
    for second in range(61):
        wallet.requests += 1000
        wallet.roll(100.0 + second)
    assert taken(wallet, 160.0) == saved
    for second in range(61, 70):
        wallet.roll(100.0 + second)

    assert taken(wallet, 169.0) == 10


def test_a_long_silence_leaves_nothing_to_spend() -> None:
    """Requests that nobody added up for a minute are not taken for recent ones."""
    wallet = budget(min_per_second=0.0, window=1.0)
    wallet.requests = 600

    assert taken(wallet, 160.0) == 2  # of the 10 a second on average


@given(st.integers(20, 20_000), st.integers(0, 90), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_an_upstream_that_begins_to_fail_gets_little_more(rate: int, before: int, each: int) -> None:
    """However long it was well before: at most 1.2 x the requests and 10/s, but for the little that is saved up."""
    wallet = budget()
    for second in range(before):
        wallet.requests += rate
        wallet.roll(100.0 + second)
    start = now = 100.0 + before
    requests = retries = 0
    while now < start + 4:
        now += each / rate
        wallet.requests += each
        requests += each
        retries += sum(wallet.withdraw(now) for _ in range(each))
        assert retries <= 0.2 * requests + 10 * (now - start) + max(10.0, 0.02 * rate * 1.2) + 1e-6


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 200), st.booleans()), min_size=1, max_size=40),
    st.floats(0.0, 1.0),
    st.floats(0.0, 20.0),
    st.floats(0.1, 10.0),
)
def test_retries_never_exceed_the_budget(
    steps: list[tuple[float, int, bool]], ratio: float, floor: float, window: float
) -> None:
    """Between any two moments: at most the share of the requests then, the floor times the time, and what may be saved up."""
    wallet = budget(ratio=ratio, min_per_second=floor, window=window)
    now, moments = 100.0, [(100.0, 0, 0)]
    for pause, count, failing in steps:
        now += pause
        wallet.requests += count
        spent = taken(wallet, now) if failing else 0
        _, requests, retries = moments[-1]
        moments.append((now, requests + count, retries + spent))
    pairs = [(early, late) for at, early in enumerate(moments) for late in moments[at + 1 :]]
    busiest = max(late[1] - early[1] for early, late in pairs if late[0] - early[0] <= 4)
    saved = max(1.0, floor, ratio * window * busiest)
    for (since, requests, retries), (until, later_requests, later_retries) in pairs:
        allowed = ratio * (later_requests - requests) + floor * (until - since) + saved
        assert later_retries - retries <= allowed + 1e-6
