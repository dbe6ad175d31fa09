"""Commands about configuration files: check, diff, explain, routes, schema, init."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from gateway.cli.common import INVALID, OK, USAGE, Add, add_admin, add_config, ask, colour, config_path, fail, load, told

if TYPE_CHECKING:
    from gateway.control.reading.problems import Problem


def add_commands(add: Add) -> None:
    check = add_config(add("check", _check, "Validate a configuration; all problems at once."))
    check.add_argument("--format", choices=("text", "json", "github"), default="text", help="how to show the problems")
    diff = add("diff", _diff, "Say what one configuration changes in another; exit code 1 when anything.")
    diff.add_argument("files", nargs="+", metavar="FILE", help="the old and the new one; with --running only the new one")
    diff.add_argument("--running", action="store_true", help="compare with what a running gateway has; needs no token")
    add_admin(diff)
    explain = add("explain", _explain, "Say which route takes a request, why, and what holds for it.")
    explain.add_argument("config", metavar="CONFIG")
    explain.add_argument("method", metavar="METHOD")
    explain.add_argument("url", metavar="URL", help="https://host/path?query, or /path")
    explain.add_argument(
        "--from", dest="peer", metavar="ADDRESS", help="who is at the other end of the connection: an address, or `unix`"
    )
    explain.add_argument(
        "--listen", metavar="ADDRESS", help="the listener it comes in by, as in `server.listen`; default: the first that fits"
    )
    explain.add_argument("-H", "--header", action="append", default=[], metavar="'Name: value'", help="a request header")
    add_config(add("routes", _routes, "List the routes in the order in which they are tried."))
    add("schema", _schema, "Print the JSON schema of the configuration file.")
    init = add("init", _init, "Write a commented configuration to start from.")
    init.add_argument("path", nargs="?", default="gateway.yaml", metavar="PATH", help="default: %(default)s")


def _check(options: argparse.Namespace) -> int:
    from gateway.control.checks import notes as notes_of
    from gateway.control.checks import secret_notes
    from gateway.control.load import load as load_file
    from gateway.control.reading.problems import ConfigError, render_github, render_json, render_text

    path = config_path(options)
    problems: tuple[Problem, ...] = ()
    notes: list[str] = []
    summary = ""
    try:
        loaded = load_file(path)
        config = loaded.config
        notes = notes_of(loaded.resolved, loaded.positions) + secret_notes(config, loaded.positions)
        summary = f"{path}: ok, {_count(len(config.routes), 'route')}, {_count(len(config.upstreams), 'upstream')}"
    except ConfigError as error:
        problems = error.problems
        summary = _count(len(problems), "problem")
    if options.format == "json":
        print(render_json(problems))
    elif options.format == "github":
        print(render_github(problems))
    else:
        if problems:
            print(render_text(problems, colour=colour(sys.stdout)))
        for note in notes:
            print(note)
        print(summary)
    return INVALID if problems else OK


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _diff(options: argparse.Namespace) -> int:
    from gateway.control.tools.diff import diff, render

    if options.running:
        if len(options.files) != 1:
            fail(options.name, "--running takes one FILE")
        return diff_running(options, options.files[0])
    if len(options.files) != 2:
        fail(options.name, "it takes two files, or --running and one")
    changes = diff(load(options.files[0], USAGE), load(options.files[1], USAGE))
    print(render(changes))
    return INVALID if changes else OK


def diff_running(options: argparse.Namespace, file: str, *, changed: int = INVALID, invalid: int = USAGE) -> int:
    """What would change in the running gateway if the file were applied. `changed`: the exit code when anything would,
    `invalid`: when the file is not valid."""
    import json

    from gateway.control.tools.diff import diff_effective, render
    from gateway.control.tools.dump import effective_config

    new = effective_config(load(file, invalid))
    status, text = ask(options, "GET", "/config")
    if status != 200:
        return told(status, text)
    changes = diff_effective(json.loads(text), json.loads(json.dumps(new)))
    print(render(changes))
    print("(secrets, values of headers and the content of files are not compared)", file=sys.stderr)
    return changed if changes else OK


def _explain(options: argparse.Namespace) -> int:
    from gateway.control.tools.explain import explain
    from gateway.control.tools.trial import RequestError

    try:
        loaded = load(options.config)
        print(explain(loaded, options.method, options.url, options.header, peer=options.peer, listen=options.listen))
    except RequestError as error:
        fail(options.name, str(error))
    return OK


def _routes(options: argparse.Namespace) -> int:
    from gateway.control.tools.explain import route_table

    print(route_table(load(config_path(options))))
    return OK


def _schema(options: argparse.Namespace) -> int:
    from gateway.control.json_schema import rendered_schema

    print(rendered_schema(), end="")
    return OK


def _init(options: argparse.Namespace) -> int:
    from pathlib import Path

    from gateway.control.tools.starter import STARTER

    path = Path(options.path)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(STARTER)
    except FileExistsError:
        fail(options.name, f"`{path}` exists and is left as it is", INVALID)
    except OSError as error:
        fail(options.name, f"cannot write `{path}`: {error.strerror}", INVALID)
    print(f"wrote {path}; next: edit it, then `gateway check {path}` and `gateway run {path}`")
    return OK
