"""Rate limits across gateways: counts in Redis, asked by one task for all requests.

Whatever waits while a call is on its way leaves together in the next one, so the more there is to ask, the less a check costs.
Only that task touches sockets: a request that is cancelled costs no connection. One clock per batch bounds what a check may
take; when it rings, the store counts as down and everyone is told at once. While it is down nobody waits for it: a task in the
background connects anew, and the store is up again when a probe that writes was answered in time.

Denials are remembered until they are over: denials are free and others can only take more, so a cached one is never wrong.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from random import uniform
from typing import Final

from redis.exceptions import AuthenticationError, NoPermissionError, OutOfMemoryError, ReadOnlyError
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from gateway.metrics import StoreMetrics
from gateway.policies.rate_limit import LimitSettings, rule_of
from gateway.ports import Answers, Check, LimitCall
from gateway.proxy.rate_limit_store.redis_link import CONNECT_TIMEOUT, GarbageError, Link, make_link
from gateway.snapshot import LimitTier, RedisSettings

LARGEST_BATCH: Final = 128
"""Checks in one call: the server does nothing else for about half a millisecond."""
LONGEST_QUEUE: Final = 4096
"""Requests that wait; more are answered as if the store were down."""
MOST_DENIALS: Final = 10_000
LONGEST_DENIAL: Final = 5.0
"""Seconds after which a remembered denial is asked again, so that a reset or a raised limit is soon seen everywhere."""
IDLE_PROBE: Final = 1.0
"""Seconds without a call after which the store is asked whether it is still there."""
FIRST_CONNECT: Final = 1.0
"""Seconds that the start of the gateway waits for the store."""

SHORT_LIFE: Final = 5.0
"""A store that goes down so many seconds after it came up is given time before it is tried again: it would only flap."""

_log = logging.getLogger("gateway")


class _Probe:
    """A limit that admits everything, to see that the store takes writes."""

    id = b"probe"
    enforce = False


_PROBE_SETTINGS: Final = LimitSettings(1_000_000, 1.0)
_PROBE_TIER: Final = LimitTier(_PROBE_SETTINGS, rule_of(_PROBE_SETTINGS), _PROBE_SETTINGS.packed(enforce=False), b"", 0)


def _probe() -> LimitCall:
    return LimitCall([Check(_Probe(), _PROBE_TIER, bytes(16), 1)])


class LimitBatcher:
    """A `LimitStore` that asks another process. `start` and `stop` frame its one task."""

    def __init__(
        self,
        settings: RedisSettings,
        metrics: StoreMetrics,
        link: Callable[[RedisSettings], Link] = make_link,
        *,
        source: int = Answers.REDIS,
    ) -> None:
        """`source` is what its verdicts are counted as."""
        self._source = source
        self.settings = settings
        self.up = False
        self.metrics = metrics
        self._make_link = link
        self._loop = asyncio.get_running_loop()
        self._queue: deque[LimitCall] = deque()
        self._idle: asyncio.Future[None] | None = None
        self._denied: OrderedDict[bytes, tuple[float, float, int, int]] = OrderedDict()
        """Limit and key ▸ until when, asked again when, from which cost on, units left."""
        self._told = False
        self._up_at = 0.0
        self._short_lives = 0
        self._first = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # -- the data plane's side ---------------------------------------------------------------------------------------

    def ask(self, call: LimitCall) -> None:
        now = self._loop.time()
        if self._denied and self._remembered(call, now):
            return
        queue = self._queue
        if not self.up or len(queue) >= LONGEST_QUEUE:
            call.source = Answers.NONE
            call.done = True
            return
        call.since = now
        queue.append(call)
        idle = self._idle
        if idle is not None:
            self._idle = None
            # Its time may have run out a moment ago: whoever waits for it looks at the queue in any case.
            if not idle.done():
                idle.set_result(None)

    def denies(self, checks: Sequence[Check]) -> bool:
        # As far as former denials tell.
        return bool(self._denied) and self._remembered(LimitCall(list(checks)), self._loop.time())

    def forget(self) -> None:
        self._denied.clear()

    def _remembered(self, call: LimitCall, now: float) -> bool:
        """Answer from a denial that still holds."""
        for check in call.checks:
            if not check.limit.enforce:
                continue
            key = check.limit.id + check.digest
            denial = self._denied.get(key)
            if denial is None:
                continue
            until, again, cost, left = denial
            if now >= again:
                del self._denied[key]
            elif check.cost >= cost:
                wait = max(1, int((until - now) * 1_000_000))
                call.checks = [check]
                call.verdicts = [(left, wait, wait)]
                call.source = Answers.CACHE
                call.done = True
                return True
        return False

    # -- the task ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to connect, and wait a moment for it: the first requests should not be counted apart."""
        self._task = self._loop.create_task(self._live())
        try:
            async with asyncio.timeout(FIRST_CONNECT):
                await self._first.wait()
        except TimeoutError:
            self._tell_down("no answer yet")

    async def stop(self) -> None:
        """Drop the connection; nobody waits any longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._give_up()

    async def _live(self) -> None:
        while True:
            link = self._make_link(self.settings)
            try:
                await self._connect(link)
                self._went_up()
                await self._serve(link)
            except Exception as error:  # noqa: BLE001 - whatever it is, requests must not wait for a task that has ended
                self._went_down(error)
            finally:
                self.up = self.metrics.up = False
                await link.close()
            await self._pause()

    async def _pause(self) -> None:
        """Let a store that has just come up and gone down again rest, longer each time."""
        lived = self._loop.time() - self._up_at
        self._short_lives = self._short_lives + 1 if lived < SHORT_LIFE else 0
        if self._short_lives:
            await asyncio.sleep(min(SHORT_LIFE, 0.05 * 2**self._short_lives) * uniform(0.5, 1.0))

    async def _connect(self, link: Link) -> None:
        """Try until it works: a cold path, so tenacity keeps the time."""
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(Exception),
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            sleep=asyncio.sleep,
            before_sleep=lambda state: self._went_down(state.outcome.exception() if state.outcome is not None else None),
        )

        async def attempt() -> None:
            try:
                async with asyncio.timeout(2 * CONNECT_TIMEOUT):
                    await link.open()
                    await link.run([_probe()])  # the first may have to load the script
                await self._ask_probe(link)
            except BaseException:
                await link.close()
                raise

        await attempts(attempt)

    async def _ask_probe(self, link: Link) -> None:
        async with asyncio.timeout(self.settings.timeout):
            await link.run([_probe()])

    async def _serve(self, link: Link) -> None:
        loop, queue, metrics = self._loop, self._queue, self.metrics
        while True:
            if not queue:
                idle = self._idle = loop.create_future()
                try:
                    async with asyncio.timeout(IDLE_PROBE):
                        await idle
                except TimeoutError:
                    self._idle = None
                    if not queue:
                        await self._ask_probe(link)
                continue
            batch, checks = self._take()
            if not batch:
                continue
            begun = loop.time()
            # A call that waited while the loop was busy still gets half the time for the way there and back.
            due = max(batch[0].since + self.settings.timeout, begun + self.settings.timeout / 2)
            try:
                async with asyncio.timeout_at(due):
                    await link.run(batch)
            except BaseException:
                self._give_up(batch)
                raise
            metrics.duration.observe(loop.time() - begun)
            metrics.batches.observe(checks)
            self._remember(batch, begun)
            for call in batch:
                # A cluster answers by the parts that are up.
                call.source = self._source if call.verdicts else Answers.NONE
                call.done = True
                if not call.abandoned:
                    call.wake()

    def _take(self) -> tuple[list[LimitCall], int]:
        """The next batch, without those that nobody waits for any more."""
        queue = self._queue
        batch: list[LimitCall] = []
        checks = 0
        while queue:
            call = queue[0]
            if not call.abandoned:
                if batch and checks + len(call.checks) > LARGEST_BATCH:
                    break
                batch.append(call)
                checks += len(call.checks)
            queue.popleft()
        return batch, checks

    def _remember(self, batch: list[LimitCall], begun: float) -> None:
        """Keep denials. They are counted from before the call left, so they never last longer than the store's."""
        denied = self._denied
        for call in batch:
            for check, (left, _, wait) in zip(call.checks, call.verdicts, strict=False):
                if wait and check.limit.enforce:
                    until = begun + wait / 1_000_000
                    key = check.limit.id + check.digest
                    denied[key] = (until, min(until, begun + LONGEST_DENIAL), check.cost, left)
                    denied.move_to_end(key)
                    if len(denied) > MOST_DENIALS:
                        denied.popitem(last=False)

    # -- up and down -------------------------------------------------------------------------------------------------

    def _give_up(self, batch: Sequence[LimitCall] = ()) -> None:
        """Tell all that wait that the store does not answer. They may not come back before it is up again."""
        self.up = self.metrics.up = False
        waiting = [*batch, *self._queue]
        self._queue.clear()
        for call in waiting:
            call.verdicts = []
            call.source = Answers.NONE
            call.done = True
            if not call.abandoned:
                call.wake()

    def _went_up(self) -> None:
        if self._told:
            _log.warning("rate limits: %s answers again", self.settings.shown)
        else:
            _log.info("rate limits are kept in %s", self.settings.shown)
        self._told = False
        self._up_at = self._loop.time()
        self.up = self.metrics.up = True
        self._first.set()

    def _went_down(self, error: BaseException | None) -> None:
        kind = _kind(error)
        self.metrics.errors[kind] += 1
        self._give_up()
        self._tell_down(kind)

    def _tell_down(self, kind: str) -> None:
        """One line per transition, however often it fails meanwhile."""
        if not self._told:
            self._told = True
            _log.warning("rate limits: %s is down (%s); `on_store_error` of each limit decides", self.settings.shown, kind)


def _kind(error: BaseException | None) -> str:
    """A word for the metric and the log. It never holds what the server said: that may quote the command."""
    name = type(error).__name__
    if isinstance(error, (AuthenticationError, NoPermissionError)) or "Auth" in name or "WRONGPASS" in str(error):
        return "authentication"
    if isinstance(error, ReadOnlyError):
        return "read_only"
    if isinstance(error, OutOfMemoryError):
        return "out_of_memory"
    if isinstance(error, TimeoutError) or "Timeout" in name:
        return "timeout"
    if isinstance(error, OSError) or "Connection" in name:
        return "connection"
    return "protocol" if isinstance(error, GarbageError) or name in ("InvalidResponse", "ProtocolError") else "error"
