"""The event loop that all processes run on."""

from __future__ import annotations

from typing import Any


def loop_factory() -> Any:
    """uvloop's loop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
