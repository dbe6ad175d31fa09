"""What rate limits cost and hold: `python -m tests.bench.limits [cost|pause|fleet] …`.

`cost`: one route without limits, with two in process, and with two in a Redis-protocol server: requests per second on one
core, 64 connections. `pause`: latencies while the server is stopped for 10 s. `fleet`: four gateways on one server, clients at
three times the limit. Core 0 is the gateway's (all gateways' in `fleet`); wrk, upstream and server share core 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from tests.bench.configs import nginx_upstream
from tests.bench.processes import family_cpu_seconds, free_port
from tests.redis_server import Server, binary

TWO: Final = "[{name: client, limit: 1000000/s}, {name: host, limit: 10000000/min, key: host}]"
_OUT: Final = subprocess.DEVNULL
_PIDS: Final[dict[int, int]] = {}
"""The gateways by port."""


def pinned(core: int, *command: str, **more: Any) -> subprocess.Popen[bytes]:
    """A process on one core."""
    return subprocess.Popen(["taskset", "-c", str(core), *command], stdout=_OUT, stderr=_OUT, **more)


def config(folder: Path, port: int, upstream: int, limit: str, redis: str) -> Path:
    """A gateway with one route."""
    path = folder / f"{port}.yaml"
    path.write_text(
        f"version: 1\nserver: {{listen: '127.0.0.1:{port}'}}\nadmin: {{listen: 'unix:{folder}/{port}.sock'}}\naccess_log: off\n"
        f"redis: {{url: '{redis}', expected_instances: 4}}\nupstreams: {{u: {{endpoints: ['http://127.0.0.1:{upstream}']}}}}\n"
        f"routes: [{{name: r, match: {{}}, upstream: u, rate_limit: {limit}}}]\n",
        encoding="utf-8",
    )
    return path


@contextlib.contextmanager
def world(*limits: tuple[str, bool]) -> Iterator[tuple[list[int], Server]]:
    """An upstream, a server, and a gateway for each pair of limits and whether they are in the server."""
    _PIDS.clear()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        upstream = free_port()
        (folder / "nginx.conf").write_text(nginx_upstream((upstream,), folder), encoding="utf-8")
        started = [pinned(1, "nginx", "-p", name, "-c", "nginx.conf", cwd=name)]
        server = Server(folder / "redis")
        assert server._process is not None
        os.sched_setaffinity(server._process.pid, {1})
        ports = []
        try:
            for limit, shared in limits:
                port = free_port()
                path = config(folder, port, upstream, limit, server.url if shared else "")
                started.append(pinned(0, sys.executable, "-m", "gateway", "run", str(path)))
                ports.append(port)
                _PIDS[port] = started[-1].pid
            for port in ports:
                _wait_for(port)
            yield ports, server
        finally:
            server.kill()
            for process in started:
                process.send_signal(signal.SIGTERM)
            for process in started:
                process.wait()


def _wait_for(port: int) -> None:
    for _ in range(400):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on {port}")


def wrk(port: int, seconds: float) -> float:
    """Requests per second."""
    done = subprocess.run(
        ["taskset", "-c", "1", "wrk", "-t1", "-c64", f"-d{seconds:.0f}s", f"http://127.0.0.1:{port}/"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Non-2xx" not in done.stdout, done.stdout
    found = re.search(r"Requests/sec: +([0-9.]+)", done.stdout)
    assert found is not None
    return float(found[1])


def cost(rounds: int = 7, seconds: float = 3.0) -> None:
    """Ratios inside a round, then their median: requests per second, and CPU time of the gateway per request."""
    rates: list[list[float]] = []
    spent: list[list[float]] = []

    def run(port: int) -> float:
        before = family_cpu_seconds(_PIDS[port])
        rate = wrk(port, seconds)
        spent[-1].append((family_cpu_seconds(_PIDS[port]) - before) / (rate * seconds) * 1e6)
        return rate

    with world(("off", False), (TWO, False), (TWO, True)) as (ports, server):
        for port in ports:
            wrk(port, 1.0)
        calls = requests = 0.0
        for _ in range(rounds):
            spent.append([])
            row = [run(port) for port in ports[:2]]
            before = server.calls()
            row.append(run(ports[2]))
            calls += server.calls() - before
            requests += row[2] * seconds
            rates.append(row)
            print("  ".join(f"{rate:8.0f}/s {micros:5.1f} us" for rate, micros in zip(row, spent[-1], strict=True)))
    print(f"in process / none   {statistics.median(row[1] / row[0] for row in rates):.3f}")
    print(f"redis / in process  {statistics.median(row[2] / row[1] for row in rates):.3f}")
    print(f"CPU: none / in process {statistics.median(row[0] / row[1] for row in spent):.3f}")
    print(f"CPU: in process / redis {statistics.median(row[1] / row[2] for row in spent):.3f}")
    print(f"commands / request  {calls / requests:.4f}")


async def _get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"Content-Length: ([0-9]+)", head)
    assert length is not None
    await reader.readexactly(int(length[1]))
    return int(head[9:12])


async def _pace(port: int, rate: float, until: float, out: deque[tuple[float, float, int]], offset: float = 0.0) -> None:
    """One connection, so many requests a second; time of sending, seconds taken, status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    loop = asyncio.get_running_loop()
    due = loop.time() + offset
    while due < until:
        await asyncio.sleep(max(0.0, due - loop.time()))
        begun = loop.time()
        status = await _get(reader, writer)
        out.append((begun, loop.time() - begun, status))
        due += 1 / rate
    writer.close()


def pause(rate: float = 1500.0, connections: int = 30) -> None:
    """p99 per second before, during and after 10 s of SIGSTOP."""
    os.sched_setaffinity(0, {1})
    with world((TWO, True)) as (ports, server):

        async def run() -> deque[tuple[float, float, int]]:
            loop = asyncio.get_running_loop()
            out: deque[tuple[float, float, int]] = deque()
            start = loop.time()
            loop.call_later(5.0, server.pause)
            loop.call_later(15.0, server.resume)
            each = rate / connections
            jobs = [_pace(ports[0], each, start + 20, out, number / rate) for number in range(connections)]
            await asyncio.gather(*jobs)
            return deque((begun - start, took, status) for begun, took, status in out)

        out = asyncio.run(run())
    for second in range(20):
        took = sorted(took for begun, took, _ in out if second <= begun < second + 1)
        if took:
            print(f"{second:3d} s  p50 {took[len(took) // 2] * 1000:6.2f} ms  p99 {took[int(len(took) * 0.99)] * 1000:6.2f} ms"
                  f"  worst {took[-1] * 1000:6.2f} ms")  # fmt: skip
    print("answers", {status: sum(one == status for _, _, one in out) for status in {status for _, _, status in out}})


def fleet(limit: int = 500, per: float = 2.0, windows: int = 6) -> None:
    """Admitted by four gateways together against what the algorithm admits exactly at that load."""
    for algorithm in ("sliding_window", "sliding_log", "token_bucket"):
        burst = ", burst: 50" if algorithm == "token_bucket" else ""
        text = f"{{limit: {limit}, per: {int(per * 1000)}ms, algorithm: {algorithm}, key: host{burst}}}"
        with world(*[(text, True)] * 4) as (ports, _):

            async def run(ports: list[int] = ports) -> list[tuple[float, float, int]]:
                loop = asyncio.get_running_loop()
                out: deque[tuple[float, float, int]] = deque()
                until = loop.time() + per * windows
                rate = 3 * limit / per / 16
                jobs = [
                    _pace(port, rate, until, out, (4 * number + at) / (rate * 16))
                    for at, port in enumerate(ports)
                    for number in range(4)
                ]
                await asyncio.gather(*jobs)
                return sorted(out)

            out = asyncio.run(run())
        admitted = [begun for begun, _, status in out if status == 200]
        worst = max(sum(1 for other in admitted if start <= other < start + per) for start in admitted)
        span = out[-1][0] - out[0][0]
        print(
            f"{algorithm:15} offered {len(out)}, admitted {len(admitted)} in {span:.2f} s, "
            f"exact {exact(algorithm, limit, per, out)}, most in any window {worst}"
        )


def exact(algorithm: str, limit: int, per: float, out: list[tuple[float, float, int]]) -> int:
    """What the algorithm admits of these very arrivals, in one place."""
    from gateway.policies.rate_limit import Algorithm, LimitSettings, rule_of

    rule = rule_of(LimitSettings(limit, per, Algorithm(algorithm), 50 if algorithm == "token_bucket" else 0))
    # The server's windows begin with its wall clock, and so do these.
    shift = time.time() - time.monotonic()
    state: Any = None
    admitted = 0
    for begun, _, _ in out:
        now = int((begun + shift) * 1_000_000)
        state = rule.fresh(now) if state is None else state
        if rule.room(state, now) >= 1:
            rule.take(state, 1, now)
            admitted += 1
    return admitted


def main() -> None:
    """Run what the command line names; everything without a name."""
    chosen = sys.argv[1:] or ["cost", "pause", "fleet"]
    print(orjson.dumps({"server": Path(binary()).name, "python": sys.version.split()[0]}).decode())
    for name in chosen:
        print(f"-- {name}")
        {"cost": cost, "pause": pause, "fleet": fleet}[name]()


if __name__ == "__main__":
    main()
