"""After 101: raw bytes both ways between two connections, with back-pressure and half-close; no frame is looked at.

Relaying bytes rather than messages keeps every frame, close code and extension as the peers sent it (RFC 6455).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

from gateway.proxy.connection import Connection

FAREWELL: Final = 5.0
"""Seconds that the other side of a lost connection is given to take the last bytes."""

_WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def websocket_accept(key: bytes) -> bytes:
    """The `Sec-WebSocket-Accept` that answers this `Sec-WebSocket-Key` (RFC 6455 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _WEBSOCKET_GUID, usedforsecurity=False).digest())


@dataclass(frozen=True, slots=True)
class _Direction:
    """Bytes from `source` are written to the other connection; reading stops while that one is full."""

    source: Connection

    def hold(self) -> None:
        self.source.pause_reading()

    def release(self) -> None:
        self.source.resume_reading()


class Tunnel:
    """The two joined connections. `on_closed` is called once, when both directions are over."""

    __slots__ = ("_client", "_ended", "_on_closed", "_upstream", "sent_bytes", "touched")

    def __init__(self, client: Connection, upstream: Connection, on_closed: Callable[[], None]) -> None:
        self._client = client
        self._upstream = upstream
        self._on_closed: Callable[[], None] | None = on_closed
        self._ended: set[Connection] = set()
        self.touched = monotonic()
        self.sent_bytes = 0
        """To the client."""
        client.source = _Direction(upstream)
        upstream.source = _Direction(client)

    @property
    def open(self) -> bool:
        """Bytes can still flow."""
        return self._on_closed is not None

    def received(self, source: Connection, data: bytes) -> None:
        """Pass on what one side sent."""
        self.touched = monotonic()
        if source is self._client:
            self._upstream.transport.write(data)
        else:
            self.sent_bytes += len(data)
            self._client.transport.write(data)

    def ended(self, source: Connection) -> bool:
        """One side sends no more: tell the other. True keeps the connection open for the opposite direction."""
        self._ended.add(source)
        other = self._upstream if source is self._client else self._client
        if len(self._ended) == 2 or not other.transport.can_write_eof():
            self.close()
            return False
        other.transport.write_eof()
        return True

    def lost(self, source: Connection) -> None:
        """One connection is gone, so the other goes too: behind what is still on its way to it, if it takes that soon."""
        other = self._upstream if source is self._client else self._client
        self.close()
        asyncio.get_running_loop().call_later(FAREWELL, other.transport.abort)

    def close(self) -> None:
        """Close both connections after what is buffered. Idempotent."""
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is not None:
            self._client.close()
            self._upstream.close()
            on_closed()
