"""Retries: may a request be sent again, when, and who pays for it.

What is not idempotent is never sent twice (RFC 9110 9.2.2), unless nothing of it was sent, or its client made it repeatable
with an `Idempotency-Key` that the route believes. A retry that cannot finish in time is not begun. Retries are paid from a
budget per upstream, so that an upstream in trouble gets at most a share more load. All values are seconds and bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from gateway.errors import Failure

IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"QUERY", b"PUT", b"DELETE"})
"""RFC 9110 9.2.2, RFC 10008: only these may be repeated without being told to."""

LEAST_ATTEMPT: Final = 0.001
"""Seconds that must be left after the back-off: no attempt is shorter."""

KEY_CONFLICTS: Final = frozenset({409, 422})
"""How a server answers an `Idempotency-Key` whose request is still running, or was another one: repeating does not help."""

_KEY: Final = re.compile(rb"^idempotency-key:[ \t]*([^ \t\r\n][^\r\n]*)\r?$", re.IGNORECASE | re.MULTILINE)


class Cause(Enum):
    """Why an attempt brought no answer that the client should get."""

    CONNECT = "connect"
    """No connection: nothing was sent."""
    STALE = "stale"
    """A kept connection closed without a byte (RFC 9112 9.3.1)."""
    RESET = "reset"
    TIMEOUT = "timeout"
    INVALID = "invalid"
    """An answer that is not HTTP."""
    STATUS = "status"

    __hash__ = object.__hash__


class Denied(Enum):
    """Why there is no further attempt."""

    OFF = "off"
    CONDITION = "condition"
    """The route does not retry for this cause."""
    METHOD = "method"
    """The request is not idempotent, and some of it was sent."""
    BODY = "body"
    """The body is larger than what is kept of it."""
    LIMIT = "limit"
    """`max_retries` are spent."""
    DEADLINE = "deadline"
    """The back-off, or what the upstream asks to wait, would not end in time."""
    ENDPOINT = "endpoint"
    """No endpoint of the upstream takes requests any more."""
    BUDGET = "budget"
    """The upstream's retry budget is spent."""

    __hash__ = object.__hash__


_BEFORE_SENDING: Final = frozenset(
    {
        Failure.DNS,
        Failure.REFUSED,
        Failure.UNREACHABLE,
        Failure.TLS_PROTOCOL,
        Failure.TLS_CERTIFICATE,
        Failure.CONNECT_TIMEOUT,
        Failure.TERMINATED,
    }
)
_AFTER_SENDING: Final = {
    Failure.TERMINATED: Cause.RESET,
    Failure.ATTEMPT_TIMEOUT: Cause.TIMEOUT,
    Failure.PROTOCOL: Cause.INVALID,
    Failure.RESPONSE_HEAD_TOO_LARGE: Cause.INVALID,
}


def cause_of(failure: Failure, *, sent: bool) -> Cause | None:
    """What a failure means for retries; None: it ends the request, whatever the route says."""
    if sent:
        return _AFTER_SENDING.get(failure)
    return Cause.CONNECT if failure in _BEFORE_SENDING else None


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """The resolved `retry:` of a route."""

    max_retries: int = 1
    causes: frozenset[Cause] = frozenset({Cause.CONNECT, Cause.RESET, Cause.TIMEOUT})
    statuses: frozenset[int] = frozenset({502, 503, 504})
    idempotency_key: bool = False
    """Believe a client that sends the field: its request may be repeated whatever the method."""
    replay: int = 64 * 1024
    """Bytes of the request body that are kept to be sent again."""


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt that brought no answer for the client."""

    cause: Cause
    retries: int
    """Retries of this request so far that count against `max_retries`."""
    sent: bool
    """Some of the request may have reached the upstream."""
    repeatable: bool
    """Idempotent, or with a believed key."""
    replayable: bool
    """All of the body that was received is still at hand."""
    delay: float
    """Seconds to wait before the next attempt."""
    endpoints: int
    """Those that take requests now."""
    now: float
    deadline: float


def denial(settings: RetrySettings, ended: Ended, budget: RetryBudget) -> Denied | None:
    """Why there is no further attempt; None: there is one, and it is paid for."""
    stale = ended.cause is Cause.STALE
    if not stale and ended.cause is not Cause.STATUS and ended.cause not in settings.causes:
        return Denied.CONDITION
    if ended.sent and not ended.repeatable:
        return Denied.METHOD
    if ended.sent and not ended.replayable:
        return Denied.BODY
    if not stale and ended.retries >= settings.max_retries:
        return Denied.LIMIT
    if ended.now + ended.delay + LEAST_ATTEMPT >= ended.deadline:
        return Denied.DEADLINE
    if not ended.endpoints:
        return Denied.ENDPOINT
    return None if budget.withdraw(ended.now) else Denied.BUDGET


def repeatable(settings: RetrySettings, method: bytes, fields: bytes, status: int = 0) -> bool:
    """Whether a request may be sent again after some of it was. `fields` are its field lines with CRLF, `status` its answer."""
    if method in IDEMPOTENT:
        return True
    return settings.idempotency_key and status not in KEY_CONFLICTS and len(_KEY.findall(fields)) == 1


# -- the budget --------------------------------------------------------------------------------------------------------

_ONE: Final = 1 - 1e-9
"""A hair less than one, so that 0.2 of 5 requests is one."""


@dataclass(frozen=True, slots=True)
class BudgetSettings:
    """The resolved `retry_budget:` of an upstream."""

    ratio: float = 0.2
    """Retries per request."""
    min_per_second: float = 10.0
    """Retries per second that are allowed beyond that."""
    window: float = 0.1
    """Seconds of requests whose share may be saved up."""


class RetryBudget:
    """What retries and hedges of one upstream may cost: a share of its requests, and so many per second.

    Over any time at most `ratio` x requests + `min_per_second` x time, and what was saved up before: the share of a `window`,
    or the floor of a second, whichever is more. Little is saved up, because an upstream that has been well for long is not
    helped by twice the load in its first bad seconds; enough for what is in flight at a moment and may fail at once.

    A request pays in by `budget.requests += 1`, nothing more; it is added up when somebody withdraws, and on a tick.
    """

    __slots__ = ("_at", "_least", "_left", "_rate", "_second", "_seen", "requests", "settings")

    def __init__(self, settings: BudgetSettings, now: float) -> None:
        self.settings = settings
        self.requests = 0
        """Requests that are not added up yet."""
        self._least = max(1.0, settings.min_per_second)
        """What may be saved up however few requests there are; a whole one, or nothing would ever come together."""
        self._left = self._least if settings.min_per_second else 0.0
        self._at = now
        self._rate = 0.0
        """Requests per second in the last whole second."""
        self._second = now
        self._seen = 0
        """Requests since then."""

    def roll(self, now: float) -> None:
        """Add up what has come in since the last call."""
        settings = self.settings
        requests, self.requests = self.requests, 0
        self._seen += requests
        elapsed = now - self._second
        if elapsed >= 1:
            self._rate = self._seen / elapsed
            self._second, self._seen = now, 0
        most = max(self._least, settings.ratio * max(self._rate, self._seen) * settings.window)
        left = self._left + settings.ratio * requests + settings.min_per_second * (now - self._at)
        self._left = min(left, most)
        self._at = now

    def withdraw(self, now: float) -> bool:
        """Pay for one retry; False when the budget is spent."""
        self.roll(now)
        if self._left < _ONE:
            return False
        self._left -= 1
        return True

    def left(self, now: float) -> int:
        """Retries that could be paid for now."""
        self.roll(now)
        return int(self._left + 1 - _ONE)
