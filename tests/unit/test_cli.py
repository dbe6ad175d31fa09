"""The commands: what they print, and their exit codes."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import __version__
from gateway.cli import INVALID, OK, UNREACHABLE, USAGE, main
from gateway.control.tools.starter import STARTER

ROOT = Path(__file__).parents[2]
MINIMAL = str(ROOT / "config" / "minimal.yaml")

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A file with one mistake."""
    path = tmp_path / "broken.yaml"
    path.write_text("version: 1\nroutes: [{name: a, match: {}, upstrem: x, respond: 204}]\n", encoding="utf-8")
    return str(path)


def test_check_of_a_valid_file(capsys: Captured) -> None:
    """A valid file is one line and exit code 0."""
    assert main(["check", MINIMAL]) == OK
    assert capsys.readouterr().out == f"{MINIMAL}: ok, 1 route, 1 upstream\n"


def test_check_of_a_broken_file(capsys: Captured, broken: str) -> None:
    """A broken file is its problems, their number, and exit code 1; without a terminal there is no colour."""
    assert main(["check", broken]) == INVALID
    out = capsys.readouterr().out
    assert out.startswith(f"{broken}:2:31: error: unknown field `upstrem`")
    assert out.endswith("1 problem\n")
    assert "\x1b" not in out


def test_check_for_machines(capsys: Captured, broken: str) -> None:
    """JSON and annotations hold the same problems."""
    assert main(["check", "--format", "json", broken]) == INVALID
    report = json.loads(capsys.readouterr().out)
    assert report["valid"] is False
    assert report["problems"][0]["line"] == 2
    assert main(["check", "--format=github", broken]) == INVALID
    assert capsys.readouterr().out.startswith("::error file=")
    assert main(["check", "--format=json", MINIMAL]) == OK
    assert json.loads(capsys.readouterr().out) == {"valid": True, "problems": []}


@pytest.mark.parametrize("command", [["check"], ["routes"], ["explain"], ["healthcheck"]])
def test_a_missing_file_is_one_line(capsys: Captured, tmp_path: Path, command: list[str]) -> None:
    """A file that is not there is one clear line and exit code 1."""
    path = str(tmp_path / "none.yaml")

    assert main([*command, path, *(["GET", "/"] if command == ["explain"] else [])]) == INVALID
    captured = capsys.readouterr()
    assert f"{path}: error: cannot read the file: No such file or directory\n" in captured.out + captured.err


def test_an_unknown_command(capsys: Captured) -> None:
    """A mistyped command is exit code 2 with what was probably meant."""
    assert main(["chekc"]) == USAGE
    assert "unknown command `chekc`; did you mean `check`?" in capsys.readouterr().err


def test_wrong_usage(capsys: Captured) -> None:
    """No command, a missing argument and an unknown format are exit code 2."""
    assert main([]) == USAGE
    assert main(["explain", MINIMAL]) == USAGE
    assert main(["check", "--format", "xml"]) == USAGE
    assert main(["explain", MINIMAL, "GET", "nonsense"]) == USAGE
    assert "error" in capsys.readouterr().err


def test_explain_and_routes(capsys: Captured) -> None:
    """Both commands print their report."""
    assert main(["explain", MINIMAL, "GET", "/x", "-H", "A: b"]) == OK
    assert "route `everything`" in capsys.readouterr().out
    assert main(["routes", MINIMAL]) == OK
    assert capsys.readouterr().out.startswith("NAME")


def test_schema(capsys: Captured) -> None:
    """The schema is JSON."""
    assert main(["schema"]) == OK
    assert json.loads(capsys.readouterr().out)["title"] == "Gateway configuration"


def test_init_never_overwrites(capsys: Captured, tmp_path: Path) -> None:
    """`init` writes a file to start from, once."""
    path = tmp_path / "g.yaml"

    assert main(["init", str(path)]) == OK
    assert path.read_text(encoding="utf-8") == STARTER
    path.write_text("mine", encoding="utf-8")
    assert main(["init", str(path)]) == INVALID
    assert path.read_text(encoding="utf-8") == "mine"
    assert main(["init", str(tmp_path / "none" / "g.yaml")]) == INVALID
    assert "exists and is left as it is" in capsys.readouterr().err


def test_version(capsys: Captured) -> None:
    """The version is printed."""
    assert main(["version"]) == OK
    assert capsys.readouterr().out == f"gateway {__version__}\n"


class Ready(http.server.BaseHTTPRequestHandler):
    """Answers `/readyz` with the status of its server."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(getattr(self.server, "status", 200) if self.path == "/readyz" else 404)
        self.send_header("Gateway-Version", "1")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def admin() -> Iterator[http.server.HTTPServer]:
    """An admin listener that is ready."""
    server = http.server.HTTPServer(("127.0.0.1", 0), Ready)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_healthcheck(capsys: Captured, tmp_path: Path, admin: http.server.HTTPServer) -> None:
    """Ready is exit code 0, by address or by configuration; anything else is 3."""
    url = f"http://127.0.0.1:{admin.server_port}"
    config = tmp_path / "g.yaml"
    text = "version: 1\nadmin: {{listen: '0.0.0.0:{}'}}\nroutes: [{{name: a, match: {{}}, respond: 204}}]\n"
    config.write_text(text.format(admin.server_port), encoding="utf-8")

    assert main(["healthcheck", "--admin", url]) == OK
    assert main(["healthcheck", str(config)]) == OK
    vars(admin)["status"] = 503
    assert main(["healthcheck", "--admin", url]) == UNREACHABLE
    assert "answered 503" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://a", "http://[", "unix:/nowhere", "http://127.0.0.1:99999"])
def test_healthcheck_of_nothing(url: str) -> None:
    """What cannot be reached is exit code 3."""
    assert main(["healthcheck", "--admin", url or f"http://127.0.0.1:{closed_port()}"]) == UNREACHABLE


def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_healthcheck_without_admin(tmp_path: Path) -> None:
    """A configuration without admin listener cannot be asked."""
    config = tmp_path / "g.yaml"
    config.write_text("version: 1\nadmin: {listen: off}\nroutes: [{name: a, match: {}, respond: 204}]\n", encoding="utf-8")

    assert main(["healthcheck", str(config)]) == USAGE


def run(*code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the project's directory."""
    environment = {**os.environ, **environ}
    return subprocess.run([sys.executable, *code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_module_is_the_command() -> None:
    """`python -m gateway` is `gateway`."""
    assert run("-m", "gateway", "version").stdout == f"gateway {__version__}\n"


def test_a_health_check_starts_fast() -> None:
    """A health check runs every few seconds: it loads neither the schema nor the data plane."""
    code = "import sys; from gateway.cli import main; main(['healthcheck', '--admin', 'unix:/nowhere']); print(*sys.modules)"

    loaded = set(run("-c", code).stdout.split())

    assert not loaded & {"pydantic", "yaml", "aiohttp", "asyncio", "prometheus_client"}


@pytest.mark.slow
def test_a_closed_pipe_is_no_traceback() -> None:
    """`gateway schema | head -1` ends quietly."""
    code = (
        "import os, sys; from gateway.cli import main; r, w = os.pipe(); os.close(r); os.dup2(w, 1); sys.exit(main(['schema']))"
    )

    finished = run("-c", code)

    assert finished.stderr == ""
    assert finished.returncode == OK
