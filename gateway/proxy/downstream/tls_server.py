"""A socket that listens for HTTPS: what it accepts is handed over to the handshakes."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from gateway.proxy.downstream.handshakes import Handshakes

ACCEPTED_AT_ONCE: Final = 8
"""Connections that are taken in a row before others have their turn. Their handshakes come due in a row, too, and each takes a
millisecond of computing: all others wait so long."""
NEXT_TRY: Final = 1.0
"""Seconds without accepting after the process may open no more files."""

_log = logging.getLogger("gateway")


class TlsServer:
    """What `asyncio.Server` is for plain HTTP. The socket becomes its own."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        handshakes: Handshakes,
        accept: Callable[[], asyncio.Protocol],
        patience: float,
        backlog: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._context = context
        self._handshakes = handshakes
        self._accept = accept
        self._patience = patience
        """Seconds that a handshake may take."""
        self._backlog = backlog
        self._again: asyncio.TimerHandle | None = None

    async def start_serving(self) -> None:
        """Accept from now on."""
        self._sock.setblocking(False)
        self._sock.listen(self._backlog)
        self._resume()

    def close(self) -> None:
        """Accept no more. Handshakes that have begun go on."""
        if self._again is not None:
            self._again.cancel()
        if self._sock.fileno() != -1:
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def _resume(self) -> None:
        self._loop.add_reader(self._sock, self._readable)

    def _readable(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.error("cannot accept a connection, trying again in %g s: %s", NEXT_TRY, error.strerror)
                self._loop.remove_reader(self._sock)
                self._again = self._loop.call_later(NEXT_TRY, self._resume)
                return
            sock.setblocking(False)
            self._handshakes.begin(sock, self._context, self._accept, self._patience)
