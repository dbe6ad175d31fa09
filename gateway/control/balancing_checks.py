"""What is wrong with load balancing although each of its fields is right."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.control.balancing import LoadBalancing
from gateway.control.nodes import Loc, Positions
from gateway.control.problems import Problem
from gateway.control.schema import Config
from gateway.control.values import did_you_mean
from gateway.router import split_path


def check_balancing(config: Config, positions: Positions) -> Iterator[Problem]:
    """Everything that is wrong with how endpoints are chosen."""
    for name, upstream in config.upstreams.items():
        loc: Loc = ("upstreams", name)
        yield from _algorithm((*loc, "load_balancing"), upstream.load_balancing, positions)
        yield from _parameters(name, config, positions)
        if all(endpoint.backup for endpoint in upstream.endpoints):
            yield positions.problem((*loc, "endpoints"), "all endpoints are backups: at least one must not be")


def _algorithm(loc: Loc, balancing: LoadBalancing, positions: Positions) -> Iterator[Problem]:
    algorithm = balancing.algorithm
    if algorithm == "consistent_hash" and balancing.key is None:
        hint = "write `{algorithm: consistent_hash, key: client_ip}`, or another key"
        yield positions.problem(loc, "`consistent_hash` needs a `key`", hint)
    for name, owner in (("key", "consistent_hash"), ("bounded_load", "consistent_hash"), ("decay", "latency")):
        if algorithm != owner and positions.find((*loc, name))[2]:
            hint = f"it belongs to `algorithm: {owner}`"
            yield positions.problem((*loc, name), f"`{name}` has no effect with `{algorithm}`", hint, key=True)
    for index, part in enumerate(balancing.key or ()):
        if part.kind in ("constant", "route"):
            yield positions.problem((*loc, "key", index), f"`{part}` is the same for all requests: nothing is spread by it")


def _parameters(name: str, config: Config, positions: Positions) -> Iterator[Problem]:
    """`path:NAME` goes by a parameter of the routes that lead to the upstream."""
    paths = [route.match.path for route in config.routes if route.upstream == name]
    known = [segment[1:-1] for path in paths for segment in split_path(path) if segment.startswith("{")]
    for index, part in enumerate(config.upstreams[name].load_balancing.key or ()):
        if part.kind == "path" and part.name not in known and paths:
            loc: Loc = ("upstreams", name, "load_balancing", "key", index)
            message = f"`{part}`: no route to `{name}` has a path parameter of this name"
            yield positions.problem(loc, message, did_you_mean(part.name, known))
