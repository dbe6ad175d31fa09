"""Work that may block, in a thread of its own.

Not the loop's executor: its threads are waited for at exit, and a read from a network file system that hangs would hang the end
of the process too.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def off_loop(function: Callable[[], T]) -> T:
    """The result of `function`, or what it raised. A cancelled caller leaves the thread to itself."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(how: Callable[[Any], None], what: Any) -> None:
        if not answer.done():
            how(what)

    def work() -> None:
        how: Callable[[Any], None] = answer.set_result
        what: Any
        try:
            what = function()
        except BaseException as raised:  # noqa: BLE001 - the caller gets it
            how, what = answer.set_exception, raised
        # The loop may have ended meanwhile.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, how, what)

    threading.Thread(target=work, name="off_loop", daemon=True).start()
    return await answer
