"""(Config, previous Snapshot) ▸ Snapshot: every name an object, every default merged, every line encoded.

Each block says what it becomes; what several make together is made here and in `compile_upstream.py`, which also carries live
state over from the previous snapshot.
"""

from __future__ import annotations

from typing import Any

from gateway.control.blocks.block import Making
from gateway.control.blocks.message.access_log import access_settings, fields_logged
from gateway.control.blocks.message.compression import plain_upstream
from gateway.control.blocks.registry import ROUTE_BLOCKS, UPSTREAM_BLOCKS
from gateway.control.blocks.server.redis import redis_settings
from gateway.control.blocks.server.server import field_names, server_settings
from gateway.control.blocks.traffic.max_in_flight import make_gates
from gateway.control.blocks.upstream.fallback import fallbacks_first
from gateway.control.compile_upstream import MakePool, compile_upstream, connection_settings
from gateway.control.load import Loaded
from gateway.control.resolved import ResolvedConfig, ResolvedRoute
from gateway.endpoints import Endpoint
from gateway.metrics import UNMATCHED, GatewayMetrics
from gateway.router import Router
from gateway.snapshot import Route, Snapshot, Upstream


def compile_config(
    loaded: Loaded, metrics: GatewayMetrics, make_pool: MakePool, previous: Snapshot | None = None, *, workers: int = 1
) -> Snapshot:
    """The snapshot of a configuration that `load` has accepted; `workers` share its rate limits and retry budgets.

    Raises `tls.TlsError` or OSError when a certificate file has changed since; then nothing has been changed. `previous` is
    left as it is: see `dropped_endpoints` for what to retire once the new snapshot is in place. New routes and upstreams are
    counted from now on: see `GatewayMetrics.keep_only`.
    """
    config, resolved = loaded.config, loaded.resolved
    known = {upstream.name: upstream for upstream in previous.upstreams} if previous is not None else {}
    server = server_settings(config.server, previous.server.listeners if previous is not None else ())
    connections = {name: connection_settings(written, known.get(name)) for name, written in config.upstreams.items()}
    gates = make_gates(resolved.in_flight, metrics, previous.gates if previous is not None else ())
    making = Making(metrics, loaded.hash, workers, resolved.file, gates)
    upstreams: dict[str, Upstream] = {}
    for name in fallbacks_first({name: upstream.fallback for name, upstream in config.upstreams.items()}):
        written = config.upstreams[name]
        instead = upstreams[written.fallback] if written.fallback is not None else None
        facts = resolved.upstreams[name]
        upstreams[name] = compile_upstream(written, facts, connections[name], making, make_pool, known.get(name), instead)
    routes = tuple(_route(route, upstreams, making) for route in resolved.routes)
    matches = [route.match.compiled() for route in config.routes]
    return Snapshot(
        server=server,
        names=field_names(config.server),
        router=Router(zip(matches, routes, strict=True)),
        routes=routes,
        upstreams=tuple(upstreams[name] for name in config.upstreams),
        unmatched=metrics.route(UNMATCHED),
        config_hash=loaded.hash,
        match_fields=frozenset(name for match in matches for name, _ in match.headers) | fields_read(resolved),
        redis=redis_settings(config.redis),
        gates=tuple(gates.values()),
        access_log=access_settings(resolved.defaults.blocks["access_log"].value, None, making),
    )


def dropped_endpoints(previous: Snapshot, current: Snapshot) -> list[Endpoint]:
    """The endpoints of `previous` that `current` has not carried over: retire their pools."""
    kept = {id(endpoint) for upstream in current.upstreams for endpoint in (*upstream.group.endpoints, *upstream.names)}
    return [endpoint for upstream in previous.upstreams for endpoint in upstream.group.endpoints if id(endpoint) not in kept]


def fields_read(resolved: ResolvedConfig) -> frozenset[bytes]:
    """The request fields that any block reads, in lower case."""
    found = set(fields_logged(resolved.file))
    for route in resolved.routes:
        for block in ROUTE_BLOCKS:
            found.update(block.fields_read(route.blocks[block.name], route.facts))
    for upstream in resolved.upstreams.values():
        for upstream_block in UPSTREAM_BLOCKS:
            found.update(upstream_block.fields_read(upstream.blocks[upstream_block.name], upstream.facts))
    return frozenset(found)


def _route(route: ResolvedRoute, upstreams: dict[str, Upstream], making: Making) -> Route:
    facts = route.facts
    slots: dict[str, Any] = {}
    for block in ROUTE_BLOCKS:
        slots.update(block.compile(route.blocks[block.name], facts, making))
    slots["request_edits"] = plain_upstream(route.blocks["compression"].value, slots["request_edits"])
    serving = [upstreams[name] for name in facts.serving[:2]]
    return Route(
        name=facts.name,
        metrics=making.metrics.route(facts.name),
        upstream=serving[0] if serving else None,
        fallback=serving[1] if len(serving) > 1 else None,
        **slots,
    )
