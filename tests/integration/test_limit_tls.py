"""Rate limits in a store behind TLS: the certificate is verified, and credentials go through it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from tests.certificates import Certificates
from tests.conftest import StartGateway, StartUpstream
from tests.redis_server import Server
from tests.support import GET, OK, answers, proxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a password."""
    started = Server(tmp_path_factory.mktemp("redis"), "--requirepass", "s3cret")
    yield started
    started.kill()


@asynccontextmanager
async def behind_tls(server: Server, context: ssl.SSLContext) -> AsyncIterator[int]:
    """The port of a TLS endpoint that hands everything on to the server."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    listening = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


def config(url: str, ca: str, origin: str, key: str) -> str:
    """A gateway that admits two requests, and says who decided when the store does not."""
    limit = f"{{limit: 2, per: 1h, key: ['constant:{key}'], on_store_error: deny}}"
    redis = f"redis: {{url: '{url}', ca: '{ca}', password: s3cret, timeout: 900ms}}\n"
    return redis + proxy(origin, route=f"rate_limit: {limit}").lstrip()


async def test_limits_hold_through_tls(
    upstream: StartUpstream, gateway: StartGateway, server: Server, certificates: Certificates
) -> None:
    """With the authority's certificate the store is reached, the password is given, and the count is in the store."""
    origin = await upstream(answers(OK))
    async with behind_tls(server, certificates.server("good")) as port:
        running = await gateway(config(f"rediss://localhost:{port}", str(certificates["ca.crt"]), origin.url, uuid4().hex))
        got = [(await running.ask(GET)).status for _ in range(3)]

        assert got == [200, 200, 429]


@pytest.mark.parametrize("name", ["wrong", "expired", "self"])
async def test_a_certificate_that_does_not_hold_is_not_talked_to(
    upstream: StartUpstream, gateway: StartGateway, server: Server, certificates: Certificates, name: str
) -> None:
    """A wrong name, an expired or an unknown certificate is trouble of the store: what the limit says for that holds."""
    origin = await upstream(answers(OK))
    async with behind_tls(server, certificates.server(name)) as port:
        running = await gateway(config(f"rediss://localhost:{port}", str(certificates["ca.crt"]), origin.url, name))

        assert (await running.ask(GET)).status == 503
