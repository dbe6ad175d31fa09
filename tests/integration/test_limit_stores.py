"""One suite for every store of rate limits: the same sequences, the same verdicts. And what only a store outside does."""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeAlias
from uuid import uuid4

import pytest

from gateway.control.blocks.server.redis import Redis, redis_settings
from gateway.metrics import StoreMetrics
from gateway.policies.rate_limit import Algorithm, LimitSettings, Rule, Verdict, rule_of
from gateway.ports import Answers, Check, LimitCall, LimitStore
from gateway.proxy.rate_limit_store.batcher import IDLE_PROBE, LARGEST_BATCH, LONGEST_QUEUE, LimitBatcher
from gateway.proxy.rate_limit_store.local import LocalStore
from gateway.snapshot import RedisSettings
from tests.conftest import StartUpstream
from tests.fleets import until
from tests.redis_server import Cluster, Sentinel, Server
from tests.support import GET, OK, PATIENCE, answers, eventually, proxy, refusing_port, time_passes, turns

GIVEN = os.environ.get("GATEWAY_TEST_REDIS_URL", "")
"""A server to run the suite of all stores on as well; its database is written to."""
STORES = ("local", "redis", "cluster", *(["given"] if GIVEN else []))


@dataclass
class Tier:
    """Settings of a limit."""

    rule: Rule
    packed: bytes


@dataclass
class Limit:
    """What a store knows of a limit."""

    id: bytes
    enforce: bool = True


class Kind(NamedTuple):
    """An algorithm, and what limits and costs are multiplied by: a sliding window is exact, or two counters, by its size."""

    algorithm: Algorithm
    unit: int = 1

    def __str__(self) -> str:
        return f"{self.algorithm.value}-{self.unit}"

    def limit(self, units: int, per: float) -> LimitSettings:
        """A limit of so many units."""
        return LimitSettings(units * self.unit, per, self.algorithm)


KINDS = (*map(Kind, Algorithm), Kind(Algorithm.SLIDING_WINDOW, 1000))
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)

_run = uuid4().hex[:8]
_names = iter(range(10**9))


def check(settings: LimitSettings, key: bytes = b"k", *, cost: int = 1, enforce: bool = True, name: str = "") -> Check:
    """One limit asked for one key; without a name it is a limit that nobody has asked before."""
    limit = Limit((name or f"{_run}-{next(_names)}").encode(), enforce)
    return Check(limit, Tier(rule_of(settings), settings.packed(enforce=enforce)), key.ljust(16, b"\0"), cost)


def again(one: Check, cost: int = 1) -> Check:
    """The same once more."""
    return Check(one.limit, one.tier, one.digest, cost)


async def ask(store: LimitStore, *checks: Check) -> list[Verdict]:
    """Ask the limits of one request."""
    return (await asked(store, *checks)).verdicts


async def asked(store: LimitStore, *checks: Check) -> LimitCall:
    """The same, with who answered."""
    call = LimitCall(list(checks))
    store.ask(call)
    if not call.done:
        done = asyncio.get_running_loop().create_future()
        call.wake = lambda: done.set_result(None)
        async with asyncio.timeout(PATIENCE):
            await done
    assert call.done
    return call


async def admits(store: LimitStore, *checks: Check) -> bool:
    """Whether the request passes."""
    call = await asked(store, *checks)
    return not any(wait for (_, _, wait), one in zip(call.verdicts, call.checks, strict=True) if one.limit.enforce)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the module."""
    started = Server(tmp_path_factory.mktemp("redis"))
    yield started
    started.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes for the module."""
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    yield started
    started.kill()


def redis_store(*ports: int, scheme: str = "redis", timeout: float = 2.0) -> AbstractAsyncContextManager[LimitBatcher]:
    """A store on servers of this machine, with room for a busy one."""
    nodes = tuple(("127.0.0.1", port) for port in ports)
    return connected(RedisSettings(scheme, nodes, timeout=timeout, shown="redis"))


@asynccontextmanager
async def connected(settings: RedisSettings) -> AsyncIterator[LimitBatcher]:
    """A store that answers."""
    started = LimitBatcher(settings, StoreMetrics())
    await started.start()
    try:
        await eventually(lambda: started.up)
        yield started
    finally:
        await started.stop()


OpenStore: TypeAlias = Callable[[], Awaitable[LimitStore]]


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[LimitStore]:
    """Each store in turn."""
    if request.param == "local":
        yield LocalStore(10_000)
        return
    if request.param == "redis":
        async with redis_store(request.getfixturevalue("server").port) as one:
            yield one
        return
    if request.param == "given":
        settings = redis_settings(Redis.model_validate({"url": GIVEN, "timeout": "500ms"}))
        assert settings is not None
        async with connected(settings) as one:
            yield one
        return
    nodes = request.getfixturevalue("cluster").servers
    async with redis_store(*[node.port for node in nodes], scheme="cluster") as one:
        yield one


# -- every store -------------------------------------------------------------------------------------------------------


@every_kind
async def test_the_limit_is_reached_and_not_passed(store: LimitStore, kind: Kind) -> None:
    """Exactly the limit is admitted, `left` counts down, and a denial says when."""
    one = check(kind.limit(5, 60.0))
    verdicts = [(await ask(store, again(one, kind.unit)))[0] for _ in range(8)]

    assert [left // kind.unit for left, _, _ in verdicts] == [4, 3, 2, 1, 0, 0, 0, 0]
    assert [wait == 0 for _, _, wait in verdicts] == [True] * 5 + [False] * 3
    assert all(0 < wait <= 120_000_000 for _, _, wait in verdicts[5:])


@every_kind
async def test_who_waits_as_told_is_admitted(store: LimitStore, kind: Kind) -> None:
    """After the wait of a denial the same cost passes."""
    one = check(kind.limit(4, 1.0))
    await ask(store, again(one, 4 * kind.unit))
    verdict = (await ask(store, again(one, 2 * kind.unit)))[0]
    assert verdict[2] > 0
    await time_passes(verdict[2] / 1_000_000 + 0.002)

    assert await admits(store, again(one, 2 * kind.unit))


async def test_who_keeps_a_small_limit_is_never_refused(store: LimitStore) -> None:
    """One request per 1.1 periods and a little, under a limit of one per period, wherever windows begin."""
    one = check(LimitSettings(1, 0.1))
    got = []
    for _ in range(12):
        got.append(await admits(store, again(one)))
        await time_passes(0.11)

    assert got == [True] * 12


async def test_counts_go_on_when_the_size_of_a_limit_changes(store: LimitStore) -> None:
    """A sliding window whose limit is set past the size up to which it is exact, and back, keeps what was counted."""
    name = f"{_run}-{next(_names)}"
    small, large = (check(LimitSettings(limit, 3600.0), name=name) for limit in (60, 600))
    await ask(store, again(small, 50))

    assert (await ask(store, again(large, 0)))[0][0] == 550
    assert await admits(store, again(large, 5))
    assert (await ask(store, again(small, 0)))[0][0] == 5
    assert not await admits(store, again(small, 6))


@every_kind
async def test_all_or_none(store: LimitStore, kind: Kind) -> None:
    """When one limit denies, the others are not charged, whatever their keys."""
    wide, narrow = check(kind.limit(9, 60.0), b"a"), check(kind.limit(2, 60.0), b"b")
    got = [await admits(store, again(wide, kind.unit), again(narrow, kind.unit)) for _ in range(5)]

    assert got == [True, True, False, False, False]
    assert (await ask(store, again(wide, kind.unit)))[0][0] // kind.unit == 6


@every_kind
async def test_a_shadow_limit_denies_nothing(store: LimitStore, kind: Kind) -> None:
    """It says what it would, and the enforced limits are charged regardless."""
    live = again(check(kind.limit(3, 60.0)), kind.unit)
    shadow = again(check(kind.limit(1, 60.0), enforce=False), kind.unit)
    verdicts = [await ask(store, live, shadow) for _ in range(3)]

    assert [one[0][2] for one in verdicts] == [0, 0, 0]
    assert [one[1][2] == 0 for one in verdicts] == [True, False, False]
    assert not await admits(store, live, shadow)


@every_kind
async def test_denials_are_free(store: LimitStore, kind: Kind) -> None:
    """Who keeps asking while denied waits no longer for it: every denial says the same end, and then there is room."""
    one = check(kind.limit(2, 1.0))
    await ask(store, again(one, 2 * kind.unit))
    waits = []
    async with asyncio.timeout(PATIENCE):
        while wait := (await ask(store, again(one, kind.unit)))[0][2]:
            waits.append(wait)
            # A store outside remembers a denial; each of these is to reach it.
            store.forget()
            await turns()

    assert len(waits) > 5
    assert [pair for pair in pairwise(waits) if pair[1] > pair[0]] == []


@every_kind
async def test_costs(store: LimitStore, kind: Kind) -> None:
    """A request that does not fit takes nothing, and a smaller one behind it still passes."""
    one = check(kind.limit(10, 60.0))
    got = [await admits(store, again(one, cost * kind.unit)) for cost in (7, 4, 3, 1)]

    assert got == [True, False, True, False]


async def test_burst_of_a_bucket(store: LimitStore) -> None:
    """`burst` comes at once, then the rate."""
    one = check(LimitSettings(60, 60.0, Algorithm.TOKEN_BUCKET, burst=5))
    got = [await admits(store, again(one)) for _ in range(5)]

    assert got == [True] * 5
    wait = (await ask(store, again(one, 5)))[0][2]
    assert 0 < wait <= 5_000_001


@every_kind
async def test_keys_are_counted_apart(store: LimitStore, kind: Kind) -> None:
    """Another key has another count, in another slot or not."""
    name = f"apart-{kind}-{id(store)}"
    got = [
        await admits(store, again(check(kind.limit(1, 60.0), b"key-%d" % number, name=name), kind.unit)) for number in range(20)
    ]

    assert got == [True] * 20


@every_kind
async def test_many_at_once_are_admitted_exactly(store: LimitStore, kind: Kind) -> None:
    """A hundred requests at the same moment: the limit is admitted, not one more or less."""
    one = check(kind.limit(37, 60.0))
    got = await asyncio.gather(*(admits(store, again(one, kind.unit)) for _ in range(100)))

    assert sum(got) == 37


# -- Redis -------------------------------------------------------------------------------------------------------------


@every_kind
async def test_several_gateways_share_one_count(server: Server, kind: Kind) -> None:
    """Four stores ask for one key at the same time: together they admit the limit."""
    one = check(kind.limit(50, 60.0))
    async with (
        redis_store(server.port) as a,
        redis_store(server.port) as b,
        redis_store(server.port) as c,
        redis_store(server.port) as d,
    ):
        got = await asyncio.gather(*(admits(each, again(one, kind.unit)) for _ in range(50) for each in (a, b, c, d)))

    assert sum(got) == 50


async def test_what_waits_leaves_together(server: Server) -> None:
    """Sixty-four requests at once are few calls of the script."""
    one = check(LimitSettings(1000, 60.0))
    async with redis_store(server.port) as store:
        before = server.calls()
        await asyncio.gather(*(ask(store, again(one), again(check(LimitSettings(9, 1.0)))) for _ in range(64)))

        assert server.calls() - before <= 64 * 2 // LARGEST_BATCH + 2


async def test_a_denial_is_remembered_until_it_is_over(server: Server) -> None:
    """Requests of the same or a higher cost are denied without asking; a lower cost is asked."""
    one = check(LimitSettings(10, 60.0))
    async with redis_store(server.port) as store:
        await ask(store, again(one, 7))
        begun = asyncio.get_running_loop().time()
        denied = await asked(store, again(one, 5))
        before = server.calls()
        same, more = await asked(store, again(one, 5)), await asked(store, again(one, 9))

        assert denied.source == Answers.REDIS
        assert (same.source, more.source) == (Answers.CACHE, Answers.CACHE)
        passed = (asyncio.get_running_loop().time() - begun) * 1_000_000 + 1
        assert abs(same.verdicts[0][2] - denied.verdicts[0][2]) <= passed
        assert server.calls() == before
        assert await admits(store, again(one, 3))
        store.forget()
        assert (await asked(store, again(one, 5))).source == Answers.REDIS


async def test_keys_hold_nothing_of_the_client(server: Server) -> None:
    """Prefix, digest in braces, id of the limit: of one length, and gone when they say nothing any more."""
    one = check(LimitSettings(5, 1.0), b"}{\0evil")
    async with redis_store(server.port) as store:
        await ask(store, again(one))
    with server.client() as client:
        (key,) = [key for key in client.scan_iter() if key.endswith(one.limit.id)]
        assert key.startswith(b"gateway:{" + one.digest.hex().encode() + b"}:")
        assert 0 < client.pttl(key) <= 2002
        await eventually(lambda: not client.exists(key))


async def test_a_cancelled_request_costs_no_connection(server: Server) -> None:
    """Who leaves while waiting is skipped; the connection stays."""
    one = check(LimitSettings(100, 60.0))
    async with redis_store(server.port) as store:
        with server.client() as client:
            before = client.info("stats")["total_connections_received"]
            calls = []
            for _ in range(50):
                call = LimitCall([again(one)])
                store.ask(call)
                call.abandoned = True
                calls.append(call)
            left = (await ask(store, again(one)))[0][0]

            assert client.info("stats")["total_connections_received"] == before
            assert left == 99


async def test_a_check_in_the_moment_of_a_probe_is_answered(server: Server) -> None:
    """The time after which an idle store is probed runs out, and a check comes before anybody has noticed."""
    one = check(LimitSettings(9, 60.0))
    loop = asyncio.get_running_loop()
    answered = loop.create_future()

    def ask_now() -> None:
        call = LimitCall([again(one)])
        call.wake = lambda: None if answered.done() else answered.set_result(call.source)
        try:
            store.ask(call)
        except asyncio.InvalidStateError as error:
            answered.set_exception(error)

    def hold_the_loop() -> None:
        # Until both are due: they are then rung one behind the other, and nothing else runs in between.
        while loop.time() < begun + IDLE_PROBE + 0.02:
            pass

    async with redis_store(server.port) as store:
        await eventually(lambda: store._idle is not None)
        begun = loop.time()
        loop.call_at(begun + IDLE_PROBE / 2, hold_the_loop)
        loop.call_at(begun + IDLE_PROBE + 0.01, ask_now)
        async with asyncio.timeout(PATIENCE):
            assert await answered == Answers.REDIS


async def test_the_queue_is_bounded(server: Server) -> None:
    """More than fit are answered at once, as if the store were down."""
    one = check(LimitSettings(10_000_000, 60.0))
    async with redis_store(server.port, timeout=1.0) as store:
        calls = [LimitCall([again(one)]) for _ in range(LONGEST_QUEUE + 10)]
        for call in calls:
            store.ask(call)
        assert [call.source for call in calls if call.done] == [Answers.NONE] * 10
        await eventually(lambda: all(call.done for call in calls))


async def test_a_clock_that_steps_back_keeps_the_counts(server: Server) -> None:
    """A state from the future, as after a failover to a server with another clock, still counts and blocks nobody for long."""
    one = check(LimitSettings(500, 30.0))
    async with redis_store(server.port) as store:
        await ask(store, again(one, 499))
        with server.client() as client:
            (key,) = [key for key in client.scan_iter() if key.endswith(one.limit.id)]
            index, last, this = struct.unpack("<ddd", client.get(key))
            client.set(key, struct.pack("<ddd", index + 1000, last, this), px=500_000)
        assert (await ask(store, again(one)))[0][0] == 0
        wait = (await ask(store, again(one)))[0][2]
        assert 0 < wait <= 60_000_001


def _replicated(replica: Server) -> bool:
    """The first copy is there."""
    with replica.client() as client:
        return bool(client.info("replication").get("master_link_status") == "up")


@pytest.mark.slow
async def test_the_master_behind_sentinels_is_followed(tmp_path: Path) -> None:
    """After a failover the counts are asked of the new master, where they have been replicated to."""
    master = Server(tmp_path / "a")
    replica = Server(tmp_path / "b", "--replicaof", "127.0.0.1", str(master.port), "--repl-diskless-sync-delay", "0")
    sentinel = Sentinel(tmp_path / "s", master)
    settings = RedisSettings("sentinel", (("127.0.0.1", sentinel.port),), service="main", timeout=0.5, shown="redis")
    store = LimitBatcher(settings, StoreMetrics())
    one = check(LimitSettings(9, 600.0))
    try:
        with master.client() as client:
            await eventually(lambda: client.info("replication").get("connected_slaves") == 1, within=2 * PATIENCE)
            await eventually(lambda: _replicated(replica), within=2 * PATIENCE)
            await store.start()
            await eventually(lambda: store.up)
            assert (await ask(store, again(one)))[0][0] == 8
            key = next(key for key in client.scan_iter() if key.endswith(one.limit.id))
            with replica.client() as copy:
                await eventually(lambda: copy.exists(key))
        master.kill()
        with replica.client() as client:
            await eventually(lambda: client.info("replication")["role"] == "master", within=4 * PATIENCE)
        found: list[LimitCall] = []

        async def redis_has_answered() -> bool:
            found.append(await asked(store, again(one)))
            return found[-1].source == Answers.REDIS

        await until(redis_has_answered)
        assert found[-1].verdicts[0][0] == 7
    finally:
        await store.stop()
        for server in (sentinel, replica, master):
            server.kill()


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("algorithm", ["sliding_window", "sliding_log", "token_bucket"])
async def test_several_gateway_processes_admit_the_limit_together(
    upstream: StartUpstream, server: Server, tmp_path: Path, algorithm: str
) -> None:
    """Three processes, sixty clients at once: exactly the limit reaches the upstream."""
    origin = await upstream(answers(OK))
    ports = [refusing_port() for _ in range(3)]
    processes = []
    for port in ports:
        path = tmp_path / f"{port}.yaml"
        limit = f"{{limit: 40, per: 1h, algorithm: {algorithm}, key: ['constant:{tmp_path.name}']}}"
        text = proxy(origin.url, route=f"rate_limit: {limit}", listen=f"127.0.0.1:{port}")
        # A busy machine may take longer than 20 ms now and then; then each would count by itself.
        path.write_text(f"redis: {{url: '{server.url}', timeout: 900ms}}\n{text.lstrip()}", encoding="utf-8")
        processes.append(
            await asyncio.create_subprocess_exec(sys.executable, "-m", "gateway", "run", str(path), stderr=DEVNULL)
        )

    async def get(port: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        head = await reader.readuntil(b"\r\n")
        writer.close()
        return int(head.split(b" ")[1])

    async def listens(port: int) -> bool:
        try:
            (await asyncio.open_connection("127.0.0.1", port))[1].close()
        except OSError:
            return False
        return True

    try:
        await asyncio.gather(*(until(partial(listens, port)) for port in ports))
        got = await asyncio.gather(*(get(port) for _ in range(20) for port in ports))
    finally:
        for process in processes:
            process.terminate()
        await asyncio.gather(*(process.wait() for process in processes))

    assert sorted(got) == [200] * 40 + [429] * 20
    assert len(origin.requests) == 40


def test_the_suite_has_a_server(tmp_path: Path) -> None:
    """Without a server these tests must fail, not be skipped."""
    server = Server(tmp_path)
    try:
        with server.client() as client:
            assert client.ping()
    finally:
        server.kill()
