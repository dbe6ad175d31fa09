"""What `gateway check` says although it is not wrong: long polls and the default budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.checks import notes
from gateway.control.load import load


def noted(folder: Path, route: str, top: str = "") -> list[str]:
    """The notes on a configuration with this route."""
    file = folder / "gateway.yaml"
    file.write_text(
        f"version: 1\n{top}\nupstreams: {{u: {{endpoints: ['http://10.0.0.1:1']}}}}\n"
        f"routes:\n  - {{name: r, match: {{}}, {route}}}\n",
        encoding="utf-8",
    )
    loaded = load(file, {})
    return notes(loaded.resolved, loaded.positions)


@pytest.mark.parametrize("words", ["[websocket]", "[tcp, websocket]"])
def test_a_websocket_route_with_the_default_budget_is_noted(tmp_path: Path, words: str) -> None:
    """The note says where, what happens and what to write."""
    (note,) = noted(tmp_path, f"upstream: u, upgrades: {words}")

    assert note.startswith(f"{tmp_path}/gateway.yaml:5:")
    assert "note: long polls" in note and "15s" in note and "`timeout: 40s`" in note


@pytest.mark.parametrize(
    "route,top",
    [
        ("upstream: u", ""),
        ("upstream: u, upgrades: [tcp]", ""),
        ("upstream: u, upgrades: off", ""),
        ("upstream: u, upgrades: [websocket], timeout: 40s", ""),
        ("upstream: u, upgrades: [websocket], timeout: 15s", ""),
        ("upstream: u, upgrades: [websocket]", "defaults: {timeout: 30s}"),
        ("upstream: u", "defaults: {upgrades: [websocket]}"),
        ("respond: 404", ""),
    ],
)
def test_nobody_else_is(tmp_path: Path, route: str, top: str) -> None:
    """Who has written a budget has thought of it; the built-in `upgrades` says nothing about a route."""
    assert [note for note in noted(tmp_path, route, top) if "long polls" in note] == []


def test_the_route_to_copy_is_right(tmp_path: Path) -> None:
    """The route in docs/routes.md loads, and has no note."""
    page = (Path(__file__).parents[2] / "docs" / "routes.md").read_text(encoding="utf-8")
    block = page.partition("## Long polls")[2].partition("```yaml\n")[2].partition("```")[0]
    file = tmp_path / "gateway.yaml"
    file.write_text(f"version: 1\nupstreams: {{chat: {{endpoints: ['http://10.0.0.1:1']}}}}\n{block}", encoding="utf-8")
    loaded = load(file, {})

    assert loaded.config.routes[0].name == "socket-io"
    assert notes(loaded.resolved, loaded.positions) == []
