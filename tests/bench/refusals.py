"""What a refusal by an open breaker costs, beside a proxied request: `python -m tests.bench.faults refusal`.

Two gateways, alone on core 0 in turns: the upstream of the one answers, that of the other refuses connections, so that its
breaker is open. wrk, 64 connections kept alive. Whole CPU time of the process per request; ratios inside a round, then their
median.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.bench import load
from tests.bench.configs import nginx_upstream
from tests.bench.processes import HOST, Process, alone, free_port, running
from tests.bench.proxies import LOAD_CORE, PROXY_CORE, Running

CONNECTIONS: Final = 64
ROUNDS: Final = 5


def refusal(seconds: float = 2.0) -> None:
    """With the same request again and again, and with ones that never repeat; with the access log off and on."""
    for log in ("off", "{file: /dev/null}"):
        with alone(), tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder, up = Path(name), free_port()
            (folder / "nginx.conf").write_text(nginx_upstream((up,), folder), encoding="utf-8")
            nginx = Process("nginx", ["nginx", "-p", name, "-c", "nginx.conf"], core=LOAD_CORE, log=folder / "nginx.log")
            stack.enter_context(running(nginx)).wait_for_port(up)
            proxied = _gateway(stack, folder, "proxied", up, log)
            refused = _gateway(stack, folder, "refused", free_port(), log)
            for varied in (False, True):
                _row(proxied, refused, seconds, log, varied=varied)


def _gateway(stack: ExitStack, folder: Path, name: str, upstream: int, log: str) -> Running:
    port = free_port()
    config = folder / f"{name}.yaml"
    config.write_text(
        f"version: 1\nserver: {{listen: '{HOST}:{port}'}}\nadmin: {{listen: 'unix:{folder}/{name}.sock'}}\naccess_log: {log}\n"
        f"upstreams: {{u: {{endpoints: ['http://{HOST}:{upstream}'], circuit_breaker: {{open_for: 1h, max_open_for: 1h}}}}}}\n"
        f"routes: [{{name: r, match: {{}}, upstream: u}}]\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "gateway", "run", str(config)]
    process = stack.enter_context(running(Process(name, command, core=PROXY_CORE, log=folder / f"{name}.log")))
    process.wait_for_port(port)
    return Running(name, port, 0, process)


def _row(proxied: Running, refused: Running, seconds: float, log: str, *, varied: bool) -> None:
    runs = []
    for number in range(ROUNDS + 1):
        pair = [
            load.wrk(one, path="/users/1", seconds=seconds, connections=CONNECTIONS, varied=varied)
            for one in (proxied, refused)
        ]
        if number:  # the first warms up, and opens the breaker
            runs.append(pair)
    wrong = sum(run.errors for run, _ in runs), sum(run.requests - run.errors for _, run in runs)
    ratios = [two.cpu_ms_per_1000 / one.cpu_ms_per_1000 for one, two in runs]
    cost = [statistics.median(pair[at].cpu_ms_per_1000 for pair in runs) for at in (0, 1)]
    print(
        f"refusal, {'varied' if varied else 'same  '} requests, log {'off' if log == 'off' else 'on '}: {cost[1]:.1f} us, "
        f"proxied {cost[0]:.1f} us = {statistics.median(ratios):.3f} ({min(ratios):.3f}..{max(ratios):.3f})"
        + (f"; not as it should be: {wrong}" if any(wrong) else ""),
        flush=True,
    )
