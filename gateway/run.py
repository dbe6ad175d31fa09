"""Running a configuration as processes: one that does everything, or several workers under a supervisor."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.app import App
from gateway.control.load import Loaded, load
from gateway.control.reading.problems import ConfigError, render_text
from gateway.event_loop import loop_factory
from gateway.proxy.downstream.handshakes import unraisable
from gateway.proxy.downstream.listeners import StartError

if TYPE_CHECKING:
    from gateway.supervisor.fleet import Fleet

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


async def _main(loaded: Loaded) -> int:
    loop = asyncio.get_running_loop()
    workers = loaded.config.server.workers or processors()
    gateway = App(loaded) if workers == 1 else _fleet(loaded, workers)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, gateway.signalled)
    # Until there is something to reload, a SIGHUP must not end the process.
    loop.add_signal_handler(signal.SIGHUP, gateway.hung_up)
    loop.add_signal_handler(signal.SIGUSR1, gateway.reopen_logs)
    try:
        await gateway.start()
        # What lives as long as the process is not worth a look by every collection.
        gc.collect()
        gc.freeze()
        await gateway.run_until_stopped()
    except StartError as error:
        sys.stderr.write(f"gateway run: error: {error}\n")
        return 1
    finally:
        await gateway.stop()
    return 0


def _fleet(loaded: Loaded, workers: int) -> Fleet:
    """Imported here: one process needs nothing of it."""
    from gateway.supervisor.fleet import Fleet

    # Reports are large, live for a second and hold no cycles: to look through them costs rate limits up to 0.2 s.
    gc.set_threshold(50_000, 20, 100)
    return Fleet(loaded, workers)


def processors() -> int:
    """How many processors this process may use, by its affinity and by the quota of its container."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        if quota != "max":
            count = min(count, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, count)


def run(path: str) -> int:
    """Run a configuration file until told to stop; the exit code (0 stopped, 1 did not start)."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    sys.unraisablehook = unraisable
    try:
        loaded = load(path)
    except ConfigError as error:
        sys.stderr.write(render_text(error.problems) + "\n")
        return 1
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_main(loaded))
