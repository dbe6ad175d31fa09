"""Who does what a page says sees what the page shows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.examples import ROOT, blocks
from tests.docs.walkthrough import TUTORIAL, Walkthrough

PAGES = [
    page
    for page in (TUTORIAL, *sorted((ROOT / "docs/how-to").glob("*.md")))
    if any(block.mark in ("run", "start") for block in blocks(page))
]


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
