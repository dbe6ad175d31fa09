"""Where clients come in: the listening sockets, and the servers that accept on them.

A door holds its sockets and lets servers work on duplicates. So a server can be replaced (new certificates) without a moment in
which nobody listens: connections wait in the kernel's queue.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
import ssl
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from gateway.proxy.downstream.handshakes import Handshakes
from gateway.proxy.downstream.http1_connection import Http1Connection
from gateway.proxy.downstream.port_holder import holder
from gateway.proxy.downstream.tls_server import TlsServer
from gateway.proxy.file_rights import grant
from gateway.proxy.plane import DataPlane
from gateway.server_settings import Listener

BACKLOG: Final = 1024
"""Connections the kernel holds for us. asyncio's own loop also takes as many in a row, so there it is less."""
PLAIN_BACKLOG: Final = 128


SETTING: Final = "server.listen"
"""Where the address of a listener is written."""


class StartError(Exception):
    """The gateway cannot start, or not with this configuration; the text is for the operator."""


def bind(one: Listener, *, shared: bool = False, what: str = SETTING) -> list[socket.socket]:
    """Sockets bound to the address of a listener, not yet listening. `shared`: others may bind the same (SO_REUSEPORT).

    Raises StartError.
    """
    sockets: list[socket.socket] = []
    try:
        if one.path:
            sockets.append(_bind_path(one))
            return sockets
        port = one.port
        for family, address in _addresses(one):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((address[0], port, *address[2:]))
            port = port or sock.getsockname()[1]
        for sock in sockets:
            sock.setblocking(False)
    except OSError as error:
        close_all(sockets)
        raise StartError(f"cannot listen on {one} ({what}): {reason(error, one.port)}") from None
    return sockets


def bind_for(one: Listener, processes: int) -> list[list[socket.socket]]:
    """The sockets of a listener for each of several processes: sockets of their own, among which the kernel spreads
    connections, or else one for all. Raises StartError."""
    if one.path or not hasattr(socket, "SO_REUSEPORT"):
        sockets = bind(one)
        return [sockets, *([sock.dup() for sock in sockets] for _ in range(processes - 1))]
    # Whoever shares an address shares it with others too, so it is tried alone before.
    alone = bind(one)
    port = alone[0].getsockname()[1]
    close_all(alone)
    found: list[list[socket.socket]] = []
    try:
        for _ in range(processes):
            found.append(bind(replace(one, port=port), shared=True))  # noqa: PERF401 - those before a failure are closed
    except StartError:
        for sockets in found:
            close_all(sockets)
        raise
    return found


def _addresses(one: Listener) -> list[tuple[int, tuple[str, int]]]:
    found = socket.getaddrinfo(one.host or None, one.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))  # type: ignore[misc]


def _bind_path(one: Listener) -> socket.socket:
    path = one.path
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Full of connections that wait is no less alive, and must not hold us up.
        sock.setblocking(False)
        try:
            if stat.S_ISSOCK(Path(path).stat().st_mode):
                _make_way(path, sock)
        except FileNotFoundError:
            pass
        sock.bind(path)
        # Nobody can connect before it listens.
        grant(path, one.rights)
    except BaseException:
        sock.close()
        raise
    return sock


def _make_way(path: str, sock: socket.socket) -> None:
    """Take a socket away whose process has gone: who asks is refused then, and only then. Raises OSError."""
    try:
        sock.connect(path)
    except ConnectionRefusedError:
        Path(path).unlink(missing_ok=True)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError:
        # It waits for connections, but not now, or for something else than connections.
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
    else:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def close_all(sockets: Sequence[socket.socket]) -> None:
    """Close them."""
    for sock in sockets:
        sock.close()


def reason(error: OSError, port: int = 0) -> str:
    """Why an address cannot be listened on, for the operator."""
    if error.errno == errno.EADDRINUSE:
        return f"the address is already in use by {(port and holder(port)) or 'another gateway, or another program'}"
    if error.errno == errno.EACCES and 0 < port < 1024:
        return "ports below 1024 need the right to bind them (CAP_NET_BIND_SERVICE), or net.ipv4.ip_unprivileged_port_start"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    return error.strerror or str(error)


class Door:
    """One listener at work."""

    def __init__(self, listener: Listener, sockets: Sequence[socket.socket], *, own: bool = True) -> None:
        """`own`: the file of a Unix socket is ours to take away."""
        self._own = own
        self.listener = listener
        self.sockets = list(sockets)
        self.servers: list[asyncio.Server | TlsServer] = []

    async def prepare(
        self, plane: DataPlane, tls: ssl.SSLContext | None, handshakes: Handshakes, header: float
    ) -> list[asyncio.Server | TlsServer]:
        """Servers on these sockets that do not accept yet. A TLS handshake may take `header` seconds. Raises StartError."""
        loop = asyncio.get_running_loop()
        backlog = PLAIN_BACKLOG if isinstance(loop, asyncio.SelectorEventLoop) else BACKLOG
        scheme, name = b"http" if tls is None else b"https", str(self.listener).encode()
        accept = functools.partial(Http1Connection, plane, scheme, name)
        servers: list[asyncio.Server | TlsServer] = []
        try:
            for sock in self.sockets:
                if tls is not None:
                    servers.append(TlsServer(sock.dup(), tls, handshakes, accept, header, backlog))
                    continue
                create = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
                servers.append(await create(accept, sock=sock.dup(), backlog=backlog, start_serving=False))
        except OSError as error:
            for server in servers:
                server.close()
            raise StartError(f"cannot listen on {self.listener} ({SETTING}): {reason(error)}") from None
        return servers

    async def open(self, listener: Listener, servers: Sequence[asyncio.Server | TlsServer]) -> None:
        """Let these servers accept, and no others any more."""
        if listener.path and listener.rights != self.listener.rights:
            grant(listener.path, listener.rights)
        former, self.servers, self.listener = self.servers, list(servers), listener
        for server in servers:
            await server.start_serving()
        for server in former:
            server.close()

    def close(self) -> None:
        """Accept nothing more; what waits in the queue is refused."""
        for server in self.servers:
            server.close()
        self.servers = []
        close_all(self.sockets)

    def remove(self) -> None:
        """Take the file of a Unix socket away."""
        if self.listener.path and self._own:
            Path(self.listener.path).unlink(missing_ok=True)
