"""Policies decide, shells act.

A policy is built from resolved values (seconds as float, bytes as int, frozensets), takes facts and `now` (monotonic
seconds) and, when it needs chance, a random number; it returns a value. It does not await, log, count, sleep, or know
aiohttp, Redis, routes or other policies. Its memory, if any, lives in one slotted class whose methods are sync and total.
"""

from typing import Final

NEVER: Final = float("inf")
"""An instant that does not come."""
