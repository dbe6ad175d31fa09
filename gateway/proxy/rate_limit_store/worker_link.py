"""Rate limits across the workers of one gateway: one process counts for all of them.

The same batches, time limit, fallback and remembered denials as with Redis (`redis_store.py`), with another link: a Unix socket
to the process that counts. There, a batch costs a few microseconds per check, on one clock for all workers.
"""

from __future__ import annotations

import asyncio
import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from socket import socket
from time import monotonic_ns
from typing import Final

from gateway.policies.rate_limit import rule_of, unpacked_settings
from gateway.ports import Check, LimitCall
from gateway.proxy.rate_limit_store.local import LocalStore
from gateway.proxy.rate_limit_store.redis_link import GarbageError, settle
from gateway.snapshot import LimitTier, RedisSettings

PATIENCE: Final = 0.25
"""Seconds a check may take. The process that counts is on this machine: later than that it is in trouble."""
FORGET: Final = -1
"""The cost that makes a key forgotten."""
LARGEST_FRAME: Final = 1 << 24

_LENGTH: Final = struct.Struct("<I")
_CHECK: Final = struct.Struct("<12s16s25sd")
_VERDICT: Final = struct.Struct("<qqq")

SETTINGS: Final = RedisSettings(scheme="worker", timeout=PATIENCE, shown="the supervisor")


class WorkerLink:
    """The worker's end; see `redis_link.Link`. `connect` gives a socket whose other end is served by `LimitServer`."""

    def __init__(self, connect: Callable[[], socket]) -> None:
        self._connect = connect
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._connect())

    async def run(self, calls: Sequence[LimitCall]) -> None:
        parts = []
        count = 0
        for call in calls:
            parts.append(bytes((len(call.checks),)))
            count += len(call.checks)
            parts += [_CHECK.pack(check.limit.id, check.digest, check.tier.packed, check.cost) for check in call.checks]
        body = b"".join(parts)
        writer = self._writer
        assert writer is not None
        writer.write(_LENGTH.pack(len(body)) + body)
        answer = await self._reader.readexactly(count * _VERDICT.size)
        settle(calls, list(_VERDICT.iter_unpack(answer)))

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.transport.abort()


@dataclass(slots=True, eq=False)
class _Limit:
    """What the counts must know of a limit."""

    id: bytes
    enforce: bool


@lru_cache(maxsize=4096)
def _tier(packed: bytes) -> tuple[LimitTier, bool]:
    settings, enforce = unpacked_settings(packed)
    return LimitTier(settings, rule_of(settings), packed, b"", 0), enforce


_limit: Final = lru_cache(maxsize=4096)(_Limit)


class LimitServer:
    """Counts for all workers: answers their links from one `LocalStore`."""

    def __init__(self, store: LocalStore) -> None:
        self.store = store
        self._transports: OrderedDict[asyncio.BaseTransport, None] = OrderedDict()

    async def serve(self, sock: socket) -> None:
        """Answer what comes from this socket until it is closed."""
        transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: _Session(self.store), sock=sock)
        for old in [one for one in self._transports if one.is_closing()]:
            del self._transports[old]
        self._transports[transport] = None

    def stop(self) -> None:
        """Hang up on all of them."""
        for transport in self._transports:
            transport.close()


class _Session(asyncio.Protocol):
    """One link's other end."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self._in = b""
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is not derived from asyncio's

    def data_received(self, data: bytes) -> None:
        self._in += data
        while len(self._in) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._in)
            end = _LENGTH.size + length
            if length > LARGEST_FRAME:
                self._transport.close()
                return
            if len(self._in) < end:
                return
            body, self._in = self._in[_LENGTH.size : end], self._in[end:]
            try:
                self._transport.write(self._answer(body))
            except (struct.error, GarbageError, ValueError):
                self._transport.close()
                return

    def _answer(self, body: bytes) -> bytes:
        store, now = self._store, monotonic_ns() // 1000
        parts: list[bytes] = []
        at = 0
        while at < len(body):
            count = body[at]
            at += 1
            checks = []
            for _ in range(count):
                limit_id, digest, packed, cost = _CHECK.unpack_from(body, at)
                at += _CHECK.size
                tier, enforce = _tier(packed)
                if cost == FORGET:
                    store.reset(limit_id, digest)
                    cost = 0
                checks.append(Check(_limit(limit_id, enforce), tier, digest, int(cost)))
            parts += [_VERDICT.pack(*verdict) for verdict in store.decide(checks, now)]
        return b"".join(parts)
