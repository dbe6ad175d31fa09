"""What a gateway does with three times what its upstream can take: `python -m tests.bench.overload [SCENARIO …]`.

The upstream works on 20 requests at a time, 50 ms each, so its capacity is 400 a second; what it cannot work on yet waits
there without bound, as in most servers. The load is open: requests come at random (Poisson) at three times that rate,
whatever has become of those before, and each has a budget of one second. Every request and every arrival at the upstream is
noted with its time, so what is dispatched too late, or for a client that has left, is seen.

The processes are not pinned. One more tries to sleep for 10 ms again and again and says how far the machine itself can be
believed: take no figures from a run in which it overslept by more than some 20 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import orjson

from tests.bench.processes import HOST, Process, free_port

WORKERS: Final = 20
SERVICE: Final = 0.05
CAPACITY: Final = WORKERS / SERVICE
BUDGET: Final = 1.0
FACTOR: Final = 3.0
GRACE: Final = 0.02
"""Seconds between two processes of a shared machine that prove nothing."""
CLASSES: Final = ("critical", "default", "sheddable")


@dataclass(frozen=True)
class Scenario:
    """A configuration of the upstream, and who asks."""

    upstream: str
    mix: tuple[float, float, float] = (0.2, 0.5, 0.3)
    """Shares of the three priorities."""
    max_wait: float = 0.1
    leavers: float = 0.0
    """Share of the clients that hang up after 30 ms."""


LIMIT: Final = "max_in_flight: {limit: 20, queue: {size: 100, max_wait: 100ms}}"
SCENARIOS: Final = {
    "none": Scenario(""),
    "limit": Scenario(LIMIT),
    "sheddable": Scenario(LIMIT, (0.1, 0.1, 0.8)),
    "critical": Scenario(LIMIT, (0.25, 0.45, 0.3)),
    "no-queue": Scenario("max_in_flight: {limit: 20, queue: off}", max_wait=0.0),
    "adaptive": Scenario("max_in_flight: {adaptive: {min: 5, max: 200, latency: 100ms}}"),
    "leavers": Scenario(LIMIT, leavers=0.3),
}


# -- the upstream ------------------------------------------------------------------------------------------------------


class Worker(asyncio.Protocol):
    """One connection to the upstream. Its requests are worked on in turn with those of all others."""

    busy = 0
    waiting: Final[list[Worker]] = []
    arrivals: Final[list[tuple[str, float, int]]] = []
    """Target, when it came, and the milliseconds that the gateway said were left."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """A small GET comes in one piece. `/arrivals` says what has arrived, and forgets it."""
        if data.startswith(b"GET /arrivals"):
            body = orjson.dumps(Worker.arrivals)
            Worker.arrivals.clear()
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            return
        left = int(data.lower().split(b"x-request-timeout-ms:")[1].split(b"\r\n", 1)[0])
        Worker.arrivals.append((data.split(b" ", 2)[1].decode(), monotonic(), left))
        if Worker.busy < WORKERS:
            self.work()
        else:
            Worker.waiting.append(self)

    def work(self) -> None:
        """Take the time it takes."""
        Worker.busy += 1
        asyncio.get_running_loop().call_later(SERVICE, self.done)

    def done(self) -> None:
        """Answer, and take the next."""
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
        Worker.busy -= 1
        if Worker.waiting:
            Worker.waiting.pop(0).work()


async def serve_upstream(port: int) -> None:
    """Run until killed."""
    server = await asyncio.get_running_loop().create_server(Worker, HOST, port, backlog=1024)
    async with server:
        await server.serve_forever()


# -- the load ----------------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What became of the requests."""

    outcomes: dict[str, Counter[int | str]] = field(default_factory=lambda: {word: Counter() for word in CLASSES})
    latency: dict[str, list[float]] = field(default_factory=lambda: {word: [] for word in CLASSES})
    """Of those that succeeded within their budget."""
    sent: dict[str, float] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)


class Clients:
    """Keep-alive connections, as many as it takes."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(self, target: str) -> int:
        """The status."""
        reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection(HOST, self.port)
        try:
            writer.write(f"GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            await reader.readexactly(length)
        except BaseException:
            writer.close()
            raise
        self.idle.append((reader, writer))
        return int(head[9:12])


async def one(clients: Clients, seen: Seen, word: str, target: str, leaves: bool) -> None:
    """Send one request and note what becomes of it."""
    began = seen.sent[target] = monotonic()
    try:
        async with asyncio.timeout(0.03 if leaves else 2 * BUDGET):
            status = await clients.get(target)
    except TimeoutError:
        seen.left[target] = monotonic()
        seen.outcomes[word]["left" if leaves else "late"] += 1
        return
    except (OSError, asyncio.IncompleteReadError) as error:
        seen.outcomes[word][type(error).__name__] += 1
        return
    took = monotonic() - began
    if status == 200 and took <= BUDGET:
        seen.latency[word].append(took)
    seen.outcomes[word][status if took <= BUDGET else "late"] += 1


async def load(port: int, scenario: Scenario, seconds: float) -> Seen:
    """Requests at random for so many seconds."""
    seen, clients, chance = Seen(), Clients(port), random.Random(1)
    tasks: set[asyncio.Task[None]] = set()
    at = start = monotonic()
    for number in range(int(seconds * CAPACITY * FACTOR)):
        at += chance.expovariate(CAPACITY * FACTOR)
        if (wait := at - monotonic()) > 0.0005:
            await asyncio.sleep(wait)
        word = chance.choices(CLASSES, scenario.mix)[0]
        task = asyncio.create_task(one(clients, seen, word, f"/{word}/{number}", chance.random() < scenario.leavers))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    behind = monotonic() - start - (at - start)
    await asyncio.gather(*tasks)
    if behind > 0.2:
        print(f"the load fell behind by {behind:.2f} s: the machine is busy, take nothing from this run")
    return seen


# -- what it shows -----------------------------------------------------------------------------------------------------


def config(port: int, upstream_port: int, scenario: Scenario, log: Path) -> str:
    """The gateway in front of the upstream."""
    routes = "".join(
        f"  - {{name: {word}, match: {{path: '/{word}/**'}}, upstream: app, priority: {word}, timeout: {BUDGET:.0f}s}}\n"
        for word in CLASSES
    )
    upstream = f"endpoints: ['http://{HOST}:{upstream_port}'], circuit_breaker: off, ejection: off"
    return (
        f"version: 1\nserver: {{listen: '{HOST}:{port}'}}\nadmin: {{listen: off}}\naccess_log: {log}\n"
        f"defaults: {{retry: off}}\n"
        f"upstreams: {{app: {{{upstream}{', ' if scenario.upstream else ''}{scenario.upstream}}}}}\nroutes:\n{routes}"
    )


def oversleep(seconds: float) -> None:
    """Sleep 10 ms at a time and print how many milliseconds too long the longest was."""
    end, worst = monotonic() + seconds, 0.0
    while (now := monotonic()) < end:
        sleep(0.01)
        worst = max(worst, monotonic() - now - 0.01)
    print(f"{1000 * worst:.0f}")


def percentile(values: list[float], share: float) -> float:
    """0 of nothing."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def judge(scenario: Scenario, seen: Seen, arrivals: list[tuple[str, float, int]], log: list[Any], seconds: float) -> list[str]:
    """The figures, one line each."""
    good = sum(len(latency) for latency in seen.latency.values())
    shown = [f"goodput {good / seconds / CAPACITY:6.1%} of capacity"]
    for word in CLASSES:
        outcomes = seen.outcomes[word]
        count = outcomes.total() - outcomes["left"]
        latency = [1000 * one for one in seen.latency[word]]
        rest = ", ".join(f"{what}: {number}" for what, number in sorted(outcomes.items(), key=str) if what != 200)
        shown.append(
            f"{word:>10}: {count:5} asked, {outcomes[200] / count:6.1%} answered, p50 {percentile(latency, 0.5):4.0f} ms, "
            f"p99 {percentile(latency, 0.99):4.0f} ms; {rest}"
        )
    waits = [line["queue_ms"] / 1000 for line in log if line.get("queue_ms")]
    served = [line["queue_ms"] / 1000 for line in log if line["status"] == 200]
    spent = [target for target, _, left in arrivals if left <= 0]
    late = [target for target, at, _ in arrivals if at > seen.sent[target] + BUDGET + GRACE]
    ghosts = [target for target, at, _ in arrivals if target in seen.left and at > seen.left[target] + GRACE]
    shown.append(
        f"queue: {len(waits)} waited, p50 {1000 * percentile(waits, 0.5):.0f} ms, p99 {1000 * percentile(waits, 0.99):.0f} ms, "
        f"most {1000 * max(waits, default=0):.0f} ms of {1000 * scenario.max_wait:.0f} ms, "
        f"of those served {1000 * max(served, default=0):.0f} ms"
    )
    shown.append(
        f"dispatched after the deadline: {len(spent)} (by the clock of the client: {len(late)}); "
        f"after the client had left: {len(ghosts)}"
    )
    return shown


async def run(name: str, seconds: float) -> list[str]:
    """One scenario."""
    scenario = SCENARIOS[name]
    port, upstream_port = free_port(), free_port()
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        place = Path(folder)
        written = place / "gateway.yaml"
        written.write_text(config(port, upstream_port, scenario, place / "access.log"), encoding="utf-8")
        for core, title, argv, wanted in (
            (1, "upstream", ["-m", "tests.bench.overload", "upstream", str(upstream_port)], upstream_port),
            (0, "gateway", ["-m", "gateway", "run", str(written)], port),
        ):
            process = Process(title, [sys.executable, *argv], core=core, log=place / f"{title}.log")
            stack.callback(process.stop)
            os.sched_setaffinity(process.pid, cores)
            process.wait_for_port(wanted)
        sleeper = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.overload", "sleep", str(seconds), stdout=asyncio.subprocess.PIPE
        )
        seen = await load(port, scenario, seconds)
        overslept = (await sleeper.communicate())[0].decode().strip()
        reader, writer = await asyncio.open_connection(HOST, upstream_port)
        writer.write(b"GET /arrivals HTTP/1.1\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        arrivals = json.loads(await reader.readexactly(int(head.split(b"Length: ")[1])))
        writer.close()
        stack.close()
        log = [orjson.loads(line) for line in (place / "access.log").read_bytes().splitlines()]
    return [*judge(scenario, seen, arrivals, log, seconds), f"the machine overslept by {overslept} ms at most"]


def main() -> None:
    """Run the scenarios that are named, or all."""
    if sys.argv[1:2] == ["upstream"]:
        asyncio.run(serve_upstream(int(sys.argv[2])))
        return
    if sys.argv[1:2] == ["sleep"]:
        oversleep(float(sys.argv[2]))
        return
    seconds = 10.0
    names = [name for name in sys.argv[1:] if name in SCENARIOS] or list(SCENARIOS)
    print(f"{WORKERS} workers, {1000 * SERVICE:.0f} ms each: {CAPACITY:.0f}/s; load {FACTOR:.0f} x that, {seconds:.0f} s each")
    for name in names:
        print(f"\n{name}: {SCENARIOS[name].upstream or 'no limit'}")
        for line in asyncio.run(run(name, seconds)):
            print(f"  {line}")


if __name__ == "__main__":
    main()
