"""(Config, previous Snapshot) ▸ Snapshot: every name an object, every default merged, every line encoded.

Live state is carried over from the previous snapshot: an endpoint, with its pool and what is in flight on it, as long as its
upstream's name, its URL and weight, and the connection settings are the same; the retry budget of an upstream, as long as its
settings are the same.
"""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias
from urllib.parse import quote

from gateway.control.access_compile import access_settings, fields_logged
from gateway.control.balancing_compile import (
    balancing_settings,
    fallback_of,
    fallbacks_first,
    fields_that_steer,
    steering,
    sticky_secret,
)
from gateway.control.blocks.server import tls
from gateway.control.blocks.server.server import Listen, Server
from gateway.control.blocks.traffic.rate_limit_compile import compile_limits, fields_read, redis_settings, template
from gateway.control.blocks.upstream.circuit_breaker import breaker_settings
from gateway.control.compression_compile import compile_compression, compile_decompression, plain_upstream, request_fields_read
from gateway.control.concurrency_compile import Gates, rank_of
from gateway.control.effective import Edits, effective, strip_prefix
from gateway.control.health_compile import availability, ejection_settings, is_name, probe_settings
from gateway.control.load import Loaded
from gateway.control.matches import route_matches
from gateway.control.retries_compile import compile_hedge, compile_retry, retry_budget
from gateway.control.schema import Config, UpstreamTls
from gateway.control.schema import Endpoint as EndpointConfig
from gateway.control.schema import Route as RouteConfig
from gateway.control.schema import Upstream as UpstreamConfig
from gateway.endpoints import Endpoint, EndpointGroup, GroupSettings, introduce
from gateway.gates import Gate
from gateway.headers import Networks
from gateway.metrics import UNMATCHED, GatewayMetrics, UpstreamMetrics
from gateway.policies.overload import OverloadSettings
from gateway.policies.timeout import TimeoutSettings
from gateway.ports import Pool
from gateway.router import Router
from gateway.snapshot import (
    FieldEdits,
    ForwardedFields,
    Limits,
    Listener,
    Names,
    Redirect,
    Respond,
    Rewrite,
    Route,
    ServerSettings,
    ServerTimeouts,
    ServerTiming,
    Snapshot,
    Upstream,
    UpstreamSettings,
)

MakePool: TypeAlias = Callable[[Endpoint, UpstreamSettings, UpstreamMetrics], Pool]


def compile_config(
    loaded: Loaded, metrics: GatewayMetrics, make_pool: MakePool, previous: Snapshot | None = None, *, workers: int = 1
) -> Snapshot:
    """The snapshot of a configuration that `load` has accepted; `workers` share its rate limits and retry budgets.

    Raises `tls.TlsError` or OSError when a certificate file has changed since; then nothing has been changed. `previous` is
    left as it is: see `dropped_endpoints` for what to retire once the new snapshot is in place. New routes and upstreams are
    counted from now on: see `GatewayMetrics.keep_only`.
    """
    config = loaded.config
    known = {upstream.name: upstream for upstream in previous.upstreams} if previous is not None else {}
    server = _server(config.server, previous.server.listeners if previous is not None else ())
    settings = {name: _upstream_settings(upstream, known.get(name)) for name, upstream in config.upstreams.items()}
    gates = Gates(config, metrics, previous)
    upstreams: dict[str, Upstream] = {}
    for name in fallbacks_first(config.upstreams):
        written = config.upstreams[name]
        upstreams[name] = _upstream(
            name,
            written,
            settings[name],
            metrics.upstream(name),
            make_pool,
            known.get(name),
            gates.get("upstream", name),
            upstreams[written.fallback] if written.fallback is not None else None,
            workers,
        )
    routes = tuple(
        _route(config, index, upstreams, metrics, gates, workers, loaded.hash) for index in range(len(config.routes))
    )
    matches = route_matches(config)
    noted = {*fields_read(config), *fields_that_steer(config), *fields_logged(config), *request_fields_read(config)}
    return Snapshot(
        server=server,
        names=_names(config.server),
        router=Router(zip(matches, routes, strict=True)),
        routes=routes,
        upstreams=tuple(upstreams[name] for name in config.upstreams),
        unmatched=metrics.route(UNMATCHED),
        config_hash=loaded.hash,
        match_fields=frozenset(name for match in matches for name, _ in match.headers) | noted,
        redis=redis_settings(config.redis),
        gates=gates.all(),
        access_log=access_settings(config, None, loaded.hash),
    )


def dropped_endpoints(previous: Snapshot, current: Snapshot) -> list[Endpoint]:
    """The endpoints of `previous` that `current` has not carried over: retire their pools."""
    kept = {id(endpoint) for upstream in current.upstreams for endpoint in (*upstream.group.endpoints, *upstream.names)}
    return [endpoint for upstream in previous.upstreams for endpoint in upstream.group.endpoints if id(endpoint) not in kept]


# -- server ----------------------------------------------------------------------------------------------------------


@functools.cache
def process_name() -> str:
    """The pseudonym of a gateway that has none in its file."""
    return f"gateway-{secrets.token_hex(3)}"


def _listener(listen: Listen, known: dict[Listener, Listener]) -> Listener:
    """A TLS context is kept as long as its settings and files are the same, so that sessions can be resumed."""
    plain = Listener(
        listen.address.host,
        listen.address.port,
        listen.address.path,
        tls_fingerprint=tls.listen_fingerprint(listen.tls) if listen.tls is not None else "",
    )
    if plain in known or listen.tls is None:
        return known.get(plain, plain)
    return replace(plain, tls=tls.server_context(listen.tls))


def _server(server: Server, previous: tuple[Listener, ...]) -> ServerSettings:
    limits, timeouts = server.limits, server.timeouts
    known = {listener: listener for listener in previous}
    return ServerSettings(
        listeners=tuple(_listener(listen, known) for listen in server.listen),
        name=server.name or process_name(),
        trusted_proxies=Networks(server.trusted_proxies),
        limits=Limits(
            headers=limits.headers,
            header_count=limits.header_count,
            target=limits.target,
            response_headers=limits.response_headers,
            connections=limits.connections,
            requests_per_connection=limits.requests_per_connection,
            tunnels=limits.tunnels,
            upload_rate=max(0, limits.upload_rate),
            rate_limit_keys=limits.rate_limit_keys,
        ),
        timeouts=ServerTimeouts(
            header=timeouts.header,
            body_idle=timeouts.body_idle,
            write_stall=timeouts.write_stall,
            keep_alive=timeouts.keep_alive,
            drain=timeouts.drain,
            drain_delay=timeouts.drain_delay,
        ),
        forwarded=ForwardedFields(server.forwarded),
        overload=OverloadSettings(server.overload.default, server.overload.sheddable),
        encoded_slash=server.paths.encoded_slash == "match",
        double_slash=server.paths.double_slash == "match",
    )


def _names(server: Server) -> Names:
    request_id, budget = server.request_id.header.encode("ascii"), server.budget_field.encode("ascii")
    priority = (server.priority_field or "").lower().encode("ascii")
    return Names(request_id.lower(), budget.lower(), request_id + b": ", budget + b": ", priority)


# -- upstreams -------------------------------------------------------------------------------------------------------


def _upstream_settings(upstream: UpstreamConfig, previous: Upstream | None) -> UpstreamSettings:
    secure = any(endpoint.url.tls for endpoint in upstream.endpoints)
    client_tls = upstream.tls or UpstreamTls()
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
    return UpstreamSettings(
        idle_timeout=plain.idle_timeout,
        max_idle=plain.max_idle,
        max_connections=plain.max_connections,
        tls=tls.client_context(client_tls),
        server_name=plain.server_name,
        tls_fingerprint=plain.tls_fingerprint,
    )


def _upstream(
    name: str,
    upstream: UpstreamConfig,
    settings: UpstreamSettings,
    metrics: UpstreamMetrics,
    make_pool: MakePool,
    previous: Upstream | None,
    gate: Gate | None,
    fallback: Upstream | None,
    workers: int,
) -> Upstream:
    same = previous is not None and previous.settings is settings
    known = _by_url(previous) if previous is not None and same else {}
    endpoints: list[Endpoint] = []
    names: list[Endpoint] = []
    for written in upstream.endpoints:
        watched = upstream.dns is not None and is_name(written.url)
        kept, placeholder = known.get(written.url.url, ([], None))
        if not kept or (placeholder is not None) is not watched or not _as_written(kept[0], written):
            made = _endpoint(written)
            made.pool = make_pool(made, settings, metrics)
            kept, placeholder = [made], made if watched else None
        endpoints += kept
        if placeholder is not None:
            names.append(placeholder)
    return Upstream(
        name=name,
        group=_group(name, upstream, endpoints, previous),
        settings=settings,
        host={"preserve": None, "endpoint": b""}.get(upstream.host, upstream.host.encode("ascii")),
        metrics=metrics,
        fallback=fallback,
        steering=steering(upstream),
        probe=probe_settings(upstream),
        names=tuple(names),
        dns_interval=upstream.dns.interval if upstream.dns is not None else 0.0,
        circuit_breaker=breaker_settings(upstream.circuit_breaker),
        retry_budget=retry_budget(upstream.retry_budget, previous, workers),
        gate=gate,
    )


def _by_url(previous: Upstream) -> dict[str, tuple[list[Endpoint], Endpoint | None]]:
    """For each written URL its endpoints, several for a name, and what stands for the name."""
    names = {name.url: name for name in previous.names}
    known: dict[str, tuple[list[Endpoint], Endpoint | None]] = {}
    for endpoint in previous.group.endpoints:
        known.setdefault(endpoint.url, ([], names.get(endpoint.url)))[0].append(endpoint)
    return known


def _as_written(endpoint: Endpoint, written: EndpointConfig) -> bool:
    return endpoint.weight == written.weight and endpoint.backup == written.backup


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
        availability(upstream),
        ejection_settings(upstream.ejection),
        sticky_secret(name, upstream),
    )
    now = time.monotonic()
    if previous is not None:
        group = previous.group
        if group.settings == settings and list(group.endpoints) == endpoints:
            return group
        introduce(endpoints, group.endpoints, now, probed=upstream.health is not None)
    return EndpointGroup(endpoints, settings, now)


# -- routes ----------------------------------------------------------------------------------------------------------


def _route(
    config: Config,
    index: int,
    upstreams: dict[str, Upstream],
    metrics: GatewayMetrics,
    gates: Gates,
    workers: int,
    config_hash: str,
) -> Route:
    written, resolved = config.routes[index], effective(config, index)
    limits = compile_limits(config, index, metrics, workers)
    fallback = fallback_of(written, config.upstreams)
    return Route(
        name=written.name,
        metrics=metrics.route(written.name),
        upstream=upstreams[written.upstream] if written.upstream is not None else None,
        fallback=upstreams[fallback] if fallback is not None else None,
        redirect=_redirect(written),
        respond=_respond(written),
        timeout=TimeoutSettings(resolved.request.value, resolved.attempt.value, resolved.connect.value, resolved.idle.value),
        retry=compile_retry(resolved.retry.value),
        hedge=compile_hedge(resolved.hedge.value),
        max_body=resolved.max_body.value,
        rewrite=_rewrite(written),
        request_edits=plain_upstream(config, index, _field_edits(resolved.request_edits)),
        response_edits=_field_edits(resolved.response_edits),
        upgrades=frozenset(protocol.encode("ascii") for protocol in resolved.upgrades.value),
        server_timing=ServerTiming(resolved.server_timing.value),
        access_log=access_settings(config, index, config_hash),
        rate_limit=limits,
        limit_template=template(limits),
        compression=compile_compression(config, index, metrics),
        decompression=compile_decompression(config, index),
        rank=rank_of(config, index),
        gate=gates.get("route", written.name),
        gates=gates.of_route(written.name, written.upstream),
    )


def _redirect(route: RouteConfig) -> Redirect | None:
    redirect = route.redirect
    if redirect is None:
        return None
    to = redirect.to.encode("ascii")
    keep_query = redirect.keep_path if redirect.keep_query is None else redirect.keep_query
    return Redirect(redirect.status, to.rstrip(b"/") if redirect.keep_path else to, redirect.keep_path, keep_query)


def _respond(route: RouteConfig) -> Respond | None:
    respond = route.respond
    if respond is None:
        return None
    body = respond.body.encode("utf-8")
    lines = [_line(name, value) for name, value in respond.fields.items()]
    if body:
        lines.insert(0, _line("Content-Type", respond.content_type))
    return Respond(respond.status, body, tuple(lines))


def _rewrite(route: RouteConfig) -> Rewrite | None:
    if route.rewrite_prefix is not None:
        old, new = route.rewrite_prefix.old.rstrip("/"), route.rewrite_prefix.new.rstrip("/")
        return Rewrite(old.encode("ascii"), new.encode("ascii"))
    prefix = strip_prefix(route)
    # Clients send the path percent-encoded; a prefix of `match.path` is decoded text.
    return Rewrite(quote(prefix, safe="/-._~!$&'()*+,;=:@").encode("ascii"), b"") if prefix else None


def _field_edits(edits: Edits) -> FieldEdits | None:
    drop = frozenset(name.lower().encode("ascii") for name in (*edits.set, *(removed.value for removed in edits.remove)))
    lines = tuple(_line(name, value.value) for name, value in (*edits.set.items(), *edits.add))
    return FieldEdits(drop, lines) if drop or lines else None


def _line(name: str, value: str) -> bytes:
    return f"{name}: {value}".encode()
