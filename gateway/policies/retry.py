"""Retries: may a request be sent again, when, and who pays for it.

What is not idempotent is never sent twice (RFC 9110 9.2.2), unless nothing of it was sent, or its client made it repeatable
with an `Idempotency-Key` that the route believes. A retry that cannot finish in time is not begun. Retries are paid from a
budget per upstream, so that an upstream in trouble gets at most a share more load. All values are seconds and bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from enum import Enum
from typing import Final

from gateway.errors import Failure

IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""RFC 9110 9.2.2: only these may be repeated without being told to."""

LEAST_ATTEMPT: Final = 0.001
"""Seconds that must be left after the back-off: no attempt is shorter."""

KEY_CONFLICTS: Final = frozenset({409, 422})
"""How a server answers an `Idempotency-Key` whose request is still running, or was another one: repeating does not help."""

_RETRY_AFTER: Final = re.compile(rb"^retry-after:[ \t]*([^\r\n]*?)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
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


def retry_after(fields: bytes, wall: float) -> float | None:
    """Seconds that a response asks to wait (RFC 9110 10.2.3), as a number or a date; None: it does not, or not legibly.

    `fields` are its field lines with CRLF, `wall` the seconds since the epoch.
    """
    match = _RETRY_AFTER.search(fields)
    if match is None:
        return None
    value = match[1]
    if value.isdigit():
        return float(value[:12])
    try:
        parsed = parsedate_tz(value.decode("latin-1"))
        return None if parsed is None else max(0.0, mktime_tz(parsed) - wall)
    except (ValueError, OverflowError):
        return None


# -- the budget --------------------------------------------------------------------------------------------------------

SLOTS: Final = 10


@dataclass(frozen=True, slots=True)
class BudgetSettings:
    """The resolved `retry_budget:` of an upstream."""

    ratio: float = 0.2
    """Retries per request, over the window."""
    min_per_second: float = 10.0
    """Retries per second that are always allowed; of these at most a second's worth is saved up."""
    window: float = 10.0


class RetryBudget:
    """What retries and hedges of one upstream may cost: a share of its requests in a sliding window, and a floor.

    A request pays in by `budget.requests += 1`, nothing more; slots are rolled when somebody withdraws, and on a tick.
    """

    __slots__ = ("_floor", "_floor_at", "_paid_in", "_slot", "_spent", "requests", "settings")

    def __init__(self, settings: BudgetSettings, now: float) -> None:
        self.settings = settings
        self.requests = 0
        """Requests since slots were last rolled."""
        self._paid_in = [0.0] * SLOTS
        self._spent = [0] * SLOTS
        self._slot = self._slot_of(now)
        self._floor = max(1.0, settings.min_per_second) if settings.min_per_second else 0.0
        self._floor_at = now

    def roll(self, now: float) -> None:
        """Forget what is older than the window. Requests since the last call are spread evenly over the time since.

        A payment never counts for longer than what it paid for: so retries stay below their share over any time.
        """
        slot, last = self._slot_of(now), self._slot
        requests, self.requests = self.requests, 0
        if slot <= last:
            self._paid_in[last % SLOTS] += requests
            return
        share = requests / (slot - last)
        self._paid_in[last % SLOTS] += share
        for passed in range(max(last + 1, slot - SLOTS + 1), slot + 1):
            self._paid_in[passed % SLOTS] = share if passed < slot else 0.0
            self._spent[passed % SLOTS] = 0
        self._slot = slot

    def withdraw(self, now: float) -> bool:
        """Pay for one retry; False when the budget is spent."""
        if self.share_left(now) >= 1:
            self._spent[self._slot % SLOTS] += 1
            return True
        if self._floor >= 1:
            self._floor -= 1
            return True
        return False

    def left(self, now: float) -> int:
        """Retries that could be paid for now."""
        return int(max(0.0, self.share_left(now))) + int(self._floor)

    def share_left(self, now: float) -> float:
        """What requests have paid in and retries have not taken out, without the floor."""
        self.roll(now)
        rate = self.settings.min_per_second
        if rate:
            self._floor = min(max(1.0, rate), self._floor + (now - self._floor_at) * rate)
        self._floor_at = now
        # A hair more than exact, so that 0.2 of 5 requests is one.
        return sum(self._paid_in) * self.settings.ratio - sum(self._spent) + 1e-9

    def _slot_of(self, now: float) -> int:
        return int(now * SLOTS / self.settings.window)
