"""Waking those who wait for a slot at a gate.

The loop wakes them, not the release itself: a release inside a release inside a release would be as deep as the queue is long.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop

from gateway.gates import Gate


def let_in(gate: Gate, loop: AbstractEventLoop, now: float) -> None:
    """There may be room: wake who is next, as many as there is room for."""
    while (waiter := gate.next(now)) is not None:
        loop.call_soon(waiter.wake)
