"""The few threads that encode what would hold the event loop up; libraries let go of the interpreter while they encode."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

_log = logging.getLogger("gateway")


def _give_way() -> None:
    """On the core that they share the event loop goes first. Only Linux knows priorities of threads."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + 10)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class CodingThreads:
    """A few threads that encode. Each response has at most one block with them."""

    __slots__ = ("_executor", "_loop")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._executor: ThreadPoolExecutor | None = None

    def run(self, work: Callable[[bytes], bytes], data: bytes, done: Callable[[bytes | None, float], None]) -> None:
        """Call `done` on the loop with what `work` made of `data` (None: it failed) and the seconds it took."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(min(4, _cores()), "coding", _give_way)
        self._executor.submit(self._work, work, data, done)

    def _work(self, work: Callable[[bytes], bytes], data: bytes, done: Callable[[bytes | None, float], None]) -> None:
        started = perf_counter()
        result: bytes | None = None
        try:
            result = work(data)
        except Exception:  # noqa: BLE001 - it must cost one response, not the thread
            _log.exception("an encoder failed")
        try:
            self._loop.call_soon_threadsafe(done, result, perf_counter() - started)
        except RuntimeError:
            pass  # the loop is closed: nobody waits for it

    def stop(self) -> None:
        """What has not begun is dropped; what has is awaited by nobody."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None
