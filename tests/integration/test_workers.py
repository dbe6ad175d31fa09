"""Several workers as one gateway: what they count together, what reaches all of them, and what a death costs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from gateway.control.load import load
from gateway.control.running.reload import ReloadError
from gateway.supervisor import fleet as fleet_module
from gateway.supervisor.fleet import Fleet as Supervisor
from tests.conftest import StartUpstream
from tests.fleets import ROOT, Fleet, connections_of, counters, until
from tests.integration.test_tunnel import UPGRADE, switches
from tests.redis_server import Server
from tests.support import GET, OK, STARTS_WITHIN, Client, answers, drips, eventually, refusing_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
CONFIG = """
version: 1
server: {name: gw, listen: ["127.0.0.1:PORT"], workers: WORKERS, reload: {watch: false}}
admin: {listen: "127.0.0.1:ADMIN", token: sesame}
access_log: "off"
upstreams: {app: {endpoints: ["URL"], UPSTREAM}}
routes: [{name: all, match: {path: "/**"}, upstream: app, ROUTE}]
"""

StartFleet: TypeAlias = Callable[..., Awaitable[Fleet]]


def config(url: str, *, upstream: str = "", route: str = "") -> str:
    """The file of a gateway in front of one service."""
    return CONFIG.replace("URL", url).replace("UPSTREAM", upstream).replace("ROUTE", route)


@pytest.fixture
async def fleet(upstream: StartUpstream, tmp_path: Path) -> AsyncIterator[StartFleet]:
    """Starts gateways of several workers; no process is left behind."""
    async with AsyncExitStack() as stack:

        async def start(text: str, workers: int = 2) -> Fleet:
            started = Fleet(text, tmp_path / "gateway.yaml", workers)
            stack.push_async_callback(started.end)
            await started.start()
            return started

        yield start


# -- one gateway -------------------------------------------------------------------------------------------------------


async def test_their_counts_are_one(upstream: StartUpstream, fleet: StartFleet) -> None:
    """Whoever has served them, requests are counted once each, and load is added up in `/routes` and `/upstreams`."""
    origin = await upstream(answers(OK))
    gate = await fleet(config(origin.url))
    clients = await gate.clients()
    sent = (await gate.page("/routes"))[0]["requests"]
    for client in clients.values():
        for _ in range(5):
            assert (await client.ask(GET)).status == 200

    assert await gate.sample('gateway_requests_total{code="200",method="GET",route="all"}') == sent + 10
    assert await gate.sample("gateway_worker_up" + '{worker="1"}') == 1
    (route,), (app,) = await gate.page("/routes"), await gate.page("/upstreams")
    assert (route["requests"], route["in_flight"]) == (sent + 10, 0)
    assert (app["name"], app["endpoints"][0]["connections"]["idle"] >= 2) == ("app", True)


async def test_limits_hold_across_workers(upstream: StartUpstream, fleet: StartFleet) -> None:
    """Without Redis, all workers together admit what one would, and say whom they deny; a reset lets as many through again."""
    origin = await upstream(answers(OK))
    gate = await fleet(config(origin.url, route="rate_limit: {limit: 40, per: 1h}"))

    async def admitted() -> int:
        clients = [await gate.client() for _ in range(16)]
        answered = [await client.ask(GET) for _ in range(5) for client in clients]
        for client in clients:
            client.close()
        assert {one.status for one in answered} == {200, 429}
        return sum(one.status == 200 for one in answered)

    assert await admitted() == 40
    shown = await gate.page("/limits")
    assert [(one["denied"], one["client_ip"]) for one in shown["top"]] == [(40, "127.0.0.1")]
    key = "route=all&key=127.0.0.1"
    assert (await gate.page(f"/limits/key?{key}"))["remaining"] == 0
    assert (await gate.page(f"/limits/reset?{key}", post=True))["remaining"] == 40
    assert await admitted() == 40


async def test_limits_in_redis_are_looked_at_and_reset_too(upstream: StartUpstream, fleet: StartFleet, tmp_path: Path) -> None:
    """With Redis every worker asks it; what the supervisor shows and resets of a key is what they count."""
    origin = await upstream(answers(OK))
    server = Server(tmp_path)
    try:
        text = config(origin.url, route="rate_limit: {limit: 10, per: 1h}")
        # A busy machine may take longer than 20 ms now and then; then a worker would count by itself.
        gate = await fleet(text + f'redis: {{url: "{server.url}", timeout: 900ms}}\n')
        statuses = [(await gate.get()).status for _ in range(14)]
        key = "route=all&key=127.0.0.1"
        (denied,) = (await gate.page("/limits"))["top"]
        assert (denied["denied"], denied["client_ip"]) == (4, "127.0.0.1")
        shown = await gate.page(f"/limits/key?{key}")
        assert (statuses, shown["remaining"], shown["counted_by"]) == ([200] * 10 + [429] * 4, 0, "redis")
        assert (await gate.page(f"/limits/reset?{key}", post=True))["remaining"] == 10
        # Workers remember a denial for a moment; a reset makes them forget it.
        assert (await gate.get()).status == 200
    finally:
        server.kill()


async def test_a_unix_socket_is_shared(upstream: StartUpstream, fleet: StartFleet, tmp_path: Path) -> None:
    """What cannot be bound twice is bound once: every worker accepts from it, and it goes when the gateway does."""
    origin = await upstream(answers(OK))
    path = tmp_path / "socket"
    gate = await fleet(config(origin.url).replace('["127.0.0.1:PORT"]', f'["127.0.0.1:PORT", "unix:{path}"]'))
    client = Client(*await asyncio.open_unix_connection(str(path)))
    assert (await client.ask(GET)).status == 200
    client.close()
    gate.process.send_signal(signal.SIGTERM)

    assert await gate.ended() == 0
    assert not path.exists()


async def test_one_worker_is_one_process(upstream: StartUpstream, tmp_path: Path) -> None:
    """With one worker there is no supervisor: not one module of it is imported, and no other process started."""
    origin = await upstream(answers(OK))
    gate = Fleet(config(origin.url), tmp_path / "gateway.yaml", workers=1)
    gate.process = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "importtime", "-m", "gateway", "run", str(gate.path),
        cwd=ROOT, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert gate.process.stderr is not None
    seen = b""
    async with asyncio.timeout(STARTS_WITHIN):
        while b"admin on" not in seen:
            seen += await gate.process.stderr.readline()
    assert (await gate.get()).status == 200
    assert gate.pids() == []
    gate.process.send_signal(signal.SIGTERM)
    seen += await gate.process.stderr.read()

    assert await gate.ended() == 0
    assert b"gateway.app\n" in seen
    assert b"gateway.supervisor" not in seen


# -- deaths ------------------------------------------------------------------------------------------------------------


async def test_a_killed_worker_loses_its_own_connections(upstream: StartUpstream, fleet: StartFleet) -> None:
    """WebSockets of the other worker go on; another process takes the place; no counter of the gateway becomes less."""
    origin = await upstream(switches())
    gate = await fleet(config(origin.url))
    tunnels: dict[int, list[Client]] = {}
    async with asyncio.timeout(STARTS_WITHIN):
        while len(tunnels) < 2 or sum(map(len, tunnels.values())) < 8:
            client = await gate.client()
            await client.send(UPGRADE)
            assert (await client.head()).status == 101
            port = client.writer.get_extra_info("sockname")[1]
            (owner,) = [pid for pid in gate.pids() if port in connections_of(pid, gate.port)]
            tunnels.setdefault(owner, []).append(client)
    before = counters(await gate.page("/metrics"))
    victim, survivor = tunnels
    os.kill(victim, signal.SIGKILL)
    for client in tunnels[victim]:
        assert await client.closed() == b""
    after = counters(await gate.page("/metrics"))
    for client in tunnels[survivor]:
        await client.send(b"still there")
        assert await client.read(11) == b"still there"
    await gate.replaced(victim)
    at_last = counters(await gate.page("/metrics"))

    assert {name for name, value in before.items() if after.get(name, 0.0) < value} == set()
    assert {name for name, value in after.items() if at_last.get(name, 0.0) < value} == set()
    assert at_last['gateway_worker_restarts_total{worker="0"}'] + at_last['gateway_worker_restarts_total{worker="1"}'] == 1
    assert survivor in gate.pids()


async def test_who_connects_to_an_empty_place_waits_for_the_next_one(upstream: StartUpstream, fleet: StartFleet) -> None:
    """While a worker is being replaced its queue is kept: connections made meanwhile are served, not refused or reset."""
    origin = await upstream(answers(OK))
    gate = await fleet(config(origin.url))
    (victim, _) = gate.pids()
    os.kill(victim, signal.SIGKILL)
    responses = await asyncio.gather(*(gate.get() for _ in range(20)))

    assert [one.status for one in responses] == [200] * 20


async def test_the_count_goes_on_without_a_worker(upstream: StartUpstream, fleet: StartFleet) -> None:
    """What a worker has used up of a limit stays used up when it dies."""
    origin = await upstream(answers(OK))
    gate = await fleet(config(origin.url, route="rate_limit: {limit: 10, per: 1h, key: 'constant:all'}"))
    statuses = [(await gate.get()).status for _ in range(10)]
    victim = gate.pids()[0]
    os.kill(victim, signal.SIGKILL)
    await gate.replaced(victim)
    statuses += [(await gate.get()).status for _ in range(10)]

    assert statuses == [200] * 10 + [429] * 10


async def test_workers_do_not_outlive_the_supervisor(upstream: StartUpstream, fleet: StartFleet) -> None:
    """When the supervisor is killed, workers finish what they are doing and end."""
    origin = await upstream(drips(OK))
    gate = await fleet(config(origin.url))
    client = await gate.client()
    await client.send(GET)
    await eventually(lambda: origin.requests)
    workers = gate.pids()
    gate.process.kill()
    await gate.process.wait()
    origin.gate.release()

    assert (await client.response()).status == 200
    client.close()
    await eventually(lambda: not any(alive(pid) for pid in workers), STARTS_WITHIN)


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- signals -----------------------------------------------------------------------------------------------------------


async def test_sigterm_drains_all(upstream: StartUpstream, fleet: StartFleet) -> None:
    """Requests in flight in each worker are finished; nothing new is accepted; exit code 0."""
    origin = await upstream(answers(OK))
    gate = await fleet(config(origin.url))
    clients = await gate.clients()
    held = await upstream(drips(OK))
    gate.write(config(held.url))
    assert (await gate.page("/reload", post=True))["ok"]
    for client in clients.values():
        await client.send(GET)
    await eventually(lambda: len(held.requests) == 2)
    gate.process.send_signal(signal.SIGTERM)
    await until(lambda: refuses(gate))
    assert await gate.status("/readyz") == 503
    for _ in clients:
        held.gate.release()

    for client in clients.values():
        response = await client.response()
        assert (response.status, response.value(b"connection")) == (200, b"close")
    assert await gate.ended() == 0


async def refuses(gate: Fleet) -> bool:
    """Whether nobody listens any more."""
    try:
        (await gate.client()).close()
    except ConnectionRefusedError:
        return True
    return False


async def test_sigusr1_reopens_the_log_of_all(upstream: StartUpstream, fleet: StartFleet, tmp_path: Path) -> None:
    """After the file was renamed and the signal sent, the lines of every worker go into a new file."""
    origin = await upstream(answers(OK))
    path = tmp_path / "access.log"
    gate = await fleet(config(origin.url).replace('access_log: "off"', f'access_log: {{file: "{path}"}}'))
    clients = await gate.clients()
    path.rename(tmp_path / "old.log")
    gate.process.send_signal(signal.SIGUSR1)

    async def all_in_the_new_one() -> bool:
        for number, client in enumerate(clients.values()):
            assert (await client.ask(GET.replace(b" / ", b" /worker-%d " % number))).status == 200
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return all(f"/worker-{number}" in text for number in range(2))

    await until(all_in_the_new_one)
    end = (tmp_path / "old.log").stat().st_size
    await all_in_the_new_one()
    assert (tmp_path / "old.log").stat().st_size == end


async def test_sighup_reloads_all(upstream: StartUpstream, fleet: StartFleet) -> None:
    """Every worker serves the new routes, on connections that were open before too; a WebSocket goes on."""
    origin = await upstream(switches())
    gate = await fleet(config(origin.url))
    tunnel = await gate.client()
    await tunnel.send(UPGRADE)
    assert (await tunnel.head()).status == 101
    plain = await upstream(answers(OK))
    gate.write(config(plain.url))
    gate.process.send_signal(signal.SIGHUP)
    await until(lambda: reloaded(gate, 1))
    clients = await gate.clients()

    assert [(await client.ask(GET)).status for client in clients.values()] == [200, 200]
    await tunnel.send(b"still there")
    assert await tunnel.read(11) == b"still there"


async def reloaded(gate: Fleet, times: int, result: str = "success") -> bool:
    """Whether so many reloads have ended like this."""
    return await gate.sample(f'gateway_config_reloads_total{{result="{result}"}}') >= times


# -- all or none -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["version: 1\nroutes: [{", "", None], ids=["half", "empty", "vanished"])
async def test_a_bad_file_changes_nothing(upstream: StartUpstream, fleet: StartFleet, text: str | None) -> None:
    """Half a file, an empty one, none at all: every worker goes on as it was, the metric says so; a good one is taken again."""
    origin, other = await upstream(answers(OK)), await upstream(answers(OK))
    gate = await fleet(config(origin.url))
    clients = await gate.clients()
    if text is None:
        gate.path.unlink()
    else:
        gate.write(text)
    outcome = await gate.page("/reload", post=True)

    assert not outcome["ok"]
    assert await gate.sample("gateway_config_last_reload_successful") == 0
    assert await gate.status("/readyz") == 200
    assert [(await client.ask(GET)).status for client in clients.values()] == [200, 200]
    assert other.requests == []
    gate.write(config(other.url))
    assert (await gate.page("/reload", post=True))["ok"]
    assert await gate.sample("gateway_config_last_reload_successful") == 1
    assert [(await client.ask(GET)).status for client in clients.values()] == [200, 200]
    assert len(other.requests) == 2


async def test_an_address_that_is_taken_changes_nothing(upstream: StartUpstream, fleet: StartFleet) -> None:
    """A new listener that cannot be bound refuses the whole file; one that can is served by all workers, and closed again."""
    origin = await upstream(answers(OK))
    gate = await fleet(config(origin.url))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        two = config(origin.url, route="timeout: 3s").replace("PORT", f'PORT", "127.0.0.1:{taken.getsockname()[1]}')
        gate.write(two)
        outcome = await gate.page("/reload", post=True)
        assert (outcome["ok"], "already in use" in outcome["text"]) == (False, True)
        assert (await gate.get()).status == 200
    port = refusing_port()
    gate.write(config(origin.url).replace("PORT", f'PORT", "127.0.0.1:{port}'))
    assert (await gate.page("/reload", post=True))["ok"]
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    assert (await client.ask(GET)).status == 200
    client.close()
    gate.write(config(origin.url))
    assert (await gate.page("/reload", post=True))["ok"]

    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


@asynccontextmanager
async def two_workers(folder: Path, origin: str) -> AsyncIterator[tuple[Supervisor, Path, int]]:
    """A supervisor in this process with two workers in front of `origin`, its file, and the port they listen on."""
    port = refusing_port()
    path = folder / "gateway.yaml"
    text = config(origin).replace("PORT", str(port)).replace("ADMIN", "0").replace("WORKERS", "2")
    path.write_text(text, encoding="utf-8")
    supervisor = Supervisor(load(path), 2)
    await supervisor.start()
    try:
        yield supervisor, path, port
    finally:
        await supervisor.stop()


def pids_of(supervisor: Supervisor) -> list[int]:
    """The processes of its workers."""
    return [slot.process.pid for slot in supervisor._slots if slot.process is not None]


async def test_a_worker_that_cannot_prepare_stops_all(
    upstream: StartUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When one worker does not answer, the others take back what they have prepared, and all go on with what was."""
    origin, other = await upstream(answers(OK)), await upstream(answers(OK))
    monkeypatch.setattr(fleet_module, "PREPARE", 1.0)
    async with two_workers(tmp_path, origin.url) as (supervisor, path, port):
        pids = pids_of(supervisor)
        path.write_text(path.read_text(encoding="utf-8").replace(origin.url, other.url), encoding="utf-8")
        os.kill(pids[1], signal.SIGSTOP)
        with pytest.raises(ReloadError, match="worker 1 does not answer"):
            await supervisor.change_to(load(path))
        os.kill(pids[1], signal.SIGCONT)
        for _ in range(12):
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            assert (await client.ask(GET)).status == 200
            client.close()
        assert other.requests == []
        monkeypatch.setattr(fleet_module, "PREPARE", 60.0)
        await supervisor.change_to(load(path))
        for _ in range(12):
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            assert (await client.ask(GET)).status == 200
            client.close()
        assert len(other.requests) == 12
        assert pids_of(supervisor) == pids


async def test_what_no_worker_survives_is_not_applied(upstream: StartUpstream, tmp_path: Path) -> None:
    """When all workers die while they prepare, their successors begin with the configuration that was."""
    origin, other = await upstream(answers(OK)), await upstream(answers(OK))
    async with two_workers(tmp_path, origin.url) as (supervisor, path, port):
        pids = pids_of(supervisor)
        path.write_text(path.read_text(encoding="utf-8").replace(origin.url, other.url), encoding="utf-8")
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        change = asyncio.create_task(supervisor.change_to(load(path)))
        channels = [slot.channel for slot in supervisor._slots]
        await eventually(lambda: all(channel is not None and channel._asked for channel in channels))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(ReloadError, match="every worker ended"):
            await change
        await eventually(lambda: supervisor.ready, STARTS_WITHIN)
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        assert (await client.ask(GET)).status == 200
        client.close()
        assert (origin.requests != [], other.requests) == (True, [])


# -- circuit breakers --------------------------------------------------------------------------------------------------

BREAKER = "circuit_breaker: {min_requests: 4, open_for: 60s, ramp: 0s}, ejection: off"


async def breaker(gate: Fleet) -> tuple[str, bool]:
    """The state of the only breaker, and whether all workers have it."""
    (one,) = (await gate.page("/breakers"))["breakers"]
    return one["state"], one["workers"] is None


async def test_what_one_breaker_finds_out_reaches_all(upstream: StartUpstream, fleet: StartFleet) -> None:
    """A worker that has asked an endpoint nothing refuses what another has found failing; so does one that starts later."""
    origin = await upstream(answers(OK, OK, ERROR))
    gate = await fleet(config(origin.url, upstream=BREAKER, route="retry: off"))
    clients = await gate.clients()
    first, second = clients.values()
    async with asyncio.timeout(STARTS_WITHIN):
        while (await first.ask(GET)).status != 503:
            pass
    asked = len(origin.requests)

    async def told() -> bool:
        return await breaker(gate) == ("open", True)

    await until(told)
    assert (await second.ask(GET)).code == "circuit_open"
    assert await gate.sample('gateway_breaker_transitions_total{to="open",upstream="app"}') == 1
    victim = list(clients)[1]
    os.kill(victim, signal.SIGKILL)
    await gate.replaced(victim)
    assert await breaker(gate) == ("open", True)
    assert {(await gate.get()).code for _ in range(12)} == {"circuit_open"}
    assert len(origin.requests) == asked


async def test_the_probes_of_one_close_all(upstream: StartUpstream, fleet: StartFleet) -> None:
    """When the probes of one worker succeed, the breakers of the others close too."""
    origin = await upstream(answers(OK, OK, *[ERROR] * 4, OK))
    gate = await fleet(config(origin.url, upstream=BREAKER.replace("60s", "100ms"), route="retry: off"))
    clients = await gate.clients()
    first, second = clients.values()
    statuses = set()
    async with asyncio.timeout(STARTS_WITHIN):
        while 503 not in statuses:
            statuses.add((await first.ask(GET)).status)

    async def closed() -> bool:
        await first.ask(GET)
        return await breaker(gate) == ("closed", True)

    await until(closed)
    assert (await second.ask(GET)).status == 200


async def test_an_override_reaches_all(upstream: StartUpstream, fleet: StartFleet) -> None:
    """What an operator holds open is held by every worker, by one that starts later too, until it is released."""
    origin = await upstream(answers(OK))
    gate = await fleet(config(origin.url, upstream=BREAKER))
    clients = await gate.clients()
    (held,) = (await gate.page("/breakers/open?upstream=app&reason=migration&for=10m", post=True))["breakers"]
    assert (held["state"], held["forced"]["reason"], held["workers"]) == ("open", "migration", None)
    assert {(await client.ask(GET)).code for client in clients.values()} == {"circuit_open"}
    victim = next(iter(clients))
    os.kill(victim, signal.SIGKILL)
    await gate.replaced(victim)
    assert {(await gate.get()).code for _ in range(12)} == {"circuit_open"}
    (released,) = (await gate.page("/breakers/release?upstream=app", post=True))["breakers"]

    assert (released["forced"], released["workers"]) == (None, None)
    assert {(await gate.get()).status for _ in range(12)} == {200}
    assert "endpoints of the upstream are" in await gate.page("/breakers/open?upstream=app&endpoint=x&reason=y", post=True)
