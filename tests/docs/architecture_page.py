"""The table of files in docs/architecture.md, made from the docstrings of the modules: `make docs` writes it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- files: made by `make docs` -->", "<!-- end of files -->"


def first_sentence(path: Path) -> str:
    """What the module's docstring says first, as a cell of a table."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    sentence = re.split(r"(?<=[.!?])\s", " ".join(text.split("\n\n")[0].split()), maxsplit=1)[0]
    return sentence.rstrip(".:").replace("|", "\\|")


def tables() -> Iterator[str]:
    """One table for each room, in the order of the tree."""
    rooms = sorted({path.parent for path in (ROOT / "gateway").rglob("*.py")})
    for room in rooms:
        about = first_sentence(room / "__init__.py")
        yield f"\n**`{room.relative_to(ROOT)}/`**" + (f": {about}" if about else "") + "\n"
        yield "| file | what it holds |\n|---|---|"
        for path in sorted(room.glob("*.py")):
            if path.name != "__init__.py":
                yield f"| `{path.name}` | {first_sentence(path)} |"


def page() -> str:
    """The page with its tables as they should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + "\n".join(tables()) + "\n\n" + END + after
