"""The configuration as it holds: every block of every route and upstream resolved, once. Only this file knows `defaults`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

from gateway.control.blocks.block import Block, Blocks, RouteFacts, UpstreamFacts
from gateway.control.blocks.registry import ROUTE_BLOCKS, UPSTREAM_BLOCKS
from gateway.control.blocks.upstream import fallback
from gateway.control.reading.nodes import Loc
from gateway.control.schema import Config, Defaults, Route
from gateway.control.words.inherit import Resolved, Scope, resolve
from gateway.control.words.model import Model
from gateway.policies.max_in_flight import RANKS

_FILE: Final = ("server", "admin", "access_log", "redis")


@dataclass(frozen=True, slots=True)
class ResolvedRoute:
    """A route, or `defaults`: what all its blocks say."""

    facts: RouteFacts
    written: Model
    blocks: Blocks


@dataclass(frozen=True, slots=True)
class ResolvedUpstream:
    """An upstream: what all its blocks say."""

    facts: UpstreamFacts
    written: Model
    blocks: Blocks


@dataclass(frozen=True, slots=True)
class ResolvedConfig:
    """All of a configuration."""

    routes: tuple[ResolvedRoute, ...]
    """In the order of the file."""
    defaults: ResolvedRoute
    """What holds where no route says anything, and for requests that no route takes."""
    upstreams: Mapping[str, ResolvedUpstream]
    file: Blocks
    """The blocks at the top of the file."""
    in_flight: Mapping[tuple[str, str], tuple[Any, frozenset[int]]]
    """By scope and name: every limit on what is in flight, and the ranks of the requests that pass it."""


def resolve_config(config: Config) -> ResolvedConfig:
    """Resolve every block. The configuration fits the schema; it may be wrong otherwise."""
    fallbacks = {name: upstream.fallback for name, upstream in config.upstreams.items()}
    shared = _Defaults(config)
    routes = tuple(_route(index, route, shared, fallbacks) for index, route in enumerate(config.routes))
    paths: dict[str, list[str]] = {name: [] for name in config.upstreams}
    for one in routes:
        for name in one.facts.serving:
            paths[name] += one.facts.paths
    upstreams = {name: _upstream(name, config, tuple(paths[name])) for name in config.upstreams}
    file = {name: Resolved(getattr(config, name), (name,) if name in config.model_fields_set else None) for name in _FILE}
    defaults = ResolvedRoute(RouteFacts(("defaults",)), config.defaults, shared.blocks)
    return ResolvedConfig(routes, defaults, upstreams, file, _in_flight(config, routes))


class _Defaults:
    """What holds for every route that does not say otherwise: most say little."""

    def __init__(self, config: Config) -> None:
        self.written: dict[str, list[Scope]] = {}
        self.blocks: dict[str, Resolved[Any]] = {}
        for block in ROUTE_BLOCKS:
            scopes = _scopes(config.defaults, ("defaults",), block) if block.name in Defaults.model_fields else []
            if block.below:
                scopes.append((block.below, reduce(getattr, block.below, config)))
            self.written[block.name] = scopes
            self.blocks[block.name] = resolve(scopes, block.built_in)


def _scopes(written: Model, loc: Loc, block: Block[Any]) -> list[Scope]:
    """Where the block is written; what is `off` may be None, but never something that is inherited."""
    value = getattr(written, block.name)
    there = block.name in written.model_fields_set and (value is not None or block.built_in is None)
    return [((*loc, block.name), value)] if there else []


def _route(index: int, route: Route, shared: _Defaults, fallbacks: Mapping[str, str | None]) -> ResolvedRoute:
    loc: Loc = ("routes", index)
    blocks = dict(shared.blocks)
    for block in ROUTE_BLOCKS:
        own = _scopes(route, loc, block)
        if own:
            blocks[block.name] = resolve(own + shared.written[block.name], block.built_in)
    serving = fallback.chain(route.upstream, route.fallback, fallbacks)
    return ResolvedRoute(RouteFacts(loc, route.name, route.match.path, route.upstream, serving), route, blocks)


def _upstream(name: str, config: Config, paths: tuple[str, ...]) -> ResolvedUpstream:
    written, loc = config.upstreams[name], ("upstreams", name)
    urls = tuple(endpoint.url for endpoint in written.endpoints)
    blocks = {block.name: resolve(_scopes(written, loc, block), getattr(written, block.name)) for block in UPSTREAM_BLOCKS}
    return ResolvedUpstream(UpstreamFacts(loc, name, urls, written.host, paths), written, blocks)


def _in_flight(config: Config, routes: tuple[ResolvedRoute, ...]) -> dict[tuple[str, str], tuple[Any, frozenset[int]]]:
    """A share of a limit is kept only for ranks that there are."""
    found: dict[tuple[str, str], tuple[Any, set[int]]] = {}
    if config.server.max_in_flight is not None:
        found["server", ""] = (config.server.max_in_flight, set())
    for name, upstream in config.upstreams.items():
        if upstream.max_in_flight is not None:
            found["upstream", name] = (upstream.max_in_flight, set())
    for route in routes:
        facts, limit = route.facts, route.blocks["max_in_flight"].value
        if facts.upstream is None:
            continue
        if limit is not None:
            found["route", facts.name] = (limit, set())
        rank = RANKS.index(route.blocks["priority"].value)
        for key in (("server", ""), ("route", facts.name), *(("upstream", name) for name in facts.serving)):
            if key in found:
                found[key][1].add(rank)
    anybody = frozenset(range(len(RANKS))) if config.server.priority_field is not None else None
    return {key: (limit, frozenset(ranks) if anybody is None else anybody) for key, (limit, ranks) in found.items()}
