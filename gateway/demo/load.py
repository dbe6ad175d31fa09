"""A mix of requests as clients send it: most of it fine, a little of everything that can go wrong."""

from __future__ import annotations

import asyncio
from itertools import count
from random import choices, expovariate
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout

MAX_RATE: Final = 5000.0
MAX_WAITING: Final = 500
"""Requests in flight. A gateway that is slow is not sent more and more."""

_MIX: Final = (
    (60, "GET", "/users/{n}"),
    (20, "GET", "/orders/{n}"),
    (8, "POST", "/orders"),
    (4, "GET", "/users/slow?ms=120"),
    (2, "GET", "/users/headers"),
    (1, "GET", "/users/slow?ms=3000"),
    (1, "GET", "/users/status/404"),
    (1, "GET", "/nowhere/{n}"),
    (3, "GET", "/reports/{n}"),
)
"""How often, method, target."""
_WEIGHTS: Final = [weight for weight, _, _ in _MIX]


async def send_load(url: str, rate: float, stop: asyncio.Event) -> None:
    """Send `rate` requests per second to the gateway at `url`, at random moments, until `stop` is set."""
    loop, numbers = asyncio.get_running_loop(), count(1)
    tasks: set[asyncio.Task[None]] = set()
    stopped = loop.create_task(stop.wait())
    # A base URL with a slash at its end would be doubled.
    async with ClientSession(url.rstrip("/"), timeout=ClientTimeout(total=30.0)) as client:
        due = loop.time()
        while not stopped.done():
            due += expovariate(rate)
            await asyncio.wait({stopped}, timeout=max(0.0, due - loop.time()))
            if len(tasks) < MAX_WAITING:
                task = loop.create_task(_send(client, next(numbers)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _send(client: ClientSession, number: int) -> None:
    _, method, target = choices(_MIX, _WEIGHTS)[0]
    body = {"tea": number} if method == "POST" else None
    try:
        async with client.request(method, target.format(n=number % 1000), json=body, allow_redirects=False) as response:
            await response.read()
    except (ClientError, TimeoutError):
        pass  # the gateway counts what fails
