"""What is wrong with load balancing although each of its fields is right."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.control.balancing_compile import serving
from gateway.control.blocks.upstream.load_balancing import LoadBalancing, Sticky
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.schema import Config
from gateway.control.words.values import did_you_mean
from gateway.router import split_path


def check_balancing(config: Config, positions: Positions) -> Iterator[Problem]:
    """Everything that is wrong with how endpoints are chosen."""
    for name, upstream in config.upstreams.items():
        loc: Loc = ("upstreams", name)
        yield from _algorithm((*loc, "load_balancing"), upstream.load_balancing, positions)
        yield from _parameters(name, config, positions)
        if upstream.sticky is not None:
            yield from _sticky((*loc, "sticky"), upstream.sticky, positions)
        if all(endpoint.backup for endpoint in upstream.endpoints):
            yield positions.problem((*loc, "endpoints"), "all endpoints are backups: at least one must not be")
    yield from _cookies(config, positions)
    yield from _fallbacks(config, positions)


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


def _sticky(loc: Loc, sticky: Sticky, positions: Positions) -> Iterator[Problem]:
    if sticky.same_site == "none" and sticky.secure is False:
        yield positions.problem(
            (*loc, "secure"), "browsers refuse a cookie with `same_site: none` that is not `Secure`", key=True
        )
    if sticky.secret_key is not None and sticky.secret_key_file is not None:
        message = "`secret_key` and `secret_key_file`: only one of them"
        yield positions.problem((*loc, "secret_key_file"), message, key=True)
        return
    try:
        sticky.secret("secret_key")
    except ValueError as error:
        yield positions.problem((*loc, "secret_key_file"), str(error))


def _cookies(config: Config, positions: Positions) -> Iterator[Problem]:
    """A browser keeps one cookie per name and path: two upstreams would take turns in overwriting it."""
    first: dict[tuple[str, str], str] = {}
    for name, upstream in config.upstreams.items():
        if upstream.sticky is None:
            continue
        cookie = (upstream.sticky.cookie, upstream.sticky.path)
        if cookie in first:
            message = f"the upstream `{first[cookie]}` sets the same cookie: each would overwrite that of the other"
            yield positions.problem(("upstreams", name, "sticky", "cookie"), message, "give it another name, or another `path`")
        first.setdefault(cookie, name)


def _fallbacks(config: Config, positions: Positions) -> Iterator[Problem]:
    upstreams = config.upstreams
    for name, upstream in upstreams.items():
        loc: Loc = ("upstreams", name, "fallback")
        yield from _known(loc, upstream.fallback, config, positions)
        chain = [name]
        following = upstream.fallback
        while following in upstreams and following not in chain:
            chain.append(following)
            following = upstreams[following].fallback
        # Each cycle is reported once, at the first of its members in the file.
        if following == name and name == min(chain, key=list(upstreams).index):
            cycle = " ▸ ".join(f"`{member}`" for member in (*chain, name))
            yield positions.problem(loc, f"the fallbacks go in a circle: {cycle}")
    for index, route in enumerate(config.routes):
        place: Loc = ("routes", index, "fallback")
        if route.fallback is None:
            continue
        if route.upstream is None:
            yield positions.problem(place, "`fallback` has no effect in a route without `upstream`", key=True)
        elif route.fallback == route.upstream:
            yield positions.problem(place, "this is the upstream of the route itself")
        elif route.fallback:
            yield from _known(place, route.fallback, config, positions)


def _known(loc: Loc, name: str | None, config: Config, positions: Positions) -> Iterator[Problem]:
    if name is not None and name not in config.upstreams:
        hint = did_you_mean(name, config.upstreams) or f"there are {', '.join(list(config.upstreams)[:10])}"
        yield positions.problem(loc, "there is no upstream of this name", hint)


def _parameters(name: str, config: Config, positions: Positions) -> Iterator[Problem]:
    """`path:NAME` goes by a parameter of the routes that lead to the upstream."""
    paths = [route.match.path for route in config.routes if name in serving(route, config.upstreams)]
    known = [segment[1:-1] for path in paths for segment in split_path(path) if segment.startswith("{")]
    for index, part in enumerate(config.upstreams[name].load_balancing.key or ()):
        if part.kind == "path" and part.name not in known and paths:
            loc: Loc = ("upstreams", name, "load_balancing", "key", index)
            message = f"`{part}`: no route to `{name}` has a path parameter of this name"
            yield positions.problem(loc, message, did_you_mean(part.name, known))
