"""Commands that run the gateway: run, demo, and what a supervisor starts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from gateway.cli.common import OK, Add, add_config, config_path


def add_commands(add: Add) -> None:
    add_config(add("run", _run, "Run the gateway."))
    add("demo", lambda _: OK, "Run two demo services and the gateway in front of them.")


def _run(options: argparse.Namespace) -> int:
    from gateway.run import run

    return run(config_path(options))


def worker(arguments: Sequence[str]) -> int:
    """What a supervisor starts: the number of an open file, and that of the worker."""
    from gateway.supervisor.worker import work

    return work(int(arguments[0]), int(arguments[1]))


def demo(arguments: Sequence[str]) -> int:
    """The demo has a parser of its own."""
    from gateway.demo import main

    return main(arguments)
