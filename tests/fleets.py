"""A gateway of several workers, as processes: what of it can be seen from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson

from tests.support import GET, STARTS_WITHIN, Client, Response, refusing_port

ROOT: Final = Path(__file__).resolve().parent.parent
_SAMPLE: Final = re.compile(r"^(gateway_\w+(?:\{.*?\})?) ([0-9.e+-]+|NaN)$", re.MULTILINE)
_COUNTER: Final = re.compile(r"^\w+_(?:total|count|bucket|sum)(?:\{|$)")


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def connections_of(pid: int, port: int) -> set[int]:
    """The open connections that a process has accepted on a port, by the port of the client, as the kernel has them."""
    inodes = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(str(file.readlink()))
    fields = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return {
        int(one[2].partition(":")[2], 16)
        for one in fields
        if one[1].endswith(f":{port:04X}") and one[3] == "01" and f"socket:[{one[9]}]" in inodes
    }


def counters(text: str) -> dict[str, float]:
    """The samples of a scrape that must never become less."""
    return {name: float(value) for name, value in _SAMPLE.findall(text) if _COUNTER.match(name)}


async def until(condition: Callable[[], Awaitable[object]], within: float = STARTS_WITHIN, every: float = 0.02) -> None:
    """Ask again every so many seconds until it is so."""
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(every)


class Fleet:
    """`python -m gateway run` with several workers. `text` is its file, with PORT and ADMIN in it."""

    def __init__(self, text: str, path: Path, workers: int = 2) -> None:
        self.port, self.admin = refusing_port(), refusing_port()
        self.path = path
        self.workers = workers
        self.process: asyncio.subprocess.Process
        self.opened: list[Client] = []
        """Client connections, closed at the end."""
        self.write(text)

    def write(self, text: str) -> None:
        """Write the file."""
        words = {"PORT": self.port, "ADMIN": self.admin, "WORKERS": self.workers}
        for word, value in words.items():
            text = text.replace(word, str(value))
        self.path.write_text(text, encoding="utf-8")

    async def start(self, log: Any = None) -> None:
        """Start it, and wait until it is ready."""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", "run", str(self.path), cwd=ROOT, stdout=log, stderr=log
        )
        await until(self.ready)

    async def ready(self) -> bool:
        """Whether /readyz says 200."""
        assert self.process.returncode is None, "it has ended"
        try:
            return await self.status("/readyz") == 200
        except OSError:
            return False

    async def end(self) -> None:
        """Make an end of it, and of its workers."""
        for client in self.opened:
            client.close()
        workers = self.pids() if self.process.returncode is None else []
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def pids(self) -> list[int]:
        """Its workers."""
        return children(self.process.pid)

    async def ended(self) -> int:
        """Wait for its end; the exit code."""
        async with asyncio.timeout(STARTS_WITHIN):
            return await self.process.wait()

    # -- clients -----------------------------------------------------------------------------------------------------

    async def client(self) -> Client:
        """A new connection, closed at the end; the kernel chooses the worker."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.opened.append(client)
        return client

    async def get(self, request: bytes = GET) -> Response:
        """One request on a connection of its own."""
        client = await self.client()
        try:
            return await client.ask(request)
        finally:
            client.close()

    async def clients(self) -> dict[int, Client]:
        """One connection to each worker, by the worker's process."""
        found: dict[int, Client] = {}
        others = []
        while len(found) < self.workers:
            client = await self.client()
            assert (await client.ask(GET)).status
            port = client.writer.get_extra_info("sockname")[1]
            (owner,) = [pid for pid in self.pids() if port in connections_of(pid, self.port)]
            others.append(client) if owner in found else found.update({owner: client})
        for client in others:
            client.close()
        return found

    # -- the admin listener ------------------------------------------------------------------------------------------

    async def status(self, target: str) -> int:
        """The status of a page."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.admin))
        try:
            return (await client.ask(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())).status
        finally:
            client.close()

    async def page(self, target: str, *, post: bool = False) -> Any:
        """What a page says; JSON is read."""
        async with (
            aiohttp.ClientSession(headers={"Authorization": "Bearer sesame"}) as session,
            session.request("POST" if post else "GET", f"http://127.0.0.1:{self.admin}{target}") as response,
        ):
            body = await response.read()
            return orjson.loads(body) if response.content_type == "application/json" else body.decode()

    async def sample(self, name: str) -> float:
        """One sample of the metrics; 0 when it is not there."""
        return {key: float(value) for key, value in _SAMPLE.findall(await self.page("/metrics"))}.get(name, 0.0)

    async def replaced(self, pid: int) -> None:
        """Wait until another worker serves in place of this one, and all are up."""

        async def all_up() -> bool:
            up = re.findall(r'^gateway_worker_up\{worker="\d+"\} 1\.0$', await self.page("/metrics"), re.MULTILINE)
            return pid not in self.pids() and len(up) == self.workers

        await until(all_up)
