"""What the schema cannot see. What concerns one block is checked there; what follows are the rules between several."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from gateway.control.blocks.block import Block, Blocks, RouteFacts
from gateway.control.blocks.message.upgrades import WEBSOCKET
from gateway.control.blocks.registry import ROUTE_BLOCKS, UPSTREAM_BLOCKS
from gateway.control.blocks.server.redis import check_redis
from gateway.control.blocks.server.server import check_server
from gateway.control.blocks.traffic.retry import RETRY_OFF
from gateway.control.blocks.upstream import fallback
from gateway.control.evasion import evasions
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.resolved import ResolvedConfig, ResolvedRoute, ResolvedUpstream
from gateway.control.schema import Config, Route
from gateway.control.shadowing import hidden_routes
from gateway.control.words.addresses import Address
from gateway.control.words.model import Model
from gateway.control.words.units import format_duration
from gateway.control.words.values import did_you_mean, one_of, repeated

_ACTIONS: Final = ("upstream", "redirect", "respond")
_REGEX_SEGMENT: Final = re.compile(r"\[[^\]]+\]|\(.*\)|\.\*|\.\+|\$$")
"""A segment of a path that is a regular expression elsewhere."""
_REFERENCE: Final = re.compile(
    r"\$\(?[A-Za-z_][A-Za-z0-9_]*\)?|%[A-Z_][A-Z0-9_]*%|\{\{.*\}\}|\{env\.[A-Za-z_]\w*\}|\{\$[A-Za-z_]\w*\}"
)
"""A reference to the environment as other programs write it."""


def check(config: Config, resolved: ResolvedConfig, positions: Positions) -> list[Problem]:
    """Everything that is wrong with a configuration that fits the schema."""
    return [
        *_addresses(config, positions),
        *check_server(config.server, positions),
        *check_redis(config.redis, positions),
        *_secrets(config, positions),
        *_names(config, positions),
        *(problem for one in resolved.upstreams.values() for problem in _blocks(UPSTREAM_BLOCKS, one, positions)),
        *_blocks(ROUTE_BLOCKS, resolved.defaults, positions),
        *(problem for one in resolved.routes for problem in _blocks(ROUTE_BLOCKS, one, positions)),
        *(problem for index, route in enumerate(config.routes) for problem in _route(index, route, config, positions)),
        *_cookies(config, positions),
        *_fallbacks(config, positions),
        *(problem for one in resolved.routes for problem in _between(one.facts, one.blocks, positions)),
        *_hidden(config, positions),
        *evasions(config, resolved, positions),
    ]


def notes(resolved: ResolvedConfig, positions: Positions) -> list[str]:
    """What an operator should know although it is not wrong, each with its place."""
    found: dict[str, None] = {}
    for one in resolved.routes:
        for block in ROUTE_BLOCKS:
            if one.facts.upstream is not None or not block.forwards:
                found.update(dict.fromkeys(block.notes(one.blocks[block.name], positions)))
        found.update(dict.fromkeys(_long_polls(one, positions)))
    found.update(dict.fromkeys((*_unused(resolved, positions), *_literal(resolved, positions))))
    return list(found)


def _long_polls(one: ResolvedRoute, positions: Positions) -> Iterator[str]:
    """Where a route says WebSocket, clients mostly have long polls to fall back on."""
    upgrades, budget = one.blocks["upgrades"], one.blocks["timeout"]["request"]
    own = upgrades.origin is not None and upgrades.origin[: len(one.facts.loc)] == one.facts.loc
    if own and one.facts.upstream is not None and WEBSOCKET in upgrades.value and budget.origin is None:
        usual = format_duration(budget.value)
        yield (
            f"{positions.at(one.facts.loc)}: note: long polls, which WebSocket libraries fall back on (25 s with socket.io), "
            f"end with 504 at the default budget of {usual}: write `timeout: 40s` for them, or {usual} if there are none"
        )


def _literal(resolved: ResolvedConfig, positions: Positions) -> Iterator[str]:
    """Segments that other programs would take for parameters, and that stand for themselves here."""
    for one in resolved.routes:
        for path in one.facts.paths:
            for segment in path.split("/"):
                if segment[:1] in (":", "<") or _REGEX_SEGMENT.search(segment) is not None:
                    place = positions.at((*one.facts.loc, "match", "path"))
                    name = (
                        re.sub(r"[^A-Za-z0-9_]", "", segment.strip(":<>").rpartition(":")[2]) if segment[:1] in ":<" else "id"
                    )
                    yield f"{place}: note: `{segment}` stands for itself; a parameter is written `{{{name or 'id'}}}`"


def _unused(resolved: ResolvedConfig, positions: Positions) -> Iterator[str]:
    used = {name for one in resolved.routes for name in one.facts.serving}
    for name in resolved.upstreams:
        if name not in used:
            place = positions.at(("upstreams", name), key=True)
            yield f"{place}: note: upstream `{name}` is used by no route: name it in one (`upstream: {name}`), or remove it"


def _blocks(blocks: Iterable[Block[Any]], one: ResolvedRoute | ResolvedUpstream, positions: Positions) -> Iterator[Problem]:
    for block in blocks:
        written = getattr(one.written, block.name) if block.name in one.written.model_fields_set else None
        if written is not None:
            yield from block.check_written(written, (*one.facts.loc, block.name), positions)
        yield from block.check(one.blocks[block.name], one.facts, positions)


def _between(facts: RouteFacts, blocks: Blocks, positions: Positions) -> Iterator[Problem]:
    """What two blocks of a route ask of each other."""
    if facts.upstream is not None and blocks["retry"].value is not RETRY_OFF:
        yield from _idempotency_key(blocks, positions)
    limit, budget = blocks["max_in_flight"].value, blocks["timeout"].value.request
    if limit is not None and limit.queue is not None and limit.queue.max_wait > budget:
        place = (*facts.loc, "max_in_flight", "queue", "max_wait")
        message = f"`max_wait` ({format_duration(limit.queue.max_wait)}) is longer than the budget of the request"
        yield positions.problem(place, message, f"`timeout.request` is {format_duration(budget)}")
    if facts.upstream is not None and blocks["strip_prefix"].value is not False and blocks["rewrite_prefix"].value is not None:
        place = (*facts.loc, "rewrite_prefix")
        yield positions.problem(place, "`strip_prefix` and `rewrite_prefix`: only one of them", key=True)


def _idempotency_key(blocks: Blocks, positions: Positions) -> Iterator[Problem]:
    key = blocks["retry"]["idempotency_key"]
    removals = blocks["request_fields"].parts.get("remove")
    if not key.value or key.origin is None or removals is None:
        return
    for name, removed in removals.parts.items():
        if name.lower() == "idempotency-key" and removed.origin is not None:
            message = "`retry.idempotency_key` relies on this header: the upstream must get it"
            yield positions.problem(removed.origin, message)


def _addresses(config: Config, positions: Positions) -> Iterator[Problem]:
    places: list[tuple[Loc, Address]] = [
        (("server", "listen", index, "address"), listen.address) for index, listen in enumerate(config.server.listen)
    ]
    if config.admin.listen is not None:
        places.append((("admin", "listen"), config.admin.listen))
    for index, first in repeated(address for _, address in places):
        loc, address = places[index]
        if address.port or address.path:
            by = ".".join(str(step) for step in places[first][0][:2])
            yield positions.problem(loc, f"`{address}` is already listened on, by {by}")


def _cookies(config: Config, positions: Positions) -> Iterator[Problem]:
    """A browser keeps one cookie per name and path: two upstreams would take turns in overwriting it."""
    cookies = {name: (one.sticky.cookie, one.sticky.path) for name, one in config.upstreams.items() if one.sticky is not None}
    names = list(cookies)
    for index, first in repeated(cookies.values()):
        message = f"the upstream `{names[first]}` sets the same cookie: each would overwrite that of the other"
        place = ("upstreams", names[index], "sticky", "cookie")
        yield positions.problem(place, message, "give it another name, or another `path`")


def _fallbacks(config: Config, positions: Positions) -> Iterator[Problem]:
    fallbacks = {name: upstream.fallback for name, upstream in config.upstreams.items()}
    for name, following in fallbacks.items():
        yield from _known(("upstreams", name, "fallback"), following, config, positions)
    for circle in fallback.circles(fallbacks):
        text = " ▸ ".join(f"`{member}`" for member in circle)
        yield positions.problem(("upstreams", circle[0], "fallback"), f"the fallbacks go in a circle: {text}")
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
        known = list(config.upstreams)
        hint = did_you_mean(name, known) or (f"there are {', '.join(known[:10])}" if known else "there are none")
        if name in ("off", "none", "false"):
            hint = "without the line there is none: remove it"
        elif (first := re.split(r"[^A-Za-z0-9_-]", name.lstrip("@"))[0]) in known:
            hint = f"did you mean `{first}`?"
        elif "/" in name or ":" in name:
            hint = "a URL is an endpoint of an upstream: `upstreams: {app: {endpoints: [URL]}}`, and `upstream: app` here"
        yield positions.problem(loc, "there is no upstream of this name", hint)


def _secrets(config: Config, positions: Positions) -> Iterator[Problem]:
    """A reference that is not replaced would be a secret that everybody can guess."""
    for loc, secret in ((("admin", "token"), config.admin.token), (("redis", "password"), config.redis.password)):
        value = None if secret is None else secret.get_secret_value()
        if value == "":
            yield positions.problem(
                loc, f"`{loc[-1]}` must not be empty", "remove the line, or name a file: `token_file: admin.token`"
            )
        elif value is not None and _REFERENCE.fullmatch(value):
            message = f"`{loc[-1]}` is a reference that is not replaced"
            yield positions.problem(loc, message, f"an environment variable is written `{loc[-1]}: ${{NAME}}`")


def secret_notes(config: Config, positions: Positions) -> list[str]:
    """Where the token of the admin listener cannot be read by who asks; who runs the gateway may be somebody else."""
    path = config.admin.token_file
    if path is None:
        return []
    try:
        why = (
            "" if (config.admin.secret("token") or "").strip() else f"`{path}` is empty: nothing can be changed through `admin`"
        )
    except ValueError as error:
        why = f"{error}: the gateway does not start without it"
    return [f"{positions.at(('admin', 'token_file'))}: note: {why}"] if why else []


def _names(config: Config, positions: Positions) -> Iterator[Problem]:
    for index, first in repeated(route.name for route in config.routes):
        place = positions.at(("routes", first, "name"))
        hint = f"write `{config.routes[index].name}-2`"
        yield positions.problem(("routes", index, "name"), f"another route has the same name, at {place}", hint)


def _route(index: int, route: Route, config: Config, positions: Positions) -> Iterator[Problem]:
    loc: Loc = ("routes", index)
    actions = [action for action in _ACTIONS if getattr(route, action) is not None]
    if not actions:
        yield positions.problem(loc, f"route `{route.name}` does nothing: it needs one of {one_of(_ACTIONS)}")
    elif len(actions) > 1:
        yield positions.problem(
            (*loc, actions[1]), f"`{actions[0]}` and `{actions[1]}`: a route has only one of them", key=True
        )
    elif actions == ["upstream"]:
        yield from _known((*loc, "upstream"), route.upstream, config, positions)
    else:
        yield from _without_effect(loc, route, actions[0], positions)
    yield from _match(loc, route, config, positions)


def _without_effect(loc: Loc, route: Model, action: str, positions: Positions) -> Iterator[Problem]:
    for block in ROUTE_BLOCKS:
        # Of `fallback` it is said in other words.
        if block.forwards and block.name != "fallback" and getattr(route, block.name) not in (None, False):
            yield positions.problem((*loc, block.name), f"`{block.name}` has no effect in a route with `{action}`", key=True)


def _match(loc: Loc, route: Route, config: Config, positions: Positions) -> Iterator[Problem]:
    names, place = list(route.match.headers), (*loc, "match", "headers")
    for index, first in repeated(name.lower() for name in names):
        yield positions.problem((*place, names[index]), f"the header stands twice, also as `{names[first]}`", key=True)
    for name in names:
        if name.lower() == "host":
            yield positions.problem((*place, name), "use `match.host`", key=True)
    known = [str(one.address) for one in config.server.listen]
    for index, address in enumerate(route.match.listen):
        if str(address) not in known:
            message = f"`server.listen` has no `{address}`"
            yield positions.problem((*loc, "match", "listen", index), message, f"there is {', '.join(known)}")


def _hidden(config: Config, positions: Positions) -> Iterator[Problem]:
    for index, other in hidden_routes(config):
        place = positions.at(("routes", other, "name"))
        hidden, hiding = config.routes[index].name, config.routes[other].name
        message = f"route `{hidden}` is never reached: `{hiding}` at {place} takes all its requests"
        yield positions.problem(("routes", index, "name"), message)
