"""Reloads and killed workers under load: 500 open WebSockets, steady requests, 100 reloads, bad files, 10 kills.

`python -m tests.bench.fleet`. What must hold: reloads drop nothing; a bad file changes nothing; a killed worker loses only its
own connections; all workers together admit what one would; no counter ever goes back. Exit code 1 when something does not.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.bench.processes import HOST, free_port
from tests.fleets import children, connections_of

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY: Final = b"dGhlIHNhbXBsZSBub25jZQ=="
_UPGRADE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + _KEY + b"\r\n\r\n"
)
_GET: Final = b"GET /all HTTP/1.1\r\nHost: bench\r\n\r\n"
_LIMITED: Final = b"GET /limited HTTP/1.1\r\nHost: bench\r\n\r\n"
_OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"
_SAMPLE: Final = re.compile(r"^(gateway_\w+(?:_total|_count|_bucket|_sum)(?:\{.*?\})?) ([0-9.e+-]+)$", re.MULTILINE)
_LIMIT: Final = 5000
_RATE: Final = 200
_SECONDS: Final = 8.0
_PAUSE: Final = 0.02
_PATIENCE: Final = 20.0

CONFIG: Final = """
version: 1
server: {listen: "HOST:PORT", workers: WORKERS, limits: {tunnels: 2000}, reload: {watch: true}}
admin: {listen: "HOST:ADMIN", token: sesame}
access_log: "off"
upstreams: {app: {endpoints: ["http://HOST:ORIGIN"]}}
routes:
  - {name: limited, match: {path: /limited}, upstream: app, rate_limit: {limit: LIMIT, per: 1h, key: "constant:all"}}
  - {name: window, match: {path: /window}, upstream: app, rate_limit: {limit: RATE, per: 1s, key: "constant:all"}}
  - name: bucket
    match: {path: /bucket}
    upstream: app
    rate_limit: {limit: RATE, per: 1s, burst: RATE, algorithm: token_bucket, key: "constant:all"}
  - {name: all, match: {path: /**}, upstream: app, timeout: TIMEOUTs}
  - {name: rNUMBER, match: {path: /rNUMBER}, respond: 204}
"""


class Origin(asyncio.Protocol):
    """Answers requests, and echoes behind an upgrade."""

    def __init__(self) -> None:
        self._in = b""
        self._echo = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._echo:
            self._transport.write(data)
            return
        self._in += data
        while (end := self._in.find(b"\r\n\r\n")) >= 0:
            head, self._in = self._in[:end], self._in[end + 4 :]
            if b"upgrade: websocket" in head.lower():
                accept = base64.b64encode(hashlib.sha1(_KEY + _GUID, usedforsecurity=False).digest())
                self._echo = True
                self._transport.write(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
                )
                return
            self._transport.write(_OK)


class Bench:
    """One run."""

    def __init__(self, workers: int, sockets: int, folder: Path) -> None:
        self.workers = workers
        self.sockets = sockets
        self.path = folder / "gateway.yaml"
        self.log = folder / "log"
        self.port, self.admin, self.origin = free_port(), free_port(), free_port()
        self.number = 0
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.counters: dict[str, float] = {}
        self.over = asyncio.Event()
        self.slowest = 0.0
        self.scraping = asyncio.Lock()
        """Of two scrapes at a time, the answer to the first could come last."""
        self.process: asyncio.subprocess.Process

    def write(self) -> None:
        """The next version of the file."""
        self.number += 1
        words = {
            "HOST": HOST, "PORT": self.port, "WORKERS": self.workers, "ADMIN": self.admin, "ORIGIN": self.origin,
            "LIMIT": _LIMIT, "RATE": _RATE, "TIMEOUT": 10 + self.number % 5, "NUMBER": self.number,
        }  # fmt: skip
        text = CONFIG
        for word, value in words.items():
            text = text.replace(word, str(value))
        self.path.write_text(text, encoding="utf-8")

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
        """One request on a connection; its status."""
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        return int(head.split(b" ")[1])

    async def load(self) -> None:
        """Steady requests on one connection that is opened anew now and then, or when it is lost."""
        while not self.over.is_set():
            try:
                reader, writer = await asyncio.open_connection(HOST, self.port)
            except OSError as error:
                self.counts[f"connect: {error.strerror}"] += 1
                continue
            try:
                for _ in range(50):
                    begun = time.perf_counter()
                    self.counts[str(await self.ask(reader, writer, _GET))] += 1
                    self.slowest = max(self.slowest, time.perf_counter() - begun)
                    await asyncio.sleep(_PAUSE)
                    if self.over.is_set():
                        break
            except (OSError, asyncio.IncompleteReadError):
                self.counts["lost"] += 1
            finally:
                writer.close()

    async def open_sockets(self, count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """So many WebSockets."""
        found = []
        for _ in range(count):
            reader, writer = await asyncio.open_connection(HOST, self.port)
            writer.write(_UPGRADE)
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 101 " not in head:
                self.faults.append(f"no upgrade: {head[:60]!r}")
            found.append((reader, writer))
        return found

    async def alive(self, sockets: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> list[Any]:
        """Those that still echo."""

        async def echoes(pair: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bool:
            try:
                pair[1].write(b"\x81\x01x")
                async with asyncio.timeout(_PATIENCE):
                    return await pair[0].readexactly(3) == b"\x81\x01x"
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                return False

        answers = await asyncio.gather(*(echoes(pair) for pair in sockets))
        return [pair for pair, good in zip(sockets, answers, strict=True) if good]

    async def scrape(self, session: aiohttp.ClientSession) -> str:
        """The metrics; counters must not go back."""
        async with self.scraping, session.get(f"http://{HOST}:{self.admin}/metrics") as response:
            text = await response.text()
            self.compare(text)
        return text

    def compare(self, text: str) -> None:
        """With the counters of the scrape before."""
        now = {name: float(value) for name, value in _SAMPLE.findall(text)}
        for name, value in now.items():
            if value < self.counters.get(name, 0.0) - 1e-6:
                self.faults.append(f"{name} went back from {self.counters[name]} to {value}")
        self.counters = now

    async def reload(self, session: aiohttp.ClientSession) -> None:
        """Write another file and have it taken."""
        self.write()
        url = f"http://{HOST}:{self.admin}/reload"
        async with session.post(url, headers={"Authorization": "Bearer sesame"}) as response:
            if response.status != 200:
                self.faults.append(f"reload: {await response.text()}")

    async def watch(self, session: aiohttp.ClientSession) -> None:
        """Scrape all the time."""
        while not self.over.is_set():
            with contextlib.suppress(aiohttp.ClientError):
                await self.scrape(session)
            await asyncio.sleep(0.3)

    async def bad_files(self, session: aiohttp.ClientSession) -> None:
        """The file is broken, half there, gone: found by the watch, told, and nothing changes; the next good one is taken."""
        good = self.path.read_text(encoding="utf-8")
        for what, text in (
            ("broken", good.replace("upstream: app", "upstream: ap")),
            ("half", good[: len(good) // 2]),
            ("gone", None),
        ):
            asked = self.counts["200"]
            self.path.unlink() if text is None else self.path.write_text(text, encoding="utf-8")
            told = await self.reload_said(session, 0)
            while self.counts["200"] < asked + 200:
                await asyncio.sleep(0.05)
            self.write()
            taken = await self.reload_said(session, 1)
            seen = "seen, and nothing changed" if told else "not seen"
            print(f"the file is {what}: {seen}; the next one: {'taken' if taken else 'not taken'}")
            if not (told and taken):
                self.faults.append(f"the file that was {what}")

    async def reload_said(self, session: aiohttp.ClientSession, value: int) -> bool:
        """Whether the metric gets to this value."""
        end = time.perf_counter() + _PATIENCE
        while time.perf_counter() < end:
            if f"gateway_config_last_reload_successful {value}.0" in await self.scrape(session):
                return True
            await asyncio.sleep(0.1)
        return False

    async def kill_one(self, number: int) -> int:
        """Kill a worker, and wait until it is replaced."""
        before = children(self.process.pid)
        victim = before[number % len(before)]
        owned = len(connections_of(victim, self.port))
        os.kill(victim, signal.SIGKILL)
        end = time.perf_counter() + _PATIENCE
        while len(set(children(self.process.pid)) - {victim}) < self.workers and time.perf_counter() < end:
            await asyncio.sleep(0.05)
        return owned

    async def run(self, reloads: int, kills: int) -> None:
        """All of it."""
        loop = asyncio.get_running_loop()
        origin = await self.start()
        async with aiohttp.ClientSession() as session:
            await self.ready(session)
            sockets = await self.open_sockets(self.sockets)
            tasks = [loop.create_task(self.load()) for _ in range(32)]
            tasks.append(loop.create_task(self.watch(session)))
            limited = loop.create_task(self.limited())
            begun = time.perf_counter()
            for _ in range(reloads):
                await self.reload(session)
            took = time.perf_counter() - begun
            left = await self.alive(sockets)
            during = dict(self.counts)
            print(f"{reloads} reloads in {took:.1f} s; {len(left)} of {len(sockets)} WebSockets open; requests {during}")
            print(f"slowest request {self.slowest * 1000:.0f} ms")
            if len(left) < len(sockets) or set(during) != {"200"}:
                self.faults.append("reloads dropped something")
            admitted = await limited
            print(f"{admitted} admitted of a limit of {_LIMIT}")
            if abs(admitted - _LIMIT) > _LIMIT / 100:
                self.faults.append("the limit was not kept")
            await self.bad_files(session)
            if set(self.counts) != {"200"}:
                self.faults.append(f"bad files dropped something: {dict(self.counts)}")
            sockets = left
            for number in range(kills if self.workers > 1 else 0):
                self.counts.clear()
                owned = await self.kill_one(number)
                left = await self.alive(sockets)
                lost = len(sockets) - len(left)
                bad = {what: count for what, count in self.counts.items() if what != "200"}
                print(
                    f"kill {number + 1}: {owned} connections of its own, {lost} WebSockets lost; requests: {bad or 'none lost'}"
                )
                if lost + sum(bad.values()) > owned:
                    self.faults.append(f"kill {number + 1} lost more than its own")
                sockets = left + await self.open_sockets(lost)
            await asyncio.sleep(1.5)
            text = await self.scrape(session)
            self.over.set()
            await asyncio.gather(*tasks)
            stale = set(re.findall(r'route="(r\d+)"', text)) - {f"r{self.number}"}
            if stale:
                self.faults.append(f"series of removed routes: {sorted(stale)[:3]}")
            for _, writer in sockets:
                writer.close()
        await self.end()
        origin.close()
        if "Traceback" in self.log.read_text(encoding="utf-8", errors="replace"):
            self.faults.append(f"a traceback in {self.log}")

    async def start(self) -> asyncio.Server:
        """The service and the gateway."""
        self.write()
        origin = await asyncio.get_running_loop().create_server(Origin, HOST, self.origin, backlog=1024)
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", "run", str(self.path), stdout=log, stderr=log
            )
        return origin

    async def end(self) -> None:
        """A shutdown as it should be."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            code = await self.process.wait()
        if code:
            self.faults.append(f"exit code {code}")

    async def rates(self) -> dict[str, float]:
        """Requests admitted per second by each kind of limit, from many connections that ask for more all the time."""
        origin = await self.start()
        async with aiohttp.ClientSession() as session:
            await self.ready(session)
        admitted: Counter[str] = Counter()
        offered: Counter[str] = Counter()
        loop = asyncio.get_running_loop()
        # Windows have fixed edges. What a run of a few windows admits depends on where in one it begins: on an edge.
        await asyncio.sleep(1.0 - time.monotonic() % 1.0)
        end = loop.time() + _SECONDS

        async def client(kind: str) -> None:
            reader, writer = await asyncio.open_connection(HOST, self.port)
            request = _GET.replace(b"/all", f"/{kind}".encode())
            while loop.time() < end:
                status = await self.ask(reader, writer, request)
                admitted[kind] += status == 200
                offered[kind] += 1
                await asyncio.sleep(_PAUSE)
            writer.close()

        await asyncio.gather(*(client(kind) for kind in ("window", "bucket") for _ in range(24)))
        await self.end()
        origin.close()
        if min(offered.values()) < 2 * _RATE * _SECONDS:
            print(f"the machine is too busy to say anything about rates: {dict(offered)} requests in {_SECONDS:.0f} s")
        if "supervisor is down" in self.log.read_text(encoding="utf-8", errors="replace"):
            print("the supervisor was too late at times: see the log")
        return {kind: count / _SECONDS for kind, count in admitted.items()}

    async def limited(self) -> int:
        """Ask for more than the limit, from many connections; how many were admitted."""
        statuses: Counter[int] = Counter()

        async def client() -> None:
            reader, writer = await asyncio.open_connection(HOST, self.port)
            for _ in range(2 * _LIMIT // 32):
                statuses[await self.ask(reader, writer, _LIMITED)] += 1
            writer.close()

        await asyncio.gather(*(client() for _ in range(32)))
        if set(statuses) - {200, 429}:
            self.faults.append(f"limited requests: {dict(statuses)}")
        return statuses[200]

    async def ready(self, session: aiohttp.ClientSession) -> None:
        """Wait for the start."""
        end = time.perf_counter() + _PATIENCE
        while time.perf_counter() < end:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://{HOST}:{self.admin}/readyz") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.1)
        raise SystemExit(f"the gateway did not start: {self.log.read_text(encoding='utf-8')}")


def main() -> int:
    """Run it and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--sockets", type=int, default=500)
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--kills", type=int, default=10)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gateway-fleet-"))
    bench = Bench(options.workers, options.sockets, folder)
    asyncio.run(bench.run(options.reloads, options.kills))
    one, all_of_them = (asyncio.run(Bench(workers, 0, folder).rates()) for workers in (1, options.workers))
    for kind, rate in one.items():
        ratio = all_of_them[kind] / rate
        print(f"{kind} of {_RATE}/s: one worker {rate:.1f}/s, {options.workers} workers {all_of_them[kind]:.1f}/s: {ratio:.4f}")
        if abs(ratio - 1) > 0.01:
            bench.faults.append(f"{kind}: the limit was not kept")
    for fault in bench.faults:
        print("FAULT:", fault)
    print("nothing was lost that should not be" if not bench.faults else f"{len(bench.faults)} faults; log: {bench.log}")
    return 1 if bench.faults else 0


if __name__ == "__main__":
    sys.exit(main())
