"""The gateway as a process: start, start that fails, drain, stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.conftest import StartUpstream
from tests.fleets import ROOT, until
from tests.support import (
    GET,
    OK,
    STARTS_WITHIN,
    Client,
    accepts_and_hangs,
    answers,
    drips,
    eventually,
    pours,
    proxy,
    refusing_port,
)


class Process:
    """`python -m gateway run CONFIG`."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, admin: int) -> None:
        self.process = process
        self.port = port
        self.admin = admin

    async def client(self, port: int | None = None) -> Client:
        """A new connection."""
        return Client(*await asyncio.open_connection("127.0.0.1", port or self.port))

    async def readyz(self) -> int:
        """The status of /readyz."""
        client = await self.client(self.admin)
        response = await client.ask(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        client.close()
        return response.status

    async def drains(self) -> bool:
        """Whether it has begun to."""
        return await self.readyz() == 503

    def tell(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end; the exit code."""
        async with asyncio.timeout(STARTS_WITHIN):
            return await self.process.wait()

    async def errors(self) -> str:
        """What it wrote to standard error, to its end."""
        assert self.process.stderr is not None
        async with asyncio.timeout(STARTS_WITHIN):
            return (await self.process.stderr.read()).decode()


Run: TypeAlias = Callable[..., Awaitable[Process]]


@pytest.fixture
async def run(upstream: StartUpstream, tmp_path: Path) -> AsyncIterator[Run]:
    """Starts processes; none is left behind."""
    async with AsyncExitStack() as stack:

        async def start(url: str, *, timeouts: str = "", port: int | None = None, wait: bool = True, log: str = "") -> Process:
            port, admin = port or refusing_port(), refusing_port()
            config = tmp_path / f"{port}.yaml"
            text = proxy(url, listen=f"127.0.0.1:{port}", server=f"timeouts: {{{timeouts}}}")
            text = text.replace('admin: {listen: "127.0.0.1:0"}', f'admin: {{listen: "127.0.0.1:{admin}"}}')
            text = text.replace('access_log: "off"', f"access_log: {log or 'off'}")
            config.write_text(text, encoding="utf-8")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "run", str(config), cwd=ROOT, stderr=asyncio.subprocess.PIPE
            )
            stack.push_async_callback(end, process)
            started = Process(process, port, admin)
            if wait:
                assert process.stderr is not None
                async with asyncio.timeout(STARTS_WITHIN):
                    while b"admin on" not in await process.stderr.readline():
                        assert process.returncode is None
            return started

        yield start


async def end(process: asyncio.subprocess.Process) -> None:
    """Make an end of it."""
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def test_sigterm_drains(upstream: StartUpstream, run: Run) -> None:
    """Not ready at once, the request in flight is finished, idle connections close, nothing new is accepted, exit code 0."""
    origin = await upstream(drips(OK))
    process = await run(origin.url)
    idle, busy = await process.client(), await process.client()
    await busy.send(GET)
    await eventually(lambda: origin.requests)
    assert await process.readyz() == 200
    process.tell(signal.SIGTERM)
    assert await idle.closed() == b""
    assert await process.readyz() == 503
    with pytest.raises(ConnectionRefusedError):
        await process.client()
    origin.gate.release()
    response = await busy.response()

    assert (response.status, response.value(b"connection")) == (200, b"close")
    assert await process.ended() == 0
    idle.close()
    busy.close()


async def test_the_drain_delay_keeps_accepting(upstream: StartUpstream, run: Run) -> None:
    """While balancers still send, /readyz says 503 and requests are served."""
    origin = await upstream(answers(OK))
    process = await run(origin.url, timeouts="drain_delay: 600ms")
    process.tell(signal.SIGTERM)
    await until(process.drains)
    client = await process.client()

    assert (await client.ask(GET)).status == 200
    assert await process.ended() == 0
    client.close()


async def test_a_streaming_response_is_finished(upstream: StartUpstream, run: Run) -> None:
    """A body that is on its way when the drain begins arrives whole."""
    origin = await upstream(pours(8 << 20))
    process = await run(origin.url)
    client = await process.client()
    await client.send(GET)
    head = await client.head()
    process.tell(signal.SIGTERM)

    assert head.status == 200
    assert len(await client.read(8 << 20)) == 8 << 20
    assert await process.ended() == 0
    client.close()


async def test_the_drain_is_limited(upstream: StartUpstream, run: Run) -> None:
    """What is not over within `drain` is cut."""
    origin = await upstream(accepts_and_hangs)
    process = await run(origin.url, timeouts="drain: 300ms")
    client = await process.client()
    await client.send(GET)
    await eventually(lambda: origin.requests)
    process.tell(signal.SIGTERM)

    assert await client.closed() == b""
    assert await process.ended() == 0
    await eventually(lambda: not origin.peers)
    client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_stops_at_once(upstream: StartUpstream, run: Run, number: signal.Signals) -> None:
    """An operator in a hurry is obeyed."""
    origin = await upstream(accepts_and_hangs)
    process = await run(origin.url)
    client = await process.client()
    await client.send(GET)
    await eventually(lambda: origin.requests)
    process.tell(number)
    await until(process.drains)
    process.tell(number)

    assert await process.ended() == 0
    client.close()


async def test_an_idle_process_ends_at_once(upstream: StartUpstream, run: Run) -> None:
    """With nothing in flight there is nothing to wait for, and nothing to complain about."""
    origin = await upstream(answers(OK))
    process = await run(origin.url)
    process.tell(signal.SIGTERM)

    assert await process.ended() == 0
    errors = await process.errors()
    assert "Traceback" not in errors and "ERROR" not in errors


async def test_a_port_in_use_is_an_error_in_words(run: Run) -> None:
    """Exit code 1 and one line that names the address, no traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = await run("http://127.0.0.1:9", port=port, wait=False)

        assert await process.ended() == 1
    errors = await process.errors()
    assert f"gateway run: error: cannot listen on 127.0.0.1:{port} (server.listen): the address is already in use" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "text,says", [(None, "cannot read the file"), ("version: 2\nroutes: []", "version"), ("{", "not valid YAML")]
)
async def test_a_bad_configuration_is_an_error_in_words(tmp_path: Path, text: str | None, says: str) -> None:
    """Exit code 1 and the problem with its place, no traceback."""
    config = tmp_path / "gateway.yaml"
    if text is not None:
        config.write_text(text, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "run", str(config), cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()

    assert process.returncode == 1
    assert says in errors.decode()
    assert "Traceback" not in errors.decode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may bind every port")
async def test_a_forbidden_port_is_an_error_in_words(run: Run) -> None:
    """A privileged port without the privilege: exit code 1 and the reason."""
    process = await run("http://127.0.0.1:9", port=1, wait=False)

    assert await process.ended() == 1
    assert "cannot listen on 127.0.0.1:1: " in await process.errors()


async def test_the_log_file_can_be_rotated(upstream: StartUpstream, run: Run, tmp_path: Path) -> None:
    """After a rename, SIGUSR1 makes a new file: no request is lost, none is written twice."""
    path = tmp_path / "access.log"
    origin = await upstream(answers(OK))
    process = await run(origin.url, log=str(path))
    client = await process.client()
    await client.ask(b"GET /before HTTP/1.1\r\nHost: example.com\r\n\r\n")
    await eventually(lambda: path.read_bytes().count(b"\n") == 1)
    path.rename(tmp_path / "access.log.1")
    process.tell(signal.SIGUSR1)
    await eventually(path.exists)
    await client.ask(b"GET /after HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
    client.close()
    process.tell(signal.SIGTERM)

    assert await process.ended() == 0
    assert b"/before" in (tmp_path / "access.log.1").read_bytes()
    assert b"/after" in path.read_bytes() and path.read_bytes().count(b"\n") == 1
