"""What clients see while endpoints fail at load: `python -m tests.bench.faults [SCENARIO] …`.

`dead`: two of three endpoints die, in each way; errors among the clients before, in the first second, and after it.
`failing`: the only endpoint fails every request: what it still sees, when its breaker opens, and how the gateway recovers when
a weak endpoint comes back. `refusal`: what a refusal costs meanwhile, beside a proxied request. `hanging`: how many probes an
open breaker lets through. `leavers`: clients that hang up. `slow`: the share of one slow endpoint. `back`: the share of an
endpoint that comes back, second by second.

The gateway has core 0; clients and endpoints share core 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Self

import orjson

from tests.bench.processes import HOST, free_port
from tests.bench.refusals import refusal

_GET: Final = b"GET /users/1 HTTP/1.1\r\nHost: a\r\n\r\n"


class Client(asyncio.Protocol):
    """One connection that asks again as soon as it is answered, or at a pace; connects again when it is cut."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.transport: asyncio.Transport
        self.sent = 0.0
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.load.clients.add(self)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ask()

    def ask(self) -> None:
        """Send a request."""
        if self.load.running and not self.transport.is_closing():
            self.sent = time.perf_counter()
            self.load.sent += 1
            self.transport.write(_GET)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self.buffer) < end + 4 + length:
            return
        status = int(self.buffer[9:12])
        refused = status == 503 and b"gateway" in head
        self.buffer = b""
        last = b"\r\nconnection: close" in head
        now = time.perf_counter()
        self.load.answered(now, status, now - self.sent, refused=refused)
        self.sent = 0.0
        if last:
            self.transport.close()
        elif self.load.pause:
            asyncio.get_running_loop().call_later(self.load.pause, self.ask)
        else:
            self.ask()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self.load.clients.discard(self)
        if self.load.running:
            if self.sent:
                self.load.answered(time.perf_counter(), 0, 0.0, refused=False)
            self.load.replace()


class Load:
    """Clients of a gateway, and what they got: (when, status, seconds, refused by the gateway)."""

    def __init__(self, port: int, clients: int, pause: float = 0.0) -> None:
        self.port, self.count, self.pause = port, clients, pause
        self.running = True
        self.clients: set[Client] = set()
        self.results: list[tuple[float, int, float, bool]] = []
        self.sent = 0
        self.connecting: set[asyncio.Task[None]] = set()

    def answered(self, when: float, status: int, seconds: float, *, refused: bool) -> None:
        """One request is over."""
        self.results.append((when, status, seconds, refused))

    async def connect(self) -> None:
        """One more client."""
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().create_connection(lambda: Client(self), HOST, self.port)

    def replace(self) -> None:
        """A client was cut: another one in its place."""
        task = asyncio.get_running_loop().create_task(self.connect())
        self.connecting.add(task)
        task.add_done_callback(self.connecting.discard)

    async def __aenter__(self) -> Self:
        for _ in range(self.count):
            await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.running = False
        for client in list(self.clients):
            client.transport.abort()

    def between(self, start: float, end: float) -> Counter[int]:
        """Statuses of what was answered in that time."""
        return Counter(status for when, status, _, _ in self.results if start <= when < end)

    def longest_silence(self, since: float) -> tuple[float, float]:
        """Between two answers, and when it began. The gateway's refusals are answers: it is the machine that has paused."""
        times = [when for when, _, _, _ in self.results if when >= since]
        return max(((later - earlier, earlier) for earlier, later in itertools.pairwise(times)), default=(0.0, since))


class World:
    """Endpoints that fail on demand, and a gateway before them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ports: list[int] = []
        self.gateway = 0
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    @property
    def pid(self) -> int:
        """The gateway's."""
        return self.processes[1].pid

    async def start(self, endpoints: int, upstream: str, route: str) -> None:
        """Start all, and wait until it serves."""
        self.ports = [free_port() for _ in range(endpoints)]
        self.gateway = free_port()
        control = self.folder / "control.sock"
        self._run(1, "-m", "tests.bench.faulty", str(control), *map(str, self.ports))
        urls = ", ".join(f"'http://{HOST}:{port}'" for port in self.ports)
        config = self.folder / "gateway.yaml"
        config.write_text(
            f"version: 1\nserver: {{listen: '{HOST}:{self.gateway}'}}\nadmin: {{listen: 'unix:{self.folder}/admin.sock'}}\n"
            f"access_log: off\nupstreams: {{u: {{endpoints: [{urls}], {upstream}}}}}\n"
            f"routes: [{{name: r, match: {{}}, upstream: u, {route}}}]\n",
            encoding="utf-8",
        )
        self._run(0, "-m", "gateway", "run", str(config))
        for _ in range(200):
            with contextlib.suppress(OSError):
                socket.create_connection((HOST, self.gateway), 1.0).close()
                break
            await asyncio.sleep(0.05)
        self.reader, self.writer = await asyncio.open_unix_connection(str(control))

    def _run(self, core: int, *command: str) -> None:
        log = (self.folder / f"{len(self.processes)}.log").open("wb")
        self.processes.append(subprocess.Popen(["taskset", "-c", str(core), sys.executable, *command], stdout=log, stderr=log))

    async def tell(self, line: str) -> Any:
        """One line to the endpoints."""
        self.writer.write(line.encode() + b"\n")
        return orjson.loads(await self.reader.readline())

    async def modes(self, *modes: str) -> None:
        """A mode for each endpoint, in order."""
        for port, mode in zip(self.ports, modes, strict=True):
            await self.tell(f"mode {port} {mode}")

    async def requests(self) -> list[int]:
        """What each endpoint has seen."""
        counts = await self.tell("counts")
        return [counts[str(port)]["requests"] for port in self.ports]

    def log(self) -> list[str]:
        """What the gateway says of breakers and ejections."""
        lines = (self.folder / "1.log").read_text().splitlines()
        return [line for line in lines if "breaker" in line or "eject" in line or "endpoint" in line]

    def stop(self) -> None:
        """Kill all."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait()
        if b"Traceback" in (self.folder / "1.log").read_bytes():
            print((self.folder / "1.log").read_text()[-3000:])


@contextlib.asynccontextmanager
async def world(endpoints: int, upstream: str = "", route: str = "timeout: 2s") -> AsyncIterator[World]:
    """A world for one scenario."""
    with tempfile.TemporaryDirectory() as name:
        made = World(Path(name))
        try:
            await made.start(endpoints, upstream or "host: preserve", route)
            yield made
        finally:
            made.stop()


def _errors(counts: Counter[int]) -> str:
    total = sum(counts.values())
    bad = total - counts[200]
    kinds = ", ".join(f"{status}: {count}" for status, count in sorted(counts.items()) if status != 200)
    return f"{bad}/{total} = {bad / max(1, total):.4%}" + (f" ({kinds})" if kinds else "")


async def dead(seconds: float = 8.0) -> None:
    """Two of three endpoints die."""
    for mode in ("refuse", "hang", "reset", "503", "500", "slow:1500"):
        # What hangs can only be left by an attempt's time limit.
        async with world(3, route="timeout: {request: 2s, attempt: 300ms}") as w, Load(w.gateway, 32, 0.01) as load:
            await asyncio.sleep(2)
            flip = time.perf_counter()
            await w.modes(mode, mode, "ok")
            await asyncio.sleep(seconds)
            end = time.perf_counter()
            slow = [took for when, status, took, _ in load.results if when > flip + 1 and status == 200]
            print(
                f"{mode:10} before {_errors(load.between(0, flip))}  first second {_errors(load.between(flip, flip + 1))}"
                f"  after {_errors(load.between(flip + 1, end))}  p99 {statistics.quantiles(slow, n=100)[98] * 1000:.1f} ms"
            )


async def failing() -> None:
    """The only endpoint fails every request."""
    for mode in ("500", "503", "reset", "refuse", "hang"):
        async with world(1, route="timeout: {request: 2s, attempt: 500ms}") as w, Load(w.gateway, 64) as load:
            await asyncio.sleep(3)
            await w.tell("zero")
            sent, flip = load.sent, time.perf_counter()
            await w.modes(mode)
            opened = await _opened(load)
            seen, asked = (await w.requests())[0], load.sent - sent
            await asyncio.sleep(2)
            print(
                f"{mode:7} open after {opened - flip:.2f} s; by then the upstream saw {seen} of {asked} requests"
                f" = {(seen - 10 * (opened - flip)) / asked:.3f} without 10/s; then {dict(load.between(opened, opened + 2))}"
            )
            # It comes back weak: 20 at a time, 5 ms each, so that 64 clients at once are too many for 100 ms.
            await w.modes("workers:20:5")
            back = time.perf_counter()
            await asyncio.sleep(25)
            seconds = [load.between(back + at, back + at + 1) for at in range(25)]
            gap, when = load.longest_silence(back)
            print(f"        200s per second after it is back: {[counts[200] for counts in seconds]}")
            print(f"        other answers:                    {[sum(counts.values()) - counts[200] for counts in seconds]}")
            print(f"        longest time without any answer: {gap:.2f} s, at {when - back:.1f} s")
            print("        " + "\n        ".join(w.log()))


async def _opened(load: Load, within: float = 15.0) -> float:
    """When the gateway has begun to refuse nearly everything."""
    end = time.perf_counter() + within
    while (now := time.perf_counter()) < end:
        await asyncio.sleep(0.05)
        last = [was for when, _, _, was in load.results[-2000:] if when > now]
        if last and sum(last) > 0.9 * len(last):
            return now
    return float("nan")


async def hanging() -> None:
    """An endpoint hangs; many clients wait."""
    breaker = "circuit_breaker: {window: 2s, min_requests: 5, open_for: 500ms}"
    async with world(1, breaker, "timeout: {request: 1s, attempt: 400ms}") as w, Load(w.gateway, 200) as load:
        await asyncio.sleep(1)
        await w.modes("hang")
        await asyncio.sleep(3)
        await w.tell("zero")
        peaks, seen = [], []
        for _ in range(8):
            await asyncio.sleep(1)
            counts = (await w.tell("counts"))[str(w.ports[0])]
            peaks.append(counts["peak"])
            seen.append(counts["requests"])
        last = dict(load.between(time.perf_counter() - 5, 1e18))
        print(f"hanging: most probes in flight {max(peaks)}, seen per second {seen}; clients in 5 s {last}")


async def leavers() -> None:
    """Clients that hang up while the endpoint is slow; others see nothing of it."""
    async with world(1, "circuit_breaker: {window: 5s, min_requests: 5, open_for: 1s}", "timeout: 5s") as w:
        await w.modes("slow:100")
        end = time.perf_counter() + 5

        async def leave() -> int:
            count = 0
            while time.perf_counter() < end:
                _, writer = await asyncio.open_connection(HOST, w.gateway)
                writer.write(_GET)
                await asyncio.sleep(0.03)
                writer.transport.abort()
                count += 1
            return count

        left = sum(await asyncio.gather(*(leave() for _ in range(50))))
        async with Load(w.gateway, 8) as load:
            await asyncio.sleep(1)
            print(f"leavers: {left} hung up; then {dict(load.between(0, 1e18))}")


async def slow() -> None:
    """One of three endpoints takes ten times as long."""
    for algorithm in ("two_choices", "least_in_flight", "latency", "round_robin"):
        async with world(3, f"load_balancing: {algorithm}") as w, Load(w.gateway, 32):
            await w.modes("slow:5", "slow:5", "slow:50")
            await asyncio.sleep(1)
            await w.tell("zero")
            await asyncio.sleep(4)
            seen = await w.requests()
            print(f"slow, {algorithm:16} {[f'{count / sum(seen):.1%}' for count in seen]}")


async def back() -> None:
    """An endpoint was ejected and comes back."""
    async with world(3, "ejection: {failures: 5, base: 3s}") as w, Load(w.gateway, 16, 0.005):
        await asyncio.sleep(1)
        await w.modes("503", "ok", "ok")
        await asyncio.sleep(1)
        await w.modes("ok", "ok", "ok")
        shares = []
        for _ in range(16):
            await w.tell("zero")
            await asyncio.sleep(1)
            seen = await w.requests()
            shares.append(f"{seen[0] / sum(seen):.0%}")
        print(f"back: share per second {' '.join(shares)}")


SCENARIOS: Final = {"dead": dead, "failing": failing, "hanging": hanging, "leavers": leavers, "slow": slow, "back": back}
"""Others than `refusal`, which needs no endpoints that can be told how to fail."""


def main() -> None:
    """Run the scenarios named, or all."""
    os.sched_setaffinity(0, {1})
    for name in sys.argv[1:] or (*SCENARIOS, "refusal"):
        if name == "refusal":
            refusal()
        else:
            asyncio.run(SCENARIOS[name]())


if __name__ == "__main__":
    main()
