"""How many requests may be in flight at once, and who waits for a slot: a limiter with a bounded queue and priorities.

A request of rank r is admitted while fewer than `room[r]` are in flight: the higher the rank, the more of the limit it may
fill. The others wait, if the queue has a place: the higher rank is served first; within a rank the first come, first served,
but once somebody of the rank has been waiting all the time for `max_wait` the last one first: then the first ones are about to
give up, and serving those would make everybody late (adaptive LIFO: Maurer, "Fail at Scale", ACM Queue 2015). Who cannot be
served in time is told so, not served.

Invariant: nobody waits who could be admitted. So a newcomer that finds room overtakes nobody, and admitting is one
comparison. Whoever makes room (`in_flight` falls, `resize`, `configure`) calls `next` until it says None.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from math import ceil
from typing import Final


class Priority(IntEnum):
    """Who is refused last. The value is the rank."""

    CRITICAL = 0
    DEFAULT = 1
    SHEDDABLE = 2


RANKS: Final = tuple(priority.name.lower() for priority in Priority)
"""The word for each rank."""


class WaiterState(Enum):
    """What has become of a waiter."""

    WAITING = "waiting"
    GRANTED = "granted"
    """It holds a slot."""
    EXPIRED = "expired"
    """Its turn came too late."""
    DISPLACED = "displaced"
    """Somebody else has its place in the queue."""
    GONE = "gone"


_WAITING: Final = WaiterState.WAITING
_GRANTED: Final = WaiterState.GRANTED


@dataclass(frozen=True, slots=True)
class MaxInFlightSettings:
    """A limit and its queue."""

    limit: int
    """Requests in flight; where the limit adapts, the one to begin with."""
    queue: int = 100
    """Requests that may wait; 0: none."""
    max_wait: float = 0.1
    """Seconds that a request may wait."""
    shares: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """By rank: how much of the limit may be in flight when a request of this rank is admitted. Never rising."""

    def rooms(self, limit: int) -> tuple[int, int, int]:
        """The shares in requests: rounded up, so that a small limit is not cut."""
        critical, default, sheddable = (min(limit, max(1, ceil(limit * share - 1e-9))) for share in self.shares)
        return critical, default, sheddable


@dataclass(slots=True, eq=False)
class Waiter:
    """One request in the queue. `wake` is called when its state has changed."""

    rank: int
    due: float
    """The instant after which it is not worth serving."""
    wake: Callable[[], None]
    state: WaiterState = _WAITING


class Fastest:
    """The shortest of the durations of the last 5 to 10 seconds: what an answer takes at least."""

    __slots__ = ("_current", "_previous", "_turns_at", "seconds")

    PERIOD: Final = 5.0

    def __init__(self) -> None:
        self._current = self._previous = float("inf")
        self._turns_at = 0.0
        self.seconds = 0.0
        """0 while nothing is known."""

    def seen(self, seconds: float, now: float) -> None:
        """One answer took so long."""
        if now >= self._turns_at:
            lately = now < self._turns_at + self.PERIOD
            self._previous = self._current if lately else float("inf")
            self._current = float("inf")
            self._turns_at = now + self.PERIOD
        self._current = min(self._current, seconds)
        self.seconds = self._current if self._current < self._previous else self._previous


class Limiter:
    """A limit with its queue. All times are monotonic seconds."""

    __slots__ = ("_queues", "_since", "fastest", "in_flight", "limit", "room", "settings", "waiting")

    def __init__(self, settings: MaxInFlightSettings) -> None:
        self.in_flight = 0
        """Slots that are taken. Who finds `in_flight < room[rank]` adds one; who is done subtracts one and asks `next`."""
        self.waiting = 0
        self.fastest = Fastest()
        self._queues: tuple[OrderedDict[Waiter, None], ...] = tuple(OrderedDict() for _ in Priority)
        self._since = [0.0] * len(self._queues)
        """When each queue began to be not empty."""
        self.settings = settings
        self.limit = settings.limit
        self.room = settings.rooms(settings.limit)

    def configure(self, settings: MaxInFlightSettings) -> None:
        """Other settings from now on. Who waits keeps its place and its time; the queue shrinks as they are served."""
        self.settings = settings
        self.resize(settings.limit)

    def resize(self, limit: int) -> None:
        """Another limit from now on. What is in flight beyond it stays."""
        self.limit = limit
        self.room = self.settings.rooms(limit)

    def _standing(self, rank: int, now: float) -> bool:
        """The queue of this rank does not drain: more come than can be served."""
        return now - self._since[rank] >= self.settings.max_wait

    def enter(self, waiter: Waiter, now: float) -> tuple[bool, Waiter | None]:
        """Let a request that found no room wait. Whether there was a place, and who lost its own for that."""
        queue = self._queues[waiter.rank]
        if not queue:
            self._since[waiter.rank] = now
        displaced = None
        if self.waiting >= self.settings.queue:
            displaced = self._displace(waiter.rank, now)
            if displaced is None:
                return False, None
        queue[waiter] = None
        self.waiting += 1
        return True, displaced

    def _displace(self, rank: int, now: float) -> Waiter | None:
        """Take the place of who would be served last: of a lower rank, or of the same when the last one is served first."""
        for other in range(len(self._queues) - 1, rank - 1, -1):
            queue = self._queues[other]
            if not queue:
                continue
            standing = self._standing(other, now)
            if other > rank or standing:
                waiter, _ = queue.popitem(last=not standing)
                self.waiting -= 1
                waiter.state = WaiterState.DISPLACED
                return waiter
        return None

    def next(self, now: float) -> Waiter | None:
        """The next waiter that is told something: it holds a slot, or its time is over. None: nobody else can be admitted."""
        if not self.waiting:
            return None
        for rank, queue in enumerate(self._queues):
            if not queue:
                continue
            if self.in_flight >= self.room[rank]:
                return None
            waiter, _ = queue.popitem(last=self._standing(rank, now))
            self.waiting -= 1
            if waiter.due <= now:
                waiter.state = WaiterState.EXPIRED
            else:
                waiter.state = _GRANTED
                self.in_flight += 1
            return waiter
        return None

    def let_in(self, soon: Callable[[Callable[[], None]], object], now: float) -> None:
        """There may be room: have those that are next woken, as many as there is room for.

        `soon` calls them later, not here: a release inside a release inside a release would be as deep as the queue is long.
        """
        while (waiter := self.next(now)) is not None:
            soon(waiter.wake)

    def leave(self, waiter: Waiter) -> None:
        """The request waits no longer; a slot that it was given meanwhile is free again, so ask `next`."""
        if waiter.state is _WAITING:
            del self._queues[waiter.rank][waiter]
            self.waiting -= 1
        elif waiter.state is _GRANTED:
            self.in_flight -= 1
        waiter.state = WaiterState.GONE
