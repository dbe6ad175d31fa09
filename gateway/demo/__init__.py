"""`gateway demo`: two small real services with fault knobs, and the gateway in front of them, to be tried with curl.

The services run in this process, the gateway as a child started the way an operator starts it. Not for production, and no
part of the gateway: nothing else imports it.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout, web

from gateway.control.load import load as load_config
from gateway.control.reading.problems import ConfigError
from gateway.control.words.addresses import Address
from gateway.demo.load import MAX_RATE, send_load
from gateway.demo.services import APPS, orders_app, users_app

__all__ = ["PORTS", "find_config", "main", "orders_app", "parser", "users_app"]

PORTS: Final = {"users": 9001, "orders": 9002}
CONFIG: Final = Path("config", "demo.yaml")
READY_WITHIN: Final = 20.0
DEFAULT_LISTEN: Final = "127.0.0.1:8080"
DEFAULT_ADMIN: Final = "127.0.0.1:9900"

# -- the command ---------------------------------------------------------------------------------------------------------


class _DemoError(Exception):
    """The demo cannot go on; the message is for the person who started it."""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = argparse.ArgumentParser(
        prog="gateway demo",
        description="Two demo services, and the gateway in front of them.",
        epilog="examples:\n  gateway demo\n  gateway demo --load http://127.0.0.1:8080",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--service", action="append", choices=list(APPS), help="only this service; may be repeated")
    options.add_argument("--services-only", action="store_true", help="no gateway")
    options.add_argument("--host", default="127.0.0.1", help="address the services listen on (default: %(default)s)")
    options.add_argument("--config", type=Path, help=f"configuration of the gateway (default: {CONFIG})")
    options.add_argument(
        "--load", metavar="URL", help="neither services nor gateway: send requests to the gateway that is there"
    )
    options.add_argument("--rate", type=float, default=40.0, help="with --load: requests per second (default: %(default)s)")
    return options


def main(argv: Sequence[str]) -> int:
    """Run the demo until Ctrl-C or SIGTERM. Returns the exit code."""
    options = parser().parse_args(argv)
    if not 0 < options.rate <= MAX_RATE:
        parser().error(f"--rate: above 0, up to {MAX_RATE}")
    try:
        if options.load is not None:
            asyncio.run(_load(options.load, options.rate))
            return 0
        config = None if options.services_only else find_config(options.config)
        return asyncio.run(_demo(options.service or list(APPS), options.host, config))
    except _DemoError as error:
        print(f"gateway demo: {error}", file=sys.stderr)
        return 1


def find_config(given: Path | None) -> Path:
    """The configuration to run: the one given, or the demo's in the working directory or beside the source."""
    package = Path(__file__).resolve().parent
    # In a wheel it stands in the package.
    candidates = [given] if given is not None else [CONFIG, package.parent.parent / CONFIG, package / CONFIG.name]
    for path in candidates:
        if path.is_file():
            return path
    raise _DemoError(f"there is no {candidates[0]} here; run it in the project's directory, or use --config")


async def _load(url: str, rate: float) -> None:
    stop = _stop_signals()
    print(f"sending {rate:g} requests per second to {url}", flush=True)
    await send_load(url, rate, stop)


async def _demo(services: Sequence[str], host: str, config: Path | None) -> int:
    runners: list[web.AppRunner] = []
    stop = _stop_signals()
    try:
        for name in services:
            runners.append(await _start_service(name, host))  # noqa: PERF401 - what runs is stopped when the next fails
        if config is None:
            await stop.wait()
            return 0
        return await _with_gateway(config, stop)
    finally:
        await asyncio.gather(*(runner.cleanup() for runner in runners))


def _stop_signals() -> asyncio.Event:
    """An event that the first Ctrl-C or SIGTERM sets."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _start_service(name: str, host: str) -> web.AppRunner:
    runner = web.AppRunner(APPS[name](), access_log=None, handle_signals=False, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, PORTS[name]).start()
    except OSError as error:
        await runner.cleanup()
        why = "another program listens there" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        raise _DemoError(f"the service '{name}' cannot listen on {host}:{PORTS[name]}: {why}") from None
    print(f"service {name:<8} http://{host}:{PORTS[name]}", flush=True)
    return runner


async def _with_gateway(config: Path, stop: asyncio.Event) -> int:
    """Start the gateway, say what to try, and wait for the signal or for the gateway to end."""
    listen, admin = addresses(config)
    # A process group of its own: Ctrl-C reaches only us, so the gateway gets one signal, and drains.
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "run", str(config), stdin=asyncio.subprocess.DEVNULL, process_group=0
    )
    ended = asyncio.ensure_future(child.wait())
    stopped = asyncio.ensure_future(stop.wait())
    ready = asyncio.ensure_future(_until_ready(f"http://{admin}/readyz"))
    try:
        await asyncio.wait({ended, stopped, ready}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and not ended.done():
            ready.result()
            print(_what_to_try(listen, admin), flush=True)
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            raise _DemoError(f"the gateway ended with exit code {ended.result()}")
        return 0
    finally:
        ready.cancel()
        stopped.cancel()
        if not ended.done():
            child.terminate()
        await ended


def addresses(config: Path) -> tuple[str, str]:
    """Where the gateway and its admin listener can be reached; what is wrong with a file the gateway itself says."""
    try:
        found = load_config(str(config)).config
    except ConfigError:
        return DEFAULT_LISTEN, DEFAULT_ADMIN
    return _reachable(found.server.listen[0].address, DEFAULT_LISTEN), _reachable(found.admin.listen, DEFAULT_ADMIN)


def _reachable(address: Address | None, default: str) -> str:
    if address is None or address.path:
        return default
    return f"127.0.0.1:{address.port}" if address.host in {"", "0.0.0.0", "::"} else str(address)


async def _until_ready(url: str) -> None:
    try:
        async with asyncio.timeout(READY_WITHIN), ClientSession(timeout=ClientTimeout(total=1.0)) as session:
            while True:
                with suppress(ClientError, TimeoutError):
                    async with session.get(url) as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise _DemoError(f"the gateway was not ready within {READY_WITHIN:.0f} s ({url})") from None


def _what_to_try(listen: str, admin: str) -> str:
    tries = (
        (f"curl -i http://{listen}/users/1", "a plain request"),
        (f"curl -s http://{listen}/users/headers", "what the service sees of it"),
        (f"curl -i 'http://{listen}/users/slow?ms=2000'", "a time budget"),
        (f"curl -i http://{listen}/users/status/503", "a failing service"),
        (f"curl -i http://{listen}/users/reset", "a crashing service"),
        (f"curl -i http://{listen}/orders -H 'Content-Type: application/json' -d '{{\"tea\": 2}}'", "a request with a body"),
        (f"curl -N 'http://{listen}/orders/stream?count=5'", "a stream, event by event"),
        (f"curl -so /dev/null -w '%{{speed_download}} B/s\\n' 'http://{listen}/orders/big?mib=100'", "a download"),
        (
            f"curl -X PUT 'http://127.0.0.1:{PORTS['users']}/faults?errors=30&delay=200'",
            "a service in trouble; -X DELETE ends it",
        ),
        (f"gateway demo --load http://{listen}", "a mix of requests, until Ctrl-C"),
        (f"curl -s http://{admin}/metrics", "what was counted"),
    )
    lines = [f"gateway          http://{listen}   admin http://{admin}", "", "Try, in another terminal:"]
    lines += [f"  {command}   # {text}" for command, text in tries]
    return "\n".join(["", *lines, "", "Ctrl-C stops everything."])
