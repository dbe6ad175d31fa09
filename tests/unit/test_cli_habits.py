"""Habits of the command line: which file and gateway a command is about, examples, versions, completion, following."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import __version__
from gateway.cli import INVALID, OK, UNREACHABLE, USAGE, main
from gateway.cli.examples import EXAMPLES
from gateway.cli.main import _commands, _parser
from gateway.control.load import load
from gateway.control.tools.diff import diff_effective
from gateway.control.tools.dump import effective_config
from gateway.control.tools.log_view import followed

CONFIG = "version: 1\nroutes: [{name: a, match: {}, respond: 204}]\n"

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a configuration, and no variable that names one."""
    monkeypatch.chdir(tmp_path)
    for name in ("GATEWAY_CONFIG", "GATEWAY_ADMIN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


# -- which file --------------------------------------------------------------------------------------------------------


def test_what_init_writes_is_what_check_finds(capsys: Captured) -> None:
    """One rule for the default file."""
    assert main(["init"]) == OK
    assert main(["check"]) == OK
    assert main(["routes"]) == OK
    assert "gateway.yaml: ok, 1 route" in capsys.readouterr().out


def test_without_a_file_it_is_said_where_it_was_looked_for(capsys: Captured, elsewhere: Path) -> None:
    """In words that can be acted upon."""
    assert main(["check"]) == INVALID
    text = capsys.readouterr().err
    assert all(word in text for word in ("gateway.yaml", "config/gateway.yaml", "/etc/gateway/gateway.yaml", str(elsewhere)))
    assert "gateway init" in text


def test_a_variable_names_the_file(capsys: Captured, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`GATEWAY_CONFIG` goes before the places where a file is looked for, and behind the command line."""
    (elsewhere / "other.yaml").write_text(CONFIG)
    main(["init"])
    monkeypatch.setenv("GATEWAY_CONFIG", "other.yaml")
    assert main(["check"]) == OK
    assert main(["check", "gateway.yaml"]) == OK
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["other.yaml", "gateway.yaml"]


def test_a_configuration_comes_from_standard_input(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` is standard input, also for what is wrong with it."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CONFIG.encode())))
    assert main(["check", "-"]) == OK
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CONFIG.replace("respond", "respnod").encode())))
    assert main(["check", "-"]) == INVALID
    out = capsys.readouterr().out
    assert out.startswith("-: ok, 1 route")
    assert "-:2:31: error: unknown field `respnod`" in out


# -- which gateway -----------------------------------------------------------------------------------------------------


def test_commands_ask_the_gateway_of_the_configuration(elsewhere: Path, capsys: Captured) -> None:
    """The admin address of the file is where they ask, unless `--admin` or `GATEWAY_ADMIN` says otherwise."""
    (elsewhere / "gateway.yaml").write_text(CONFIG + f"admin: {{listen: 'unix:{elsewhere}/nobody.sock'}}\n")
    for command in (
        ["reload"],
        ["upstreams"],
        ["breaker"],
        ["limits", "top"],
        ["healthcheck"],
        ["diff", "--running", "gateway.yaml"],
    ):
        assert main(command) == UNREACHABLE
        assert "nobody.sock" in capsys.readouterr().err
    assert main(["upstreams", "--admin", "unix:other.sock"]) == UNREACHABLE
    assert "other.sock" in capsys.readouterr().err


def test_a_broken_file_does_not_hide_the_gateway_that_runs(
    elsewhere: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A health check must not fail because somebody edits the file."""
    (elsewhere / "gateway.yaml").write_text("version: 1\n")
    monkeypatch.setenv("GATEWAY_ADMIN", "unix:here.sock")
    assert main(["healthcheck"]) == UNREACHABLE
    assert "here.sock" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["reload"], ["healthcheck"], ["breaker"]])
def test_a_mistake_in_the_file_does_not_lead_to_another_gateway(elsewhere: Path, capsys: Captured, command: list[str]) -> None:
    """The `admin` of a file with a mistake elsewhere still holds; where it cannot be read at all, that is said."""
    (elsewhere / "gateway.yaml").write_text(
        CONFIG.replace("respond", "respnod") + "admin: {listen: 'unix:/nowhere/there.sock'}\n"
    )
    assert main(command) == UNREACHABLE
    assert "there.sock" in capsys.readouterr().err

    (elsewhere / "gateway.yaml").write_text("admin: {listen: 'unix:/nowhere/there.sock'\n")
    assert main([*command, "--admin", "unix:here.sock"]) == UNREACHABLE
    assert "is not valid" not in capsys.readouterr().err
    assert main(command) == UNREACHABLE
    assert (
        "`gateway.yaml` is not valid, so its `admin` could not be read: `gateway check gateway.yaml`" in capsys.readouterr().err
    )


def test_a_token_that_is_not_there_is_noted(capsys: Captured, elsewhere: Path) -> None:
    """`check` says what `run` would fall over, and what an empty file means; both are no mistake of the file."""
    (elsewhere / "gateway.yaml").write_text(CONFIG + "admin: {token_file: admin.token}\n")
    assert main(["check"]) == OK
    assert "gateway.yaml:3: note: cannot read `admin.token`: No such file or directory: the gateway does not start" in (
        capsys.readouterr().out
    )
    (elsewhere / "admin.token").write_text("\n")
    assert main(["check"]) == OK
    assert "note: `admin.token` is empty" in capsys.readouterr().out
    (elsewhere / "admin.token").write_text("sesame\n")
    assert main(["check"]) == OK
    assert "note" not in capsys.readouterr().out


def test_what_is_too_much_is_said_by_the_command(capsys: Captured) -> None:
    """An argument too many is named, with the help of the command that got it."""
    assert main(["check", "a.yaml", "b.yaml"]) == USAGE
    assert "gateway check: error: one too many, or unknown: b.yaml\nTry `gateway check --help`." in capsys.readouterr().err


def test_something_else_that_answers_is_said(capsys: Captured, elsewhere: Path) -> None:
    """What is no gateway is not taken for one."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as server:
        assert server.stdout is not None
        port = server.stdout.readline().decode().split("port ")[1].split()[0]
        try:
            assert main(["upstreams", "--admin", f"http://127.0.0.1:{port}"]) == UNREACHABLE
        finally:
            server.kill()
    text = capsys.readouterr().err
    assert "something else than a gateway answers" in text
    assert "SimpleHTTP" in text


# -- what would change -------------------------------------------------------------------------------------------------


PROXY = "version: 1\nupstreams: {u: {endpoints: ['http://a:1']}}\nroutes: [{name: a, match: {}, upstream: u}]\n"


@pytest.mark.parametrize(
    "old, new, changes",
    [
        ("timeout: 2s", "timeout: 2000ms", []),
        ("timeout: 10s", "timeout: 9s", ["~ routes[a].timeout.request: 10.0 → 9.0", "~ routes[a].timeout.attempt: 10.0 → 9.0"]),
        ("priority: critical", "timeout: 15s", ["~ routes[a].priority: critical → default"]),
        ("timeout: 15s", "max_in_flight: 5", ["+ routes[a].max_in_flight"]),
    ],
)
def test_a_file_is_compared_with_what_runs(elsewhere: Path, old: str, new: str, changes: list[str]) -> None:
    """By what `/config` shows: value by value, with the names of routes and upstreams."""
    shown = []
    for name, setting in (("old", old), ("new", new)):
        path = elsewhere / f"{name}.yaml"
        path.write_text(PROXY.replace("upstream: u}", f"upstream: u, {setting}}}"))
        shown.append(json.loads(json.dumps(effective_config(load(path)))))

    assert [str(change) for change in diff_effective(*shown)] == changes


# -- help, versions, completion ----------------------------------------------------------------------------------------


def test_the_version(capsys: Captured) -> None:
    """Both habits."""
    assert main(["--version"]) == OK
    assert main(["version"]) == OK
    assert capsys.readouterr().out == f"gateway {__version__}\n" * 2


@pytest.mark.parametrize("name", sorted(_commands(_parser())))
def test_every_command_has_examples_that_can_be_typed(name: str, capsys: Captured) -> None:
    """In its help; each is read by the parser."""
    assert main([name, "-h"]) == OK
    text = capsys.readouterr().out
    for example in EXAMPLES[name]:
        assert name == "demo" or example in text
        words = shlex.split(example.replace('eval "$(', "").replace(')"', ""))
        words = words[: min((words.index(sign) for sign in ("<", ">") if sign in words), default=len(words))]
        if name != "demo":
            _parser().parse_args(words[1:])


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_the_commands(shell: str, capsys: Captured) -> None:
    """It is made from the parser."""
    assert main(["completion", shell]) == OK
    text = capsys.readouterr().out
    assert all(name in text for name in ("healthcheck", "--token-file", "explain"))


def test_what_is_no_command_is_an_error(capsys: Captured) -> None:
    """With the one that was meant."""
    assert main(["chekc"]) == USAGE
    assert "did you mean `check`?" in capsys.readouterr().err


# -- following a log ---------------------------------------------------------------------------------------------------


def test_a_log_is_followed_over_its_rotation(tmp_path: Path) -> None:
    """What is appended comes, half a line only when it is whole; then the new file, from its beginning."""
    path = tmp_path / "access.log"
    path.write_bytes(b"one\ntwo")
    with contextlib.ExitStack() as stack:
        lines: Iterator[bytes] = followed(path, stack, 0.01)
        assert next(lines) == b"one\n"
        with path.open("ab") as file:
            file.write(b" and a half\n")
        assert next(lines) == b"two and a half\n"
        path.rename(tmp_path / "access.log.1")
        path.write_bytes(b"three\n")
        assert next(lines) == b"three\n"
        path.write_bytes(b"4\n")
        assert next(lines) == b"4\n"


def test_a_log_that_was_rotated_is_let_go(tmp_path: Path) -> None:
    """An open file keeps its place on the disk, though it was removed."""
    path = tmp_path / "access.log"
    path.write_bytes(b"0\n")
    with contextlib.ExitStack() as stack:
        lines = followed(path, stack, 0.01)
        for number in range(1, 6):
            next(lines)
            path.rename(tmp_path / "access.log.1")
            path.write_bytes(b"%d\n" % number)
        assert next(lines) == b"5\n"
        held = [str(file.readlink()) for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
        assert [name for name in held if name.startswith(str(tmp_path))] == [str(path)]
