"""Lines that come from elsewhere: a merge, a terminal, Markdown, JSON, a list that is written with another mark."""

from __future__ import annotations

import re
from typing import Final

_LONGEST: Final = 80
_ODD: Final = (
    (
        re.compile(r"\s*(?:<{7}|={7}|>{7})(?:\s|$)"),
        "a mark of a merge that is not finished",
        "keep one side, and remove the marks",
    ),
    (re.compile(r"\s*```"), "a fence of Markdown", "remove the line"),
    (re.compile(r"\$ "), "a line of a terminal", "remove it"),
    (re.compile(r"\s*//\s*(.*)"), "comments begin with `#`", "write `# {}`"),
    (re.compile(r"\s*[*•+] +(\S.*)"), "an entry of a list begins with `- `", "write `- {}`"),
    (re.compile(r"\s*-([A-Za-z_][A-Za-z0-9_.-]*:.*)"), "a blank is missing behind `-`", "write `- {}`"),
    (re.compile(r"\s*([A-Za-z_\"'][^:]*: *[\[{].*[\]}]), *$"), "a comma ends no line outside of braces", "write `{}`"),
)
"""What such a line looks like, what it is, and the cure, with what stands behind the mark."""


def odd_line(lines: list[str], first: int, last: int) -> tuple[int, int, str, str] | None:
    """Row, column, message and hint of the last such line from row `first` to `last`, counted from 0."""
    for row in range(min(last, len(lines) - 1), max(first, 0) - 1, -1):
        line = lines[row]
        for pattern, message, hint in _ODD:
            match = pattern.match(line)
            if match is not None and ("comma" not in message or line.count("{") == line.count("}")):
                return row, len(line) - len(line.lstrip()), message, hint.format(*(text[:_LONGEST] for text in match.groups()))
    return None
