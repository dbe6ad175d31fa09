"""What metrics and the access log cost: `python -m tests.bench.observability [cost|scrape|series] …`.

`cost`: a gateway that counts nothing and logs nothing (its `finish` is replaced: there is no such setting), one that counts,
one that counts and logs each request into a pipe that is read; requests per second on one core, 64 connections, interleaved.
`scrape`: 1 000 routes that have all been asked, 1 000 requests a second, latencies with a scrape each second and without.
`series`: a million requests with random methods, hosts, paths and keys; series before and after.
Core 0 is the gateway's; wrk, upstream and who scrapes share core 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.bench.configs import nginx_upstream
from tests.bench.limits import _pace, _wait_for, wrk
from tests.bench.processes import family_cpu_seconds, free_port

ROUTES: Final = 1000
MILLION: Final = 1_000_000
LOOP: Final = 'while :; do curl -sf --unix-socket "$1" -o /dev/null http://localhost/metrics; sleep 1; done'
INVENTS: Final = """
local letters = "abcdefghijklmnopqrstuvwxyz"
local function word()
  local made = {}
  for at = 1, 10 do local place = math.random(26); made[at] = letters:sub(place, place) end
  return table.concat(made)
end
local methods = {"GET", "POST", "PUT"}
request = function()
  local name = word()
  local method = math.random(2) == 1 and methods[math.random(3)] or name:upper()
  local path = (math.random(2) == 1 and "/r1/" or "/") .. name .. "?" .. name
  return wrk.format(method, path, {["Host"] = name .. ".example", ["X-Tenant"] = name, ["X-Request-ID"] = name}, "")
end
"""


def _without_metrics(config: str) -> None:
    """Run a gateway whose requests are neither counted nor logged."""
    from time import monotonic

    from gateway.cli import main as command
    from gateway.metrics.instruments import Histogram
    from gateway.proxy import pipeline
    from gateway.proxy.exchange import Exchange
    from gateway.proxy.steps.max_in_flight import release

    def finish(x: Exchange) -> None:
        if x.slots:
            release(x, monotonic())
        if x.route is not None:
            x.route.metrics.in_flight -= 1

    def observe(histogram: Histogram, value: float) -> None:
        """Not counted."""

    pipeline.finish = finish
    setattr(Histogram, "observe", observe)  # noqa: B010 - it is not for anybody else to replace
    sys.exit(command(["run", config]))


@contextlib.contextmanager
def world(*gateways: tuple[str, str, list[str]]) -> Iterator[list[tuple[int, int, Path]]]:
    """An upstream, and for each (routes, access_log, command) a gateway: port, process id, path of the admin socket."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        upstream = free_port()
        (folder / "nginx.conf").write_text(nginx_upstream((upstream,), folder), encoding="utf-8")

        def start(core: int, *command: str, **more: Any) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(["taskset", "-c", str(core), *command], stderr=subprocess.DEVNULL, **more)
            stack.callback(process.wait)
            stack.callback(process.send_signal, signal.SIGTERM)
            return process

        start(1, "nginx", "-p", name, "-c", "nginx.conf", cwd=name, stdout=subprocess.DEVNULL)
        started = []
        for routes, log, command in gateways:
            port = free_port()
            path, admin = folder / f"{port}.yaml", folder / f"{port}.sock"
            path.write_text(
                f"version: 1\nserver: {{listen: '127.0.0.1:{port}'}}\nadmin: {{listen: 'unix:{admin}'}}\naccess_log: {log}\n"
                f"upstreams: {{u: {{endpoints: ['http://127.0.0.1:{upstream}']}}}}\nroutes:\n{routes}",
                encoding="utf-8",
            )
            process = start(0, *command, str(path), stdout=subprocess.PIPE)
            start(1, "cat", stdin=process.stdout, stdout=subprocess.DEVNULL)
            assert process.stdout is not None
            process.stdout.close()
            started.append((port, process.pid, admin))
        for port, _, _ in started:
            _wait_for(port)
        yield started


GATEWAY: Final = [sys.executable, "-m", "gateway", "run"]
BLIND: Final = [sys.executable, "-m", "tests.bench.observability", "_without_metrics"]
ONE: Final = "  - {name: r, match: {}, upstream: u}\n"


def cost(rounds: int = 21, seconds: float = 1.0) -> None:
    """Ratios inside a round, then their median."""
    names = ("off", "metrics", "metrics + log")
    rates: list[list[float]] = []
    spent: list[list[float]] = []
    with world((ONE, "off", BLIND), (ONE, "off", GATEWAY), (ONE, "'-'", GATEWAY)) as gateways:
        for port, _, _ in gateways:
            wrk(port, 1.0)
        for number in range(rounds):
            rates.append([0.0] * len(names))
            spent.append([0.0] * len(names))
            for step in range(len(names)):
                at = (number + step) % len(names)
                port, pid, _ = gateways[at]
                before = family_cpu_seconds(pid)
                rates[-1][at] = wrk(port, seconds)
                spent[-1][at] = (family_cpu_seconds(pid) - before) / (rates[-1][at] * seconds) * 1e6
            print("  ".join(f"{rate:8.0f}/s {micros:5.1f} us" for rate, micros in zip(rates[-1], spent[-1], strict=True)))
        print("log lines dropped / written", [_values(admin, "gateway_access_log_") for _, _, admin in gateways[2:]])
    for at, name in enumerate(names[1:], 1):
        ratios = sorted(row[at] / row[0] for row in rates)
        cpu = statistics.median(row[at] / row[0] for row in spent)
        least = min(row[at] for row in spent) / min(row[0] for row in spent)
        print(
            f"{name:14} / off  {statistics.median(ratios):.3f} ({ratios[0]:.3f}..{ratios[-1]:.3f})   "
            f"CPU per request {cpu:.3f}, of the calmest rounds {least:.3f}"
        )


def _scrape(admin: Path) -> bytes:
    return subprocess.run(
        ["nice", "curl", "-sf", "--unix-socket", str(admin), "http://localhost/metrics"], check=True, capture_output=True
    ).stdout


def _values(admin: Path, beginning: str) -> list[str]:
    return [line for line in _scrape(admin).decode().splitlines() if line.startswith(beginning)]


def scrape(rate: float = 1000.0, connections: int = 20, rounds: int = 5, seconds: float = 6.0) -> None:
    """Latencies of proxied requests with a scrape each second and without, interleaved."""
    os.sched_setaffinity(0, {1})
    routes = "".join(
        f"  - {{name: route-{at}, match: {{path: /r{at}}}, upstream: u, rate_limit: 100000/s}}\n" for at in range(ROUTES)
    )
    with world((f"{routes}{ONE}", "off", GATEWAY)) as gateways:
        port, _, admin = gateways[0]
        asyncio.run(_ask_all(port))
        text = _scrape(admin)
        print(f"a scrape is {len(text)} bytes, {len(text.splitlines())} lines")
        grown = []
        for _ in range(rounds):
            without = _latencies(port, rate, connections, seconds)
            # A process of its own: this one must not be late because it scrapes.
            scraper = subprocess.Popen(["nice", "sh", "-c", LOOP, "sh", str(admin)], start_new_session=True)
            try:
                with_ = _latencies(port, rate, connections, seconds)
            finally:
                os.killpg(scraper.pid, signal.SIGTERM)
                scraper.wait()
            grown.append((_at(with_, 0.99) - _at(without, 0.99)) * 1000)
            print(
                f"p50 {_at(without, 0.5) * 1000:.2f} ▸ {_at(with_, 0.5) * 1000:.2f} ms   "
                f"p99 {_at(without, 0.99) * 1000:.2f} ▸ {_at(with_, 0.99) * 1000:.2f} ms   "
                f"worst {without[-1] * 1000:.1f} ▸ {with_[-1] * 1000:.1f} ms"
            )
    print(f"p99 grows by {statistics.median(grown):.2f} ms ({min(grown):.2f}..{max(grown):.2f})")


async def _ask_all(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for at in range(ROUTES):
        writer.write(b"GET /r%d HTTP/1.1\r\nHost: a\r\n\r\n" % at)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(100)
    writer.close()


def _latencies(port: int, rate: float, connections: int, seconds: float) -> list[float]:
    """Sorted, in seconds."""

    async def run() -> list[float]:
        out: deque[tuple[float, float, int]] = deque()
        until = asyncio.get_running_loop().time() + seconds
        jobs = [_pace(port, rate / connections, until, out, number / rate) for number in range(connections)]
        await asyncio.gather(*jobs)
        return sorted(took for _, took, _ in out)

    return asyncio.run(run())


def _at(values: list[float], share: float) -> float:
    return values[int(len(values) * share)]


def series(requests: int = MILLION) -> None:
    """Random methods, hosts, paths, ids and keys of a limit."""
    routes = "  - {name: r, match: {path: /r1/**}, upstream: u, rate_limit: [{limit: 1000000/s, key: 'header:X-Tenant'}]}\n"
    with world((routes, "off", GATEWAY)) as gateways, tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        port, _, admin = gateways[0]
        script.write(INVENTS)
        script.flush()
        command = ["taskset", "-c", "1", "wrk", "-t1", "-c32", "-s", script.name, f"http://127.0.0.1:{port}/", "-d"]
        subprocess.run([*command, "1s"], check=True, capture_output=True)
        names = _names(admin)
        before = after = _count(admin)
        begun = time.monotonic()
        while after - before < requests:
            subprocess.run([*command, "10s"], check=True, capture_output=True)
            after = _count(admin)
        memory = _values(admin, "process_resident")
        grown = _names(admin) - names
        took = time.monotonic() - begun
        print(f"{after - before:.0f} requests in {took:.0f} s: {len(names)} series ▸ {len(names | grown)}  {memory}")
        if grown:
            raise SystemExit(f"new series: {sorted(grown)[:5]}")


def _names(admin: Path) -> set[str]:
    return {line.rpartition(" ")[0] for line in _scrape(admin).decode().splitlines() if not line.startswith("#")}


def _count(admin: Path) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in _values(admin, "gateway_requests_total"))


def main() -> None:
    """Run what the command line names; everything without a name."""
    if sys.argv[1:2] == ["_without_metrics"]:
        _without_metrics(sys.argv[2])
    benches: dict[str, Callable[[], None]] = {"cost": cost, "scrape": scrape, "series": series}
    for name in sys.argv[1:] or benches:
        print(f"-- {name}", flush=True)
        benches[name]()


if __name__ == "__main__":
    main()
