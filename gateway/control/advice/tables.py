"""The tables of this folder, read when they are asked for: they are YAML as the configuration is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.control.reading.nodes import TreeParser, to_data


def read_table(name: str) -> Any:
    """What a table holds; every value is text."""
    path = Path(__file__).with_name(name)
    parser = TreeParser(name, path.read_text(encoding="utf-8"), str)
    root = parser.parse()
    if root is None or parser.problems:
        raise ValueError(f"{name}: {[problem.text for problem in parser.problems]}")
    return to_data(root)
