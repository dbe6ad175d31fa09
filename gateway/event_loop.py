"""The event loop that all processes run on, and a wait on it that ends."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any


def loop_factory() -> Any:
    """uvloop's loop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def wait_at_most(seconds: float, event: asyncio.Event) -> None:
    """Until the event is set, or so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
