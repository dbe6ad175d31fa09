"""One run finds the mistakes of every kind, and none that is only the shadow of another."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.load import load
from gateway.control.reading.problems import ConfigError

HEAD = """\
version: 1
upstreams:
  users: {endpoints: ["http://127.0.0.1:9001"]}
routes:
"""


def messages(folder: Path, text: str) -> list[str]:
    """What `load` says about the text, as `line: message`."""
    path = folder / "gateway.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [f"{problem.line}: {problem.message}" for problem in caught.value.problems]


def test_cross_checks_run_beside_schema_errors(tmp_path: Path) -> None:
    """A value that does not fit hides neither an unknown upstream nor a contradictory budget elsewhere."""
    found = messages(
        tmp_path,
        HEAD
        + """\
  - {name: a, match: {path: /a}, upstream: user}
  - {name: b, match: {path: /b}, upstream: users, timeout: {request: 1s, attempt: 2s}}
  - {name: c, match: {path: /c/**/d}, upstream: users, priority: high}
server: {limts: {}}
""",
    )

    assert [line.split(":")[0] for line in found] == ["5", "6", "7", "7", "8"]


@pytest.mark.parametrize(
    "route, lines",
    [
        ("{name: a, match: {path: x}, upstream: users, strip_prefix: /api}", ["5"]),
        ("{name: a, match: {path: /a}, redirect: {status: 999}}", ["5", "5"]),
        ("{name: a, match: {path: /a}, respond: 900}", ["5"]),
        ("{name: a, match: {path: /a}, upstream: [users]}", ["5"]),
        ("{match: {path: /a}, upstream: users}", ["5"]),
        ("{name: a, upstream: users}", ["5"]),
        ("[]", ["5"]),
    ],
)
def test_no_mistake_is_reported_for_what_was_taken_out(tmp_path: Path, route: str, lines: list[str]) -> None:
    """The part that stands in for a faulty one is never complained about."""
    found = messages(tmp_path, HEAD + f"  - {route}\n")

    assert [line.split(":")[0] for line in found] == lines


@pytest.mark.parametrize(
    "text, lines",
    [
        ("version: 2\nroutes: []\n", ["1", "2"]),
        ("upstreams: 7\n", ["1", "1", "1"]),
        (
            "version: 1\nupstreams: {a: {endpoints: [7]}, b: {}}\nroutes: [{name: r, match: {path: /}, upstream: a}]\n",
            ["2", "2"],
        ),
    ],
)
def test_missing_blocks_are_reported_once(tmp_path: Path, text: str, lines: list[str]) -> None:
    """A block that is absent, empty or of the wrong kind is one mistake."""
    assert [line.split(":")[0] for line in messages(tmp_path, text)] == lines
