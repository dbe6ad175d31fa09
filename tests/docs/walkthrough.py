"""Does what a page tells its reader to do, in a folder of its own, on ports of its own; and looks at what comes out."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.docs.examples import ROOT, Block, blocks
from tests.support import STARTS_WITHIN, holds

TUTORIAL: Final = ROOT / "docs/tutorial.md"
_PORTS: Final = re.compile(r"\b(8080|8443|9900|900\d)\b")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def accepts(port: int) -> bool:
    """Whether somebody listens there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Walkthrough:
    """One reader with a folder, terminals and a page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports: dict[str, str] = {}
        self.printed = ""
        self._terminals: list[subprocess.Popen[bytes]] = []
        programs = folder / "bin"
        programs.mkdir()
        admin = self.read("--admin http://127.0.0.1:9900")
        asks = f'case "$1" in reload|limits|breaker|healthcheck) set -- "$@" {admin};; esac\n'
        for name, command, before in (("gateway", "-m gateway", asks), ("python3", "", "")):
            (programs / name).write_text(f'#!/bin/sh\n{before}exec {sys.executable} {command} "$@"\n')
            (programs / name).chmod(0o755)
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{programs}:{os.environ['PATH']}"}
        self.write("service.py", next(block.text for block in blocks(TUTORIAL) if block.what == "service.py"))

    def close(self) -> None:
        """Close all terminals."""
        for terminal in self._terminals:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(terminal.pid, signal.SIGKILL)
            terminal.wait()

    def read(self, text: str) -> str:
        """What the page says, with the ports of this reader."""
        return _PORTS.sub(lambda found: self.ports.setdefault(found[0], str(free_port())), text)

    def write(self, name: str, text: str) -> None:
        """Write a file."""
        (self.folder / name).write_text(self.read(text), encoding="utf-8")

    def start(self, text: str, port: str) -> None:
        """Start a program in a terminal of its own, and wait until it listens."""
        with (self.folder / f"terminal-{len(self._terminals)}").open("wb") as output:
            terminal = subprocess.Popen(
                ["bash", "-c", self.read(text)],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._terminals.append(terminal)
        number = int(self.read(port))
        assert holds(lambda: accepts(number), STARTS_WITHIN), Path(str(output.name)).read_text()

    def run(self, text: str, expected: str) -> None:
        """Run commands; `expected` is nothing, or `exit N` when the last one fails on purpose."""
        code = int(expected.removeprefix("exit ")) if expected else 0
        result = subprocess.run(
            ["bash", "-c", self.read(text)],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STARTS_WITHIN,
            check=False,
        )
        self.printed = result.stdout.replace("\r", "")
        assert result.returncode == code, f"{text}\n{self.printed}"

    def compare(self, text: str) -> None:
        """What was printed last has these lines in it; `…` stands for anything on a line, and alone for any lines."""
        lines = self.read(text).strip().splitlines()
        pattern = "".join(
            r"(?:.*\n)*?" if line.strip() == "…" else re.escape(line).replace("…", ".*") + r"\n" for line in lines
        )
        tidy = "".join(f"{line.rstrip()}\n" for line in self.printed.splitlines())
        assert re.search(pattern, tidy), f"expected\n{text}\nfound\n{tidy}"

    def walk(self, page: Path) -> None:
        """Do all that the page says, in order."""
        for block in blocks(page):
            self.step(block)

    def step(self, block: Block) -> None:
        """Do what one block says."""
        match block.mark:
            case "file":
                self.write(block.what, block.text)
            case "start":
                self.start(block.text, block.what)
            case "run":
                self.run(block.text, block.what)
            case "output":
                self.compare(block.text)
