"""What compression costs: `python -m tests.bench.compression [speed|peers|stall|events|clients] …`.

`speed`: microseconds and bytes by coding, level and size, in this process. `peers`: two kinds of JSON of 16 KiB through our
gateway in each coding, and through nginx with gzip level 1, requests per second on one core. `stall`: latencies of small
requests while 20 clients download compressible bodies of 5 MiB, and while they do not. The proxies have core 0; the rest shares
core 1.
`events`: how long events take from upstream to client. `clients`: what real clients make of every coding, framing and size.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from gateway.proxy.bodies.coders import LEVELS, coder
from tests.bench import compression_clients
from tests.bench.configs import _nginx
from tests.bench.limits import _wait_for, pinned
from tests.bench.load import wait_for_quiet
from tests.bench.processes import alone, family_cpu_seconds, free_port
from tests.bench.report import ratios, spread_text

CODINGS: Final = ("zstd", "br", "gzip")
_PLAIN: Final = "identity"
_WORDS: Final = ("lorem", "ipsum", "dolor", "sit", "amet", "elit", "sed", "do", "tempor", "magna", "aliqua")
_DISTURBED: Final = 0.1
"""The share of a core that others may take when a run begins."""
_PATIENCE: Final = 10.0
"""Seconds to wait for that."""


def records(size: int, seed: int = 1) -> bytes:
    """JSON like that of an API."""
    chance = random.Random(seed)
    found: list[bytes] = []
    while sum(map(len, found)) + 2 * len(found) < min(size, 65_536):
        record = {
            "id": chance.randrange(10**6),
            "name": f"{chance.choice(('alice', 'bob', 'carol'))}{chance.randrange(999)}",
            "email": f"u{chance.randrange(9999)}@example.com",
            "active": chance.random() < 0.5,
            "score": round(chance.random() * 100, 3),
            "tags": chance.sample(("red", "green", "blue", "new", "old"), 2),
        }
        found.append(json.dumps(record).encode("ascii"))
    text = b", ".join(found)
    return (b"[" + text * (size // len(text) + 1))[:size]


def orders(size: int, seed: int = 1) -> bytes:
    """JSON that is mostly keys, numbers and times: it compresses half as well."""
    chance = random.Random(seed)
    found: list[dict[str, object]] = []
    while len(text := json.dumps(found)) < size:
        moment = f"2026-11-{chance.randint(1, 28):02}T{chance.randint(0, 23):02}:{chance.randint(0, 59):02}:00Z"
        words = " ".join(chance.choices(_WORDS, k=6))
        price = round(chance.random() * 1000, 2)
        found.append({"id": f"{chance.getrandbits(128):032x}", "title": words, "price": price, "created": moment})
    return text.encode("ascii")[:size]


# -- in this process ---------------------------------------------------------------------------------------------------


def _microseconds(work: Callable[[], bytes]) -> float:
    best = float("inf")
    end = time.perf_counter() + 0.15
    while time.perf_counter() < end:
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best * 1e6


def speed() -> None:
    """Each coding at each level: microseconds / bytes, by size."""
    sizes = (1024, 4096, 16_384, 65_536, 262_144)
    print("coding level " + " ".join(f"{size // 1024:>9} KiB" for size in sizes) + "   inline up to")
    for name in CODINGS:
        low, high = LEVELS[name]
        for level in range(low, high + 1):
            made = coder(name, level)
            if made is None:
                continue
            cells = []
            for size in sizes:
                work = functools.partial(made.whole, records(size))
                cells.append(f"{_microseconds(work):6.0f}/{len(work()):<6}")
            print(f"{name:<6} {level:>5} {' '.join(cells)}   {made.inline // 1024} KiB")


# -- over sockets ------------------------------------------------------------------------------------------------------


def _upstream(port: int, root: Path) -> str:
    return _nginx(
        f"""
    server {{
        listen 127.0.0.1:{port};
        default_type application/json;
        root {root};
    }}"""
    )


def _peer(port: int, upstream: int) -> str:
    return _nginx(
        f"""
    upstream origin {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 100000000; }}
    gzip on;
    gzip_comp_level 1;
    gzip_types application/json;
    gzip_proxied any;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}"""
    )


def _gateway(folder: Path, port: int, upstream: int) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(
        f"version: 1\nserver: {{listen: '127.0.0.1:{port}'}}\nadmin: {{listen: 'unix:{folder}/admin.sock'}}\naccess_log: off\n"
        f"upstreams: {{u: {{endpoints: ['http://127.0.0.1:{upstream}']}}}}\n"
        "routes: [{name: r, match: {}, upstream: u, compression: {accept_encoding: identity}},\n"
        "  {name: small, match: {path: /small}, respond: {body: '{\"ok\":true}'}}]\n",
        encoding="utf-8",
    )
    return path


@contextlib.contextmanager
def world() -> Iterator[tuple[int, int, dict[int, int]]]:
    """The ports of our gateway and of nginx in front of the same upstream, and their process ids."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, 0o755)  # noqa: PTH101 - nginx's worker reads the bodies
        (folder / "records.json").write_bytes(records(16_384))
        (folder / "orders.json").write_bytes(orders(16_384))
        (folder / "large.json").write_bytes(records(5 << 20))
        origin, ours, peer = free_port(), free_port(), free_port()
        (folder / "origin.conf").write_text(_upstream(origin, folder), encoding="utf-8")
        (folder / "peer").mkdir()
        (folder / "peer" / "peer.conf").write_text(_peer(peer, origin), encoding="utf-8")
        started = [pinned(1, "nginx", "-p", name, "-c", "origin.conf")]
        started.append(pinned(0, "nginx", "-p", f"{name}/peer", "-c", "peer.conf"))
        started.append(pinned(0, sys.executable, "-m", "gateway", "run", str(_gateway(folder, ours, origin))))
        try:
            for port in (origin, peer, ours):
                _wait_for(port)
            yield ours, peer, {peer: started[1].pid, ours: started[2].pid}
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
            for process in started:
                process.wait()


def _wrk(port: int, file: str, coding: str, seconds: float) -> float:
    options = ["-t1", "-c64", f"-d{seconds:.0f}s", "-H", f"Accept-Encoding: {coding}"]
    done = subprocess.run(
        ["taskset", "-c", "1", "wrk", *options, f"http://127.0.0.1:{port}/{file}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Non-2xx" not in done.stdout, done.stdout
    found = re.search(r"Requests/sec: +([0-9.]+)", done.stdout)
    assert found is not None
    return float(found[1])


def _size(port: int, file: str, coding: str) -> int:
    command = ["curl", "-s", "-H", f"Accept-Encoding: {coding}", f"http://127.0.0.1:{port}/{file}"]
    return len(subprocess.run(command, capture_output=True, check=True).stdout)


def peers(rounds: int = 5, seconds: float = 2.0) -> None:
    """Requests per second and CPU microseconds per request; ratios to nginx are taken inside a round."""
    with world() as (ours, peer, pids):
        runs = [("nginx gzip", peer, "gzip"), *((f"gateway {name}", ours, name) for name in (*CODINGS, _PLAIN))]
        for file in ("records.json", "orders.json"):
            rates: dict[str, list[float]] = {name: [] for name, _, _ in runs}
            spent: dict[str, list[float]] = {name: [] for name, _, _ in runs}
            for _ in range(rounds):
                for name, port, coding in runs:
                    wait_for_quiet(_DISTURBED, _PATIENCE)
                    _wrk(port, file, coding, 1)
                    before = family_cpu_seconds(pids[port])
                    rates[name].append(_wrk(port, file, coding, seconds))
                    spent[name].append((family_cpu_seconds(pids[port]) - before) / (rates[name][-1] * seconds) * 1e6)
            print(f"{file}, 16 KiB, {rounds} rounds: requests per second, x nginx (smallest..largest), CPU x nginx, bytes")
            for name, port, coding in runs:
                by_rate = spread_text(ratios(rates[name], rates["nginx gzip"]))
                by_cpu = spread_text(ratios(spent[name], spent["nginx gzip"]))
                rate, cpu = statistics.median(rates[name]), statistics.median(spent[name])
                size = _size(port, file, coding)
                print(f"{name:<18} {rate:8.0f}/s {by_rate:>20}  {cpu:6.1f} us {by_cpu:>20}  {size:6} bytes", flush=True)


async def _small(port: int, until: float, out: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        begun = loop.time()
        writer.write(b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(11)
        out.append(loop.time() - begun)
        await asyncio.sleep(0.01)
    writer.close()


def stall(coding: str = "zstd", clients: int = 20, seconds: float = 4.0) -> None:
    """p50, p99 and worst latency of small requests without and with downloads."""
    with world() as (ours, _, _):
        # Only what the gateway makes of it is of interest: whoever measures goes first on its core.
        os.sched_setaffinity(0, {1})
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, -20)

        def measured() -> list[float]:
            out: list[float] = []

            async def run() -> None:
                until = asyncio.get_running_loop().time() + seconds
                await asyncio.gather(*(_small(ours, until, out) for _ in range(10)))

            asyncio.run(run())
            return sorted(out)

        url = f"http://127.0.0.1:{ours}/large.json"
        for what in ("alone", coding) * 3:
            downloads = []
            if what != "alone":
                options = ["-t1", f"-c{clients}", f"-d{seconds + 3:.0f}s", "-H", f"Accept-Encoding: {what}"]
                downloads = [pinned(1, "nice", "-n", "5", "wrk", *options, url)]
                time.sleep(1)
            took = measured()
            for process in downloads:
                process.kill()
                process.wait()
            p50, p99, worst = (took[int(len(took) * part)] * 1000 for part in (0.5, 0.99, 0.9999))
            print(f"{what:<16} p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  worst {worst:6.2f} ms  ({len(took)} requests)")


def main() -> None:
    """Run what is named, or all."""
    known = {
        "speed": speed,
        "peers": peers,
        "stall": stall,
        "events": compression_clients.events,
        "clients": compression_clients.clients,
    }
    with alone():
        for name in sys.argv[1:] or known:
            known[name]()


if __name__ == "__main__":
    main()
