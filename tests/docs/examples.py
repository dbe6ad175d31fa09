"""The examples of the pages: fenced blocks, whole configurations made of fragments, and commands as they are typed.

A comment before a block says what a reader sees from the words around it:

    <!-- in: route -->              a fragment: of a route, an upstream, `server`, `defaults` or an item of `listen`
    <!-- other: kubernetes -->      YAML of another program
    <!-- file: gateway.yaml -->     the reader writes this file
    <!-- run -->                    a walkthrough runs it, and the block after `<!-- output -->` is what it prints
    <!-- start -->                  the same, in a terminal of its own
    <!-- not run: reason -->        a test cannot
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from gateway.control.json_schema import json_schema
from tests.certificates import Certificates

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE: Final = re.compile(
    r"(?:^<!-- (?P<mark>in|other|file|run|start|output|not run)(?:: (?P<what>[^\n]*?))? -->\n+)?"
    r"^```(?P<language>[a-z]*)[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_REFERENCE: Final = re.compile(r"\$\{([A-Z_]+)\}")
_WRAPPED: Final = {
    "route": ("routes:\n", "  - ", "    "),
    "upstream": ("upstreams:\n  app:\n", "    ", "    "),
    "server": ("server:\n", "  ", "  "),
    "defaults": ("defaults:\n", "  ", "  "),
    "listen": ("server:\n  listen:\n", "    ", "    "),
}
"""Where a fragment belongs: what stands above it, before its first line and before the others."""
_ROUTE: Final = {"name": "name: fragment", "match": "match: {}", "upstream": "upstream: app"}
_ENDS: Final = frozenset("|;&<>")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    what: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("text"))
        yield Block(page, line, found["language"], found["text"], found["mark"] or "", found["what"] or "")


def all_blocks(*languages: str) -> list[Block]:
    """The blocks in these languages, of all pages."""
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


# -- configurations --------------------------------------------------------------------------------------------------


def read(text: str) -> Any:
    """YAML with all scalars as text."""
    return yaml.load(text, yaml.BaseLoader)


def walk(node: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield key, value
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def indented(fragment: str, first: str, others: str) -> str:
    """The fragment with this before its first line and that before all others."""
    lines = [line for line in fragment.splitlines() if line.strip()]
    return "".join(f"{others if at else first}{line}\n" for at, line in enumerate(lines))


def whole(block: Block) -> str:
    """The block as a top-level part of a configuration."""
    if not block.what or block.mark != "in":
        return block.text
    above, first, others = _WRAPPED[block.what]
    text = block.text
    if block.what == "route" and isinstance(written := read(text), dict):
        needed = [line for word, line in _ROUTE.items() if word not in written]
        if {"redirect", "respond"} & set(written):
            needed = [line for line in needed if not line.startswith("upstream")]
        text = "".join(f"{line}\n" for line in needed) + text
    elif block.what == "route":
        first = others = "  "
    elif block.what == "upstream" and "endpoints" not in read(text):
        scheme = "https" if "tls" in read(text) else "http"
        text = f"endpoints: [{scheme}://app.example:8000]\n{text}"
    return above + indented(text, first, others)


def completed(block: Block, folder: Path, certificates: Certificates | None) -> tuple[Path, set[str]]:
    """The block as a configuration in a folder, with what it takes for granted; and the variables that it reads."""
    text = whole(block).replace("/etc/gateway/", "")
    written = read(text)
    assert set(written) <= set(json_schema()["properties"]), f"{block}: say what it is a part of: <!-- in: route -->"
    if "version" not in written:
        text = f"version: 1\n{text}"
    named = {value for key, value in walk(written) if key in ("upstream", "fallback") and isinstance(value, str)} - {"off"}
    missing = sorted(named - set(written.get("upstreams", {})))
    if missing or "routes" not in written:
        more = {
            "upstreams": {name: {"endpoints": ["http://127.0.0.1:9001"]} for name in missing},
            "routes": [] if "routes" in written else [{"name": "more", "match": {}, "respond": 204}],
        }
        (folder / "more.yaml").write_text(yaml.safe_dump({key: value for key, value in more.items() if value}))
        text += "\ninclude: more.yaml\n"
    stems: list[str] = []
    for key, value in walk(written):
        if isinstance(value, str) and key in ("certificate", "key", "ca") and "." in value:
            assert certificates is not None
            if (stem := Path(value).stem) not in stems:
                stems.append(stem)
            kind = ("good", "wrong", "one", "wild")[stems.index(stem) % 4]
            name = "ca.crt" if key == "ca" else f"{kind}.{'crt' if key == 'certificate' else 'key'}"
            (folder / value).parent.mkdir(parents=True, exist_ok=True)
            (folder / value).write_bytes(certificates[name].read_bytes())
        elif isinstance(value, str) and key.endswith("_file"):
            (folder / value).write_text("0123456789abcdef0123456789abcdef")
    path = folder / "gateway.yaml"
    path.write_text(text, encoding="utf-8")
    return path, set(_REFERENCE.findall(text))


# -- commands --------------------------------------------------------------------------------------------------------


def shell_lines(text: str) -> Iterator[str]:
    """The command lines of a shell block, continued ones joined, without the prompt."""
    for line in text.replace("\\\n", " ").splitlines():
        stripped = line.strip().removeprefix("$ ")
        if stripped and not stripped.startswith("#"):
            yield stripped


def commands(line: str) -> Iterator[list[str]]:
    """The commands of a line, each as its words: pipelines and lists are taken apart, redirections and comments left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] = []
    skip = False
    for word in lexer:
        if set(word) <= _ENDS and word:
            if words and not skip:
                yield words
            words, skip = [], bool(set(word) & {"<", ">"})
        else:
            words.append(word)
    if words and not skip:
        yield words


def is_gateway(words: list[str]) -> bool:
    """Whether the command is ours."""
    return Path(words[0]).name == "gateway"
