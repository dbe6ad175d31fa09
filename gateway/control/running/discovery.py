"""Names of endpoints, looked up again and again: each address that a name stands for is an endpoint of its own.

Until a name has an answer, a placeholder stands in the group: it connects by name, and so says best what is wrong. After that
the last answer holds for as long as there is no other. Of several addresses those count that accept a connection when they are
first seen (`localhost` is two addresses, and most services listen on one); if none does, all count.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from random import random
from time import monotonic
from typing import Final

from gateway.control.blocks.upstream.health import endpoint_at
from gateway.control.compile_upstream import MakePool
from gateway.endpoints import Endpoint, introduce
from gateway.ports import Resolver
from gateway.snapshot import Snapshot, Upstream

LOOKUP: Final = 5.0
"""Seconds for one lookup."""
CONNECT: Final = 1.0
"""Seconds for a new address to accept a connection."""
SOON: Final = 5.0
"""Seconds to the next lookup after one that failed, or while an address has not accepted a connection yet."""
JITTER: Final = 0.1
MOST_ADDRESSES: Final = 256
"""Of one name; the others are left out."""
CONNECTS_AT_ONCE: Final = 64

_log = logging.getLogger("gateway")


class Discovery:
    """The lookups of one worker. `apply` after every change of the snapshot; `changed` is called when endpoints have."""

    def __init__(self, resolver: Resolver, make_pool: MakePool, changed: Callable[[], None]) -> None:
        self._resolver = resolver
        self._make_pool = make_pool
        self._changed = changed
        self._upstreams: dict[Endpoint, Upstream] = {}
        self._tasks: dict[Endpoint, asyncio.Task[None]] = {}
        self._waiting: set[Endpoint] = set()
        """Names that have not been looked up yet."""
        self._all_tried = asyncio.Event()
        self._connects = asyncio.Semaphore(CONNECTS_AT_ONCE)

    def apply(self, snapshot: Snapshot) -> None:
        """Look up the names of `snapshot`, and no others."""
        before = self._upstreams
        self._upstreams = {name: upstream for upstream in snapshot.upstreams for name in upstream.names}
        for name in list(self._tasks):
            # A group that took the place of another may have been made before the last answer: it is asked again at once.
            if name not in self._upstreams or self._upstreams[name].group is not before[name].group:
                self._tasks.pop(name).cancel()
                self._tried(name)
        for name in self._upstreams:
            if name not in self._tasks:
                self._waiting.add(name)
                self._all_tried.clear()
                self._tasks[name] = asyncio.get_running_loop().create_task(self._follow(name))

    async def settle(self, within: float) -> None:
        """Wait until every name was looked up once, for so many seconds at most."""
        if self._waiting:
            try:
                async with asyncio.timeout(within):
                    await self._all_tried.wait()
            except TimeoutError:
                _log.warning("still looking up %s", ", ".join(sorted(name.host for name in self._waiting)[:10]))

    async def stop(self) -> None:
        """End all lookups."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _tried(self, name: Endpoint) -> None:
        self._waiting.discard(name)
        if not self._waiting:
            self._all_tried.set()

    async def _follow(self, name: Endpoint) -> None:
        proven: set[str] = {endpoint.address for endpoint in self._endpoints_of(name)}
        failing = False
        while True:
            settled = False
            try:
                addresses = await self._look_up(name)
                failing = self._say(name, failing, "")
                settled = await self._take(name, addresses, proven)
            except (OSError, TimeoutError) as error:
                failing = self._say(name, failing, _in_words(error))
            except Exception:  # noqa: BLE001 - the next lookup comes all the same
                _log.exception("upstream %s: looking up %s", self._upstreams[name].name, name.host)
            self._tried(name)
            interval = self._upstreams[name].dns_interval
            pause = interval if settled else min(interval, SOON)
            await asyncio.sleep(pause * (1.0 - JITTER + 2.0 * JITTER * random()))

    async def _look_up(self, name: Endpoint) -> tuple[str, ...]:
        """Bounded, in a fixed order, so that equal answers are equal."""
        async with asyncio.timeout(LOOKUP):
            addresses = sorted(set(await self._resolver.resolve(name.host)))
        if not addresses:
            raise OSError("no addresses")
        return tuple(addresses[:MOST_ADDRESSES])

    def _say(self, name: Endpoint, failing: bool, why: str) -> bool:
        """Count the lookup, log a change, and mark a placeholder without an answer. Whether it failed."""
        upstream = self._upstreams[name]
        result = "failed" if why else "ok"
        upstream.metrics.lookups[result] = upstream.metrics.lookups.get(result, 0) + 1
        if why and not failing:
            held = "" if name in upstream.group.endpoints else "; the last addresses are kept"
            _log.warning("upstream %s: %s cannot be looked up: %s%s", upstream.name, name.host, why, held)
        elif failing and not why:
            _log.info("upstream %s: %s can be looked up again", upstream.name, name.host)
        if why and name in upstream.group.endpoints and name.up:
            upstream.group.probed(name, f"DNS: {why}", monotonic(), up=False)
        return bool(why)

    def _endpoints_of(self, name: Endpoint) -> list[Endpoint]:
        """Those at the addresses of the name; the placeholder is none of them."""
        group = self._upstreams[name].group
        return [endpoint for endpoint in group.endpoints if endpoint.url == name.url and endpoint is not name]

    async def _take(self, name: Endpoint, addresses: Sequence[str], proven: set[str]) -> bool:
        """Make the group what the name stands for. False while an address has still to prove itself."""
        proven.intersection_update(addresses)
        if len(addresses) == 1:
            proven.update(addresses)
        unproven = [address for address in addresses if address not in proven]
        accepted = await asyncio.gather(*(self._accepts(address, name.port) for address in unproven))
        proven.update(address for address, accepts in zip(unproven, accepted, strict=True) if accepts)
        self._put(name, [address for address in addresses if address in proven] or addresses)
        return len(proven) == len(addresses)

    async def _accepts(self, address: str, port: int) -> bool:
        try:
            async with self._connects, asyncio.timeout(CONNECT):
                transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, address, port)
        except (OSError, TimeoutError):
            return False
        transport.abort()
        return True

    def _put(self, name: Endpoint, addresses: Sequence[str]) -> None:
        upstream = self._upstreams[name]
        group, now = upstream.group, monotonic()
        there = {endpoint.address: endpoint for endpoint in self._endpoints_of(name)}
        if list(there) == list(addresses):
            return
        mine = []
        for address in addresses:
            endpoint = there.get(address)
            if endpoint is None:
                endpoint = endpoint_at(name, address)
                endpoint.pool = self._make_pool(endpoint, upstream.settings, upstream.metrics)
            mine.append(endpoint)
        before = group.endpoints
        at = next(index for index, endpoint in enumerate(before) if endpoint.url == name.url)
        rest = [endpoint for endpoint in before if endpoint.url != name.url]
        after = [*before[:at], *mine, *rest[at:]]
        if name not in before:
            # The first answer is no news: it was the same service before.
            introduce(after, before, now, probed=upstream.probe is not None)
        group.replace(after, now)
        for endpoint in set(before) - set(after):
            endpoint.pool.retire()
        was = f", was {', '.join(there)}" if there else ""
        _log.info("upstream %s: %s is %s%s", upstream.name, name.host, ", ".join(addresses), was)
        self._changed()


def _in_words(error: OSError | TimeoutError) -> str:
    """Why a lookup failed, without the numbers of the C library."""
    return (error.strerror or "").lower() or str(error) or "no answer in time"
