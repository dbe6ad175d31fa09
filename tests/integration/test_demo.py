"""The demo services are real services: every path that `gateway demo` prints works through the gateway."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, WSMsgType
from aiohttp.test_utils import TestServer

from gateway.demo import find_config, orders_app, users_app
from tests.conftest import StartGateway


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

    assert found == [(504, "deadline_exceeded"), (502, "connection_terminated"), (404, "destination_not_found")]


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
