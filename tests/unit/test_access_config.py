"""`access_log:` in the file: what is refused, what is inherited, what `gateway explain` says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.access_compile import access_rows, access_settings
from gateway.control.load import Loaded, load
from gateway.control.reading.problems import ConfigError, render_text


def loaded(tmp_path: Path, text: str) -> Loaded:
    """The configuration of the text, with a route `a` whose fields `ROUTE` stands for."""
    path = tmp_path / "gateway.yaml"
    path.write_text("version: 1\n" + text, encoding="utf-8")
    return load(path)


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
    config = loaded(
        tmp_path,
        "defaults: {access_log: {sample: 25%}}\n"
        + routes("", ", access_log: {slow: 2s}", ", access_log: off", ", access_log: true"),
    ).config
    found = [access_settings(config, index, "h") for index in range(4)]

    assert found[2] is None
    assert [(one.share, one.slow) for one in found if one is not None] == [(0.25, 1.0), (0.25, 2.0), (0.25, 1.0)]


def test_off_in_the_defaults_is_undone_by_a_route(tmp_path: Path) -> None:
    """What no route takes is logged all the same: it is always a failure."""
    config = loaded(
        tmp_path, "defaults: {access_log: off}\n" + routes("", ", access_log: true", ", access_log: {slow: 3s}")
    ).config

    assert access_settings(config, 0, "h") is None
    assert access_settings(config, 1, "h") is not None
    assert access_settings(config, 2, "h") is not None
    assert access_settings(config, None, "h") is not None


def test_explain_says_what_is_logged_and_where_that_was_written(tmp_path: Path) -> None:
    """Sample and threshold with their places; `off` with its own."""
    config = loaded(tmp_path, "defaults: {access_log: {sample: 12.5%}}\n" + routes("", ", access_log: off")).config
    (sample, shown, value), (slow, threshold, _) = access_rows(config, 0)

    assert (sample, shown) == ("access_log.sample", "12.5%, and what fails or is slow")
    assert value.origin == ("defaults", "access_log", "sample")
    assert (slow, threshold) == ("access_log.slow", "1s")
    assert [row[:2] for row in access_rows(config, 1)] == [("access_log", "off")]


def test_a_log_file_is_relative_to_the_configuration(tmp_path: Path) -> None:
    """As all paths in the file are; `-` is standard output."""
    assert (log := loaded(tmp_path, "access_log: logs/access.log\n" + routes("")).config.access_log) is not None
    assert log.file == str(tmp_path / "logs/access.log")
    assert (log := loaded(tmp_path, routes("")).config.access_log) is not None
    assert log.file == "-"
