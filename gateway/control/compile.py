"""(Config, previous Snapshot) ▸ Snapshot: every name an object, every default merged, every line encoded.

Each block says what it becomes; what several make together is made here and in `compile_upstream.py`, which also carries live
state over from the previous snapshot.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from gateway.control.blocks.block import Making, RouteFacts
from gateway.control.blocks.message.access_log import access_settings, fields_logged
from gateway.control.blocks.message.compression import plain_upstream
from gateway.control.blocks.registry import ROUTE_BLOCKS, UPSTREAM_BLOCKS
from gateway.control.blocks.server.listen import HTTPS, https_port
from gateway.control.blocks.server.redis import redis_settings
from gateway.control.blocks.server.server import Server, field_names, server_settings
from gateway.control.blocks.traffic.max_in_flight import make_gates
from gateway.control.blocks.upstream.fallback import fallbacks_first
from gateway.control.compile_upstream import MakePool, compile_upstream, connection_settings
from gateway.control.load import Loaded
from gateway.control.matches import route_matches
from gateway.control.resolved import ResolvedConfig, ResolvedRoute
from gateway.endpoints import Endpoint
from gateway.metrics import UNMATCHED, GatewayMetrics
from gateway.router import Router
from gateway.snapshot import Redirect, Route, Snapshot, Upstream

TO_HTTPS: Final = "_to_https"
"""The name of the routes that `redirect_to_https` makes."""
REDIRECT_FACTS: Final = RouteFacts(("server", "listen"), TO_HTTPS)
"""What their blocks, those of `defaults`, know of them."""


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
    to_https = _to_https(config.server, resolved.defaults, making)
    matches = route_matches(config)
    return Snapshot(
        server=server,
        names=field_names(config.server),
        router=Router((match, routes[index]) for index, match in matches),
        routes=(*routes, *to_https.values()),
        upstreams=tuple(upstreams[name] for name in config.upstreams),
        unmatched=metrics.route(UNMATCHED),
        config_hash=loaded.hash,
        match_fields=frozenset(name for _, match in matches for name, _ in match.headers) | fields_read(resolved),
        redis=redis_settings(config.redis),
        gates=tuple(gates.values()),
        to_https=to_https,
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


def _to_https(server: Server, defaults: ResolvedRoute, making: Making) -> dict[bytes, Route]:
    """What answers plain HTTP at listeners with `redirect_to_https`: routes that no `match` leads to."""
    found: dict[bytes, Route] = {}
    first = next((listen.address.port for listen in server.listen if listen.tls is not None), HTTPS)
    for listen in server.listen:
        port = listen.redirect_to_https
        if port is not False:
            other, named = (HTTPS, first) if port is True else (port, port)
            suffixes = (https_port(other), https_port(named))
            route = _route(replace(defaults, facts=REDIRECT_FACTS), {}, making)
            found[str(listen.address).encode()] = replace(route, redirect=Redirect(308, b"", True, True, suffixes))
    return found
