"""Who does what a page says sees what the page shows."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.examples import PAGES as DOCUMENTS
from tests.docs.examples import ROOT, blocks, commands, is_gateway, shell_lines
from tests.docs.walkthrough import TUTORIAL, Walkthrough

PAGES = [
    page
    for page in (TUTORIAL, *sorted((ROOT / "docs/how-to").glob("*.md")))
    if any(block.mark in ("run", "start") for block in blocks(page))
]

TYPED = [
    words
    for page in DOCUMENTS
    if page not in PAGES and page.parent.name != "how-to"
    for block in blocks(page)
    if block.language == "sh"
    for line in shell_lines(block.text)
    for words in commands(line)
    if is_gateway(words) and words[1:] not in (["logs"], ["run", "config/minimal.yaml"])
]
"""Every command of the other pages, but what serves or reads what another program pipes into it."""

STACK = """
version: 1
server: {listen: ["127.0.0.1:8080"]}
admin: {listen: "127.0.0.1:9900", token_file: admin.token}
access_log: {file: access.log}
upstreams:
  users: {endpoints: [http://10.0.0.1:8000, http://10.0.0.2:8000]}
routes:
  - name: users
    match: {path: /users/**}
    upstream: users
    rate_limit: {name: client, limit: 100/min}
"""
"""What those commands speak of. No request is sent to its endpoints."""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Walkthrough]:
    """Somebody who reads and types."""
    for name in ("bash", "curl"):
        if shutil.which(name) is None:
            pytest.skip(f"pages are walked through with {name}")
    walkthrough = Walkthrough(tmp_path)
    yield walkthrough
    walkthrough.close()


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_can_be_walked_through(page: Path, reader: Walkthrough) -> None:
    """Every command of the page that needs nothing but the gateway is run, and prints what the page says."""
    reader.walk(page)


@pytest.mark.processes
@pytest.mark.slow
def test_commands_of_other_pages_work(reader: Walkthrough) -> None:
    """Every `gateway` command that explanations and the README show ends well, asked of a gateway that runs."""
    (reader.folder / "config").mkdir()
    for path in (ROOT / "config").glob("*.yaml"):
        reader.write(f"config/{path.name}", path.read_text(encoding="utf-8"))
    reader.write("admin.token", "0123456789abcdef0123456789abcdef")
    reader.write("gateway.yaml", STACK)
    reader.start("gateway run gateway.yaml", "9900")

    assert TYPED
    for words in TYPED:
        reader.run(shlex.join(["gateway", *words[1:]]), "")
