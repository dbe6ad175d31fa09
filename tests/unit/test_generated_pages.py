"""Pages that are made from the code say what the code says: `make docs` writes them anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.control.json_schema import json_schema
from tests.docs import commands_page, configuration_page, man_page, metrics_page, picture

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {
    "commands.md": commands_page.page,
    "configuration.md": configuration_page.page,
    "explain.svg": picture.page,
    "metrics.md": metrics_page.reference,
    "../deploy/man/gateway.1": man_page.page,
}


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_up_to_date(name: str) -> None:
    """A command, a field or a metric that comes or goes is on its page; `make docs` sees to it."""
    made: Callable[[], str] = PAGES[name]
    assert (DOCS / name).read_text(encoding="utf-8") == made(), "run `make docs`"


def test_every_field_of_the_schema_has_a_row() -> None:
    """Each block has a section, and each of its fields a row of it."""
    schema = json_schema()
    text = configuration_page.page()
    for section in configuration_page.sections(schema):
        title = "The file" if section.title == "the file" else f"`{section.title}`"
        _, _, body = text.partition(f" {title}\n")
        body = body.partition("\n## ")[0].partition("\n### ")[0]
        fields = set(section.schema["properties"])
        if section.title == "routes[]":
            fields -= set(schema["$defs"]["Defaults"]["properties"])
        assert [word for word in fields if f"`{word}`" not in body] == [], section.title
    found = [section.schema for section in configuration_page.sections(schema)]
    for name in schema["$defs"]:
        blocks = [one for _, one in configuration_page.choices({"$ref": f"#/$defs/{name}"}, schema) if "properties" in one]
        assert all(any(block is one for one in found) for block in blocks), name
