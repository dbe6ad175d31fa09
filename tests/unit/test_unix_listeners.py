"""A Unix socket that is to be listened on, and whose file is there already: only what a gone process has left is taken away."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.proxy.downstream.listeners import StartError, bind, close_all
from gateway.server_settings import Listener


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Sockets of others, closed in the end."""
    with ExitStack() as stack:
        yield stack


def taken(path: Path, opened: ExitStack, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """The socket of another program."""
    sock = opened.enter_context(socket.socket(socket.AF_UNIX, kind))
    sock.bind(str(path))
    return sock


def test_what_a_gone_process_has_left_is_taken_away(tmp_path: Path, opened: ExitStack) -> None:
    """A gateway that was killed can be started again."""
    path = tmp_path / "in"
    taken(path, opened).close()

    close_all(bind(Listener("", 0, str(path))))


def test_who_listens_keeps_the_address(tmp_path: Path, opened: ExitStack) -> None:
    """Two gateways do not share one."""
    path = tmp_path / "in"
    taken(path, opened).listen()
    with pytest.raises(StartError, match="already in use"):
        bind(Listener("", 0, str(path)))

    assert path.exists()


def test_who_is_busy_keeps_the_address_and_holds_nobody_up(tmp_path: Path, opened: ExitStack) -> None:
    """A queue that is full makes a connection wait: the start said nothing then, and could not be stopped."""
    path = tmp_path / "in"
    taken(path, opened).listen(0)
    first, second = (opened.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
    for client in (first, second):
        client.setblocking(False)
    # A queue of 0 holds one.
    assert [client.connect_ex(str(path)) for client in (first, second)] == [0, errno.EAGAIN]
    with pytest.raises(StartError, match="already in use"):
        bind(Listener("", 0, str(path)))

    assert path.exists()


def test_a_socket_of_another_kind_keeps_its_file(tmp_path: Path, opened: ExitStack) -> None:
    """A log daemon's socket takes no connections, and is in use."""
    path = tmp_path / "log"
    taken(path, opened, socket.SOCK_DGRAM)
    with pytest.raises(StartError, match="already in use"):
        bind(Listener("", 0, str(path)))

    assert path.exists()
