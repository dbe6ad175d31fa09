"""What MkDocs asks while it builds the site: pages that link to files outside `docs/` lead to a page that shows the file."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = "files"
"""Where the site shows files of the source tree."""

_LINK: Final = re.compile(r"(?<=\]\()((?:\.\./)+[^)#\s]+)")
_LANGUAGES: Final = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".service": "ini", "Dockerfile": "docker"}


def _outside(page: str, link: str) -> str:
    """The path in the source tree that a page links to, when it is outside `docs/`; nothing otherwise."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return path if not path.startswith("docs/") and (ROOT / path).exists() else ""


def _shown(path: str) -> str:
    """The page that shows a file: its text, or the names of what is in a folder. Search finds those of `config/` only."""
    place = ROOT / path
    if place.is_dir():
        names = sorted(str(one.relative_to(place)) for one in place.rglob("*") if one.is_file())
        return f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n" + "\n".join(f"- `{name}`" for name in names) + "\n"
    text = place.read_text(encoding="utf-8")
    if place.suffix == ".md":
        return text
    language = _LANGUAGES.get(place.suffix) or _LANGUAGES.get(place.name, "text")
    found = "" if path.startswith("config/") else "---\nsearch: {exclude: true}\n---\n"
    return f"{found}# {path}\n\n````{language}\n{text}````\n"


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each file outside `docs/` that a page links to."""
    linked: set[str] = set()
    for file in list(files.documentation_pages()):
        for link in _LINK.findall(file.content_string):
            linked.add(_outside(file.src_uri, link))
    for path in sorted(linked - {""}):
        files.append(File.generated(config, f"{FOLDER}/{path}.md".replace(".md.md", ".md"), content=_shown(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead such links to those pages."""
    here = page.file.src_uri

    def led(match: re.Match[str]) -> str:
        path = _outside(here, match[1])
        target = f"{FOLDER}/{path}.md".replace(".md.md", ".md")
        return posixpath.relpath(target, posixpath.dirname(here)) if path else match[1]

    return markdown if here.startswith(f"{FOLDER}/") else _LINK.sub(led, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """In the cells of tables a `|` is escaped, and Markdown for Python leaves the backslash where it is code."""
    return re.sub(r"<code>[^<]*</code>", lambda match: match[0].replace("\\|", "|"), html)
