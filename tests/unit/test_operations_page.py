"""The documentation names what there is: commands, admin pages, failures."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from pathlib import Path

import pytest

from gateway.cli.main import _parser
from gateway.control.admin import breakers, limits, listener, reload
from gateway.errors import Failure

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
OPERATIONS = (DOCS / "operations.md").read_text(encoding="utf-8")
PAGES = {**listener.PAGES, **limits.PAGES, **breakers.PAGES, **reload.PAGES}
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^`?|/|\| )gateway ([a-z]+)(?: ([a-z]+)\b(?!\.))?", re.MULTILINE)


def commands() -> dict[str, ArgumentParser]:
    """Every command, with its parser."""
    (found,) = [action.choices for action in _parser()._actions if isinstance(action.choices, dict)]
    return found


def test_every_command_is_in_the_table() -> None:
    """The table of commands lists all of them and no other."""
    assert set(re.findall(r"^\| `gateway ([a-z]+)", OPERATIONS, re.MULTILINE)) == set(commands())


def test_every_admin_page_is_in_the_table() -> None:
    """The table of the admin listener lists every page that its index shows."""
    assert set(re.findall(r"^\| `(/[a-z/]+)`", OPERATIONS, re.MULTILINE)) == set(PAGES)


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda path: path.name)
def test_commands_are_written_as_they_are(path: Path) -> None:
    """A command that a page shows exists, and so does what it is told to do."""
    known = commands()
    code = CODE.findall(path.read_text(encoding="utf-8"))
    for name, action in (found for text in code for found in COMMAND.findall(text)):
        assert name in known
        choices = next((one.choices for one in known[name]._actions if one.dest == "action"), None)
        assert not action or choices is None or action in choices


def test_every_failure_is_in_the_table_of_flags() -> None:
    """The table of flags in docs/access-log.md has every failure, behind its flag, and no other."""
    text = (DOCS / "access-log.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z]+)` \| [^|]+ \| (.+) \|$", text, re.MULTILINE)
    told = {(code, flag) for flag, codes in rows for code in re.findall(r"`([a-z_]+)`", codes)}

    assert told == {(failure.code, failure.flag) for failure in Failure}
