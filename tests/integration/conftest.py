"""Every asynchronous integration test runs on asyncio's own loop and on uvloop's: they differ in how connections end.

But not those whose gateway is a process, which chooses its loop itself, and those of the admin listener, which is aiohttp's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

ONE_LOOP = ("test_access_process.py", "test_process.py", "test_admin.py", "test_prometheus.py", "test_workers.py")


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loops, by the name that stands in the test's id. Without uvloop there is one."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.SelectorEventLoop}
    if item.path.name in ONE_LOOP or item.get_closest_marker("processes"):
        return factories
    try:
        import uvloop
    except ImportError:
        return factories
    return {**factories, "uvloop": uvloop.new_event_loop}
