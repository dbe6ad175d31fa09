"""Rude clients and a rude upstream against the gateway under load; afterwards nothing may be left over.

What is checked: the polite requests in between are answered in full, the gauges of requests, connections and tunnels are 0
again, no socket is left open, the log holds no traceback, and the gateway still serves. RSS is reported over time.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.bench import configs, load, proxies, rude
from tests.bench.processes import HOST, Process, StartError, free_port, running
from tests.bench.proxies import LOAD_CORE, PROJECT, Proxy, Running
from tests.bench.report import mib

_CLIENTS: Final = 48
_SETTLE: Final = 30.0
_PATIENCE: Final = 20.0
_REQUEST_TIMEOUT: Final = 6.0
_GAUGES: Final = ("gateway_requests_in_flight", "gateway_connections", "gateway_tunnels")
_BAD_WORDS: Final = re.compile(
    r"Traceback|never retrieved|never awaited|Exception in callback|ResourceWarning|Task was destroyed"
)
_SAMPLES: Final = 6
_RUDE_PATHS: Final = tuple(sorted(rude.BEHAVIOURS.keys() - {"upgrade"}))

_GET: Final = b"GET / HTTP/1.1\r\nHost: chaos\r\n\r\n"
_UPGRADE: Final = (
    b"GET /rude/upgrade HTTP/1.1\r\nHost: chaos\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_EXPECTED: Final = configs.BODY.encode()


class Client:
    """One rude client after another on one port, until the time is over."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.impolite_answers: list[str] = []
        """Polite requests that were not answered in full."""

    async def run(self, until: float) -> None:
        """Misbehave."""
        while time.perf_counter() < until:
            action = self.random.choice(ACTIONS)
            name = action.__name__
            try:
                async with asyncio.timeout(_PATIENCE), _connection(self.port) as (reader, writer):
                    await action(self, reader, writer)
            except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
                if action in POLITE:
                    self.impolite_answers.append(f"{name}: {error!r}")
            self.done[name] += 1

    async def _answered(self, reader: asyncio.StreamReader) -> None:
        """Read one answer, which must be the upstream's."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        body = await reader.readexactly(int(length.group(1)) if length is not None else 0)
        if not head.startswith(b"HTTP/1.1 200") or body != _EXPECTED:
            raise OSError(f"answered {head[:60]!r} {body[:60]!r}")

    async def keep_alive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Some requests, one after the other."""
        for _ in range(self.random.randint(1, 20)):
            writer.write(_GET)
            await self._answered(reader)

    async def pipeline(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Eight requests in one segment."""
        writer.write(_GET * 8)
        for _ in range(8):
            await self._answered(reader)

    async def half_close(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """FIN behind the request: it is answered nevertheless."""
        writer.write(_GET)
        writer.write_eof()
        await self._answered(reader)

    async def slow_bytes(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A head, one byte at a time."""
        for at in range(len(_GET)):
            writer.write(_GET[at : at + 1])
            await asyncio.sleep(0.01)
        await self._answered(reader)

    async def connect_only(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect and leave, one way or the other."""
        self._leave(writer)

    async def half_head(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Leave inside the head."""
        writer.write(_GET[: self.random.randrange(1, len(_GET))])
        await asyncio.sleep(self.random.random() / 20)
        self._leave(writer)

    async def leave_unanswered(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Leave before the answer."""
        writer.write(_GET * self.random.randint(1, 8))
        await asyncio.sleep(self.random.random() / 500)
        self._leave(writer)

    async def leave_download(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Leave inside a large answer."""
        path = self.random.choice([configs.DOWNLOAD, "/rude/big"])
        writer.write(f"GET {path} HTTP/1.1\r\nHost: chaos\r\n\r\n".encode())
        for _ in range(self.random.randint(0, 20)):
            await reader.read(rude.BLOCK)
        self._leave(writer)

    async def stop_reading(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read nothing of a large answer for a while (beyond what the stream's own buffer holds)."""
        writer.write(f"GET {configs.DOWNLOAD} HTTP/1.1\r\nHost: chaos\r\n\r\n".encode())
        await reader.read(1)
        await asyncio.sleep(self.random.random())
        self._leave(writer)

    async def half_body(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Leave inside a request body with a length."""
        writer.write(b"POST /rude/sink HTTP/1.1\r\nHost: chaos\r\nContent-Length: 100000\r\n\r\n" + b"p" * 50_000)
        await asyncio.sleep(self.random.random() / 20)
        self._leave(writer)

    async def half_chunk(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Leave inside a chunk."""
        writer.write(b"POST /rude/sink HTTP/1.1\r\nHost: chaos\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"c" * 500)
        await asyncio.sleep(self.random.random() / 20)
        self._leave(writer)

    async def broken_chunk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A chunk size that is none."""
        writer.write(b"POST /rude/sink HTTP/1.1\r\nHost: chaos\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\nzz\r\nbad\r\n")
        await reader.read()

    async def garbage(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Bytes that are no HTTP."""
        writer.write(self.random.randbytes(self.random.randint(1, 4000)) + b"\r\n\r\n")
        await reader.read()

    async def large_head(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """More header bytes than anybody takes."""
        writer.write(b"GET / HTTP/1.1\r\nHost: chaos\r\n" + b"".join(b"X-%d: %b\r\n" % (n, b"v" * 1000) for n in range(200)))
        await reader.read()

    async def rude_upstream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A polite request to a rude upstream."""
        path = self.random.choice(_RUDE_PATHS)
        if self.random.random() < 0.5:
            writer.write(f"GET /rude/{path} HTTP/1.1\r\nHost: chaos\r\nConnection: close\r\n\r\n".encode())
        else:
            head = f"POST /rude/{path} HTTP/1.1\r\nHost: chaos\r\nConnection: close\r\nContent-Length: 200000\r\n\r\n"
            writer.write(head.encode() + b"p" * 200_000)
        patience = self.random.choice([0.05, 1.0, _PATIENCE])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while await reader.read(rude.BLOCK):
                    pass
        self._leave(writer)

    async def tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Upgrade, echo a little, leave."""
        writer.write(_UPGRADE)
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 101"):
            self.done["(tunnels opened)"] += 1
            for _ in range(self.random.randint(0, 5)):
                block = self.random.randbytes(self.random.randint(1, 50_000))
                writer.write(block)
                await reader.readexactly(len(block))
        self._leave(writer)

    def _leave(self, writer: asyncio.StreamWriter) -> None:
        """RST as often as FIN."""
        if self.random.random() < 0.5:
            rude.abort(writer)


Action = Callable[[Client, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
POLITE: Final[tuple[Any, ...]] = (Client.keep_alive, Client.pipeline, Client.half_close, Client.slow_bytes)
ACTIONS: Final[tuple[Any, ...]] = (
    *POLITE,
    Client.connect_only,
    Client.half_head,
    Client.leave_unanswered,
    Client.leave_download,
    Client.stop_reading,
    Client.half_body,
    Client.half_chunk,
    Client.broken_chunk,
    Client.garbage,
    Client.large_head,
    Client.rude_upstream,
    Client.tunnel,
)


@contextlib.asynccontextmanager
async def _connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _storm(subject: Running, seconds: float, seed: int) -> tuple[list[Client], list[int], load.Run]:
    """All clients and wrk at once; the RSS meanwhile."""
    until = time.perf_counter() + seconds
    clients = [Client(subject.port, seed * 1000 + number) for number in range(_CLIENTS)]
    samples: list[int] = []
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(until))
        wrk = group.create_task(asyncio.to_thread(load.wrk, subject, path="/", seconds=seconds, connections=16))
        for _ in range(_SAMPLES):
            await asyncio.sleep(seconds / _SAMPLES)
            samples.append(_process(subject).rss())
    return clients, samples, wrk.result()


def _process(subject: Running) -> Process:
    if subject.process is None:
        raise TypeError(subject.name)
    return subject.process


def _metrics(port: int) -> dict[str, float]:
    """The admin listener's metrics, labels summed up."""
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics", headers={"Connection": "close"})
        text = connection.getresponse().read().decode()
    totals: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("{") if "{" in line else line.partition(" ")
            totals[name] = totals.get(name, 0.0) + float(value.rpartition(" ")[2])
    return totals


def _settle(subject: Running, sockets: int) -> tuple[float, dict[str, float], int]:
    """Wait until nothing is left over or patience is; how long it took, the gauges, the sockets too many."""
    start = time.perf_counter()
    while True:
        metrics = _metrics(subject.admin_port)
        gauges = {name: metrics.get(name, float("nan")) for name in _GAUGES}
        left = _process(subject).sockets() - sockets
        waited = time.perf_counter() - start
        if (not any(gauges.values()) and left <= 0) or waited > _SETTLE:
            return waited, gauges, left
        time.sleep(0.5)


@contextlib.contextmanager
def _rude_upstream() -> Iterator[int]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        argv = [sys.executable, "-m", "tests.bench.rude", str(port)]
        process = Process("rude", argv, core=LOAD_CORE, log=Path(directory) / "output.log", cwd=PROJECT)
        with running(process):
            process.wait_for_port(port)
            yield port


def run(proxy: Proxy, *, seconds: float, seed: int) -> dict[str, Any]:
    """One gateway through the storm; prints and returns what was found, `wrong` being the list of what should not be."""
    with (
        proxies.upstream() as ports,
        _rude_upstream() as rude_port,
        proxy.start(ports, rude_port=rude_port, request_timeout=_REQUEST_TIMEOUT) as subject,
    ):
        proxies.verify(subject)
        time.sleep(_REQUEST_TIMEOUT)
        _metrics(subject.admin_port)
        sockets = _process(subject).sockets()
        load.wrk(subject, path="/", seconds=3, connections=64)
        warm = _process(subject).rss()
        clients, samples, under_load = asyncio.run(_storm(subject, seconds, seed))
        waited, gauges, left = _settle(subject, sockets)
        result = _result(clients, under_load, gauges, left)
        result |= {"seed": seed, "seconds": seconds, "settled_after": waited, "sockets_before": sockets}
        result |= {"rss_warm": warm, "rss_samples": samples, "rss_after": _process(subject).rss()}
        result["wrong"] += _health(subject)
    _print(proxy.name, result)
    return result


def _result(clients: list[Client], under_load: load.Run, gauges: dict[str, float], left: int) -> dict[str, Any]:
    done: Counter[str] = Counter()
    for client in clients:
        done.update(client.done)
    failures = [failure for client in clients for failure in client.impolite_answers]
    wrong = [f"{name} is {value:g}" for name, value in gauges.items() if value != 0]
    if left > 0:
        wrong.append(f"{left} sockets are left open")
    if under_load.errors:
        wrong.append(f"wrk saw {under_load.errors} errors")
    if failures:
        wrong.append(f"{len(failures)} polite requests failed, the first: {failures[0]}")
    return {
        "actions": dict(sorted(done.items())),
        "requests_per_second_meanwhile": under_load.rate,
        "gauges": {name: value if value == value else None for name, value in gauges.items()},
        "sockets_left": left,
        "polite_failures": failures[:20],
        "wrong": wrong,
    }


def _health(subject: Running) -> list[str]:
    """What is wrong with the process itself: dead, not serving, or it logged what it should not."""
    process = _process(subject)
    wrong = [] if process.alive() else ["the process is dead"]
    try:
        proxies.verify(subject)
    except (OSError, http.client.HTTPException, StartError) as error:
        wrong.append(f"it does not serve any more: {error!r}")
    lines = process.output().splitlines()
    bad = [number for number, line in enumerate(lines) if _BAD_WORDS.search(line)]
    if bad:
        wrong.append(
            f"{len(bad)} bad lines in the log, the first with what follows:\n" + "\n".join(lines[bad[0] : bad[0] + 25])
        )
    return wrong


def _print(name: str, result: dict[str, Any]) -> None:
    print(f"\n{name}: {sum(result['actions'].values())} actions in {result['seconds']:.0f} s (seed {result['seed']}),", end=" ")
    print(f"{result['requests_per_second_meanwhile']:,.0f} req/s of wrk meanwhile")
    print("  " + ", ".join(f"{action} {count}" for action, count in result["actions"].items()))
    rss = " ".join(mib(sample) for sample in [result["rss_warm"], *result["rss_samples"], result["rss_after"]])
    print(f"  RSS MiB: warm, during, after: {rss}")
    gauges = ", ".join(f"{gauge} {value}" for gauge, value in result["gauges"].items())
    print(f"  {gauges}, sockets left {result['sockets_left']}, settled after {result['settled_after']:.1f} s")
    for wrong in result["wrong"]:
        print(f"  WRONG: {wrong}")
