"""What is wrong with a configuration, and how it is shown: text for people, JSON and GitHub annotations for machines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final

from gateway.control.reading.files import Sources

_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SECRETS: Final = re.compile(
    r"(?i)((?:password|secret|token|credential)[a-z_]*[\"']?\s*:\s*)([^\s,}#][^,}#]*)|(://)([^/@\s]+)(?=@)"
)
_RED, _BOLD, _BLUE, _RESET = "\033[31m", "\033[1m", "\033[34m", "\033[0m"
_LONGEST_LINE: Final = 160
_LOOKED_AT: Final = 4096
"""Characters of a line in which secrets are looked for, so that many problems in a long line (JSON) cost little."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `line` and `column` count from 1; line 0 means the file as a whole."""

    file: str
    line: int
    column: int
    message: str
    hint: str = ""
    source: str = ""
    """The beginning of the line of the file, without secrets."""
    length: int = 1
    """How many characters the marker underlines."""

    @property
    def text(self) -> str:
        """Message and hint in one line."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


class ConfigError(Exception):
    """The configuration is not valid. `problems` holds all that is wrong, in file and line order; `sources` the files to
    look at for a correction."""

    def __init__(self, problems: Iterable[Problem], sources: Sources | None = None) -> None:
        self.sources = sources or Sources()
        self.problems = tuple(
            sorted(set(problems), key=lambda problem: (problem.file, problem.line, problem.column, problem.message))
        )
        super().__init__(self.problems)

    def __str__(self) -> str:
        return render_text(self.problems)


def printable(text: str) -> str:
    """The text on one line and without characters that could steer a terminal."""
    return _UNPRINTABLE.sub(lambda match: " " if match[0] in "\t\n\r" else "?", text)


def hide_secrets(line: str) -> str:
    """A source line with the values of secret fields and the credentials in URLs replaced by asterisks of equal length."""

    def cover(match: re.Match[str]) -> str:
        shown, hidden = (match[1], match[2]) if match[1] is not None else (match[3], match[4])
        return f"{shown}{'*' * len(hidden)}" if not hidden.startswith("${") else match[0]

    return _SECRETS.sub(cover, line)


def shown(line: str) -> str:
    """As much of a source line as is shown, without its secrets."""
    # Of a URL that is cut, all may be credentials: an `@` at the end has them covered.
    return hide_secrets(line if len(line) <= _LOOKED_AT else line[:_LOOKED_AT] + "@")[:_LONGEST_LINE]


def render_text(problems: Iterable[Problem], *, colour: bool = False) -> str:
    """`file:line:column: error: message`, the source line and a marker under the place."""
    red, bold, blue, reset = (_RED, _BOLD, _BLUE, _RESET) if colour else ("", "", "", "")
    blocks = []
    for problem in problems:
        place = f"{problem.file}:{problem.line}:{problem.column}" if problem.line else problem.file
        block = f"{bold}{printable(place)}:{reset} {red}error:{reset} {printable(problem.text)}"
        if problem.source.strip() and problem.column <= _LONGEST_LINE:
            source = printable(problem.source)
            gutter = f"{problem.line:>6}"
            length = max(1, min(problem.length, len(source) - problem.column + 1))
            block += f"\n{blue}{gutter} |{reset} {source}"
            block += f"\n{blue}{' ' * len(gutter)} |{reset} {' ' * (problem.column - 1)}{red}{'^' * length}{reset}"
        blocks.append(block)
    return "\n".join(blocks)


def render_json(problems: Iterable[Problem]) -> str:
    """`{"valid": …, "problems": […]}` with the fields of `Problem`."""
    listed = [asdict(problem) for problem in problems]
    return json.dumps({"valid": not listed, "problems": listed}, indent=2)


def render_github(problems: Iterable[Problem]) -> str:
    """Workflow commands that annotate a pull request."""
    return "\n".join(
        f"::error file={_escape(problem.file, ':,')},line={max(problem.line, 1)},col={max(problem.column, 1)}"
        f"::{_escape(printable(problem.text))}"
        for problem in problems
    )


def _escape(text: str, more: str = "") -> str:
    for character in "%\r\n" + more:
        text = text.replace(character, f"%{ord(character):02X}")
    return text
