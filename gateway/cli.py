"""The commands: run · check · diff · reload · explain · routes · schema · init · demo · healthcheck · limits · breaker · logs ·
version.

Exit codes: 0 ok, 1 the configuration is not valid, 2 wrong usage, 3 not reachable. Each command imports what it needs when it
runs: a container runs the health check every few seconds.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TextIO

if TYPE_CHECKING:
    from gateway.control.addresses import Address
    from gateway.control.load import Loaded
    from gateway.control.problems import Problem

OK: Final = 0
INVALID: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3

RELOAD_TIMEOUT: Final = 60.0
"""Seconds."""

DEFAULT_CONFIG: Final = "config/gateway.yaml"


class _Parser(argparse.ArgumentParser):
    """An argument parser that suggests the command that was probably meant."""

    commands: tuple[str, ...] = ()

    def error(self, message: str) -> NoReturn:
        """Print the problem to standard error and exit with 2."""
        unknown = re.search(r"invalid choice: '(.*?)' \(", message)
        if unknown is not None and self.commands:
            close = difflib.get_close_matches(unknown[1], self.commands, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"there are {', '.join(self.commands)}"
            message = f"unknown command `{unknown[1]}`; {hint}"
        self.exit(USAGE, f"{self.prog}: error: {message}\nTry `{self.prog} --help`.\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["_worker"]:
            return _worker(arguments[1:])
        if arguments[:1] == ["demo"]:
            return _demo(arguments[1:])
        options = _parser().parse_args(arguments)
        return int(options.command(options))
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else USAGE
    except BrokenPipeError:
        # The reader of a pipe has gone (`gateway schema | head`); closing standard output must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gateway", description="A reverse-proxy gateway.", epilog="Documentation: docs/, README.md")
    commands = parser.add_subparsers(dest="name", metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    _add_config(add("run", _run, "Run the gateway."))
    check = _add_config(add("check", _check, "Validate a configuration; all problems at once."))
    check.add_argument("--format", choices=("text", "json", "github"), default="text", help="how to show the problems")
    diff = add("diff", _diff, "Say what one configuration changes in another; exit code 1 when anything.")
    diff.add_argument("old", metavar="OLD")
    diff.add_argument("new", metavar="NEW")
    reload = add("reload", _reload, "Let a running gateway read its configuration again; prints what changes.")
    reload.add_argument("--dry-run", action="store_true", help="only say what would change")
    _add_admin(reload)
    explain = add("explain", _explain, "Say which route takes a request, why, and what holds for it.")
    explain.add_argument("config", metavar="CONFIG")
    explain.add_argument("method", metavar="METHOD")
    explain.add_argument("url", metavar="URL", help="https://host/path?query, or /path")
    explain.add_argument("-H", "--header", action="append", default=[], metavar="'Name: value'", help="a request header")
    _add_config(add("routes", _routes, "List the routes in the order in which they are tried."))
    add("schema", _schema, "Print the JSON schema of the configuration file.")
    init = add("init", _init, "Write a commented configuration to start from.")
    init.add_argument("path", nargs="?", default="gateway.yaml", metavar="PATH", help="default: %(default)s")
    add("demo", lambda _: OK, "Run two demo services and the gateway in front of them.")
    health = add("healthcheck", _healthcheck, "Ask the admin listener of a running gateway whether it is ready.")
    health.add_argument("config", nargs="?", metavar="CONFIG", help="take the admin address from this file")
    health.add_argument("--admin", default="http://127.0.0.1:9900", metavar="URL", help="default: %(default)s")
    limits = add("limits", _limits, "Rate limits of a running gateway: keys denied most, state of a key, reset of a key.")
    limits.add_argument("action", choices=("top", "key", "reset"), help="what to do")
    limits.add_argument("route", nargs="?", metavar="ROUTE", help="with `key` and `reset`")
    limits.add_argument(
        "key", nargs="?", metavar="KEY", help="its value, such as an address; those of a combined key joined by |"
    )
    limits.add_argument("--limit", default="default", metavar="NAME", help="default: %(default)s")
    _add_admin(limits)
    logs = add("logs", _logs, "Show lines of the access log as people read them, from a file or standard input.")
    logs.add_argument("file", nargs="?", default="-", metavar="FILE", help="default: standard input")
    logs.add_argument("--route", action="append", default=[], metavar="NAME", help="of this route; may be repeated")
    logs.add_argument("--status", action="append", default=[], metavar="STATUS", help="5xx, 404 or 500-503; may be repeated")
    logs.add_argument("--slow", metavar="DURATION", help="that took so long or longer, such as 500ms")
    logs.add_argument("--failed", action="store_true", help="that the gateway refused or failed, or an upstream with 5xx")
    logs.add_argument("--request", default="", metavar="ID", help="with this request id or trace id")
    logs.add_argument("--raw", action="store_true", help="print the lines as they are: JSON")
    breaker = add("breaker", _breaker, "Circuit breakers of a running gateway: see, hold open or closed, release.")
    _add_breaker(breaker)
    add("version", _version, "Print the version.")
    parser.commands = tuple(commands.choices)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("config", nargs="?", default=DEFAULT_CONFIG, metavar="CONFIG", help="default: %(default)s")
    return parser


def _add_admin(parser: argparse.ArgumentParser) -> None:
    """Where the admin listener is, and what it asks for."""
    parser.add_argument("--admin", default="http://127.0.0.1:9900", metavar="URL", help="default: %(default)s; or unix:/path")
    parser.add_argument("--token-file", metavar="PATH", help="to change something: file with the token of `admin.token_file`")


def _colour(stream: TextIO) -> bool:
    """Whether to colour what goes to `stream`: only on a terminal, and never against NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _load(path: str) -> Loaded | None:
    """The configuration; None after its problems went to standard error."""
    from gateway.control.load import load
    from gateway.control.problems import ConfigError, render_text

    try:
        return load(path)
    except ConfigError as error:
        print(render_text(error.problems, colour=_colour(sys.stderr)), file=sys.stderr)
        return None


# -- the commands ----------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from gateway.run import run

    return run(options.config)


def _worker(arguments: Sequence[str]) -> int:
    """What a supervisor starts: the number of an open file, and that of the worker."""
    from gateway.supervisor.worker import work

    return work(int(arguments[0]), int(arguments[1]))


def _check(options: argparse.Namespace) -> int:
    from gateway.control.compression_compile import compression_notes
    from gateway.control.load import load
    from gateway.control.problems import ConfigError, render_github, render_json, render_text

    problems: tuple[Problem, ...] = ()
    notes: list[str] = []
    summary = ""
    try:
        loaded = load(options.config)
        config = loaded.config
        notes = compression_notes(loaded)
        summary = f"{options.config}: ok, {_count(len(config.routes), 'route')}, {_count(len(config.upstreams), 'upstream')}"
    except ConfigError as error:
        problems = error.problems
        summary = _count(len(problems), "problem")
    if options.format == "json":
        print(render_json(problems))
    elif options.format == "github":
        print(render_github(problems))
    else:
        if problems:
            print(render_text(problems, colour=_colour(sys.stdout)))
        for note in notes:
            print(note)
        print(summary)
    return INVALID if problems else OK


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _explain(options: argparse.Namespace) -> int:
    from gateway.control.explain import RequestError, explain

    loaded = _load(options.config)
    if loaded is None:
        return INVALID
    try:
        print(explain(loaded, options.method, options.url, options.header))
    except RequestError as error:
        print(f"gateway explain: error: {error}", file=sys.stderr)
        return USAGE
    return OK


def _routes(options: argparse.Namespace) -> int:
    from gateway.control.explain import route_table

    loaded = _load(options.config)
    if loaded is None:
        return INVALID
    print(route_table(loaded))
    return OK


def _schema(options: argparse.Namespace) -> int:
    from gateway.control.json_schema import rendered_schema

    print(rendered_schema(), end="")
    return OK


def _init(options: argparse.Namespace) -> int:
    from gateway.control.starter import STARTER

    path = Path(options.path)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(STARTER)
    except FileExistsError:
        print(f"gateway init: error: `{path}` exists and is left as it is", file=sys.stderr)
        return INVALID
    except OSError as error:
        print(f"gateway init: error: cannot write `{path}`: {error.strerror}", file=sys.stderr)
        return INVALID
    print(f"wrote {path}; next: edit it, then `gateway check {path}` and `gateway run {path}`")
    return OK


def _demo(arguments: Sequence[str]) -> int:
    from gateway.demo import main as demo

    return demo(arguments)


def _healthcheck(options: argparse.Namespace) -> int:
    url = options.admin
    if options.config is not None:
        loaded = _load(options.config)
        if loaded is None:
            return INVALID
        if loaded.config.admin.listen is None:
            print("gateway healthcheck: error: the configuration has no admin listener", file=sys.stderr)
            return USAGE
        url = _admin_url(loaded.config.admin.listen)
    ready, text = _ask(url)
    print(text, file=sys.stdout if ready else sys.stderr)
    return OK if ready else UNREACHABLE


def _admin_url(address: Address) -> str:
    """Where a health check on the same host reaches the admin listener."""
    if address.path:
        return f"unix:{address.path}"
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    return f"http://[{host}]:{address.port}" if ":" in host else f"http://{host}:{address.port}"


def _ask(url: str) -> tuple[bool, str]:
    """Whether `/readyz` answers 200, and a line about it."""
    from gateway.control.admin.client import request

    status, text = request(url, "GET", "/readyz", {})
    if not status:
        return False, text
    return status == 200, "ready" if status == 200 else f"not ready: {url}/readyz answered {status}"


def _token_header(options: argparse.Namespace) -> dict[str, str] | None:
    """What shows the token; None after an error message."""
    if options.token_file is None:
        return {}
    try:
        return {"Authorization": f"Bearer {Path(options.token_file).read_text(encoding='utf-8').strip()}"}
    except (OSError, UnicodeDecodeError):
        print(f"gateway {options.name}: error: cannot read `{options.token_file}`", file=sys.stderr)
        return None


def _reload(options: argparse.Namespace) -> int:
    import json

    from gateway.control.admin.client import request

    headers = _token_header(options)
    if headers is None:
        return USAGE
    target = "/reload?dry_run=1" if options.dry_run else "/reload"
    status, text = request(options.admin, "POST", target, headers, RELOAD_TIMEOUT)
    try:
        text = str(json.loads(text)["text"])
    except (ValueError, TypeError, KeyError):
        pass
    print(text.rstrip("\n"), file=sys.stdout if status == 200 else sys.stderr)
    return OK if status == 200 else INVALID if status else UNREACHABLE


def _diff(options: argparse.Namespace) -> int:
    from gateway.control.diff import diff, render

    old, new = _load(options.old), _load(options.new)
    if old is None or new is None:
        return USAGE
    changes = diff(old, new)
    print(render(changes))
    return INVALID if changes else OK


def _limits(options: argparse.Namespace) -> int:
    from urllib.parse import urlencode

    from gateway.control.admin.client import request

    if options.action != "top" and (options.route is None or options.key is None):
        print(f"gateway limits: error: `{options.action}` needs ROUTE and KEY", file=sys.stderr)
        return USAGE
    headers = _token_header(options)
    if headers is None:
        return USAGE
    target = "/limits"
    if options.action != "top":
        query = urlencode({"route": options.route, "limit": options.limit, "key": options.key})
        target = f"/limits/{options.action}?{query}"
    status, text = request(options.admin, "POST" if options.action == "reset" else "GET", target, headers)
    print(text.rstrip("\n"), file=sys.stdout if status == 200 else sys.stderr)
    return OK if status == 200 else INVALID if status else UNREACHABLE


def _logs(options: argparse.Namespace) -> int:
    from gateway.control.log_view import FilterError, run

    try:
        run(options, colour=_colour(sys.stdout))
    except FilterError as error:
        print(f"gateway logs: error: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"gateway logs: error: cannot read `{options.file}`: {error.strerror}", file=sys.stderr)
        return UNREACHABLE
    return OK


def _add_breaker(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "open", "close", "release"), help="what to do")
    parser.add_argument("upstream", nargs="?", metavar="UPSTREAM", help="its name; with `list`: default all")
    parser.add_argument("endpoint", nargs="?", metavar="ENDPOINT", help="as `list` shows it; default: all of the upstream")
    parser.add_argument("--reason", metavar="TEXT", help="with `open` and `close`: why, for the log and for others")
    parser.add_argument("--for", dest="lasts", default="1h", metavar="DURATION", help="how long; default: %(default)s")
    _add_admin(parser)


def _breaker(options: argparse.Namespace) -> int:
    from gateway.control.admin.breaker_view import UsageError, breaker_table, request_of
    from gateway.control.admin.client import request

    headers = _token_header(options)
    if headers is None:
        return USAGE
    try:
        status, text = request(options.admin, *request_of(options), headers)
    except UsageError as error:
        print(f"gateway breaker: error: {error}", file=sys.stderr)
        return USAGE
    if status != 200:
        print(text.rstrip("\n"), file=sys.stderr)
        return INVALID if status else UNREACHABLE
    print(breaker_table(text))
    return OK


def _version(options: argparse.Namespace) -> int:
    from gateway import __version__

    print(f"gateway {__version__}")
    return OK
