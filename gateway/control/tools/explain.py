"""Which route takes a request and why, why each other one does not, and what holds for it with the place of every value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

from gateway.control.blocks.block import Asked, Request
from gateway.control.blocks.message.paths import FORWARD
from gateway.control.blocks.registry import ROUTE_BLOCKS, UPSTREAM_BLOCKS
from gateway.control.blocks.upstream.fallback import places
from gateway.control.load import Loaded
from gateway.control.matches import route_matches
from gateway.control.reading.nodes import Loc
from gateway.control.schema import Route
from gateway.control.words.host_names import ascii_host, with_name
from gateway.headers import FIELD_NAME, normalise_host
from gateway.router import (
    LISTENER,
    SCHEME,
    AmbiguousPathError,
    DotSegmentError,
    Found,
    Match,
    MethodNotAllowed,
    Router,
    Unmatched,
    normalise_path,
    rank,
)

T = TypeVar("T")


class RequestError(ValueError):
    """The request to explain is not one."""


def parse_request(loaded: Loaded, method: str, url: str, headers: Sequence[str]) -> Request:
    """The request of a command line. Raises RequestError."""
    fields = _fields(headers)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise RequestError(f"`{url}` is not a URL: {error}") from None
    if parts.scheme not in ("", "http", "https") or (parts.scheme and not parts.netloc):
        raise RequestError(f"`{url}` is not a URL: write `https://host/path` or `/path`")
    path = parts.path or "/"
    rest = parts._replace(netloc="").geturl()
    if not path.startswith("/") or not (rest.isascii() and url.isprintable() and " " not in url):
        raise RequestError(f"`{url}`: the path starts with `/` and is ASCII, percent-encoded where needed")
    host = _host(parts.netloc.rpartition("@")[2] or fields.get(b"host", b"").decode("utf-8", "replace"))
    if host is None:
        raise RequestError("the host is not valid")
    paths = loaded.config.server.paths
    sent, dots = path.encode("ascii"), False
    try:
        normalised = normalise_path(
            sent, encoded_slash=paths.encoded_slash == "match", double_slash=paths.double_slash == "match"
        )
    except DotSegmentError:
        normalised, dots = sent, True
    except AmbiguousPathError as error:
        raise RequestError(f"answered 400 before routing: {error}") from None
    query = parse_qsl(parts.query.encode("ascii"), keep_blank_values=True)
    scheme = parts.scheme or "http"
    by = [listen for listen in loaded.config.server.listen if (listen.tls is not None) is (scheme == "https")]
    fields[SCHEME] = scheme.encode("ascii")
    fields[LISTENER] = str((by or loaded.config.server.listen)[0].address).encode()
    return Request(method.encode("ascii", "replace"), host, normalised, dict(reversed(query)), fields, dots)


def _host(authority: str) -> bytes | None:
    try:
        return normalise_host(ascii_host(authority).encode("ascii"))
    except ValueError:
        return None


def _fields(headers: Sequence[str]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for header in headers:
        name, colon, value = header.partition(":")
        encoded = name.encode("utf-8").lower()
        if not colon or FIELD_NAME.fullmatch(encoded) is None:
            raise RequestError(f"`{header}` is not a header: write 'Name: value'")
        content = value.strip(" \t").encode("utf-8", "surrogateescape")
        fields[encoded] = fields[encoded] + b", " + content if encoded in fields else content
    return fields


def explain(loaded: Loaded, method: str, url: str, headers: Sequence[str] = ()) -> str:
    """The whole explanation as text. Raises RequestError when the request is none or is refused before routing."""
    request = parse_request(loaded, method, url, headers)
    routes = loaded.config.routes
    listed = route_matches(loaded.config)
    router: Router[tuple[int, Match]] = Router((match, (index, match)) for index, match in listed)
    found = _found(router, request)
    winner, taking = found.value if isinstance(found, Found) else (-1, None)
    if request.dots and (winner < 0 or loaded.resolved.routes[winner].blocks["paths"].value.dot_segments != FORWARD):
        raise RequestError("answered 400 before routing: the path holds a dot segment, and no route for it forwards these")
    lines = [f"{method} {url}", *_verdict(loaded, found, winner), "", "routes, in the order in which they are tried:"]
    width = max(len(route.name) for route in routes)
    nearest: dict[int, Match] = {}
    for index, match in sorted(listed, key=lambda one: (len(mismatches(one[1], request)), rank(one[1], one[0]))):
        nearest.setdefault(index, match)
    for index, match in sorted(nearest.items(), key=lambda one: rank(one[1], one[0])):
        mark = ">" if index == winner else " "
        place = _place(loaded, ("routes", index, "name"))
        reason = "; ".join(mismatches(match, request))
        if index == winner:
            reason = "takes it: " + _why(match)
        elif not reason and taking is not None:
            reason = f"matches too, but `{routes[winner].name}` has {_advantage(taking, match)}"
        lines.append(f"{mark} {routes[index].name:<{width}}  {place}  {reason}")
    if isinstance(found, Found):
        lines += ["", f"what holds for `{routes[winner].name}`:", *_holds(loaded, winner, found.parameters, request)]
    return "\n".join(lines)


def _verdict(loaded: Loaded, found: Any, winner: int) -> list[str]:
    if isinstance(found, Found):
        route = loaded.config.routes[winner]
        return [f"→ route `{route.name}` ({_place(loaded, ('routes', winner, 'name'))}), {_action(route)}"]
    if isinstance(found, MethodNotAllowed):
        return [f"→ 405: the path is served, but not with this method; Allow: {b', '.join(found.allow).decode('ascii')}"]
    return ["→ 404: no route takes it" if found.host_known else "→ 421: no route is for this host"]


def _action(route: Route) -> str:
    if route.upstream is not None:
        return f"upstream `{route.upstream}`"
    if route.redirect is not None:
        return f"redirect {route.redirect}"
    return f"respond {route.respond}" if route.respond is not None else ""


def _place(loaded: Loaded, loc: Loc) -> str:
    return str(loaded.positions.at(loc))


def mismatches(match: Match, request: Request) -> list[str]:
    """Every condition of a route that the request does not meet, in words."""
    reasons = []
    if not _meets(Match(host=match.host), request):
        reasons.append(with_name(f"host is not `{match.host}`"))
    if not _meets(Match(path=match.path), request):
        reasons.append(f"path is not `{match.path}`")
    if not _meets(Match(methods=match.methods), request):
        reasons.append(f"method is not {_methods(match)}")
    for kind, conditions, given in (("header", match.headers, request.headers), ("query", match.query, request.query)):
        for name, pattern in conditions:
            value = given.get(name)
            if name in _FACTS and pattern is not None:
                if value is None or pattern.fullmatch(value) is None:
                    reasons.append(f"{_FACTS[name]} is not {_fact(pattern)}")
            elif value is None:
                reasons.append(f"{kind} `{name.decode()}` is missing")
            elif pattern is not None and pattern.fullmatch(value) is None:
                reasons.append(f"{kind} `{name.decode()}` has another value")
    return reasons


def _meets(condition: Match, request: Request) -> bool:
    return isinstance(_found(Router([(condition, 0)]), request), Found)


def _found(router: Router[T], request: Request) -> Found[T] | MethodNotAllowed | Unmatched:
    return router.match(request.host, request.path, request.method, request.headers.get, lambda: request.query)


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


def _holds(loaded: Loaded, index: int, parameters: tuple[tuple[str, bytes], ...], request: Request) -> list[str]:
    resolved = loaded.resolved
    route = resolved.routes[index]
    facts, blocks = route.facts, route.blocks
    upstream = resolved.upstreams[facts.upstream] if facts.upstream is not None else None
    asked = Asked(
        request=request,
        parameters=dict(parameters),
        positions=loaded.positions,
        file=resolved.file,
        upstream=upstream.blocks if upstream is not None else {},
        priority=blocks["priority"],
        in_flight=resolved.in_flight,
        fallbacks=places(blocks["fallback"], facts),
    )
    rows = [(f"parameter {name}", repr(value)[1:], "") for name, value in parameters]
    if upstream is not None:
        rows.append(("upstream", upstream.facts.name, _place(loaded, (*facts.loc, "upstream"))))
        for upstream_block in UPSTREAM_BLOCKS:
            rows += upstream_block.rows(upstream.blocks[upstream_block.name], upstream.facts, asked)
    for block in ROUTE_BLOCKS:
        if upstream is not None or not block.forwards:
            rows += block.rows(blocks[block.name], facts, asked)
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
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
