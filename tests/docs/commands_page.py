"""The page `docs/commands.md`: every command and option, made from the parsers of the command line by `make docs`."""

from __future__ import annotations

from argparse import Action, ArgumentParser, _HelpAction
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.cli.examples import EXAMPLES
from gateway.cli.main import _parser
from gateway.demo import parser as demo_parser

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "commands.md"

HEAD: Final = """# Commands

<!-- Made by `make docs` from the parsers. -->

| exit code | means |
|---|---|
| 0 | ok |
| 1 | the configuration is not valid, the gateway could not start or refused, nothing has this name; of `diff`: changes |
| 2 | wrong usage; of `diff`: a file is not valid |
| 3 | not reachable; of `logs`: the file cannot be read |

`gateway COMMAND --help` says the same. Signals, the admin listener, draining and sizing: [operations](operations.md).
"""


def commands() -> dict[str, ArgumentParser]:
    """Every command, with the parser that reads its arguments."""
    (found,) = [action.choices for action in _parser()._actions if isinstance(action.choices, dict)]
    return {**found, "demo": demo_parser()}


def metavar(action: Action) -> str:
    """What stands for the value; nothing for a switch."""
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        return "|".join(str(choice) for choice in action.choices)
    return action.metavar if isinstance(action.metavar, str) else action.dest.upper()


def usage(name: str, parser: ArgumentParser) -> str:
    """The command on one line, as it is typed: what is needed, then what may be added."""
    words = [f"gateway {name}"]
    for action in parser._actions:
        if isinstance(action, _HelpAction):
            continue
        word = f"{action.option_strings[-1]} {metavar(action)}".strip() if action.option_strings else metavar(action)
        words.append(word if not action.option_strings and action.nargs is None else f"[{word}]")
    return " ".join(words)


def helped(action: Action) -> str:
    """What the help says of an argument, its default filled in."""
    return (action.help or "").replace("%(default)s", f"`{action.default}`").replace("|", "\\|")


def value(action: Action) -> str:
    """What may be written, for the table: a `|` would end its cell."""
    return ", ".join(f"`{word}`" for word in metavar(action).split("|") if word)


def page() -> str:
    """The page."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield HEAD
    for name, parser in sorted(commands().items()):
        yield f"## `gateway {name}`\n\n{parser.description}\n\n```text\n{usage(name, parser)}\n```\n"
        yield "```text\n{}\n```\n".format("\n".join(EXAMPLES[name]))
        actions = [action for action in parser._actions if not isinstance(action, _HelpAction)]
        if actions:
            yield "| argument | value | what it is |\n|---|---|---|"
            for action in actions:
                shown = ", ".join(f"`{option}`" for option in action.option_strings)
                yield f"| {shown} | {value(action)} | {helped(action)} |"
            yield ""
