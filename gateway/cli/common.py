"""What commands share: exit codes, options, and how a configuration or an answer is reported."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NoReturn, TextIO, TypeAlias

if TYPE_CHECKING:
    from gateway.control.load import Loaded

OK: Final = 0
INVALID: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3

DEFAULT_CONFIG: Final = "config/gateway.yaml"


Add: TypeAlias = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]
"""Registers a command: its name, what runs it, and what the help says."""


def add_config(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("config", nargs="?", default=DEFAULT_CONFIG, metavar="CONFIG", help="default: %(default)s")
    return parser


def add_admin(parser: argparse.ArgumentParser) -> None:
    """Where the admin listener is, and what it asks for."""
    parser.add_argument("--admin", default="http://127.0.0.1:9900", metavar="URL", help="default: %(default)s; or unix:/path")
    parser.add_argument("--token-file", metavar="PATH", help="to change something: file with the token of `admin.token_file`")


def colour(stream: TextIO) -> bool:
    """Whether to colour what goes to `stream`: only on a terminal, and never against NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def fail(command: str, text: str, code: int = USAGE) -> NoReturn:
    """End a command, with a line on standard error."""
    print(f"gateway {command}: error: {text}", file=sys.stderr)
    raise SystemExit(code)


def load(path: str, code: int = INVALID) -> Loaded:
    """The configuration; its problems go to standard error, and end the command."""
    from gateway.control.load import load as load_file
    from gateway.control.reading.problems import ConfigError, render_text

    try:
        return load_file(path)
    except ConfigError as error:
        print(render_text(error.problems, colour=colour(sys.stderr)), file=sys.stderr)
        raise SystemExit(code) from None


def ask(options: argparse.Namespace, method: str, target: str, timeout: float = 3.0) -> tuple[int, str]:
    """Status and body of an answer of the admin listener; status 0 and the reason when there was none."""
    from pathlib import Path

    from gateway.cli.admin_client import request

    headers = {}
    if options.token_file is not None:
        try:
            headers["Authorization"] = f"Bearer {Path(options.token_file).read_text(encoding='utf-8').strip()}"
        except (OSError, UnicodeDecodeError):
            fail(options.name, f"cannot read `{options.token_file}`")
    return request(options.admin, method, target, headers, timeout)


def told(status: int, text: str) -> int:
    """Print an answer of the admin listener, or why there is none; the exit code."""
    print(text.rstrip("\n"), file=sys.stdout if status == 200 else sys.stderr)
    return OK if status == 200 else INVALID if status else UNREACHABLE
