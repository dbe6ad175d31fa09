"""Rate limits counted by one process for several: the same answers as counting alone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.metrics import StoreMetrics
from gateway.policies.rate_limit import LARGEST_LIMIT, Algorithm, LimitSettings, Rule, rule_of, unpacked_settings
from gateway.ports import Answers, Check, LimitCall
from gateway.proxy.rate_limit_store.batcher import LimitBatcher
from gateway.proxy.rate_limit_store.local import LocalStore
from gateway.proxy.rate_limit_store.worker_link import FORGET, SETTINGS, LimitServer, WorkerLink
from tests.support import PATIENCE, eventually, time_passes


class Limit:
    """A limit, and its own tier."""

    def __init__(self, limit_id: bytes, settings: LimitSettings, *, enforce: bool = True) -> None:
        self.id = limit_id
        self.enforce = enforce
        self.rule: Rule = rule_of(settings)
        self.packed = settings.packed(enforce=enforce)


HOURLY = LimitSettings(10, 3600.0)


def check(limit: Limit, key: int = 1, cost: int = 1) -> Check:
    """A question."""
    return Check(limit, limit, bytes([key]) * 16, cost)


Connect = Callable[[], socket.socket]


@asynccontextmanager
async def serving(store: LocalStore) -> AsyncIterator[Connect]:
    """A process that counts."""
    server = LimitServer(store)
    tasks = []

    def connect() -> socket.socket:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        tasks.append(asyncio.get_running_loop().create_task(server.serve(theirs)))
        return ours

    yield connect
    await asyncio.gather(*tasks)
    server.stop()


@asynccontextmanager
async def worker(connect: Connect) -> AsyncIterator[LimitBatcher]:
    """A worker's store."""
    store = LimitBatcher(SETTINGS, StoreMetrics(), lambda _: WorkerLink(connect), source=Answers.LOCAL)
    await store.start()
    try:
        yield store
    finally:
        await store.stop()


async def ask(store: LimitBatcher, *checks: Check) -> LimitCall:
    """The answer."""
    call = LimitCall(list(checks))
    done = asyncio.Event()
    call.wake = done.set
    store.ask(call)
    if not call.done:
        async with asyncio.timeout(PATIENCE):
            await done.wait()
    return call


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("limit", [1, 100, 101, LARGEST_LIMIT])
@pytest.mark.parametrize("enforce", [True, False])
def test_settings_survive_the_way(algorithm: Algorithm, limit: int, enforce: bool) -> None:
    """What a worker packs is what the other process unpacks, and makes the same rule of."""
    settings = LimitSettings(limit, 1.5, algorithm, 7 if algorithm is Algorithm.TOKEN_BUCKET else 0)
    unpacked, enforced = unpacked_settings(settings.packed(enforce=enforce))

    assert (unpacked.limit, unpacked.per, unpacked.algorithm, unpacked.capacity) == (limit, 1.5, algorithm, settings.capacity)
    assert type(rule_of(unpacked)) is type(rule_of(settings))
    assert enforced is enforce


def test_settings_of_no_algorithm_are_refused() -> None:
    """Bytes that no worker packs are an error, not a limit."""
    with pytest.raises(ValueError, match="no algorithm"):
        unpacked_settings(b"\x07" + HOURLY.packed(enforce=True)[1:])


async def test_several_workers_admit_what_one_would() -> None:
    """Four of them ask at the same time: ten are admitted, counted as decided in process."""
    limit = Limit(b"0" * 12, HOURLY)
    async with serving(LocalStore(1000)) as connect, worker(connect) as a, worker(connect) as b, worker(connect) as c:
        calls = await asyncio.gather(*(ask(store, check(limit)) for store in (a, b, c) for _ in range(10)))

    assert sum(not call.verdicts[0][2] for call in calls) == 10
    assert {call.source for call in calls} <= {Answers.LOCAL, Answers.CACHE}


async def test_who_keeps_a_small_limit_is_never_refused() -> None:
    """One request per 1.1 periods under a limit of one per period, from two workers in turn."""
    limit = Limit(b"6" * 12, LimitSettings(1, 0.1))
    refused = 0
    async with serving(LocalStore(1000)) as connect, worker(connect) as a, worker(connect) as b:
        for store in (a, b) * 6:
            refused += bool((await ask(store, check(limit))).verdicts[0][2])
            await time_passes(0.11)

    assert refused == 0


async def test_limits_are_charged_all_or_none() -> None:
    """A call with two limits of which one denies costs nothing of the other."""
    wide, narrow = Limit(b"1" * 12, HOURLY), Limit(b"2" * 12, LimitSettings(1, 3600.0))
    async with serving(LocalStore(1000)) as connect, worker(connect) as store:
        await ask(store, check(wide), check(narrow))
        await ask(store, check(wide, cost=2), check(narrow, key=2))
        denied = await ask(store, check(wide), check(narrow))
        left = (await ask(store, check(wide, cost=0))).verdicts[0][0]

    assert any(verdict[2] for verdict in denied.verdicts)
    assert left == 7


async def test_a_key_can_be_forgotten() -> None:
    """The cost that forgets gives the whole quota back."""
    limit = Limit(b"3" * 12, HOURLY)
    async with serving(LocalStore(1000)) as connect, worker(connect) as store:
        await ask(store, check(limit, cost=9))
        assert (await ask(store, check(limit, cost=FORGET))).verdicts[0][0] == 10


async def test_the_link_is_made_anew() -> None:
    """A link that breaks costs the calls that are on their way; the next ones are answered on a new one."""
    limit = Limit(b"4" * 12, HOURLY)
    made: list[socket.socket] = []
    async with serving(LocalStore(1000)) as connect:

        def remembered() -> socket.socket:
            made.append(connect())
            return made[-1]

        async with worker(remembered) as store:
            assert (await ask(store, check(limit))).source == Answers.LOCAL
            made[0].shutdown(socket.SHUT_RDWR)
            await eventually(lambda: len(made) > 1 and store.up)
            assert (await ask(store, check(limit))).verdicts[0][0] == 8


async def test_without_anybody_who_counts_workers_decide_alone() -> None:
    """A supervisor that has gone is like a Redis that is down: nobody waits."""

    def refuses() -> socket.socket:
        raise ConnectionRefusedError

    async with worker(refuses) as store:
        assert (await ask(store, check(Limit(b"5" * 12, HOURLY)))).source == Answers.NONE
