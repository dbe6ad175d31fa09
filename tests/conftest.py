"""Fixtures of all tests: upstreams by behaviour, and gateways from YAML text."""

from __future__ import annotations

import logging
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import settings

from gateway.ports import Resolver
from tests.certificates import Certificates, make_certificates
from tests.support import Behaviour, FullBacklog, Gateway, Upstream, release_ports, running

# How long an example takes says more about the machine than about the code.
settings.register_profile("gateway", deadline=None)
settings.load_profile("gateway")

StartUpstream: TypeAlias = Callable[..., Awaitable[Upstream]]
StartGateway: TypeAlias = Callable[..., Awaitable[Gateway]]


@pytest.fixture(autouse=True)
def ports() -> Iterator[None]:
    """Give back the ports that the test was given."""
    yield
    release_ports()


@pytest.fixture
async def upstream() -> AsyncIterator[StartUpstream]:
    """Starts upstreams: `await upstream(behaviour)`."""
    async with AsyncExitStack() as stack:

        async def start(
            behaviour: Behaviour,
            *,
            path: str = "",
            tls: ssl.SSLContext | None = None,
            limit: int = 65536,
            host: str = "127.0.0.1",
            port: int = 0,
        ) -> Upstream:
            started = Upstream(behaviour)
            await started.start(path=path, tls=tls, limit=limit, host=host, port=port)
            stack.push_async_callback(started.stop)
            return started

        yield start


@pytest.fixture
async def gateway(upstream: StartUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[StartGateway]:
    """Starts gateways: `await gateway(yaml)`. At the end nothing may be left of them, and nothing logged as an error."""
    async with AsyncExitStack() as stack:
        count = 0

        async def start(text: str, resolver: Resolver | None = None) -> Gateway:
            nonlocal count
            count += 1
            config = tmp_path / f"gateway-{count}.yaml"
            config.write_text(text, encoding="utf-8")
            return await stack.enter_async_context(running(config, resolver=resolver))

        yield start
    errors = [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert errors == []


@pytest.fixture
def backlog() -> Iterator[int]:
    """A port that neither accepts nor refuses connections."""
    full = FullBacklog()
    yield full.port
    full.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority and what it signed."""
    if shutil.which("openssl") is None:
        pytest.skip("certificates are made with the openssl command")
    return make_certificates(tmp_path_factory.mktemp("certificates"))
