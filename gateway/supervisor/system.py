"""What the supervisor asks of the operating system."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile

from gateway.proxy.downstream.listeners import bind
from gateway.server_settings import Listener
from gateway.supervisor.slot import Place


def lock_file() -> int:
    """An open file without a name, to be locked."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("gateway")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def another(one: Listener, other: list[socket.socket]) -> list[socket.socket]:
    """Sockets that share an address with those of another worker."""
    if one.path or not hasattr(socket, "SO_REUSEPORT"):
        return [sock.dup() for sock in other]
    return bind(Listener(one.host, other[0].getsockname()[1]), shared=True)


def unlink(place: Place) -> None:
    """Take the file of a Unix socket away."""
    if place[2]:
        with contextlib.suppress(OSError):
            os.unlink(place[2])  # noqa: PTH108


def cause(code: int) -> str:
    """Why a process has ended."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def reap(own: set[int]) -> None:
    """As process 1 of a container: end the wait of processes that nobody else waits for. Workers are waited for by the loop."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None or found.si_pid in own:
                return
            os.waitpid(found.si_pid, os.WNOHANG)
        except ChildProcessError:
            return
