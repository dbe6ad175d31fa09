"""Writes the pages of `docs/` that are made from the code: `python -m tests.docs.pages`."""

from __future__ import annotations

from gateway.control.json_schema import rendered_schema
from tests.docs import architecture_page, commands_page, configuration_page, man_page, metrics_page, picture

if __name__ == "__main__":
    docs = configuration_page.PAGE.parent
    (docs / "metrics.md").write_text(metrics_page.reference(), encoding="utf-8")
    (docs.parent / "config" / "gateway.schema.json").write_text(rendered_schema(), encoding="utf-8")
    commands_page.PAGE.write_text(commands_page.page(), encoding="utf-8")
    configuration_page.PAGE.write_text(configuration_page.page(), encoding="utf-8")
    man_page.PAGE.write_text(man_page.page(), encoding="utf-8")
    picture.PAGE.write_text(picture.page(), encoding="utf-8")
    architecture_page.PAGE.write_text(architecture_page.page(), encoding="utf-8")
