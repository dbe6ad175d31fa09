"""The demo services are real services: every path that `gateway demo` prints works through the gateway."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, WSMsgType, web
from aiohttp.test_utils import TestServer

from gateway.demo import addresses, find_config, orders_app, users_app
from gateway.demo.load import send_load
from tests.conftest import StartGateway
from tests.support import eventually


@pytest.fixture
async def demo(gateway: StartGateway) -> AsyncIterator[str]:
    """The URL of a gateway on the demo's own routes, in front of both services on free ports."""
    users, orders = TestServer(users_app()), TestServer(orders_app())
    await users.start_server()
    await orders.start_server()
    text = find_config(None).read_text()
    text = text.replace("127.0.0.1:9001", f"127.0.0.1:{users.port}").replace("127.0.0.1:9002", f"127.0.0.1:{orders.port}")
    text = re.sub(r"127\.0\.0\.1:(8080|9900)", "127.0.0.1:0", text)
    running = await gateway(text)
    yield f"http://127.0.0.1:{running.address[1]}"
    await users.close()
    await orders.close()


def test_the_demos_configuration_is_found() -> None:
    """`gateway demo` works from any folder of the source tree."""
    assert find_config(None).name == "demo.yaml"
    assert find_config(Path("config/minimal.yaml")).name == "minimal.yaml"


@pytest.mark.parametrize(
    "text, found",
    [
        ("server: {listen: 127.0.0.1:81}\nadmin: {listen: '0.0.0.0:82'}", ("127.0.0.1:81", "127.0.0.1:82")),
        ("server: {listen: [{address: ':83'}, ':84']}\nadmin: {listen: '[::1]:85'}", ("127.0.0.1:83", "[::1]:85")),
        ("server: {listen: 'unix:/tmp/x'}\nadmin: {listen: off}", ("127.0.0.1:8080", "127.0.0.1:9900")),
        ("server: {listen: nonsense}", ("127.0.0.1:8080", "127.0.0.1:9900")),
    ],
)
def test_the_demo_knows_where_its_gateway_is(tmp_path: Path, text: str, found: tuple[str, str]) -> None:
    """As the configuration says; of all interfaces the loopback one, and the defaults where it does not say."""
    path = tmp_path / "gateway.yaml"
    routes = "routes: [{name: a, match: {path: /a}, respond: {status: 200}}]"
    path.write_text(f"version: 1\n{text}\n{routes}\n", encoding="utf-8")

    assert addresses(path) == found


async def test_the_services_answer_through_the_gateway(demo: str) -> None:
    """A plain request, a body, the fields that the service sees, a status asked for."""
    async with ClientSession(demo) as client:
        async with client.get("/users/7") as response:
            assert (response.status, (await response.json())["id"]) == (200, "7")
        async with client.post("/orders", json={"tea": 2}) as response:
            assert (response.status, (await response.json())["received"]) == (201, {"tea": 2})
        async with client.get("/users/headers") as response:
            assert ["X-Forwarded-For", "127.0.0.1"] in (await response.json())["headers"]
        async with client.get("/users/status/503") as response:
            assert response.status == 503


async def test_the_faults_become_failures(demo: str) -> None:
    """A slow service costs its budget, a crashing one is a bad gateway, an unknown path is nobody's."""
    async with ClientSession(demo) as client:
        found = []
        for path in ("/users/slow?ms=2000", "/users/reset", "/nowhere"):
            async with client.get(path) as response:
                found.append((response.status, (await response.json(content_type=None))["code"]))

    assert found == [(504, "http_response_timeout"), (502, "connection_terminated"), (404, "destination_not_found")]


async def test_streams_and_sockets_flow(demo: str) -> None:
    """Server-sent events, a large download and a WebSocket."""
    async with ClientSession(demo) as client:
        async with client.get("/orders/stream?count=1") as response:
            assert (await response.content.readline()).startswith(b"id: 1")
        async with client.get("/orders/big?mib=2") as response:
            assert len(await response.read()) == 2 << 20
        async with client.ws_connect("/users/ws") as socket:
            await socket.send_str("hello")
            message = await socket.receive()
            assert message.type is WSMsgType.TEXT
            assert "hello" in message.data


async def test_a_service_can_be_broken_and_mended_while_it_runs() -> None:
    """`/faults` sets what it is told, refuses what it does not know, spares health probes, and ends with DELETE."""
    service = TestServer(users_app())
    await service.start_server()
    async with ClientSession(service.make_url("/")) as client:
        async with client.put("/faults?errors=100&delay=1") as response:
            assert (await response.json())["errors"] == 100
        async with client.get("/users/1") as response:
            assert response.status == 500
        async with client.get("/healthz") as response:
            assert response.status == 200
        for wrong in ("/faults?erors=1", "/faults?errors=101", "/faults?errors=-1"):
            async with client.put(wrong) as response:
                assert response.status == 400
        async with client.put("/faults?errors=0&unavailable=100&unhealthy=1") as response:
            assert response.status == 200
        async with client.get("/users/1") as response:
            assert response.status == 503
        async with client.get("/healthz") as response:
            assert response.status == 503
        async with client.delete("/faults") as response:
            assert not any((await response.json()).values())
        async with client.get("/users/1") as response:
            assert response.status == 200
    await service.close()


async def test_the_load_is_a_mix() -> None:
    """Requests of every kind arrive until it is told to stop; a gateway that answers 500 or hangs up does not end it."""
    seen: set[str] = set()

    async def anything(request: web.Request) -> web.Response:
        seen.add(f"{request.method} /{request.path.split('/')[1]}")
        if request.method == "POST" and request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", anything)
    service, stop = TestServer(app), asyncio.Event()
    await service.start_server()
    load = asyncio.ensure_future(send_load(str(service.make_url("/")), 1000.0, stop))
    await eventually(lambda: seen >= {"GET /users", "GET /orders", "POST /orders", "GET /nowhere", "GET /reports"})
    assert not load.done()
    stop.set()
    await load
    await service.close()
