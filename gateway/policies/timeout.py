"""Time budgets: one deadline per request, from which every other time limit of the request is cut.

The deadline includes queueing, the rate-limit call, every attempt and every back-off. An attempt gets the smaller of its
own timeout and what is left; an attempt that would start after the deadline is not started. All values are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_BUDGET_FIELD_MS = 86_400_000
"""A day: longer client budgets cannot shorten any budget the schema allows."""


@dataclass(frozen=True, slots=True)
class TimeoutSettings:
    """The resolved `timeout:` of a route."""

    request: float = 15.0
    """From the complete request to the final response head."""
    attempt: float = 15.0
    """From dispatch of one attempt to its final response head."""
    connect: float = 3.0
    """To open one upstream connection: name resolution, TCP and TLS."""
    idle: float = 300.0
    """The longest silence inside a streamed response or tunnel."""


def parse_budget_ms(value: bytes) -> float | None:
    """Seconds from a remaining-time field in whole milliseconds; None when it is not 1*8DIGIT (then it is ignored)."""
    if not value or len(value) > 8 or not value.isdigit():
        return None
    return min(int(value), MAX_BUDGET_FIELD_MS) / 1000


def budget(settings: TimeoutSettings, client_budget: float | None) -> float:
    """Seconds the request may take from when it is complete. A trusted client's budget can only shorten it."""
    if client_budget is not None and client_budget < settings.request:
        return client_budget
    return settings.request


BLAMED_FROM: Final = 0.5
"""The share of its own limit that an upstream must have had when the deadline of the request comes, to be to blame for it."""


def attempt_ends(settings: TimeoutSettings, now: float, deadline_at: float) -> float:
    """The instant an attempt started at `now` must have brought its response head."""
    end = now + settings.attempt
    return end if end < deadline_at else deadline_at


def remaining_ms(now: float, deadline_at: float) -> int:
    """What to tell the upstream: whole milliseconds left, at least 1 (0 would read as "no limit" to some)."""
    left = int((deadline_at - now) * 1000)
    return left if left > 0 else 1
