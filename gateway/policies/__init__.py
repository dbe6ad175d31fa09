"""Policies decide, shells act.

A policy is built from resolved values (seconds as float, bytes as int, frozensets), takes facts and `now` (monotonic
seconds) and, when it needs chance, a random number; it returns a value. It does not await, log, count, sleep, or know
aiohttp, Redis, routes or other policies. Its memory, if any, lives in one slotted class whose methods are sync and total.
"""

from typing import Final

NEVER: Final = float("inf")
"""An instant that does not come."""

LAST_STATUS: Final = 599
"""Of the classes that RFC 9110 knows."""


def status_meant(status: int) -> int:
    """The status that policies go by: 500 for one of no class (RFC 9110 15). Clients get it as it is."""
    return status if status <= LAST_STATUS else 500
