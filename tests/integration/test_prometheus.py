"""The files that are deployed, run as plain processes: gateways, a Redis-protocol server, and a real Prometheus over them.

Every alert has a gateway that is in the trouble it is meant for, and one that is not. The windows of the rules are made short
(`tests/prometheus.py`); with their real length they are tested in deploy/prometheus/tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout, web

from gateway.demo import orders_app, users_app
from tests.fleets import until
from tests.observability import ROOT, panels
from tests.prometheus import Prometheus
from tests.redis_server import Server, Wire
from tests.support import eventually, refusing_port, time_passes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: prometheus)"),
    pytest.mark.skipif(sys.platform != "linux", reason="children and open files are looked up in /proc"),
]

WITHIN: Final = 300.0
"""Seconds in which everything that is to fire must have fired. A tenth of it is usual on a quiet machine."""

MACHINE: Final = {"GatewayDown", "GatewayEventLoopLag", "GatewayOverheadHigh", "GatewayStoreFallback"}
"""What a busy machine can make true of any gateway: asked for where it is meant, and nowhere else a mistake."""

ALLOWED: Final = 48
"""Connections, of a gateway that is neglected."""

BURN: Final = "GatewayErrorBudgetBurn"
EXPECTED: Final[dict[str, set[tuple[str, str, str]]]] = {
    "": {("GatewayAbsent", "page", "")},
    "gateway-healthy": set(),
    # The demo's own slow requests are the only thing that is wrong with the stack.
    "gateway-stack": {(BURN, "page", "users-slow"), (BURN, "ticket", "users-slow")},
    "gateway-faults": {
        ("GatewayNoHealthyEndpoint", "page", "down"),
        ("GatewayNoHealthyEndpoint", "page", "failing"),  # its one endpoint is behind an open breaker
        ("GatewayUpstreamPanic", "ticket", "down"),
        ("GatewayBreakerOpen", "ticket", "failing"),
        ("GatewayBreakerForced", "ticket", "forced"),
        ("GatewayRetryBudgetExhausted", "ticket", "exhausted"),
        ("GatewayShedding", "page", "busy"),
        ("GatewayReloadFailed", "ticket", ""),
        *((BURN, severity, route) for severity in ("page", "ticket") for route in ("down", "failing", "exhausted", "busy")),
    },
    "gateway-poor": {
        ("GatewayStoreFallback", "ticket", ""),
        ("GatewayAccessLogDrops", "ticket", ""),
        ("GatewayEventLoopLag", "ticket", ""),
    },
    "gateway-slow-store": {("GatewayOverheadHigh", "ticket", "")},
    "gateway-neglected": {
        ("GatewayConnectionLimit", "page", ""),
        ("GatewayFileDescriptors", "page", ""),
        ("GatewayCertificateExpiry", "page", "short.crt"),
        ("GatewayCertificateExpiry", "ticket", "short.crt"),
    },
    "gateway-workers": {("GatewayWorkerRestarts", "ticket", "0"), ("GatewayWorkerDown", "page", "0")},
    "gateway-restarts": {("GatewayRestarts", "ticket", "")},
    "gateway-down": {("GatewayDown", "page", "")},
    "gateway-differs": {("GatewayConfigDiffers", "ticket", "")},
}

BLAMED: Final[dict[str, dict[str, set[str]]]] = {
    "gateway-healthy": {},
    "gateway-stack": {
        "users-slow": {"Too slow/s"},
        "reports": {"Client refused/s"},
        "_unmatched": {"Client refused/s"},
    },
    "gateway-faults": {
        "down": {"Upstream broke/s"},
        "failing": {"Upstream 5xx/s", "Gateway refused/s"},
        "exhausted": {"Upstream 5xx/s"},
        "busy": {"Gateway refused/s"},
    },
}
"""What the table of the board says of each route with failures: who made them. It says nothing of the others."""

HEAD: Final = """
version: 1
server: {{listen: ["127.0.0.1:{port}"], {server}}}
admin: {{listen: "127.0.0.1:{admin}", token: secret}}
"""


class Process:
    """`python -m gateway run` on a configuration of its own."""

    def __init__(self, folder: Path, name: str, text: str, server: str = "workers: 1") -> None:
        self.port, self.admin = refusing_port(), refusing_port()
        self.file = folder / f"{name}.yaml"
        self.file.write_text(HEAD.format(port=self.port, admin=self.admin, server=server) + text)
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes]
        self._log = (folder / f"{name}.log").open("wb")

    def start(self, *, deaf: bool = False) -> None:
        """Start it; `deaf`: nobody reads its standard output."""
        out = subprocess.PIPE if deaf else subprocess.DEVNULL
        command = [sys.executable, "-m", "gateway", "run", str(self.file)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=self._log)

    async def ready(self) -> None:
        """Wait until it serves."""
        async with ClientSession(timeout=ClientTimeout(total=2)) as client:

            async def says_so() -> bool:
                assert self.process.poll() is None, Path(self._log.name).read_text()
                with contextlib.suppress(ClientError, TimeoutError):
                    async with client.get(f"http://127.0.0.1:{self.admin}/readyz") as response:
                        return response.status == 200
                return False

            await until(says_so, WITHIN, every=0.1)

    def stop(self) -> None:
        """End it, and what it has started."""
        children = self.children()
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._log.close()

    def children(self) -> list[int]:
        """Its workers, the eldest first."""
        try:
            return [int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]
        except OSError:
            return []


async def service(stack: AsyncExitStack, app: web.Application) -> int:
    """Run an application; its port."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", port := refusing_port())
    await site.start()
    return port


async def ask_for_ever(url: str, *paths: str, every: float = 0.1, at_once: int = 1) -> None:
    """Requests, whatever becomes of them."""

    async def ask(path: str) -> None:
        with contextlib.suppress(ClientError, TimeoutError):
            async with client.get(url + path) as response:
                await response.read()

    async with ClientSession(timeout=ClientTimeout(total=5)) as client, asyncio.TaskGroup() as group:
        while True:
            for path in paths:
                for _ in range(at_once):
                    group.create_task(ask(path))
            await time_passes(every)


def stack_config(folder: Path, redis: str, **ports: int) -> Process:
    """The gateway of docker-compose.yml, its addresses put in place of the stack's."""
    process = Process(folder, "stack", "")
    text = (ROOT / "deploy/gateway/gateway.yaml").read_text()
    for name, here in {
        "0.0.0.0:8080": f"127.0.0.1:{process.port}",
        "0.0.0.0:9900": f"127.0.0.1:{process.admin}",
        "redis://redis:6379": redis,
        "users:9001": f"127.0.0.1:{ports['users']}",
        "orders:9002": f"127.0.0.1:{ports['orders']}",
        # A machine that is busy with other things must not look like a service that is slow.
        "{request: 2s, connect: 500ms}": "{request: 15s, connect: 15s}",
        "health: /healthz": "health: {path: /healthz, timeout: 15s}",
    }.items():
        assert text.count(name) == (2 if name == "health: /healthz" else 1)
        text = text.replace(name, here)
    process.file.write_text(text)
    return process


FAULTS: Final = """
upstreams:
  down:
    endpoints: ["http://127.0.0.1:{nobody}", "http://localhost:{nobody}"]
    health: {{type: tcp, interval: 1s, fall: 1}}
    circuit_breaker: off
    dns: off
  failing: {{endpoints: ["http://127.0.0.1:{broken}"], ejection: off, circuit_breaker: {{min_requests: 1, window: 5s}}}}
  forced: {{endpoints: ["http://127.0.0.1:{users}"], circuit_breaker: {{min_requests: 20}}}}
  exhausted:
    endpoints: ["http://127.0.0.1:{broken}", "http://localhost:{broken}"]
    ejection: off
    circuit_breaker: off
    retry_budget: {{ratio: 1%, min_per_second: 0}}
    dns: off
  busy: {{endpoints: ["http://127.0.0.1:{users}"], max_in_flight: {{limit: 1, queue: off}}}}
routes:
  - {{name: down, match: {{path: /down}}, upstream: down}}
  - {{name: failing, match: {{path: /failing}}, upstream: failing, retry: off}}
  - {{name: forced, match: {{path: /forced}}, upstream: forced}}
  - {{name: exhausted, match: {{path: /exhausted}}, upstream: exhausted}}
  - {{name: busy, match: {{path: /users/slow}}, upstream: busy}}
"""
ONE: Final = """
upstreams:
  users: {{endpoints: ["http://127.0.0.1:{users}"]}}
routes:
  - {{name: users, match: {{path: "/**"}}, upstream: users, {more}}}
"""
ALONE: Final = "routes: [{name: hello, match: {path: '/**'}, respond: {body: hello}}]\n"
LIMITED: Final = (
    "redis: {{url: '{url}', timeout: 500ms}}\n"
    "routes: [{{name: hello, match: {{path: '/**'}}, respond: {{body: hello}}, rate_limit: 10000000/min}}]\n"
)


# -- trouble ---------------------------------------------------------------------------------------------------------


async def stop_and_go_for_ever(process: Process) -> None:
    """A machine that gives the process too little time."""
    while True:
        process.process.send_signal(signal.SIGSTOP)
        await time_passes(0.4)
        process.process.send_signal(signal.SIGCONT)
        await time_passes(0.2)


async def fill_the_log(process: Process) -> None:
    """More lines than a pipe and the queue behind it can hold: 8 MiB."""
    path = "/" + "x" * 7000
    await ask_for_ever(process.url, path, every=0.05, at_once=20)


async def crowd_for_ever(process: Process) -> None:
    """More connections than are allowed, and nearly as many as there are open files."""
    pid = process.process.pid

    def used() -> int:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))

    before, held = used(), []
    try:
        held = [await asyncio.open_connection("127.0.0.1", process.port) for _ in range(ALLOWED + 8)]
        # It accepts them when it comes to it.
        await eventually(lambda: used() >= before + ALLOWED, WITHIN)
        most = before + ALLOWED + 12
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))
        while True:
            _, writer = await asyncio.open_connection("127.0.0.1", process.port)
            writer.close()
            await time_passes(0.2)
    finally:
        for _, writer in held:
            writer.close()


async def kill_workers_for_ever(process: Process) -> None:
    """The first worker ends as soon as it is there: the waits before the next start grow."""
    survivor = process.children()[-1]
    while True:
        for child in process.children():
            if child != survivor:
                os.kill(child, signal.SIGKILL)
        await time_passes(0.05)


async def restart(process: Process, prometheus: Prometheus) -> None:
    """Four starts, each of them seen."""
    seen: set[float] = set()

    async def another() -> bool:
        now = set(await prometheus.values('process_start_time_seconds{job="gateway-restarts"}'))
        news = bool(now - seen)
        seen.update(now)
        return news

    for _ in range(5):
        await until(another, WITHIN, every=0.2)
        process.process.kill()
        process.process.wait()
        process.start()
        await process.ready()


def overrule(process: Process) -> None:
    """What an operator does with `gateway breaker`."""
    token = process.file.with_suffix(".token")
    token.write_text("secret")
    admin = ["--admin", f"http://127.0.0.1:{process.admin}", "--token-file", str(token)]
    command = [sys.executable, "-m", "gateway", "breaker", "close", "forced", "--reason", "a test", *admin]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def short_certificate(folder: Path) -> Path:
    """It is valid for one day."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    command += ["-keyout", str(folder / "short.key"), "-out", str(folder / "short.crt"), "-subj", "/CN=localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "short.crt"


def subject(labels: dict[str, str]) -> str:
    """What an alert is about."""
    about = [labels[name] for name in ("route", "upstream", "name", "worker", "certificate") if labels.get(name)]
    return Path(about[0]).name if about else ""


# -- the test --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def started(*processes: Process) -> Iterator[None]:
    """Started all at once; stopped at the end."""
    with ExitStack() as stack:
        for process in processes:
            process.start(deaf=process.file.stem == "poor")
            stack.callback(process.stop)
        yield


@contextlib.asynccontextmanager
async def going_on(*tasks: Any) -> AsyncIterator[None]:
    """In the background, until the end. What ends with an error fails the test."""
    running = [asyncio.ensure_future(task) for task in tasks]
    try:
        yield
        for task in running:
            if task.done():
                task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_every_alert_fires_for_its_trouble_alone_and_every_panel_shows_something(tmp_path: Path) -> None:
    """Eight gateways, each in a trouble of its own or none: what fires is what should, and no panel of the board is empty."""
    # It has time limits of its own, which on a busy machine are longer than the one that ends a test that hangs.
    faulthandler.cancel_dump_traceback_later()
    async with AsyncExitStack() as stack:
        users, orders = await service(stack, users_app()), await service(stack, orders_app())
        broken = await service(stack, broken_app())
        store = Server(tmp_path / "redis")
        stack.callback(store.kill)
        wire = await stack.enter_async_context(Wire(store.port).running())
        wire.delay = 0.07
        nobody = refusing_port()
        certificate = short_certificate(tmp_path)

        healthy = Process(tmp_path, "healthy", ONE.format(users=users, more="compression: on"))
        whole = stack_config(tmp_path, store.url, users=users, orders=orders)
        faults = Process(tmp_path, "faults", FAULTS.format(nobody=nobody, broken=broken, users=users))
        poor = Process(
            tmp_path, "poor", f"redis: 'redis://127.0.0.1:{nobody}'\n" + ALONE, "overload: {default: off, sheddable: off}"
        )
        slow = Process(tmp_path, "slow-store", LIMITED.format(url=wire.url))
        neglected = Process(tmp_path, "neglected", ALONE, f"limits: {{connections: {ALLOWED}}}")
        text = neglected.file.read_text()
        tls = f', {{address: "127.0.0.1:0", tls: {{certificate: {certificate}, key: {tmp_path}/short.key}}}}]'
        neglected.file.write_text(text.replace(f'"127.0.0.1:{neglected.port}"]', f'"127.0.0.1:{neglected.port}"{tls}'))
        workers = Process(tmp_path, "workers", ALONE, "workers: 2")
        again = Process(tmp_path, "restarts", ALONE)
        everyone = (healthy, whole, faults, poor, slow, neglected, workers, again)
        prometheus = await stack.enter_async_context(Prometheus(tmp_path).running())
        stack.enter_context(started(*everyone))

        seen: dict[str, set[tuple[str, str, str]]] = {job: set() for job in EXPECTED}
        await until(lambda: looked(prometheus, seen, [""]), WITHIN, every=0.5)
        for process in everyone:
            await process.ready()
        said = [await metrics_lint(process) for process in (whole, faults)]
        prometheus.aim(
            {f"gateway-{process.file.stem}": [process.admin] for process in everyone}
            | {"gateway-down": [nobody], "gateway-differs": [healthy.admin, slow.admin]}
        )
        overrule(faults)
        faults.file.write_text(faults.file.read_text() + "no such field: 1\n")
        mix = subprocess.Popen([sys.executable, "-m", "gateway", "demo", "--load", whole.url, "--rate", "40"], cwd=ROOT,
                               stdout=subprocess.DEVNULL)  # fmt: skip
        stack.callback(mix.wait)
        stack.callback(mix.terminate)
        async with going_on(
            ask_for_ever(healthy.url, "/users/1", "/users/headers"),
            ask_for_ever(faults.url, "/down", "/failing", "/exhausted", "/forced", every=0.2),
            ask_for_ever(faults.url, "/users/slow?ms=300", every=0.2, at_once=2),
            ask_for_ever(slow.url, "/"),
            ask_for_ever(whole.url, "/reports/1"),
            stop_and_go_for_ever(poor),
            fill_the_log(poor),
            crowd_for_ever(neglected),
            kill_workers_for_ever(workers),
            restart(again, prometheus),
        ):
            with contextlib.suppress(TimeoutError):
                await until(lambda: looked(prometheus, seen, EXPECTED), WITHIN, every=0.5)
            missing = {job: expected - seen[job] for job, expected in EXPECTED.items() if expected - seen[job]}
            too_many = {
                job: wrong
                for job, expected in EXPECTED.items()
                if (wrong := {one for one in seen[job] - expected if one[0] not in MACHINE})
            }
            empty = [title async for title in empty_panels(prometheus)]

            blamed = {job: await blame(prometheus, job) for job in BLAMED}

    assert said == ["", ""]
    assert blamed == BLAMED
    assert missing == {}
    assert too_many == {}
    assert empty == []


async def metrics_lint(process: Process) -> str:
    """What promtool finds wrong with names, units and texts of the metrics."""
    async with ClientSession() as client, client.get(f"http://127.0.0.1:{process.admin}/metrics") as response:
        text = await response.read()
    command = [str(shutil.which("promtool")), "check", "metrics"]
    result = await asyncio.to_thread(subprocess.run, command, input=text, capture_output=True, check=False)
    return (result.stdout + result.stderr).decode()


def broken_app() -> web.Application:
    """Answers 503 to everything."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=503)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return app


async def looked(prometheus: Prometheus, seen: dict[str, set[tuple[str, str, str]]], jobs: Iterable[str]) -> bool:
    """Note what fires now; whether all that these jobs are expected to make fire has been seen."""
    for labels in await prometheus.firing():
        seen[labels.get("job", "")].add((labels["alertname"], labels["severity"], subject(labels)))
    return not any(EXPECTED[job] - seen[job] for job in jobs)


async def empty_panels(prometheus: Prometheus) -> AsyncIterator[str]:
    """Panels one of whose expressions gives no number for the stack. Certificates are those of the gateway that has some."""
    for panel in panels():
        job = "gateway-neglected" if panel["title"] == "Certificates" else "gateway-stack"
        for target in panel["targets"]:
            expression = filled(target["expr"], job)
            if not [value for value in await prometheus.values(expression) if not math.isnan(value)]:
                yield f"{panel['title']}: {expression}"


def filled(expression: str, job: str, interval: str = "12s") -> str:
    """An expression of the board with the variables in it, and the month of the error budget made short."""
    expression = expression.replace("$__rate_interval", interval).replace("30d:5m", "10m:2s").replace("$job", job)
    return re.sub(r"\$(instance|route|upstream)\b", ".*", expression)


async def blame(prometheus: Prometheus, job: str) -> dict[str, set[str]]:
    """Route ▸ the columns of the first table that are not zero."""
    (table,) = (panel for panel in panels() if panel["title"] == "Routes: what fails, and who made it")
    (columns,) = (one["options"]["renameByName"] for one in table["transformations"] if one["id"] == "organize")
    found: dict[str, set[str]] = {}
    for target in table["targets"]:
        column = columns[f"Value #{target['refId']}"]
        for labels, value in await prometheus.samples(filled(target["expr"], job, "30s")):
            if value > 0.01 and column not in {"Requests/s", "Failed", "p99"}:
                found.setdefault(labels["route"], set()).add(column)
    return found
