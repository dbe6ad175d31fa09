"""An upstream, compiled: what its blocks make together, and what of the previous snapshot goes on living.

An endpoint is carried over, with its pool and what is in flight on it, as long as its upstream's name, its URL and weight, and
the connection settings are the same; the retry budget of an upstream, as long as its settings are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from gateway.control.blocks import tls
from gateway.control.blocks.block import Making
from gateway.control.blocks.registry import UPSTREAM_BLOCKS
from gateway.control.blocks.upstream.endpoints import Endpoint as EndpointConfig
from gateway.control.blocks.upstream.health import ejection_settings, is_name
from gateway.control.blocks.upstream.load_balancing import affinity, balancing_settings, sticky_secret
from gateway.control.blocks.upstream.retry_budget import live_budget
from gateway.control.resolved import ResolvedUpstream
from gateway.control.schema import Upstream as UpstreamConfig
from gateway.endpoints import Endpoint, EndpointGroup, GroupSettings, introduce
from gateway.metrics import UpstreamMetrics
from gateway.policies.health import AvailabilitySettings
from gateway.ports import Pool
from gateway.snapshot import Upstream, UpstreamSettings

MakePool: TypeAlias = Callable[[Endpoint, UpstreamSettings, UpstreamMetrics], Pool]


def connection_settings(upstream: UpstreamConfig, previous: Upstream | None) -> UpstreamSettings:
    """How connections are made and kept; the same object as long as nothing of it changes. Raises `tls.TlsError`, OSError."""
    secure = any(endpoint.url.tls for endpoint in upstream.endpoints)
    client_tls = upstream.tls or tls.UpstreamTls()
    plain = UpstreamSettings(
        idle_timeout=upstream.keep_alive.idle,
        max_idle=upstream.keep_alive.max_idle,
        max_connections=upstream.max_connections,
        server_name=(client_tls.server_name or "") if secure else "",
        tls_fingerprint=tls.fingerprint(client_tls) if secure else "",
    )
    if previous is not None and previous.settings == plain:
        return previous.settings
    if not secure:
        return plain
    return replace(plain, tls=tls.client_context(client_tls))


def compile_upstream(
    written: UpstreamConfig,
    resolved: ResolvedUpstream,
    settings: UpstreamSettings,
    making: Making,
    make_pool: MakePool,
    previous: Upstream | None,
    fallback: Upstream | None,
) -> Upstream:
    """What the data plane knows of an upstream."""
    name, blocks = resolved.facts.name, resolved.blocks
    metrics = making.metrics.upstream(name)
    same = previous is not None and previous.settings is settings
    known = _by_url(previous) if previous is not None and same else {}
    endpoints: list[Endpoint] = []
    names: list[Endpoint] = []
    for entry in written.endpoints:
        watched = written.dns is not None and is_name(entry.url)
        kept, placeholder = known.get(entry.url.url, ([], None))
        if (
            not kept
            or (placeholder is not None) is not watched
            or (kept[0].weight, kept[0].backup) != (entry.weight, entry.backup)
        ):
            made = _endpoint(entry)
            made.pool = make_pool(made, settings, metrics)
            kept, placeholder = [made], made if watched else None
        endpoints += kept
        if placeholder is not None:
            names.append(placeholder)
    slots: dict[str, Any] = {}
    for block in UPSTREAM_BLOCKS:
        slots.update(block.compile(blocks[block.name], resolved.facts, making))
    return Upstream(
        name=name,
        group=_group(name, written, endpoints, previous),
        settings=settings,
        metrics=metrics,
        fallback=fallback,
        affinity=affinity(written.load_balancing, written.sticky),
        names=tuple(names),
        retry_budget=live_budget(written.retry_budget, previous.retry_budget if previous is not None else None, making.workers),
        **slots,
    )


def _by_url(previous: Upstream) -> dict[str, tuple[list[Endpoint], Endpoint | None]]:
    """For each written URL its endpoints, several for a name, and what stands for the name."""
    names = {name.url: name for name in previous.names}
    known: dict[str, tuple[list[Endpoint], Endpoint | None]] = {}
    for endpoint in previous.group.endpoints:
        known.setdefault(endpoint.url, ([], names.get(endpoint.url)))[0].append(endpoint)
    return known


def _endpoint(written: EndpointConfig) -> Endpoint:
    url = written.url
    return Endpoint(
        url.url,
        host=url.host,
        port=url.port,
        path=url.path,
        tls=url.tls,
        weight=written.weight,
        backup=written.backup,
        authority=url.authority.encode("ascii"),
    )


def _group(name: str, upstream: UpstreamConfig, endpoints: list[Endpoint], previous: Upstream | None) -> EndpointGroup:
    settings = GroupSettings(
        balancing_settings(upstream.load_balancing),
        AvailabilitySettings(panic=upstream.panic, slow_start=upstream.slow_start),
        ejection_settings(upstream.ejection),
        sticky_secret(name, upstream.sticky),
    )
    now = time.monotonic()
    if previous is not None:
        group = previous.group
        if group.settings == settings and list(group.endpoints) == endpoints:
            return group
        introduce(endpoints, group.endpoints, now, probed=upstream.health is not None)
    return EndpointGroup(endpoints, settings, now)
