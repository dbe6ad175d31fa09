"""The parser of the command line."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from gateway import __version__
from gateway.cli import admin, breaker, configuration, logs, processes
from gateway.cli.common import OK, USAGE
from gateway.cli.examples import EXAMPLES


class _Parser(argparse.ArgumentParser):
    """An argument parser that suggests the command that was probably meant."""

    commands: tuple[str, ...] = ()

    def error(self, message: str) -> NoReturn:
        """Print the problem to standard error and exit with 2."""
        import difflib

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
            return processes.worker(arguments[1:])
        if arguments[:1] == ["demo"]:
            return processes.demo(arguments[1:])
        parser = _parser()
        options, rest = parser.parse_known_args(arguments)
        if rest:
            _commands(parser)[options.name].error(f"one too many, or unknown: {' '.join(rest)}")
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
    parser.add_argument("--version", action="version", version=f"gateway {__version__}", help="print the version")
    commands = parser.add_subparsers(dest="name", metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog="\n".join(["examples:", *(f"  {example}" for example in EXAMPLES[name])]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=command)
        return sub

    for group in (processes, configuration, admin, breaker, logs):
        group.add_commands(add)
    completion = add("completion", _completion, "Print what completes commands and options in a shell.")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="which shell")
    add("version", _version, "Print the version.")
    parser.commands = tuple(commands.choices)
    return parser


def _completion(options: argparse.Namespace) -> int:
    import shtab

    parser = _parser()
    for sub in (parser, *_commands(parser).values()):
        for action in sub._actions:
            if action.metavar in ("CONFIG", "FILE", "PATH"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, options.shell))
    return OK


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(action.choices for action in parser._actions if isinstance(action.choices, dict))


def _version(options: argparse.Namespace) -> int:
    print(f"gateway {__version__}")
    return OK
