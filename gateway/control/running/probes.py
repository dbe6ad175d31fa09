"""Active probes: each endpoint of an upstream with `health:` is asked at intervals whether it is well.

One task per endpoint, a few probes at a time. Each probe has a connection of its own: whether an endpoint still accepts
connections is part of the question. Its results change nothing but the endpoint's verdict (`EndpointGroup.probed`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from random import random
from time import monotonic
from typing import Any, Final

import aiohttp
from yarl import URL

from gateway.endpoints import Endpoint
from gateway.policies.health import ProbeRecord
from gateway.snapshot import ProbeSettings, Snapshot, Upstream, UpstreamSettings

AT_ONCE: Final = 64
"""Probes in flight; the others wait."""
FIRST_WITHIN: Final = 1.0
"""Seconds in which the first probes are spread."""
JITTER: Final = 0.2
IN_DOUBT: Final = 0.2
"""The part of the interval after which a probe is repeated whose result speaks against the verdict."""
LARGEST_BODY: Final = 64 * 1024
WELL: Final = "ok"

_log = logging.getLogger("gateway")


class Probes:
    """The probes of one worker. `apply` after every change of the snapshot, `follow` after a change of endpoints."""

    def __init__(self) -> None:
        self._upstreams: tuple[Upstream, ...] = ()
        self._watched: dict[Endpoint, tuple[tuple[ProbeSettings, UpstreamSettings], asyncio.Task[None]]] = {}
        self._records: dict[Endpoint, ProbeRecord] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    def apply(self, snapshot: Snapshot) -> None:
        """Probe the endpoints of `snapshot`, and no others."""
        self._upstreams = snapshot.upstreams
        self.follow()

    def follow(self) -> None:
        """The endpoints of an upstream have changed."""
        wanted = {endpoint: upstream for upstream in self._upstreams for endpoint in upstream.group.endpoints if upstream.probe}
        for endpoint, (settings, task) in list(self._watched.items()):
            upstream = wanted.get(endpoint)
            if upstream is None or settings != (upstream.probe, upstream.settings):
                task.cancel()
                del self._watched[endpoint]
            if upstream is None:
                self._forget(endpoint)
        for endpoint, upstream in wanted.items():
            if endpoint not in self._watched:
                assert upstream.probe is not None
                task = asyncio.get_running_loop().create_task(self._watch(endpoint, upstream, upstream.probe))
                self._watched[endpoint] = (upstream.probe, upstream.settings), task

    def _forget(self, endpoint: Endpoint) -> None:
        self._records.pop(endpoint, None)
        if not endpoint.up:
            endpoint.group.probed(endpoint, "", monotonic(), up=True)

    async def stop(self) -> None:
        """End all probes."""
        tasks = [task for _, task in self._watched.values()]
        self._watched.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, endpoint: Endpoint, upstream: Upstream, settings: ProbeSettings) -> None:
        record = self._records.setdefault(endpoint, ProbeRecord(up=endpoint.up))
        pause = random() * min(FIRST_WITHIN, settings.interval)
        while True:
            await asyncio.sleep(pause)
            async with self._turns:
                began = monotonic()
                result, why = await _probed(endpoint, upstream, settings)
            now = monotonic()
            metrics = upstream.metrics
            metrics.probes[result] = metrics.probes.get(result, 0) + 1
            metrics.probe_duration.observe(now - began)
            if record.heard(result == WELL, settings.thresholds):
                endpoint.group.probed(endpoint, why, now, up=record.up)
            elif not record.up:
                endpoint.probe_says = why
            pause = settings.interval * (IN_DOUBT if record.in_doubt else 1.0) * (1.0 - JITTER + 2.0 * JITTER * random())


async def _probed(endpoint: Endpoint, upstream: Upstream, settings: ProbeSettings) -> tuple[str, str]:
    """The result, a word of a closed set for metrics, and what there is to say about it."""
    try:
        async with asyncio.timeout(settings.timeout):
            if settings.tcp:
                await _connect(endpoint, upstream.settings)
                return WELL, ""
            return await _ask(endpoint, upstream.settings, settings)
    except TimeoutError:
        return "timeout", "probe: no answer in time"
    except (ssl.SSLError, ssl.CertificateError, aiohttp.ClientSSLError) as error:
        return "tls", f"probe: {_reason(error)}"
    except (OSError, aiohttp.ClientError, ValueError) as error:
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        if isinstance(cause, ConnectionRefusedError):
            return "refused", "probe: connection refused"
        return "error", f"probe: {_reason(cause)}"
    except Exception as error:  # noqa: BLE001 - a probe that breaks is a probe that failed; the next one comes all the same
        _log.warning("upstream %s: probe of %s: %r", upstream.name, endpoint.label, error)
        return "error", "probe: an error of the gateway"


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]


async def _connect(endpoint: Endpoint, settings: UpstreamSettings) -> None:
    loop = asyncio.get_running_loop()
    tls = settings.tls if endpoint.tls else None
    name = (settings.server_name or endpoint.host) if tls is not None else None
    if endpoint.path:
        transport, _ = await loop.create_unix_connection(asyncio.Protocol, endpoint.path)
    else:
        transport, _ = await loop.create_connection(
            asyncio.Protocol, endpoint.address, endpoint.port, ssl=tls, server_hostname=name
        )
    transport.abort()


async def _ask(endpoint: Endpoint, settings: UpstreamSettings, probe: ProbeSettings) -> tuple[str, str]:
    connector: aiohttp.BaseConnector
    if endpoint.path:
        connector = aiohttp.UnixConnector(endpoint.path, force_close=True)
    else:
        connector = aiohttp.TCPConnector(force_close=True, use_dns_cache=False)
    more: dict[str, Any] = {}
    if endpoint.tls:
        more = {"ssl": settings.tls, "server_hostname": settings.server_name or endpoint.host}
    async with (
        aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding",),
        ) as session,
        session.get(_url(endpoint, probe), headers=_fields(endpoint, probe), allow_redirects=False, **more) as response,
    ):
        status = response.status
        if not any(low <= status <= high for low, high in probe.statuses):
            return "status", f"probe: status {status}"
        if probe.body and probe.body not in await _beginning(response):
            return "body", "probe: the body does not contain what is asked for"
        # What is not read belongs to no one: the connection ends here.
        response.close()
    return WELL, ""


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    read = bytearray()
    with contextlib.suppress(aiohttp.ClientPayloadError):
        while len(read) < LARGEST_BODY:
            part = await response.content.read(LARGEST_BODY - len(read))
            if not part:
                break
            read += part
    return bytes(read)


def _url(endpoint: Endpoint, probe: ProbeSettings) -> URL:
    if endpoint.path:
        return URL(f"http://localhost{probe.target}", encoded=True)
    host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    return URL(f"{'https' if endpoint.tls else 'http'}://{host}:{endpoint.port}{probe.target}", encoded=True)


def _fields(endpoint: Endpoint, probe: ProbeSettings) -> list[tuple[str, str]]:
    fields = [("Host", probe.host or endpoint.authority.decode("ascii")), ("User-Agent", "gateway-health")]
    own = {name.lower() for name, _ in probe.fields}
    return [field for field in fields if field[0].lower() not in own] + list(probe.fields)
