"""The documentation names what there is: commands, admin pages, failures, fields, metrics, files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.control.admin import breakers, limits, listener, reload
from gateway.control.json_schema import json_schema, known_fields
from gateway.errors import Failure
from tests.docs.commands_page import commands
from tests.docs.examples import PAGES as DOCUMENTS
from tests.docs.examples import ROOT
from tests.observability import families

DOCS = ROOT / "docs"
OPERATIONS = (DOCS / "operations.md").read_text(encoding="utf-8")
PAGES = {**listener.PAGES, **limits.PAGES, **breakers.PAGES, **reload.PAGES}
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
COMMAND = re.compile(r"(?:^`?|/|\| )gateway ([a-z]+)(?: ([a-z]+)\b(?!\.))?", re.MULTILINE)
NO_FIELD = re.compile(r"\.(?:address|crt|duration|json|log|md|py|token|ya?ml)$")
"""Names of files, and of fields of the access log in the way of OpenTelemetry."""


def texts() -> Iterator[tuple[Path, str]]:
    """Every page, without its fenced blocks: those have tests of their own."""
    for path in DOCUMENTS:
        yield path, re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_every_command_is_in_the_table() -> None:
    """The table of commands lists all of them and no other."""
    assert set(re.findall(r"^\| `gateway ([a-z]+)", OPERATIONS, re.MULTILINE)) == set(commands())


def test_the_table_of_commands_says_what_they_take() -> None:
    """What a row names, actions and options, is what the parser takes; what must be written is in the row."""
    for name, rest in re.findall(r"^\| `gateway ([a-z]+)([^`]*)` \|", OPERATIONS, re.MULTILINE):
        actions = commands()[name]._actions
        options = {option for action in actions for option in action.option_strings}
        assert set(re.findall(r"(?<![\w-])--?[a-zA-Z][a-z-]*", rest)) <= options, name
        for action in actions:
            if action.option_strings or action.nargs is not None:
                continue
            needed = "\\|".join(action.choices) if action.choices else str(action.metavar)
            assert needed in rest, f"gateway {name} needs {needed}"


def test_every_admin_page_is_in_the_table() -> None:
    """The table of the admin listener lists every page that its index shows."""
    assert set(re.findall(r"^\| `(/[a-z/]+)`", OPERATIONS, re.MULTILINE)) == set(PAGES)


def test_what_changes_something_is_posted_where_the_pages_say() -> None:
    """Every path that a page posts to is one that the admin listener takes POST at, and none is missing in the table."""
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "gateway/control/admin").glob("*.py"))
    posted = set(re.findall(r'add_post\("(/[a-z/]+)"', code))
    told = set(re.findall(r"`(/[a-z/]+)`", " ".join(re.findall(r"POST[^|;]*", OPERATIONS))))

    assert told - {"/reload"} == posted - {"/reload"}
    assert "| `/reload` | how the last reload went; POST reloads" in OPERATIONS


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
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


def test_every_failure_is_explained_under_its_status() -> None:
    """docs/statuses.md has a section for each status, and in it a row for each failure with its flag, and no other."""
    text = (DOCS / "statuses.md").read_text(encoding="utf-8")
    told = set()
    for section in text.split("\n## ")[1:]:
        status = int(section[:3])
        told |= {(status, code, flag) for code, flag in re.findall(r"^\| `([a-z_]+)` \| `([A-Z]+)` \|", section, re.MULTILINE)}

    assert told == {(failure.status, failure.code, failure.flag) for failure in Failure}


def places(word: str) -> list[tuple[str, ...]]:
    """Where in the file a dotted word may stand: at the top, or in what routes and upstreams have."""
    steps = tuple(word.split("."))
    return [steps, ("defaults", *steps), ("routes", "0", *steps), ("upstreams", "NAME", *steps), ("server", *steps)]


def exists(word: str) -> bool:
    """Whether a dotted word is a field of the file."""
    for place in places(word):
        *above, last = (int(step) if step.isdigit() else step for step in place)
        for loc in (tuple(above), (*above, 0)):
            if str(last) in known_fields(loc):
                return True
    return False


def test_fields_that_pages_name_exist() -> None:
    """A dotted name that begins with a word of the YAML, such as `server.limits.body`, is a field of the file."""
    schema = json_schema()
    begins = set(schema["properties"])
    for block in ("Defaults", "Upstream", "Route"):
        begins |= set(schema["$defs"][block]["properties"])
    wrong = [
        f"{path.name}: {word}"
        for path, text in texts()
        for word in INLINE.findall(text)
        if re.fullmatch(r"[a-z_]+(?:\.[a-z_]+)+", word)
        and word.partition(".")[0] in begins
        and not NO_FIELD.search(word)
        and not exists(word)
    ]

    assert wrong == []


def test_metrics_that_pages_name_exist() -> None:
    """Every `gateway_…` that a page names is a metric, or the beginning of some where it ends in an underscore."""
    there = set(families())
    names = there | {name.removesuffix(suffix) for name in there for suffix in ("_bucket", "_count", "_sum")}
    wrong = [
        f"{path.name}: {name}"
        for path, text in texts()
        for code in INLINE.findall(text)
        for name in re.findall(r"\bgateway_[a-z_]+", code)
        if name not in names and not (name.endswith("_") and any(one.startswith(name) for one in names))
    ]

    assert wrong == []


def test_files_that_pages_name_exist() -> None:
    """A path into the source tree leads to a file or a folder; a bare name of a module is that of one."""
    modules = {path.name for path in ROOT.glob("gateway/**/*.py")} | {path.name for path in ROOT.glob("tests/**/*.py")}
    roots = (ROOT, ROOT / "gateway", ROOT / "gateway/proxy", ROOT / "gateway/control", ROOT / "deploy/prometheus")
    wrong = []
    for path, text in texts():
        for word in INLINE.findall(text):
            if re.fullmatch(r"[a-z_0-9]+\.py", word):
                there = word in modules or word == "service.py"
            elif re.fullmatch(r"(?:[a-z_-][a-z_0-9-]*/)+[\w.*-]*", word) and not word.startswith(("application/", "text/")):
                there = any(list(root.glob(word.rstrip("/"))) for root in roots)
            else:
                continue
            if not there:
                wrong.append(f"{path.name}: {word}")

    assert wrong == []


def test_the_files_of_the_supervisor_are_as_the_architecture_says() -> None:
    """The table about several workers names files of `supervisor/`, or paths below `gateway/`."""
    section = (DOCS / "architecture.md").read_text(encoding="utf-8").partition("## Several workers")[2].partition("\n## ")[0]
    named = [word for cell in re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE) for word in INLINE.findall(cell)]

    assert named
    assert [word for word in named if not any((ROOT / "gateway" / room / word).is_file() for room in ("supervisor", ""))] == []
