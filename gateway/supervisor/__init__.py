"""Running a configuration as processes: one that does everything, or several workers under a supervisor."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from typing import Any

from gateway.app import App
from gateway.control.load import Loaded, load
from gateway.control.problems import ConfigError, render_text
from gateway.proxy.listening import StartError


async def _main(loaded: Loaded) -> int:
    loop = asyncio.get_running_loop()
    app = App(loaded)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, app.signalled)
    # Until there is something to reload, a SIGHUP must not end the process.
    loop.add_signal_handler(signal.SIGHUP, app.hung_up)
    loop.add_signal_handler(signal.SIGUSR1, app.reopen_logs)
    try:
        await app.start()
        # What lives as long as the process is not worth a look by every collection.
        gc.collect()
        gc.freeze()
        await app.run_until_stopped()
    except StartError as error:
        sys.stderr.write(f"gateway run: error: {error}\n")
        return 1
    finally:
        await app.stop()
    return 0


def run(path: str) -> int:
    """Run one worker on a configuration file until it is told to stop; the exit code (0 stopped, 1 did not start)."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        loaded = load(path)
    except ConfigError as error:
        sys.stderr.write(render_text(error.problems) + "\n")
        return 1
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_main(loaded))


def _loop_factory() -> Any:
    """uvloop's loop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
