"""The picture of the README: what `gateway explain` says of the demo's configuration, drawn by `make docs`."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Final

from gateway.control.load import load
from gateway.control.tools.explain import explain

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "explain.svg"
CONFIG: Final = "config/demo.yaml"
ASKED: Final = ("GET", "http://localhost:8080/users/slow?ms=2000")
MAX_LINES: Final = 32
WIDTH: Final = 108
"""Characters; longer lines end with `…`."""

_COLOURS: Final = ((r"^(?:\$|→|&gt;) .*", "#7ee787"), (r"[\w/.]+\.yaml:\d+\b.*$", "#d2a8ff"))
"""What stands out: pattern ▸ colour; the first that fits."""


def printed() -> list[str]:
    """The command, and the first lines of what it prints."""
    text = explain(load(ROOT / CONFIG, {}), *ASKED, []).replace(str(ROOT) + "/", "")
    lines = [f"$ gateway explain {CONFIG} {ASKED[0]} '{ASKED[1]}'", *text.splitlines()]
    return [line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…" for line in lines[:MAX_LINES]]


def coloured(text: str) -> str:
    """A line, with what stands out in it."""
    for pattern, colour in _COLOURS:
        if found := re.search(pattern, text):
            return f'{text[: found.start()]}<tspan fill="{colour}">{found[0]}</tspan>{text[found.end() :]}'
    return text


def page() -> str:
    """The picture, as SVG without anything from elsewhere."""
    lines = printed()
    height = 17 * len(lines) + 30
    rows = [
        f'<text x="16" y="{28 + 17 * at}" xml:space="preserve">{coloured(html.escape(line, quote=False))}</text>'
        for at, line in enumerate(lines)
    ]
    size = f'width="880" height="{height}" viewBox="0 0 880 {height}"'
    font = 'font-family="ui-monospace, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" font-size="13"'
    background = f'<rect width="880" height="{height}" rx="8" fill="#161b22"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font} fill="#c9d1d9">\n{background}\n'
        + "\n".join(rows)
        + "\n</svg>\n"
    )
