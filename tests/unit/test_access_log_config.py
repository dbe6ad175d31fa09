"""`access_log:` in the file: what is refused, what is inherited, what `gateway explain` says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.compile import compile_config
from gateway.control.load import Loaded, load
from gateway.control.reading.problems import ConfigError, render_text
from gateway.control.tools.explain import explain
from gateway.metrics import GatewayMetrics
from gateway.snapshot import Snapshot


def loaded(tmp_path: Path, text: str) -> Loaded:
    """The configuration of the text, with a route `a` whose fields `ROUTE` stands for."""
    path = tmp_path / "gateway.yaml"
    path.write_text("version: 1\n" + text, encoding="utf-8")
    return load(path)


def compiled(tmp_path: Path, text: str) -> Snapshot:
    """What becomes of it."""

    def no_pool(*facts: object) -> object:
        return facts

    return compile_config(loaded(tmp_path, text), GatewayMetrics("0"), no_pool)  # type: ignore[arg-type]


def routes(*fields: str) -> str:
    """Routes with these further fields."""
    return "routes:\n" + "".join(
        f"  - {{name: r{at}, match: {{path: /{at}}}, respond: 204{field}}}\n" for at, field in enumerate(fields)
    )


@pytest.mark.parametrize(
    "text,message",
    [
        ("access_log: {headers: {request: [Cookie]}}", "this header holds credentials and is never logged"),
        ("access_log: {headers: {response: [SET-COOKIE]}}", "this header holds credentials and is never logged"),
        ("access_log: {headers: {request: ['a b']}}", "not a header name"),
        ("access_log: {format: json}", "expected `flat`, `otel` or `ecs`"),
        ("access_log: {path: x}", "unknown field"),
        ("defaults: {access_log: {sample: 0%}}", "must be more than `0%`"),
        ("defaults: {access_log: {sample: 10}}", "did you mean `10%`?"),
        ("defaults: {access_log: {slow: 5}}", "not a duration"),
        ("defaults: {access_log: maybe}", "expected `true`, `off` or a block"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, message: str, tmp_path: Path) -> None:
    """Credentials, unknown words and numbers without a unit are errors that say what to write."""
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text + "\n" + routes(""))

    assert message in render_text(caught.value.problems)


def test_a_route_inherits_field_by_field(tmp_path: Path) -> None:
    """`sample` of the defaults and `slow` of the route hold together; `true` undoes an inherited `off`, `off` all."""
    snapshot = compiled(
        tmp_path,
        "defaults: {access_log: {sample: 25%}}\n"
        + routes("", ", access_log: {slow: 2s}", ", access_log: off", ", access_log: true"),
    )
    found = [route.access_log for route in snapshot.routes]

    assert found[2] is None
    assert [(one.share, one.slow) for one in found if one is not None] == [(0.25, 1.0), (0.25, 2.0), (0.25, 1.0)]


def test_off_in_the_defaults_is_undone_by_a_route(tmp_path: Path) -> None:
    """What no route takes is logged all the same: it is always a failure."""
    snapshot = compiled(
        tmp_path, "defaults: {access_log: off}\n" + routes("", ", access_log: true", ", access_log: {slow: 3s}")
    )

    assert snapshot.routes[0].access_log is None
    assert snapshot.routes[1].access_log is not None
    assert snapshot.routes[2].access_log is not None
    assert snapshot.access_log is not None


def test_explain_says_what_is_logged_and_where_that_was_written(tmp_path: Path) -> None:
    """Sample and threshold with their places; `off` with its own."""
    config = loaded(tmp_path, "defaults: {access_log: {sample: 12.5%}}\n" + routes("", ", access_log: off"))
    texts = [explain(config, "GET", url) for url in ("/0", "/1")]
    rows, off = ([" ".join(line.split()) for line in text.splitlines() if "access_log" in line] for text in texts)

    assert rows[0] == f"access_log.sample 12.5%, and what fails or is slow {config.path}:2"
    assert rows[1] == "access_log.slow 1s default"
    assert off == [f"access_log off {config.path}:5"]


def test_a_log_file_is_relative_to_the_configuration(tmp_path: Path) -> None:
    """As all paths in the file are; `-` is standard output."""
    assert (log := loaded(tmp_path, "access_log: logs/access.log\n" + routes("")).config.access_log) is not None
    assert log.file == str(tmp_path / "logs/access.log")
    assert (log := loaded(tmp_path, routes("")).config.access_log) is not None
    assert log.file == "-"
