"""The connections of one endpoint: opened when needed, kept while idle (last in, first out).

Last in, first out keeps few connections warm and lets the rest age out, so fewer requests meet a connection that the
upstream is just closing.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Final

from gateway.endpoints import Endpoint
from gateway.errors import Failed, Failure
from gateway.metrics import UpstreamMetrics
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.snapshot import UpstreamSettings

_NO_TLS: Final = "what came back is no TLS: is it an `http://` endpoint?"
_NO_TLS_REASONS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
"""What OpenSSL calls an answer in another protocol."""


class EndpointPool:
    """The connections of one endpoint."""

    __slots__ = ("_all", "_idle", "_loop", "_opening", "_retired", "endpoint", "metrics", "settings")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, endpoint: Endpoint, settings: UpstreamSettings, metrics: UpstreamMetrics
    ) -> None:
        self._loop = loop
        self.endpoint = endpoint
        self.settings = settings
        self.metrics = metrics
        self._idle: list[UpstreamConnection] = []
        self._all: set[UpstreamConnection] = set()
        self._opening = 0
        self._retired = False

    def take(self) -> UpstreamConnection | None:
        """The idle connection used last, or None. Counts an exchange in flight when it returns one."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.transport.is_closing():
                self.endpoint.in_flight += 1
                return connection
        return None

    def drop(self, connection: UpstreamConnection) -> None:
        """Close one that `take` gave, unused."""
        self.endpoint.in_flight -= 1
        connection.transport.abort()

    def put(self, connection: UpstreamConnection) -> None:
        """The exchange on it is over and the connection can serve another."""
        self.endpoint.in_flight -= 1
        if self._retired or len(self._idle) >= self.settings.max_idle:
            connection.close()
            return
        connection.idle_since = monotonic()
        self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is closed."""
        self._all.discard(connection)
        if connection.occupant is None and connection in self._idle:
            self._idle.remove(connection)

    def sweep(self, now: float) -> None:
        """Close connections idle for longer than the settings say. The oldest stand first."""
        oldest = now - self.settings.idle_timeout
        expired = 0
        for connection in self._idle:
            if connection.idle_since > oldest:
                break
            expired += 1
        for connection in self._idle[:expired]:
            connection.close()
        del self._idle[:expired]

    def retire(self) -> None:
        self._retired = True
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def counts(self) -> dict[str, int]:
        return {"open": len(self._all), "idle": len(self._idle)}

    def open(self, wake: Callable[[], None]) -> Opening:
        """Begin to open a connection, counted as in flight; `wake` is called when it is `done`. Raises `Failed`."""
        if len(self._all) + self._opening >= self.settings.max_connections:
            raise Failed(Failure.CONNECTION_LIMIT, f"{self.settings.max_connections} to the endpoint (max_connections)")
        self.endpoint.in_flight += 1
        self._opening += 1
        return Opening(self, self._loop.create_task(self._open()), wake)

    def opened(self, connection: UpstreamConnection | None) -> None:
        """An attempt to open is over; None: without a connection."""
        self._opening -= 1
        if connection is None:
            self.endpoint.in_flight -= 1
        else:
            self._all.add(connection)
            self.metrics.connects += 1

    async def _open(self) -> UpstreamConnection:
        endpoint, settings = self.endpoint, self.settings
        tls = settings.tls if endpoint.tls else None
        name = (settings.server_name or endpoint.host) if tls is not None else None
        if endpoint.path:
            _, made = await self._loop.create_unix_connection(self._make, endpoint.path, ssl=tls, server_hostname=name)
        else:
            _, made = await self._loop.create_connection(
                self._make, endpoint.address, endpoint.port, ssl=tls, server_hostname=name
            )
        return made

    def _make(self) -> UpstreamConnection:
        return UpstreamConnection(self)


class Opening:
    """A connection on its way.

    The one place on the request path that makes an asyncio task: opening a connection is rare and needs the loop's name
    resolution and TLS.
    """

    __slots__ = ("_pool", "_task")

    def __init__(self, pool: EndpointPool, task: asyncio.Task[UpstreamConnection], wake: Callable[[], None]) -> None:
        self._pool = pool
        self._task = task
        task.add_done_callback(lambda _: wake())

    @property
    def done(self) -> bool:
        """It has succeeded or failed: `connection` may be asked."""
        return self._task.done()

    def connection(self) -> UpstreamConnection:
        """The connection, once. Raises `Failed` with the cause why there is none."""
        try:
            connection = self._task.result()
        except (OSError, ssl.SSLError, ValueError) as error:
            self._pool.opened(None)
            raise _connect_failure(error) from None
        except BaseException:
            self._pool.opened(None)
            raise
        if connection.transport.is_closing():
            self._pool.opened(None)
            raise Failed(Failure.TERMINATED, "as soon as it was open")
        self._pool.opened(connection)
        return connection

    def abandon(self) -> None:
        """Nobody waits for it any more, in place of `connection`: leave nothing behind."""
        task = self._task
        self._pool.opened(None)
        if not task.cancel() and not task.cancelled() and task.exception() is None:
            task.result().transport.abort()


def _connect_failure(error: Exception) -> Failed:
    """The row of the failure table for what opening a connection raised."""
    if isinstance(error, socket.gaierror):
        return Failed(Failure.DNS, (error.strerror or "").lower())
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return Failed(Failure.CONNECTION_LIMIT, "the process may open no more files")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failed(Failure.TLS_CERTIFICATE, error.verify_message)
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "").replace("_", " ").lower()
        return Failed(Failure.TLS_PROTOCOL, f"{_NO_TLS} ({reason})" if error.reason in _NO_TLS_REASONS else reason)
    if isinstance(error, FileNotFoundError):
        return Failed(Failure.REFUSED, "there is no such socket")
    if isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(error):
        return Failed(Failure.REFUSED)
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return Failed(Failure.TERMINATED, "while the connection was being opened")
    if isinstance(error, TimeoutError):
        return Failed(Failure.CONNECT_TIMEOUT)
    return Failed(Failure.UNREACHABLE, (error.strerror or "").lower() if isinstance(error, OSError) else "")
