"""What a change of configuration is in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cli import INVALID, OK, USAGE, main
from gateway.control.load import load
from gateway.control.tools.diff import MOST, Change, diff, render

BASE = """
version: 1
server: {listen: ":8080", TIMEOUTS}
upstreams: {u: {endpoints: ["http://10.0.0.1:1"], EXTRA}}
routes:
  - {name: a, match: {path: /a}, upstream: u, ROUTE}
"""

Differ = Callable[..., list[str]]


@pytest.fixture
def differ(tmp_path: Path) -> Differ:
    """The lines of a diff between two texts."""

    def compare(old: str, new: str) -> list[str]:
        (tmp_path / "token").touch()
        for name, text in (("old.yaml", old), ("new.yaml", new)):
            (tmp_path / name).write_text(text, encoding="utf-8")
        return [str(change) for change in diff(load(tmp_path / "old.yaml", {}), load(tmp_path / "new.yaml", {}))]

    return compare


def text(timeouts: str = "", extra: str = "", route: str = "", more: str = "") -> str:
    """A configuration."""
    return BASE.replace("TIMEOUTS", timeouts).replace("EXTRA", extra).replace("ROUTE", route) + more


@pytest.mark.parametrize(
    "old,new",
    [
        (text(route="timeout: 2s"), text(route="timeout: {request: 2000ms}")),
        (text(), text(timeouts="timeouts: {keep_alive: 75s}")),
        (text(), text().replace('":8080"', '[{address: ":8080"}]')),
        (text(route="rate_limit: 100/min"), text(route="rate_limit: {limit: 100/min}")),
        (text(), "# a comment\n" + text()),
    ],
)
def test_what_means_the_same_is_no_change(differ: Differ, old: str, new: str) -> None:
    """Units, short forms, defaults that are written out, and comments."""
    assert differ(old, new) == []
    assert differ(new, old) == []


@pytest.mark.parametrize(
    "old,new,lines",
    [
        (text(route="timeout: 2s"), text(route="timeout: 3s"), ["~ routes[a].timeout.request: 2s → 3s"]),
        (text(), text(timeouts="timeouts: {drain: 1m}"), ["~ server.timeouts.drain: 25s → 1m"]),
        (text(), text(extra="max_connections: 7"), ["~ upstreams[u].max_connections: 1024 → 7"]),
        (
            text(),
            text().replace('["http://10.0.0.1:1"]', '["http://10.0.0.1:1", "http://10.0.0.2:1"]'),
            ["+ upstreams[u].endpoints[http://10.0.0.2:1]"],
        ),
        (text(), text().replace("name: a", "name: b"), ["- routes[a]", "+ routes[b]"]),
        (text(), text(route="rate_limit: 5/s"), ["~ routes[a].rate_limit: unset → 5/s"]),
        (text(), text().replace('":8080"', '[":8080", "unix:/x"]'), ["+ server.listen[unix:/x]"]),
        (text(route="access_log: true"), text(route="access_log: false"), ["~ routes[a].access_log.enabled: true → false"]),
    ],
)
def test_changes_have_names_and_both_values(differ: Differ, old: str, new: str, lines: list[str]) -> None:
    """Entries of lists are told apart by their names, values are shown as they are written, defaults as the manual has them."""
    assert differ(old, new) == lines


def test_the_order_of_routes_is_a_change(differ: Differ) -> None:
    """It decides between equals."""
    one, two = "  - {name: x, match: {path: /x}, respond: 204}\n", "  - {name: y, match: {path: /y}, respond: 204}\n"

    assert differ(text(more=one + two), text(more=two + one)) == ["~ routes: another order"]
    assert differ(text(more=one + two), text(more=two)) == ["- routes[x]"]


def test_secrets_are_not_shown(differ: Differ) -> None:
    """That one has changed is said, what it was or is now is not; headers that are set count as secrets."""
    old = text(route='request_fields: {set: {X-Key: "hunter1"}}', more='redis: {url: "redis://h", password: hunter1}\n')
    lines = differ(old, old.replace("hunter1", "hunter2"))

    assert lines == ["~ redis.password: *** → ***", "~ routes[a].request_fields.set[X-Key]: *** → ***"]


def test_a_file_with_new_content_is_a_change(tmp_path: Path) -> None:
    """A renewed certificate or token has the same name as the old one."""
    path, token = tmp_path / "gateway.yaml", tmp_path / "token"
    path.write_text(text(more="admin: {token_file: token}\n"), encoding="utf-8")
    token.write_text("1", encoding="utf-8")
    old = load(path, {})
    token.write_text("2", encoding="utf-8")

    assert [str(change) for change in diff(old, load(path, {}))] == [f"~ admin.token_file: the content of `{token}`"]


def test_a_long_diff_is_cut() -> None:
    """Terminals and logs get a bounded number of lines."""
    lines = render([Change("added", f"routes[{number}]") for number in range(MOST + 5)]).splitlines()

    assert (len(lines), lines[-1]) == (MOST + 1, "… and 5 more changes")


def test_the_command_has_the_exit_codes_of_diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 no difference, 1 some, 2 trouble."""
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(text(), encoding="utf-8")
    new.write_text(text(route="timeout: 3s"), encoding="utf-8")

    assert main(["diff", str(old), str(old)]) == OK
    assert main(["diff", str(old), str(new)]) == INVALID
    assert capsys.readouterr().out == "no changes\n+ routes[a].timeout: 3s\n"
    assert main(["diff", str(old), str(tmp_path / "none")]) == USAGE
