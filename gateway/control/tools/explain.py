"""Which route takes a request and why, why each other one does not, and what holds for it with the place of every value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from gateway.control.blocks.block import Asked, Request, Row
from gateway.control.blocks.registry import ROUTE_BLOCKS, UPSTREAM_BLOCKS
from gateway.control.blocks.upstream.fallback import places
from gateway.control.compile import REDIRECT_FACTS
from gateway.control.load import Loaded
from gateway.control.matches import route_matches
from gateway.control.reading.nodes import Loc
from gateway.control.resolved import ResolvedRoute
from gateway.control.schema import Route
from gateway.control.tools.columns import columns
from gateway.control.tools.trial import Trial, field_of, try_out
from gateway.control.tools.who import asking, forwarded
from gateway.control.words.facts import PATH
from gateway.control.words.host_names import with_name
from gateway.errors import Failed
from gateway.proxy.exchange import Exchange
from gateway.proxy.steps.field_edits import fact
from gateway.proxy.steps.match import ACME
from gateway.proxy.steps.own_answer import location
from gateway.router import (
    LISTENER,
    SCHEME,
    Found,
    Match,
    MethodNotAllowed,
    Router,
    Unmatched,
    rank,
)
from gateway.snapshot import Fact, Redirect

T = TypeVar("T")


def explain(
    loaded: Loaded, method: str, url: str, headers: Sequence[str] = (), *, peer: str | None = None, listen: str | None = None
) -> str:
    """The whole explanation as text. `peer`: who is at the other end of the connection, an address or `unix`; `listen`: the
    listener that it comes in by. Raises RequestError when the request is none or is refused before routing."""
    trial = try_out(loaded, method, url, headers, peer=peer, listen=listen)
    x, route = trial.x, trial.route
    lines = [f"{method} {url}"]
    who = [] if peer is None and listen is None else ["", "who asks, as the gateway sees it:", *_table(asking(loaded, trial))]
    asked = Request(x.head.method, _fields(headers), _facts(trial))
    if route is not None and route.redirect is not None and route.redirect.to_https is not None:
        defaults = replace(loaded.resolved.defaults, facts=REDIRECT_FACTS)
        lines += [*_to_https(loaded, trial, route.redirect), *who]
        return "\n".join([*lines, "", "what holds for the redirect:", *_table(_holds(loaded, defaults, trial, asked))])
    listed = route_matches(loaded.config)
    found = _found(Router((match, (index, match)) for index, match in listed), x)
    if route is None or not isinstance(found, Found):
        lines += [_refused(found, trial.failed), *_challenge(loaded, trial), *who, "", *_routes(loaded, listed, x)]
        return "\n".join(lines)
    winner, taking = found.value
    place = _place(loaded, ("routes", winner, "name"))
    lines.append(f"→ route `{route.name}` ({place}), {_action(loaded.config.routes[winner])}")
    lines += [
        *_challenge(loaded, trial),
        *who,
        "",
        *_routes(loaded, listed, x, winner, taking),
        "",
        f"what holds for `{route.name}`:",
    ]
    return "\n".join(lines + _table(_holds(loaded, loaded.resolved.routes[winner], trial, asked)))


def _fields(headers: Sequence[str]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for name, value in map(field_of, headers):
        lower = name.lower()
        fields[lower] = fields[lower] + b", " + value if lower in fields else value
    return fields


def _routes(
    loaded: Loaded, listed: Sequence[tuple[int, Match]], x: Exchange, winner: int = -1, taking: Match | None = None
) -> Iterator[str]:
    """Each route with the reason why it takes the request or does not."""
    routes = loaded.config.routes
    width = max(len(route.name) for route in routes)
    nearest: dict[int, Match] = {}
    yield "routes, in the order in which they are tried:"
    for index, match in sorted(listed, key=lambda one: (len(mismatches(one[1], x)), rank(one[1], one[0]))):
        nearest.setdefault(index, match)
    for index, match in sorted(nearest.items(), key=lambda one: rank(one[1], one[0])):
        mark = ">" if index == winner else " "
        place = _place(loaded, ("routes", index, "name"))
        reason = "; ".join(mismatches(match, x))
        if index == winner:
            reason = "takes it: " + _why(match)
        elif not reason and taking is not None:
            reason = f"matches too, but `{routes[winner].name}` has {_advantage(taking, match)}"
        yield f"{mark} {routes[index].name:<{width}}  {place}  {reason}"


def _facts(trial: Trial) -> dict[str, bytes]:
    kinds = [Fact.HOST, Fact.SCHEME, Fact.METHOD, *([Fact.CLIENT_IP] if trial.from_known else [])]
    facts = {kind.value: fact(kind, "", trial.x) for kind in kinds}
    return facts | {PATH + name: fact(Fact.PATH, name, trial.x) for name, _ in trial.x.parameters}


def _refused(found: Any, failed: Failed | None) -> str:
    if failed is not None and failed.detail:
        return f"→ {failed.failure.status}: {failed.detail}"
    if isinstance(found, MethodNotAllowed):
        return f"→ 405: the path is served, but not with this method; Allow: {b', '.join(found.allow).decode('ascii')}"
    return "→ 404: no route takes it" if found.host_known else "→ 421: no route is for this host"


def _to_https(loaded: Loaded, trial: Trial, redirect: Redirect) -> list[str]:
    """The verdict where a listener sends plain HTTP to HTTPS."""
    return [
        f"→ {redirect.status}, Location: {location(trial.x, redirect).decode('ascii', 'replace')}",
        f"  {_redirecting(loaded, trial)} takes all of plain HTTP but ACME challenges ({ACME.decode('ascii')}…)",
    ]


def _challenge(loaded: Loaded, trial: Trial) -> list[str]:
    """Why a listener that sends plain HTTP to HTTPS has let the request pass."""
    x = trial.x
    if x.client.listener not in x.snapshot.to_https or x.scheme() != b"http":
        return []
    return [f"  ACME challenges pass: {_redirecting(loaded, trial)} takes the rest of plain HTTP"]


def _redirecting(loaded: Loaded, trial: Trial) -> str:
    index = loaded.config.server.listen.index(trial.listen)
    place = _place(loaded, ("server", "listen", index, "redirect_to_https"))
    return f"`redirect_to_https` of `{trial.listen.address}` ({place})"


def _action(route: Route) -> str:
    if route.upstream is not None:
        return f"upstream `{route.upstream}`"
    if route.redirect is not None:
        return f"redirect {route.redirect}"
    return f"respond {route.respond}" if route.respond is not None else ""


def _place(loaded: Loaded, loc: Loc) -> str:
    return str(loaded.positions.at(loc))


def mismatches(match: Match, x: Exchange) -> list[str]:
    """Every condition of a route that the request does not meet, in words."""
    reasons = []
    if not _meets(Match(host=match.host), x):
        reasons.append(with_name(f"host is not `{match.host}`"))
    if not _meets(Match(path=match.path), x):
        reasons.append(f"path is not `{match.path}`")
    if not _meets(Match(methods=match.methods), x):
        reasons.append(f"method is not {_methods(match)}")
    for kind, conditions, given in (("header", match.headers, x.field_value), ("query", match.query, x.query().get)):
        for name, pattern in conditions:
            value = given(name)
            if name in _FACTS and pattern is not None:
                if value is None or pattern.fullmatch(value) is None:
                    reasons.append(f"{_FACTS[name]} is not {_fact(pattern)}")
            elif value is None:
                reasons.append(f"{kind} `{name.decode()}` is missing")
            elif pattern is not None and pattern.fullmatch(value) is None:
                reasons.append(f"{kind} `{name.decode()}` has another value")
    return reasons


def _meets(condition: Match, x: Exchange) -> bool:
    return isinstance(_found(Router([(condition, 0)]), x), Found)


def _found(router: Router[T], x: Exchange) -> Found[T] | MethodNotAllowed | Unmatched:
    return router.match(x.host, x.path, x.head.method, x.field_value, x.query)


def _methods(match: Match) -> str:
    return " or ".join(sorted(method.decode("ascii") for method in match.methods))


def _why(match: Match) -> str:
    parts = [with_name(f"host `{match.host}`")] if match.host else []
    parts.append(f"path `{match.path}`")
    if match.methods:
        parts.append(f"method {_methods(match)}")
    for name, pattern in match.headers:
        fact = name in _FACTS and pattern is not None
        parts.append(f"{_FACTS[name]} {_fact(pattern)}" if fact and pattern else f"header `{name.decode()}`")
    return ", ".join(parts + [f"query `{name.decode()}`" for name, _ in match.query])


_FACTS: Final = {SCHEME: "scheme", LISTENER: "listener"}


def _fact(pattern: re.Pattern[bytes]) -> str:
    return " or ".join(f"`{one}`" for one in re.sub(rb"\\(.)", rb"\1", pattern.pattern).decode().split("|"))


_ADVANTAGES: Final = (
    "a higher priority",
    "a more specific host",
    "a more specific path",
    "more conditions",
    "a list of methods",
    "an earlier place in the file",
)
"""The parts of a rank, in order."""


def _advantage(better: Match, worse: Match) -> str:
    pairs = zip(rank(better, 0), rank(worse, 1), _ADVANTAGES, strict=True)
    return next(word for mine, other, word in pairs if mine != other)


def _holds(loaded: Loaded, route: ResolvedRoute, trial: Trial, request: Request) -> list[Row]:
    resolved = loaded.resolved
    facts, blocks = route.facts, route.blocks
    upstream = resolved.upstreams[facts.upstream] if facts.upstream is not None else None
    asked = Asked(
        request=request,
        positions=loaded.positions,
        file=resolved.file,
        upstream=upstream.blocks if upstream is not None else {},
        priority=blocks["priority"],
        in_flight=resolved.in_flight,
        fallbacks=places(blocks["fallback"], facts),
        counted=trial.counted(),
    )
    rows: list[Row] = [(f"parameter {name}", repr(value)[1:], "") for name, value in trial.x.parameters]
    if upstream is not None:
        rows.append(("upstream", upstream.facts.name, _place(loaded, (*facts.loc, "upstream"))))
        for upstream_block in UPSTREAM_BLOCKS:
            rows += upstream_block.rows(upstream.blocks[upstream_block.name], upstream.facts, asked)
    for block in ROUTE_BLOCKS:
        if upstream is not None or not block.forwards:
            rows += block.rows(blocks[block.name], facts, asked)
    if upstream is not None:
        rows += forwarded(trial, blocks["timeout"]["request"].place(loaded.positions))
    return rows


def _table(rows: Sequence[Row]) -> list[str]:
    wide, long = max(len(row[0]) for row in rows), min(48, max(len(row[1]) for row in rows))
    return [f"  {name:<{wide}}  {value:<{long}}  {origin}".rstrip() for name, value, origin in rows]


def route_table(loaded: Loaded) -> str:
    """All routes, best rank first: name, match, action, place."""
    listed = list(enumerate(route_matches(loaded.config)))
    rows = [("NAME", "METHODS", "HOST", "PATH", "ACTION", "AT")]
    for _, (index, match) in sorted(listed, key=lambda one: rank(one[1][1], one[0])):
        route = loaded.config.routes[index]
        methods = ",".join(route.match.methods) or "*"
        conditions = len(match.headers) + len(match.query)
        path = match.path + (f" +{conditions}" if conditions else "")
        host, place = with_name(match.host) or "*", _place(loaded, ("routes", index, "name"))
        rows.append((route.name, methods, host, path, _action(route), place))
    return columns(rows)
