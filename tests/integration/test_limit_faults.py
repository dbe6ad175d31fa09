"""A store of rate limits in trouble: the configured choice holds, nobody waits, and limits are shared again when it is back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.metrics import StoreMetrics
from tests.conftest import StartGateway, StartUpstream
from tests.redis_server import Server, Wire
from tests.support import OK, Gateway, Response, answers, at_once, eventually, proxy, refusing_port


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that the test may ill-treat."""
    started = Server(tmp_path / "redis")
    yield started
    started.kill()


@pytest.fixture
async def wire(server: Server) -> AsyncIterator[Wire]:
    """A wire to the server."""
    async with Wire(server.port).running() as one:
        yield one


async def limited(upstream: StartUpstream, gateway: StartGateway, url: str, limit: str = "1000/min", **redis: str) -> Gateway:
    """A gateway whose limits are in this store. A check has time enough for a busy machine, unless the test says how long."""
    redis.setdefault("timeout", "500ms")
    origin = await upstream(answers(OK))
    more = "".join(f", {name}: {value}" for name, value in redis.items())
    return await gateway(f"redis: {{url: '{url}'{more}}}\n" + proxy(origin.url, route=f"rate_limit: {limit}").lstrip())


def store(gateway: Gateway) -> StoreMetrics:
    """What is counted of the store."""
    found = gateway.metrics.store
    assert found is not None
    return found


async def remaining(gateway: Gateway) -> int:
    """What the client is told is left."""
    response = await gateway.get()
    assert response.status == 200
    value = response.value(b"ratelimit") or b""
    return int(value.split(b"r=")[1].split(b";")[0])


async def unhindered(gateway: Gateway) -> Response:
    """The response to a request that waits for no store: it comes within turns of the loop, in which no budget runs out."""
    asked = asyncio.ensure_future(gateway.get())
    await at_once(asked.done)
    return await asked


async def test_a_store_that_is_killed_and_comes_back(
    upstream: StartUpstream, gateway: StartGateway, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Counting goes on in process with the gateway's share, then in the store again; two lines tell of it."""
    with caplog.at_level(logging.INFO):
        running = await limited(upstream, gateway, server.url, expected_instances="10")
        assert await remaining(running) == 999
        server.kill()
        assert [await remaining(running) for _ in range(3)] == [99, 98, 97]
        await eventually(lambda: not store(running).up)
        server.start()
        await eventually(lambda: store(running).up)
        assert await remaining(running) == 999
    lines = [record.getMessage() for record in caplog.records if "rate limits" in record.getMessage()]
    assert [line.split(" ")[-1] for line in lines] == [server.url, "decides", "again"]


async def test_a_store_that_is_not_there_at_the_start(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The gateway starts, and limits in process."""
    running = await limited(upstream, gateway, f"redis://127.0.0.1:{refusing_port()}", limit="2/min")

    assert [(await running.get()).status for _ in range(3)] == [200, 200, 429]
    assert store(running).errors["connection"] >= 1


@pytest.mark.parametrize("choice,statuses", [("local", [200, 200, 429]), ("allow", [200] * 3), ("deny", [503] * 3)])
async def test_on_store_error(
    upstream: StartUpstream, gateway: StartGateway, server: Server, choice: str, statuses: list[int]
) -> None:
    """Each limit says what holds while the store is paused; a refusal is 503, since the client did nothing wrong."""
    running = await limited(upstream, gateway, server.url, f"{{limit: 2/min, on_store_error: {choice}}}")
    server.pause()
    first = await running.get()
    rest = [await unhindered(running) for _ in range(2)]
    server.resume()

    assert [response.status for response in (first, *rest)] == statuses
    if choice == "deny":
        assert first.code == "rate_limit_store_unavailable"
        assert first.value(b"retry-after") == b"1"
    await eventually(lambda: store(running).up)


async def test_a_slow_store_is_left_alone(upstream: StartUpstream, gateway: StartGateway, wire: Wire) -> None:
    """What takes longer than a check may take: one batch waits for its budget, the next ones for nothing."""
    running = await limited(upstream, gateway, wire.url)
    assert store(running).up
    wire.delay = 3600.0
    assert (await running.get()).status == 200
    assert not store(running).up

    assert [(await unhindered(running)).status for _ in range(20)] == [200] * 20
    assert not store(running).up
    wire.delay = 0.0
    await eventually(lambda: store(running).up)


@pytest.mark.parametrize(
    "garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$5\r\nhello\r\n", b":1\r\n", b"*-1\r\n", b"\0\xff" * 100]
)
async def test_a_store_that_answers_garbage(upstream: StartUpstream, gateway: StartGateway, wire: Wire, garbage: bytes) -> None:
    """What is no answer of the script is trouble like any other, and never an error for the client."""
    running = await limited(upstream, gateway, wire.url)
    wire.answer = garbage
    assert [(await running.get()).status for _ in range(5)] == [200] * 5
    wire.answer = None
    await eventually(lambda: store(running).up)
    assert (await running.get()).status == 200


async def test_a_full_store(upstream: StartUpstream, gateway: StartGateway, server: Server) -> None:
    """It answers PING and refuses writes: only a probe that writes tells that it is back."""
    running = await limited(upstream, gateway, server.url)
    with server.client() as client:
        client.config_set("maxmemory", "1")
        assert [(await running.get()).status for _ in range(5)] == [200] * 5
        assert not store(running).up
        assert store(running).errors["out_of_memory"] >= 1
        client.config_set("maxmemory", "0")
    await eventually(lambda: store(running).up)


async def test_a_store_that_forgot_the_script(upstream: StartUpstream, gateway: StartGateway, server: Server) -> None:
    """The script cache is volatile: it is filled again within the same check."""
    running = await limited(upstream, gateway, server.url)
    await remaining(running)
    with server.client() as client:
        client.script_flush()

    assert await remaining(running) == 998
    assert store(running).errors == {}


async def test_a_store_that_became_a_replica(
    upstream: StartUpstream, gateway: StartGateway, server: Server, tmp_path: Path
) -> None:
    """READONLY after a failover is trouble until there is a master again."""
    other = Server(tmp_path / "other")
    try:
        running = await limited(upstream, gateway, server.url)
        with server.client() as client:
            client.replicaof("127.0.0.1", other.port)
            assert [(await running.get()).status for _ in range(3)] == [200] * 3
            assert not store(running).up
            client.replicaof("NO", "ONE")
        await eventually(lambda: store(running).up)
    finally:
        other.kill()


async def test_a_wrong_password(
    upstream: StartUpstream, gateway: StartGateway, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The choice of the limit holds, and neither log nor metrics quote the password."""
    with server.client() as client:
        client.config_set("requirepass", "right")
        running = await limited(upstream, gateway, server.url.replace("//", "//:wr0ng@"), limit="1/min")

        assert [(await running.get()).status for _ in range(2)] == [200, 429]
        assert store(running).errors["authentication"] >= 1
        assert "wr0ng" not in caplog.text
        client.execute_command("CONFIG", "SET", "requirepass", "wr0ng")
    await eventually(lambda: store(running).up)


async def test_an_idle_store_that_dies_is_noticed(upstream: StartUpstream, gateway: StartGateway, server: Server) -> None:
    """Without requests the store is asked once a second, so that the first request behind a pause need not find out."""
    running = await limited(upstream, gateway, server.url)
    server.kill()
    await eventually(lambda: not store(running).up)


async def test_a_client_that_leaves_while_its_limit_is_checked(
    upstream: StartUpstream, gateway: StartGateway, wire: Wire
) -> None:
    """Nothing is left of the request; the answer that comes later finds nobody and does no harm."""
    running = await limited(upstream, gateway, wire.url, timeout="1s")
    wire.delay = 0.2
    client = await running.client()
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await eventually(lambda: running.route.in_flight == 1)
    client.reset()
    await eventually(lambda: running.route.in_flight == 0)
    wire.delay = 0.0
    await eventually(lambda: store(running).up)
    assert (await running.get()).status == 200


async def test_an_upload_waits_for_the_check(upstream: StartUpstream, gateway: StartGateway, wire: Wire) -> None:
    """A body that arrives meanwhile is kept, and reaches the upstream whole."""
    origin = await upstream(answers(OK))
    text = f"redis: {{url: '{wire.url}', timeout: 1s}}\n" + proxy(origin.url, route="rate_limit: 9/s").lstrip()
    running = await gateway(text)
    wire.delay = 0.05
    body = bytes(range(256)) * 2000
    response = await running.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    assert response.status == 200
    assert origin.requests[0].body == body
    wire.delay = 0.0
