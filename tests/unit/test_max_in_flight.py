"""The limiter and its queue: never above the limit, nobody lost, the higher priority first."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.policies.max_in_flight import RANKS, Fastest, Limiter, MaxInFlightSettings, Priority, Waiter, WaiterState

CRITICAL, DEFAULT, SHEDDABLE = Priority


def nothing() -> None:
    """Nobody is woken here."""


def waiter(rank: int = DEFAULT, due: float = 10.0) -> Waiter:
    """A request that waits."""
    return Waiter(rank, due, nothing)


def full(**more: object) -> Limiter:
    """A limiter of one slot, which is taken."""
    limiter = Limiter(MaxInFlightSettings(1, **more))  # type: ignore[arg-type]
    limiter.in_flight = 1
    return limiter


def freed(limiter: Limiter, now: float) -> Waiter | None:
    """A request is done: who gets its slot."""
    limiter.in_flight -= 1
    return limiter.next(now)


def enter(limiter: Limiter, one: Waiter, now: float = 0.0) -> Waiter:
    """Let it wait, in a queue that has a place."""
    assert limiter.enter(one, now) == (True, None)
    return one


def test_the_words_of_the_ranks() -> None:
    """The words of the configuration are the ranks in order."""
    assert RANKS == ("critical", "default", "sheddable")


@pytest.mark.parametrize(
    "limit, shares, rooms",
    [
        (200, (1.0, 0.95, 0.9), (200, 190, 180)),
        (20, (1.0, 0.95, 0.9), (20, 19, 18)),
        (10, (1.0, 0.95, 0.9), (10, 10, 9)),
        (1, (1.0, 0.5, 0.01), (1, 1, 1)),
        (3, (1.0, 0.7, 0.01), (3, 3, 1)),
        (100, (1.0, 0.07, 0.07), (100, 7, 7)),
    ],
)
def test_shares_are_rounded_up(limit: int, shares: tuple[float, float, float], rooms: tuple[int, int, int]) -> None:
    """A share is never less than one request, and float dust does not add one."""
    assert MaxInFlightSettings(limit, shares=shares).rooms(limit) == rooms


def test_first_come_first_served() -> None:
    """Within a rank the one that waits longest is next."""
    limiter = full()
    first, second = enter(limiter, waiter()), enter(limiter, waiter())

    assert freed(limiter, 0.01) is first
    assert first.state is WaiterState.GRANTED and second.state is WaiterState.WAITING
    assert (limiter.in_flight, limiter.waiting) == (1, 1)


def test_the_last_one_first_when_the_queue_does_not_drain() -> None:
    """A queue that has not been empty for `max_wait` serves the newest: the oldest is about to give up."""
    limiter = full(max_wait=0.1)
    enter(limiter, waiter(), 0.0)
    newest = enter(limiter, waiter(), 0.05)

    assert freed(limiter, 0.1) is newest


def test_a_lower_rank_that_piles_up_changes_nothing_for_a_higher_one() -> None:
    """Whether the last is served first is decided per rank: the first of a higher rank does not pay for a crowd below it."""
    limiter = full(max_wait=0.1)
    enter(limiter, waiter(SHEDDABLE), 0.0)
    first = enter(limiter, waiter(CRITICAL), 0.45)
    enter(limiter, waiter(CRITICAL), 0.46)

    assert freed(limiter, 0.5) is first


def test_an_empty_queue_is_fair_again() -> None:
    """Once the queue was empty, the first comes first again."""
    limiter = full(max_wait=0.1)
    enter(limiter, waiter(), 0.0)
    freed(limiter, 0.5)
    first = enter(limiter, waiter(), 0.6)
    enter(limiter, waiter(), 0.6)

    assert freed(limiter, 0.65) is first


def test_the_higher_priority_first() -> None:
    """Whoever came when, the higher rank is served first."""
    limiter = full()
    waiters = {rank: enter(limiter, waiter(rank)) for rank in (SHEDDABLE, DEFAULT, CRITICAL)}

    assert [freed(limiter, 0.01) for _ in range(3)] == [waiters[CRITICAL], waiters[DEFAULT], waiters[SHEDDABLE]]


def test_a_share_is_kept_for_the_higher_priority() -> None:
    """A slot above the share of a rank is not given to it, though nobody else wants it."""
    limiter = Limiter(MaxInFlightSettings(2, shares=(1.0, 0.5, 0.5)))
    limiter.in_flight = 1
    low = enter(limiter, waiter(DEFAULT))

    assert limiter.next(0.01) is None
    high = enter(limiter, waiter(CRITICAL))
    assert limiter.next(0.01) is high
    assert freed(limiter, 0.02) is None
    assert freed(limiter, 0.02) is low


def test_a_full_queue_refuses() -> None:
    """Who finds the queue full, and nobody of a lower rank in it, is refused."""
    limiter = full(queue=1)
    enter(limiter, waiter())

    assert limiter.enter(waiter(), 0.01) == (False, None)
    assert limiter.enter(waiter(SHEDDABLE), 0.01) == (False, None)
    assert limiter.waiting == 1


def test_without_a_queue_nobody_waits() -> None:
    """A queue of no places refuses everybody, the highest rank too."""
    limiter = full(queue=0)

    assert limiter.enter(waiter(CRITICAL), 0.0) == (False, None)


def test_a_higher_priority_displaces_a_lower_one() -> None:
    """In a full queue the lowest rank loses its place, of these the last to come."""
    limiter = full(queue=3)
    kept, low = enter(limiter, waiter(SHEDDABLE)), enter(limiter, waiter(SHEDDABLE))
    enter(limiter, waiter(DEFAULT))

    assert limiter.enter(waiter(CRITICAL), 0.01) == (True, low)
    assert low.state is WaiterState.DISPLACED and kept.state is WaiterState.WAITING
    assert limiter.waiting == 3


def test_when_the_last_is_served_first_the_oldest_is_displaced() -> None:
    """In a full queue that does not drain, a newcomer takes the place of the oldest of its rank, which would not be served."""
    limiter = full(queue=2, max_wait=0.1)
    oldest = enter(limiter, waiter())
    enter(limiter, waiter())

    newest = waiter()
    assert limiter.enter(newest, 0.2) == (True, oldest)
    assert freed(limiter, 0.2) is newest


def test_who_comes_too_late_is_told() -> None:
    """A waiter whose time is over when its turn comes gets no slot, and is told so."""
    limiter = full()
    late, in_time = enter(limiter, waiter(due=0.05)), enter(limiter, waiter(due=0.09))

    assert freed(limiter, 0.05) is late
    assert late.state is WaiterState.EXPIRED
    assert limiter.in_flight == 0
    assert limiter.next(0.05) is in_time


def test_who_leaves_is_not_served() -> None:
    """A waiter that leaves the queue is gone from it, wherever it stood."""
    limiter = full()
    first, second, third = (enter(limiter, waiter()) for _ in range(3))
    limiter.leave(second)

    assert limiter.waiting == 2
    assert [freed(limiter, 0.01), freed(limiter, 0.01)] == [first, third]


def test_who_leaves_with_a_slot_gives_it_back() -> None:
    """A slot that was granted and not used is free again, once."""
    limiter = full()
    one = enter(limiter, waiter())
    freed(limiter, 0.01)

    limiter.leave(one)
    limiter.leave(one)

    assert (limiter.in_flight, limiter.waiting) == (0, 0)


def test_a_raised_limit_lets_waiters_in() -> None:
    """Whoever waited when the limit is raised is admitted, as many as there is room for."""
    limiter = full()
    waiters = [enter(limiter, waiter()) for _ in range(3)]

    limiter.configure(MaxInFlightSettings(3))

    assert [limiter.next(0.01) for _ in range(3)] == [waiters[0], waiters[1], None]
    assert (limiter.in_flight, limiter.waiting) == (3, 1)


def test_a_lowered_limit_loses_nobody() -> None:
    """What is in flight beyond a lowered limit stays; who waits is served in time, though the queue is smaller now."""
    limiter = Limiter(MaxInFlightSettings(3))
    limiter.in_flight = 3
    waiters = [enter(limiter, waiter()) for _ in range(2)]

    limiter.configure(MaxInFlightSettings(1, queue=1))

    assert limiter.enter(waiter(), 0.01) == (False, None)
    assert [freed(limiter, 0.01), freed(limiter, 0.01)] == [None, None]
    assert [freed(limiter, 0.01), freed(limiter, 0.01)] == waiters


def test_the_fastest_of_late() -> None:
    """What answers take at least is forgotten after 5 to 10 seconds."""
    fastest = Fastest()
    assert fastest.seconds == 0.0

    for seconds, now, expected in ((0.5, 100, 0.5), (0.2, 101, 0.2), (0.9, 106, 0.2), (0.8, 111, 0.8), (3.0, 200, 3.0)):
        fastest.seen(seconds, now)
        assert fastest.seconds == expected


class Limiting(RuleBasedStateMachine):
    """Requests come, wait, leave and are done in any order while the limit is changed, with a plain list as the oracle."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.held: list[int] = []
        """Ranks of what is in flight."""
        self.queue: list[Waiter] = []
        self.over = 0
        """What was in flight when the limit was lowered below it."""

    @initialize(limit=st.integers(1, 5), queue=st.integers(0, 4), shares=st.sampled_from([(1.0, 1.0, 1.0), (1.0, 0.6, 0.3)]))
    def begin(self, limit: int, queue: int, shares: tuple[float, float, float]) -> None:
        """Some limiter."""
        self.limiter = Limiter(MaxInFlightSettings(limit, queue, 1.0, shares))

    def pump(self) -> None:
        """Admit as the limiter says, and check that it is who should be."""
        while (one := self.limiter.next(self.now)) is not None:
            rank = min(other.rank for other in self.queue)
            assert one.rank == rank
            self.queue.remove(one)
            assert (one.state is WaiterState.GRANTED) == (one.due > self.now)
            if one.state is WaiterState.GRANTED:
                self.held.append(one.rank)
                assert len(self.held) <= self.limiter.room[one.rank]

    @rule(rank=st.sampled_from(list(Priority)), patience=st.floats(0.1, 3.0))
    def comes(self, rank: int, patience: float) -> None:
        """A request is admitted, waits or is refused."""
        limiter = self.limiter
        if limiter.in_flight < limiter.room[rank]:
            assert not [other for other in self.queue if other.rank <= rank], "it would overtake"
            limiter.in_flight += 1
            self.held.append(rank)
            return
        one = waiter(rank, self.now + patience)
        before = len(self.queue)
        placed, displaced = limiter.enter(one, self.now)
        if displaced is not None:
            assert placed and displaced.rank >= rank
            self.queue.remove(displaced)
        if placed:
            self.queue.append(one)
            assert len(self.queue) <= max(before, limiter.settings.queue)
        else:
            assert before >= limiter.settings.queue

    @precondition(lambda self: self.held)
    @rule()
    def done(self) -> None:
        """A request is done."""
        self.held.pop()
        self.limiter.in_flight -= 1
        self.pump()

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        """One that waits leaves."""
        one = data.draw(st.sampled_from(self.queue))
        self.queue.remove(one)
        self.limiter.leave(one)
        self.pump()

    @rule(limit=st.integers(1, 6), queue=st.integers(0, 4))
    def changes(self, limit: int, queue: int) -> None:
        """The settings change."""
        self.limiter.configure(MaxInFlightSettings(limit, queue, 1.0, self.limiter.settings.shares))
        self.pump()

    @rule(seconds=st.floats(0.0, 1.5))
    def time_passes(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @invariant()
    def nothing_is_lost(self) -> None:
        """Slots and places are those of the oracle, and nobody waits who could be admitted."""
        limiter = getattr(self, "limiter", None)
        if limiter is None:
            return
        assert limiter.in_flight == len(self.held)
        assert limiter.waiting == len(self.queue)
        assert all(one.state is WaiterState.WAITING for one in self.queue)
        assert all(limiter.in_flight >= limiter.room[one.rank] for one in self.queue)


TestLimiting = Limiting.TestCase
TestLimiting.settings = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
