"""What commands share: exit codes, options, and how a configuration or an answer is reported."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TextIO, TypeAlias

if TYPE_CHECKING:
    from gateway.control.blocks.server.server import Admin as AdminBlock
    from gateway.control.load import Loaded
    from gateway.control.words.addresses import Address

OK: Final = 0
INVALID: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3

CONFIGS: Final = ("gateway.yaml", "config/gateway.yaml", "/etc/gateway/gateway.yaml")
"""Where a configuration is looked for when neither the command line nor `GATEWAY_CONFIG` names one: the first there is."""
ADMIN: Final = "http://127.0.0.1:9900"

_DEFAULT: Final = f"$GATEWAY_CONFIG, else the first there is of {', '.join(CONFIGS)}"

Add: TypeAlias = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]
"""Registers a command: its name, what runs it, and what the help says."""


def add_config(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Which configuration: the same rule for every command."""
    parser.add_argument("config", nargs="?", metavar="CONFIG", help=f"a file, or - for standard input; default: {_DEFAULT}")
    return parser


def add_admin(parser: argparse.ArgumentParser) -> None:
    """Where the admin listener is, and what it asks for."""
    parser.add_argument(
        "--config", metavar="CONFIG", help=f"take admin address and token from this configuration; default: {_DEFAULT}"
    )
    parser.add_argument("--admin", metavar="URL", help=f"or unix:/path; default: $GATEWAY_ADMIN, as CONFIG says, or {ADMIN}")
    parser.add_argument("--token-file", metavar="PATH", help="to change something: its file; default: as CONFIG says")


def config_path(options: argparse.Namespace) -> str:
    """The configuration that the command is about. Ends the command when there is none."""
    found = options.config or os.environ.get("GATEWAY_CONFIG") or _first_there_is()
    if found is None:
        looked = f"looked for {', '.join(CONFIGS[:-1])} in {Path.cwd()} and for {CONFIGS[-1]}"
        fail(options.name, f"there is no configuration: {looked}; name a file, or write one: `gateway init`", INVALID)
    return str(found)


def _first_there_is() -> str | None:
    return next((path for path in CONFIGS if Path(path).is_file()), None)


class Admin:
    """The admin listener of the running gateway that a command is about."""

    def __init__(self, options: argparse.Namespace) -> None:
        """`--admin`, else `GATEWAY_ADMIN`, else what the configuration says, even if it is not valid."""
        self.url = options.admin or os.environ.get("GATEWAY_ADMIN") or ""
        self.note = ""
        """Why the configuration told neither address nor token, where there is one that could have."""
        self._written: AdminBlock | None = None
        path = options.config or os.environ.get("GATEWAY_CONFIG") or _first_there_is()
        if path is not None and (not self.url or options.config):
            self._written = self._read(str(path), required=bool(options.config))
            if self._written is None:
                self.note = f"`{path}` is not valid, so its `admin` could not be read: `gateway check {path}`, or name --admin"
        if not self.url and self._written is not None:
            listen = self._written.listen
            if listen is None:
                fail(options.name, f"`{path}` has no admin listener")
            self.url = _reachable(listen)
        self.url = self.url or ADMIN

    @staticmethod
    def _read(path: str, *, required: bool) -> AdminBlock | None:
        from gateway.control.load import load_admin

        return load(path).config.admin if required else load_admin(path)

    def token(self, options: argparse.Namespace) -> str | None:
        """What proves that something may be changed: of `--token-file`, else of the configuration."""
        if options.token_file is not None:
            try:
                return Path(options.token_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                fail(options.name, f"cannot read `{options.token_file}`")
        try:
            return None if self._written is None else self._written.secret("token")
        except ValueError:
            return None


def _reachable(address: Address) -> str:
    """Where a process on the same host reaches the admin listener."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    return str(address) if address.path else f"http://{replace(address, host=host)}"


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
    from gateway.cli.admin_client import request

    admin = Admin(options)
    token = admin.token(options)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    status, text = request(admin.url, method, target, headers, timeout)
    if admin.note and status in (0, 401, 403):
        text = f"{text.rstrip()}\n{admin.note}"
    return status, text


def told(status: int, text: str) -> int:
    """Print an answer of the admin listener, or why there is none; the exit code."""
    print(text.rstrip("\n"), file=sys.stdout if status == 200 else sys.stderr)
    return OK if status == 200 else INVALID if status else UNREACHABLE
