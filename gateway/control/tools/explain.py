"""Which route takes a request and why, why each other one does not, and what holds for it with the place of every value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from gateway.control.access_compile import access_rows
from gateway.control.balancing_compile import fallback_of
from gateway.control.blocks.traffic.rate_limit_explain import limit_rows
from gateway.control.blocks.upstream.circuit_breaker import breaker_rows
from gateway.control.blocks.upstream.load_balancing import balancing_in_words, sticky_in_words
from gateway.control.compression_compile import compression_rows, decompression_rows
from gateway.control.concurrency_explain import concurrency_rows
from gateway.control.effective import Edits, Effective, Value, effective, strip_prefix
from gateway.control.health_explain import health_rows
from gateway.control.load import Loaded
from gateway.control.matches import Request, route_matches
from gateway.control.reading.nodes import Loc
from gateway.control.retries_explain import hedge_rows, retry_rows
from gateway.control.schema import Route
from gateway.control.words.units import format_duration, format_size
from gateway.control.words.values import NO_LIMIT
from gateway.headers import FIELD_NAME, normalise_host
from gateway.router import REST, AmbiguousPathError, Found, Match, MethodNotAllowed, Router, normalise_path, rank, split_path


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
    if not path.startswith("/") or not (url.isascii() and url.isprintable() and " " not in url):
        raise RequestError(f"`{url}`: the path starts with `/` and is ASCII, percent-encoded where needed")
    host = normalise_host(parts.netloc.rpartition("@")[2].encode("ascii") if parts.netloc else fields.get(b"host", b""))
    if host is None:
        raise RequestError("the host is not valid")
    paths = loaded.config.server.paths
    try:
        normalised = normalise_path(
            path.encode("ascii"), encoded_slash=paths.encoded_slash == "match", double_slash=paths.double_slash == "match"
        )
    except AmbiguousPathError as error:
        raise RequestError(f"answered 400 before routing: {error}") from None
    query = parse_qsl(parts.query.encode("ascii"), keep_blank_values=True)
    return Request(method.encode("ascii", "replace"), host, normalised, dict(reversed(query)), fields)


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
    config = loaded.config
    matches = route_matches(config)
    router: Router[int] = Router((match, index) for index, match in enumerate(matches))
    found = router.match(request.host, request.path, request.method, request.headers.get, lambda: request.query)
    order = sorted(range(len(matches)), key=lambda index: rank(matches[index], index))
    winner = found.value if isinstance(found, Found) else -1
    lines = [f"{method} {url}", *_verdict(loaded, found), "", "routes, in the order in which they are tried:"]
    width = max(len(route.name) for route in config.routes)
    for index in order:
        mark = ">" if index == winner else " "
        place = _place(loaded, ("routes", index, "name"))
        reason = _reason(loaded, matches, request, index, winner)
        lines.append(f"{mark} {config.routes[index].name:<{width}}  {place}  {reason}")
    if isinstance(found, Found):
        lines += ["", f"what holds for `{config.routes[winner].name}`:", *_holds(loaded, winner, found.parameters, request)]
    return "\n".join(lines)


def _reason(loaded: Loaded, matches: list[Match], request: Request, index: int, winner: int) -> str:
    if index == winner:
        return "takes it: " + _why(matches[index])
    reasons = mismatches(matches[index], request)
    if reasons:
        return "; ".join(reasons)
    return f"matches too, but `{loaded.config.routes[winner].name}` has {_advantage(matches[winner], matches[index])}"


def _verdict(loaded: Loaded, found: Any) -> list[str]:
    if isinstance(found, Found):
        route = loaded.config.routes[found.value]
        return [f"→ route `{route.name}` ({_place(loaded, ('routes', found.value, 'name'))}), {_action(route)}"]
    if isinstance(found, MethodNotAllowed):
        return [f"→ 405: the path is served, but not with this method; Allow: {b', '.join(found.allow).decode('ascii')}"]
    return ["→ 404: no route takes it" if found.host_known else "→ 421: no route is for this host"]


def _action(route: Route) -> str:
    if route.upstream is not None:
        return f"upstream `{route.upstream}`"
    if route.redirect is not None:
        return f"redirect {route.redirect.status} to {route.redirect.to}"
    return f"respond {route.respond.status}" if route.respond is not None else ""


def _place(loaded: Loaded, loc: Loc) -> str:
    return str(loaded.positions.at(loc))


# -- why and why not -------------------------------------------------------------------------------------------------


def mismatches(match: Match, request: Request) -> list[str]:
    """Every condition of a route that the request does not meet, in words."""
    reasons = []
    if not _host_fits(match.host, request.host.decode("latin-1")):
        reasons.append(f"host is not `{match.host}`")
    if not _path_fits(split_path(match.path), request.path[1:].split(b"/")):
        reasons.append(f"path is not `{match.path}`")
    if match.methods and request.method not in (match.methods | ({b"HEAD"} if b"GET" in match.methods else set())):
        reasons.append(f"method is not {' or '.join(sorted(method.decode('ascii') for method in match.methods))}")
    for kind, conditions, given in (("header", match.headers, request.headers), ("query", match.query, request.query)):
        for name, pattern in conditions:
            value = given.get(name)
            if value is None:
                reasons.append(f"{kind} `{name.decode()}` is missing")
            elif pattern is not None and pattern.fullmatch(value) is None:
                reasons.append(f"{kind} `{name.decode()}` has another value")
    return reasons


def _host_fits(pattern: str, host: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) > len(pattern) - 1
    return not pattern or pattern == host


def _path_fits(pattern: tuple[str, ...], segments: list[bytes]) -> bool:
    for at, wanted in enumerate(pattern):
        if wanted == REST:
            return True
        if at >= len(segments):
            return False
        if wanted.startswith("{"):
            if not segments[at]:
                return False
        elif wanted.encode("utf-8") != segments[at]:
            return False
    return len(pattern) == len(segments)


def _why(match: Match) -> str:
    parts = [f"host `{match.host}`"] if match.host else []
    parts.append(f"path `{match.path}`")
    if match.methods:
        parts.append(f"method {' or '.join(sorted(method.decode('ascii') for method in match.methods))}")
    parts += [f"header `{name.decode()}`" for name, _ in match.headers] + [
        f"query `{name.decode()}`" for name, _ in match.query
    ]
    return ", ".join(parts)


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


# -- what holds ------------------------------------------------------------------------------------------------------


def _holds(loaded: Loaded, index: int, parameters: tuple[tuple[str, bytes], ...], request: Request) -> list[str]:
    values = effective(loaded.config, index)
    route = loaded.config.routes[index]
    rows: list[tuple[str, str, str]] = [(f"parameter {name}", repr(value)[1:], "") for name, value in parameters]
    rows += _action_rows(loaded, route, index)
    if route.upstream is not None:
        rows += _timeout_rows(loaded, values)
        rows += retry_rows(loaded, values.retry, route.upstream, request.method)
        rows += hedge_rows(loaded, values.hedge, route.upstream, request.method)
    limit = "off" if values.max_body.value == NO_LIMIT else format_size(values.max_body.value)
    rows.append(("limits.body", limit, _origin(loaded, values.max_body)))
    rows += _edit_rows(loaded, "request_fields", values.request_edits)
    rows += _edit_rows(loaded, "response_fields", values.response_edits)
    if route.upstream is not None:
        rows.append(("upgrades", ", ".join(values.upgrades.value) or "off", _origin(loaded, values.upgrades)))
    rows.append(("server_timing", values.server_timing.value, _origin(loaded, values.server_timing)))
    rows += [(name, shown, _origin(loaded, value)) for name, shown, value in access_rows(loaded.config, index)]
    rows += compression_rows(loaded, index, request)
    rows += decompression_rows(loaded, index)
    rows += concurrency_rows(loaded, index)
    rows += limit_rows(loaded, index, request, parameters)
    wide, long = max(len(row[0]) for row in rows), min(48, max(len(row[1]) for row in rows))
    return [f"  {name:<{wide}}  {value:<{long}}  {origin}".rstrip() for name, value, origin in rows]


def _action_rows(loaded: Loaded, route: Route, index: int) -> list[tuple[str, str, str]]:
    if route.upstream is None:
        kind = "redirect" if route.redirect is not None else "respond"
        return [(kind, _action(route).partition(" ")[2], _place(loaded, ("routes", index, kind)))]
    upstream = loaded.config.upstreams[route.upstream]
    loc: Loc = ("upstreams", route.upstream)
    rows = [("upstream", route.upstream, _place(loaded, ("routes", index, "upstream")))]
    rows += [
        (
            f"endpoint {at + 1}",
            f"{endpoint.url.url} weight {endpoint.weight}{', backup' if endpoint.backup else ''}",
            _place(loaded, (*loc, "endpoints", at)),
        )
        for at, endpoint in enumerate(upstream.endpoints)
    ]
    written = loaded.positions.written((*loc, "load_balancing"))
    rows.append(("load_balancing", balancing_in_words(upstream.load_balancing), str(written or "default")))
    if upstream.sticky is not None:
        rows.append(("sticky", sticky_in_words(upstream.sticky), _place(loaded, (*loc, "sticky"))))
    rows += _fallback_rows(loaded, route, index)
    rows.append(("host", upstream.host, str(loaded.positions.written((*loc, "host")) or "default")))
    rows += health_rows(loc, upstream, loaded.positions)
    rows += breaker_rows((*loc, "circuit_breaker"), upstream.circuit_breaker, loaded.positions)
    if route.rewrite_prefix is not None:
        text = f"{route.rewrite_prefix.old} → {route.rewrite_prefix.new}"
        rows.append(("rewrite_prefix", text, _place(loaded, ("routes", index, "rewrite_prefix"))))
    elif strip_prefix(route):
        rows.append(("strip_prefix", strip_prefix(route), _place(loaded, ("routes", index, "strip_prefix"))))
    return rows


def _fallback_rows(loaded: Loaded, route: Route, index: int) -> list[tuple[str, str, str]]:
    """The upstreams that serve in its place, in the order in which they are tried."""
    upstreams = loaded.config.upstreams
    name = fallback_of(route, upstreams)
    loc: Loc = ("routes", index) if route.fallback is not None else ("upstreams", route.upstream or "")
    if name is None:
        return [("fallback", "off", _place(loaded, (*loc, "fallback")))] if route.fallback is not None else []
    rows = []
    while name is not None:
        rows.append(("fallback", name, _place(loaded, (*loc, "fallback"))))
        loc, name = ("upstreams", name), upstreams[name].fallback
    return rows


def _timeout_rows(loaded: Loaded, values: Effective) -> list[tuple[str, str, str]]:
    named = (("request", values.request), ("attempt", values.attempt), ("connect", values.connect), ("idle", values.idle))
    return [(f"timeout.{name}", format_duration(value.value), _origin(loaded, value)) for name, value in named]


def _edit_rows(loaded: Loaded, name: str, edits: Edits) -> list[tuple[str, str, str]]:
    rows = [(f"{name}.remove", value.value, _origin(loaded, value)) for value in edits.remove]
    for kind, pairs in (("set", tuple(edits.set.items())), ("add", edits.add)):
        for field, value in pairs:
            # Header values may be credentials: only the name and the place are shown.
            rows.append((f"{name}.{kind}", field, _origin(loaded, value)))
    return rows


def _origin(loaded: Loaded, value: Value[Any]) -> str:
    place = "default" if value.origin is None else str(loaded.positions.at(value.origin))
    return f"{place} ({value.note})" if value.note else place


def route_table(loaded: Loaded) -> str:
    """All routes, best rank first: name, match, action, place."""
    matches = route_matches(loaded.config)
    order = sorted(range(len(matches)), key=lambda index: rank(matches[index], index))
    rows = [("NAME", "METHODS", "HOST", "PATH", "ACTION", "AT")]
    for index in order:
        route, match = loaded.config.routes[index], matches[index]
        methods = ",".join(route.match.methods) or "*"
        conditions = len(match.headers) + len(match.query)
        path = match.path + (f" +{conditions}" if conditions else "")
        rows.append((route.name, methods, match.host or "*", path, _action(route), _place(loaded, ("routes", index, "name"))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
