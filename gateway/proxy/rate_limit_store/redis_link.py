"""Connections to the store of rate limits: one server, the master behind sentinels, or a cluster.

A link runs a batch of calls and has no opinion about failures: it raises, and whoever holds it closes it. redis-py's own
retries are off: a check that is run twice is charged twice.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final, Protocol

from redis.asyncio import Connection, RedisCluster, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from gateway.policies.rate_limit import Verdict
from gateway.ports import LimitCall
from gateway.snapshot import RedisSettings

SCRIPT: Final = files("gateway.proxy.rate_limit_store").joinpath("limit_store.lua").read_bytes()
SHA: Final = sha1(SCRIPT, usedforsecurity=False).hexdigest().encode("ascii")

_COUNT: Final = struct.Struct("<H")
_COST: Final = struct.Struct("<d")
_VERDICT: Final = struct.Struct("<qqq")
_ONE: Final = _COST.pack(1)

CONNECT_TIMEOUT: Final = 1.0


class GarbageError(Exception):
    """The store answered something that is no answer."""


def packed_calls(prefix: bytes, calls: Sequence[LimitCall]) -> tuple[list[bytes], bytes]:
    """Keys and argument of the script for these calls. The tag in braces is the digest alone: limits by the same key share
    a slot of a cluster, and no client can choose one."""
    keys = []
    parts = []
    for call in calls:
        checks = call.checks
        parts.append(_COUNT.pack(len(checks)))
        for check in checks:
            keys.append(b"%b:{%b}:%b" % (prefix, check.digest.hex().encode("ascii"), check.limit.id))
            parts.append(check.tier.packed)
            parts.append(_ONE if check.cost == 1 else _COST.pack(check.cost))
    return keys, b"".join(parts)


def unpacked(answer: Any, count: int) -> list[Verdict]:
    """The verdicts of an answer of the script. Raises GarbageError."""
    if not isinstance(answer, bytes) or len(answer) != count * _VERDICT.size:
        raise GarbageError("the answer is not one of the script")
    return list(_VERDICT.iter_unpack(answer))


def settle(calls: Sequence[LimitCall], verdicts: list[Verdict]) -> None:
    """Give each call its verdicts."""
    at = 0
    for call in calls:
        end = at + len(call.checks)
        call.verdicts = verdicts[at:end]
        at = end


class Link(Protocol):
    """An open way to the store."""

    async def open(self) -> None:
        """Connect and authenticate."""

    async def run(self, calls: Sequence[LimitCall]) -> None:
        """Let the script decide; fills in the verdicts."""

    async def close(self) -> None:
        """Drop every connection. Never raises."""


class ServerLink:
    """One connection to one server, found through sentinels if there are any."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._connection: Connection | UnixDomainSocketConnection | None = None

    async def open(self) -> None:
        settings = self._settings
        options = {"db": settings.database, **_options(settings)}
        connection: Connection | UnixDomainSocketConnection
        if settings.path:
            connection = UnixDomainSocketConnection(path=settings.path, **options)
        else:
            host, port = await self._master() if settings.service else settings.nodes[0]
            kind = Connection
            if settings.tls:
                kind = SSLConnection
                options["ssl_ca_certs"] = settings.ca or None
            connection = kind(host=host, port=port, **options)
        self._connection = connection
        await connection.connect()  # type: ignore[no-untyped-call]

    async def _master(self) -> tuple[str, int]:
        settings = self._settings
        options = _client_options(settings)
        sentinel = Sentinel(list(settings.nodes), sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        try:
            host, port = await sentinel.discover_master(settings.service)
            return str(host), int(port)
        finally:
            for client in sentinel.sentinels:
                await client.aclose()

    async def run(self, calls: Sequence[LimitCall]) -> None:
        await _decide(self._ask, self._settings.prefix, calls)

    async def _ask(self, *arguments: str | bytes | int) -> Any:
        connection = self._connection
        assert connection is not None
        await connection.send_packed_command(connection.pack_command(*arguments), check_health=False)
        return await connection.read_response(disconnect_on_error=False)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # it is gone either way
                await connection.disconnect(nowait=True)


class ClusterLink:
    """A cluster. A call runs in the slot of its key.

    The limits of a request with different keys live in different slots, where no script reaches all of them. They are looked
    at first, and charged only when all admit: between the two others can come first, so several gateways may together let a
    few more through than such a combination allows, never more than one limit by itself does.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._cluster: RedisCluster | None = None

    async def open(self) -> None:
        settings = self._settings
        nodes = [ClusterNode(host, port) for host, port in settings.nodes]
        cluster: Any = RedisCluster(startup_nodes=nodes, **_client_options(settings))
        self._cluster = cluster
        await cluster.initialize()

    async def run(self, calls: Sequence[LimitCall]) -> None:
        whole: dict[bytes, list[LimitCall]] = {}
        spread: list[LimitCall] = []
        for call in calls:
            digests = {check.digest for check in call.checks}
            if len(digests) == 1:
                whole.setdefault(digests.pop(), []).append(call)
            else:
                spread.append(call)
        jobs = [self._slot(group) for group in whole.values()] + [self._spread(call) for call in spread]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        if len(errors) == len(results):
            raise errors[0]

    async def _spread(self, call: LimitCall) -> None:
        by_digest: dict[bytes, list[int]] = {}
        for place, check in enumerate(call.checks):
            by_digest.setdefault(check.digest, []).append(place)

        async def ask(places: list[int], *, look: bool) -> LimitCall:
            part = LimitCall([call.checks[place] for place in places])
            await self._slot([part], look=look)
            return part

        seen = await asyncio.gather(*(ask(places, look=True) for places in by_digest.values()))
        verdicts = _merged(by_digest, seen)
        refused = any(verdicts[place][2] and check.limit.enforce for place, check in enumerate(call.checks))
        if not refused:
            verdicts = _merged(by_digest, await asyncio.gather(*(ask(places, look=False) for places in by_digest.values())))
        call.verdicts = [verdicts[place] for place in range(len(call.checks))]

    async def _slot(self, calls: Sequence[LimitCall], *, look: bool = False) -> None:
        assert self._cluster is not None
        await _decide(self._cluster.execute_command, self._settings.prefix, calls, *((b"look",) if look else ()))

    async def close(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            with suppress(Exception):
                await cluster.aclose()


def _merged(by_digest: dict[bytes, list[int]], parts: Sequence[LimitCall]) -> dict[int, Verdict]:
    return {
        place: verdict
        for places, part in zip(by_digest.values(), parts, strict=True)
        for place, verdict in zip(places, part.verdicts, strict=True)
    }


async def _decide(ask: Callable[..., Awaitable[Any]], prefix: bytes, calls: Sequence[LimitCall], *more: bytes) -> None:
    """Run the script for these calls and give them its verdicts."""
    keys, blob = packed_calls(prefix, calls)
    try:
        answer = await ask("EVALSHA", SHA, len(keys), *keys, blob, *more)
    except NoScriptError:
        # A restart, a failover or SCRIPT FLUSH: EVAL runs the script and leaves it there.
        answer = await ask("EVAL", SCRIPT, len(keys), *keys, blob, *more)
    settle(calls, unpacked(answer, len(keys)))


def _options(settings: RedisSettings) -> dict[str, Any]:
    """Of a connection."""
    return {
        "username": settings.username or None,
        "password": settings.password or None,
        "protocol": 2,
        "socket_timeout": None,  # the batcher has one clock for all
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
    }


def _client_options(settings: RedisSettings) -> dict[str, Any]:
    """Of a client that opens connections by itself."""
    tls = {"ssl": True, "ssl_ca_certs": settings.ca or None} if settings.tls else {}
    return _options(settings) | tls


def make_link(settings: RedisSettings) -> Link:
    """A closed link."""
    return ClusterLink(settings) if settings.scheme == "cluster" else ServerLink(settings)
