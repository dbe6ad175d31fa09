"""Child processes pinned to one core, and what /proc says of them."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import resource
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

HOST: Final = "127.0.0.1"
_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")
_KIB: Final = 1024
_FIRST_PORT: Final = 18_000
_PORTS: Final = 10_000
_WANTED_FILES: Final = 65_536


class StartError(RuntimeError):
    """A program is missing, or did not come up; the text says why."""


def raise_file_limit() -> int:
    """Lift this process's limit of open files (children inherit it) as far as it goes; returns the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, _WANTED_FILES), max(hard, _WANTED_FILES)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


_candidates: Final = itertools.cycle(range(_FIRST_PORT, _FIRST_PORT + _PORTS))
for _ in range(os.getpid() * 37 % _PORTS):
    next(_candidates)


def free_port() -> int:
    """A free port below the ephemeral range, so that no outgoing connection takes it meanwhile."""
    for port in itertools.islice(_candidates, _PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise StartError("no free port")


class Process:
    """One child (with its own children) in its own session, its output in a log file."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        core: int,
        log: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                ["taskset", "-c", str(core), *argv],
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    def output(self) -> str:
        """Everything it has written so far."""
        return self.log.read_text("utf-8", "replace")

    def alive(self) -> bool:
        """Has it not exited?"""
        return self._popen.poll() is None

    def wait_for_port(self, port: int, seconds: float = 30.0) -> None:
        """Return when something accepts on `port`; StartError with the tail of the log when it exits or stays away."""
        give_up = time.perf_counter() + seconds
        while time.perf_counter() < give_up:
            if not self.alive():
                raise StartError(f"{self.name} exited with {self._popen.returncode}: {self._tail()}")
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1.0):
                return
            time.sleep(0.02)
        raise StartError(f"{self.name} does not accept on its port after {seconds:.0f} s: {self._tail()}")

    def _tail(self) -> str:
        lines = [line.strip() for line in self.output().splitlines() if line.strip()]
        return " | ".join(lines[-3:]) or "no output"

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to its whole session five seconds later."""
        if self.alive():
            self._popen.terminate()
            try:
                self._popen.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def pids(self) -> list[int]:
        """Its own process id and those of its descendants."""
        return family(self.pid)

    def cpu_seconds(self) -> float:
        """User and system time of the family so far."""
        return family_cpu_seconds(self.pid)

    def rss(self) -> int:
        """Resident bytes of the family."""
        return sum(_status_kib(pid, "VmRSS") for pid in self.pids()) * _KIB

    def reset_peak(self) -> None:
        """Forget the highest RSS so far, so that `peak_rss` tells of what comes next."""
        for pid in self.pids():
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_rss(self) -> int:
        """The highest resident bytes since `reset_peak`, summed over the family."""
        return sum(_status_kib(pid, "VmHWM") for pid in self.pids()) * _KIB

    def sockets(self) -> int:
        """Open sockets of the family."""
        return sum(link.startswith("socket:") for pid in self.pids() for link in _links(pid))


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for stat in _stats():
        children.setdefault(int(stat[2]), []).append(int(stat[0]))
    found = [pid]
    for parent in found:
        found.extend(children.get(parent, ()))
    return found


def family_cpu_seconds(pid: int) -> float:
    """User and system time of a process and its living descendants so far."""
    members = set(family(pid))
    return sum((int(stat[12]) + int(stat[13])) * _TICK for stat in _stats() if int(stat[0]) in members)


def _stats() -> Iterator[list[str]]:
    """/proc/PID/stat of every process, the command name taken out: field n of proc(5) is item n - 2."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                head, _, rest = (entry / "stat").read_text("utf-8", "replace").rpartition(")")
                yield [head.split(" ", 1)[0], *rest.split()]


def _links(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(entry.readlink())


def _status_kib(pid: int, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text("utf-8", "replace").splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1])
    return 0


def core_busy_seconds(core: int) -> float:
    """Seconds the core has not been idle since boot."""
    for line in Path("/proc/stat").read_text("ascii").splitlines():
        fields = line.split()
        if fields[0] == f"cpu{core}":
            ticks = [int(field) for field in fields[1:9]]
            return (sum(ticks) - ticks[3] - ticks[4]) * _TICK
    raise StartError(f"no core {core}")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait until no other benchmark runs on this machine: two at a time measure each other."""
    with (Path(tempfile.gettempdir()) / "gateway-bench.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another benchmark to end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def running(process: Process) -> Iterator[Process]:
    """The process, stopped at the end."""
    try:
        yield process
    finally:
        process.stop()
