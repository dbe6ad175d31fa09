"""TLS handshakes of clients: begun here and not by the servers of the loop, which say nothing of those that fail.

The first byte is looked at before TLS begins: who speaks plain HTTP is told so in plain HTTP. Whoever fails is counted by
reason and logged, at most one line a second. Connections that say nothing at all are only counted: balancers look whether the
port is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

from gateway.proxy.plane import DataPlane

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

LOG_EVERY: Final = 1.0
"""Seconds between two lines of the log."""

_HANDSHAKE: Final = 0x16
"""The first byte of a TLS record that holds a ClientHello (RFC 8446 5.1)."""
_TEXT: Final = b"This port speaks HTTPS: ask again with https:// in place of http://\n"
_PLAIN: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (
    len(_TEXT),
    _TEXT,
)
_UNREAD: Final = 64 * 1024
LINGER: Final = 2.0
"""Seconds for which the rest of a plain request is read and thrown away: a reset would destroy the answer (RFC 9112 9.6)."""
_REASONS: Final = {
    "NO_SHARED_CIPHER": "tls_no_shared_cipher",
    "UNSUPPORTED_PROTOCOL": "tls_protocol_version",
    "WRONG_VERSION_NUMBER": "tls_protocol_version",
    "VERSION_TOO_LOW": "tls_protocol_version",
    "TLSV1_ALERT_PROTOCOL_VERSION": "tls_protocol_version",
    "TLSV1_ALERT_UNKNOWN_CA": "tls_certificate_refused",
    "SSLV3_ALERT_BAD_CERTIFICATE": "tls_certificate_refused",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "tls_certificate_refused",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "tls_certificate_refused",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "tls_certificate_refused",
}
"""What OpenSSL calls it, and what it is called here; anything else is `tls_error`."""
_IN_WORDS: Final = {
    "tls_no_shared_cipher": "client and listener have no cipher in common",
    "tls_protocol_version": "client and listener have no TLS version in common (`tls.min_version`)",
    "tls_certificate_refused": "the client does not accept our certificate",
}

_SAID: Final = {"CALLBACK_FAILED": "the name that the client asks for is not ASCII"}
"""What OpenSSL says, where that says nothing to people."""

_log = logging.getLogger("gateway")


def unraisable(found: UnraisableHookArgs) -> None:
    """A hook for errors that no code can catch (`sys.unraisablehook`). A name (SNI) that is not ASCII is one to CPython, with a
    traceback of each: here it is a handshake that has failed, counted and logged as any other."""
    if not (isinstance(found.exc_value, UnicodeDecodeError) and isinstance(found.object, bytes)):
        sys.__unraisablehook__(found)


class Handshakes:
    """Those of one worker that have not come to an end."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._silent: dict[socket.socket, asyncio.TimerHandle] = {}
        """Accepted, and not a byte has come."""
        self._under_way: set[asyncio.Task[None]] = set()
        self._refused: dict[socket.socket, asyncio.TimerHandle] = {}
        """They have their answer in plain HTTP, and may still be sending."""
        self._last_line = 0.0
        self._more = 0
        """Failures since the last line of the log."""

    def begin(
        self, sock: socket.socket, context: ssl.SSLContext, accept: Callable[[], asyncio.Protocol], patience: float
    ) -> None:
        """Take over a connection that was accepted; `accept` makes its protocol once it is through. `patience`: seconds for the
        first byte, and again for the handshake."""
        waiting = len(self._silent) + len(self._under_way) + len(self._refused)
        if waiting > self._plane.limits.connections:
            sock.close()
            self._count("connection_limit_reached")
            return
        loop = self._plane.loop
        self._silent[sock] = loop.call_later(patience, self._drop, sock, "header_timeout")
        loop.add_reader(sock, self._first_byte, sock, context, accept, patience)

    def drop_silent(self) -> None:
        """Shutdown: nobody who has not begun will be served."""
        for sock in list(self._silent):
            self._drop(sock, "tls_no_handshake")

    async def stop(self) -> None:
        """End those under way, too."""
        self.drop_silent()
        for sock in list(self._refused):
            self._let_go(sock)
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _drop(self, sock: socket.socket, reason: str) -> None:
        self._no_longer_silent(sock)
        sock.close()
        self._count(reason)

    def _no_longer_silent(self, sock: socket.socket) -> None:
        self._silent.pop(sock).cancel()
        self._plane.loop.remove_reader(sock)

    def _first_byte(
        self, sock: socket.socket, context: ssl.SSLContext, accept: Callable[[], asyncio.Protocol], patience: float
    ) -> None:
        try:
            first = sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            first = b""
        if not first:
            self._drop(sock, "tls_no_handshake")
            return
        self._no_longer_silent(sock)
        if first[0] != _HANDSHAKE:
            self._refuse(sock, plain=first.isalpha())
            return
        task = self._plane.loop.create_task(self._handshake(sock, context, accept, patience))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def _refuse(self, sock: socket.socket, *, plain: bool) -> None:
        """What begins with a letter is a request."""
        peer = _peer(sock)
        self._failed(peer, "tls_plain_http" if plain else "tls_error", "plain HTTP at a port for HTTPS" if plain else "no TLS")
        if not plain:
            sock.close()
            return
        with contextlib.suppress(OSError):
            sock.send(_PLAIN)
            sock.shutdown(socket.SHUT_WR)
        loop = self._plane.loop
        self._refused[sock] = loop.call_later(LINGER, self._let_go, sock)
        loop.add_reader(sock, self._throw_away, sock)

    def _throw_away(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(_UNREAD)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._let_go(sock)

    def _let_go(self, sock: socket.socket) -> None:
        self._refused.pop(sock).cancel()
        self._plane.loop.remove_reader(sock)
        sock.close()

    async def _handshake(
        self, sock: socket.socket, context: ssl.SSLContext, accept: Callable[[], asyncio.Protocol], patience: float
    ) -> None:
        peer = _peer(sock)
        began = monotonic()
        try:
            await self._plane.loop.connect_accepted_socket(accept, sock, ssl=context, ssl_handshake_timeout=patience)
        except ssl.SSLError as error:
            said = error.reason or "TLS error"
            reason = _REASONS.get(said, "tls_error")
            self._failed(peer, reason, _IN_WORDS.get(reason) or _SAID.get(said) or said.replace("_", " ").lower())
        except OSError:
            # The loops tell a handshake that takes too long in words of their own, and only so.
            if monotonic() - began >= 0.95 * patience:
                self._failed(peer, "tls_timeout", f"it takes longer than `timeouts.header` ({patience:g} s)")
            else:
                self._failed(peer, "tls_closed", "the client has left")

    def _count(self, reason: str) -> None:
        errors = self._plane.metrics.protocol_errors
        errors[reason] = errors.get(reason, 0) + 1

    def _failed(self, peer: str, reason: str, words: str) -> None:
        self._count(reason)
        now = monotonic()
        if now - self._last_line < LOG_EVERY:
            self._more += 1
            return
        more = f"; {self._more} more since the last such line" if self._more else ""
        self._last_line, self._more = now, 0
        _log.warning("TLS handshake with %s failed: %s%s", peer, words, more)


def _peer(sock: socket.socket) -> str:
    try:
        name = sock.getpeername()
    except OSError:
        return "a client that has left"
    return name[0] if isinstance(name, tuple) else "a peer on a Unix socket"
