"""Work that may block, in a thread of its own.

Not the loop's executor: its threads are waited for at exit, and a read from a network file system that hangs would hang the end
of the process too.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def off_loop(function: Callable[[], T]) -> T:
    """The result of `function`, or what it raised. A cancelled caller leaves the thread to itself."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as raised:  # noqa: BLE001 - the caller gets it
            error = raised
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            pass  # the loop has ended

    threading.Thread(target=work, name="off_loop", daemon=True).start()
    return await answer
