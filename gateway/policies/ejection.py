"""Passive ejection: an endpoint that fails several times in a row is left alone for a while, longer each time in a row.

The numbers are Envoy's (outlier detection): 5 failures, 30 s times the ejections in a row, 300 s at most, never all endpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DEFAULT_STATUSES: Final = frozenset({502, 503, 504})


@dataclass(frozen=True, slots=True)
class EjectionSettings:
    """When an endpoint is ejected, and for how long. Times in seconds."""

    failures: int = 5
    """Failures in a row."""
    statuses: frozenset[int] = DEFAULT_STATUSES
    """Response statuses that count as failures, beside failures to get a response at all."""
    errors: int = 50
    """Answers with another status of 500 and more, or failures, in a row; 0: such answers never eject.

    A 500 is mostly about the request. Where one request in two fails, five in a row are nothing special and say nothing about
    the endpoint; fifty do.
    """
    base: float = 30.0
    """How long the first ejection lasts; the n-th in a row lasts n times as long."""
    longest: float = 300.0
    max_ejected: float = 0.5
    """The share of the endpoints that may be ejected at a time, rounded down, at least one of them and never all."""


def too_many(settings: EjectionSettings, failures: int, errors: int) -> bool:
    """So many failures in a row, or so many failures and error answers in a row, eject."""
    return failures >= settings.failures or 0 < settings.errors <= errors


def most_ejected(settings: EjectionSettings, endpoints: int) -> int:
    """How many of so many endpoints may be out at a time: a share is a bound, so it is rounded down; one may always go, but
    never the last one."""
    # 29 % of 100 is 28.999999999999996 in binary fractions.
    wanted = int(settings.max_ejected * endpoints + 1e-6)
    return max(0, min(endpoints - 1, max(1, wanted)))


def in_a_row(settings: EjectionSettings, before: int, ended: float, now: float) -> int:
    """The number of the ejection that begins at `now`, after `before` in a row of which the last ended at `ended`.

    Each `base` seconds without an ejection take one back.
    """
    return max(0, before - int(max(0.0, now - ended) / settings.base)) + 1


def lasts(settings: EjectionSettings, number: int, chance: float) -> float:
    """Seconds that ejection `number` in a row lasts: 90 to 110 % of the nominal time, so that not all return at once."""
    return min(settings.base * number, settings.longest) * (0.9 + 0.2 * chance)
