"""What the schema cannot see: names that must exist, values that contradict one another, routes that can never win."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from gateway.control import tls
from gateway.control.addresses import Address
from gateway.control.balancing_checks import check_balancing
from gateway.control.breakers import check_breaker
from gateway.control.concurrency_checks import check_concurrency
from gateway.control.effective import strip_prefix
from gateway.control.health_explain import check_health
from gateway.control.limits_checks import check_limits
from gateway.control.nodes import Loc, Positions
from gateway.control.problems import Problem
from gateway.control.retries_checks import check_retries
from gateway.control.schema import Config, FieldEdits, Policies, Route, Upstream, UpstreamTls
from gateway.control.server import ListenTls
from gateway.control.shadowing import hidden_routes
from gateway.control.units import format_duration
from gateway.control.values import did_you_mean, one_of
from gateway.headers import HOP_BY_HOP
from gateway.policies.timeout import TimeoutSettings

_DEFAULT_REQUEST: Final = TimeoutSettings().request

_ACTIONS: Final = ("upstream", "redirect", "respond")
_ONLY_UPSTREAM: Final = (
    "strip_prefix",
    "rewrite_prefix",
    "request_fields",
    "upgrades",
    "timeout",
    "retry",
    "hedge",
    "compression",
    "decompress_request",
    "max_in_flight",
    "priority",
)
_FORWARDED: Final = frozenset({"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port"})


def check(config: Config, positions: Positions) -> list[Problem]:
    """Everything that is wrong with a configuration that fits the schema."""
    return [
        *_addresses(config, positions),
        *_names(config, positions),
        *_upstreams(config, positions),
        *_policies(("defaults",), config.defaults, config, positions),
        *(problem for index in range(len(config.routes)) for problem in _route(index, config, positions)),
        *check_balancing(config, positions),
        *check_limits(config, positions),
        *check_retries(config, positions),
        *check_concurrency(config, positions),
        *_hidden(config, positions),
    ]


# -- server ----------------------------------------------------------------------------------------------------------


def _addresses(config: Config, positions: Positions) -> Iterator[Problem]:
    seen: dict[Address, str] = {}
    places: list[tuple[Loc, Address]] = [
        (("server", "listen", index, "address"), listen.address) for index, listen in enumerate(config.server.listen)
    ]
    if config.admin.listen is not None:
        places.append((("admin", "listen"), config.admin.listen))
    for loc, address in places:
        if address in seen and (address.port or address.path):
            yield positions.problem(loc, f"`{address}` is already listened on, by {seen[address]}")
        seen.setdefault(address, ".".join(str(step) for step in loc[:2]))
    for index, listen in enumerate(config.server.listen):
        if listen.tls is not None:
            yield from _tls(("server", "listen", index, "tls"), listen.tls, positions)


def _tls(loc: Loc, settings: ListenTls | UpstreamTls, positions: Positions) -> Iterator[Problem]:
    if settings.key_password is not None and settings.key_password_file is not None:
        yield positions.problem(
            (*loc, "key_password_file"), "`key_password` and `key_password_file`: only one of them", key=True
        )
        return
    try:
        if isinstance(settings, ListenTls):
            tls.server_context(settings)
        else:
            tls.client_context(settings)
    except tls.TlsError as error:
        yield positions.problem((*loc, error.field), f"`{error.field}`: {error}")


# -- upstreams -------------------------------------------------------------------------------------------------------


def _upstreams(config: Config, positions: Positions) -> Iterator[Problem]:
    for name, upstream in config.upstreams.items():
        loc: Loc = ("upstreams", name)
        first: dict[str, int] = {}
        for index, endpoint in enumerate(upstream.endpoints):
            if endpoint.url.url in first:
                place = (*loc, "endpoints", index, "url")
                hint = "give it a `weight` instead"
                yield positions.problem(place, f"this endpoint is already listed as number {first[endpoint.url.url] + 1}", hint)
            first.setdefault(endpoint.url.url, index)
        yield from _upstream_tls(loc, upstream, positions)
        yield from check_health(loc, upstream, positions)
        yield from check_breaker((*loc, "circuit_breaker"), upstream.circuit_breaker, positions)


def _upstream_tls(loc: Loc, upstream: Upstream, positions: Positions) -> Iterator[Problem]:
    settings = upstream.tls
    if settings is None:
        return
    if not any(endpoint.url.tls for endpoint in upstream.endpoints):
        yield positions.problem((*loc, "tls"), "`tls` has no effect: no endpoint is `https`")
    elif not settings.verify and settings.ca is not None:
        yield positions.problem((*loc, "tls", "ca"), "`ca` has no effect with `verify: false`", key=True)
    elif settings.certificate is None and (settings.key is not None or settings.key_password_file or settings.key_password):
        yield positions.problem((*loc, "tls"), "a `key` needs a `certificate`")
    else:
        yield from _tls((*loc, "tls"), settings, positions)


# -- routes ----------------------------------------------------------------------------------------------------------


def _names(config: Config, positions: Positions) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, route in enumerate(config.routes):
        if route.name in first:
            place = positions.at(("routes", first[route.name], "name"))
            yield positions.problem(("routes", index, "name"), f"another route has the same name, at {place}")
        first.setdefault(route.name, index)


def _route(index: int, config: Config, positions: Positions) -> Iterator[Problem]:
    route = config.routes[index]
    loc: Loc = ("routes", index)
    actions = [action for action in _ACTIONS if getattr(route, action) is not None]
    if not actions:
        yield positions.problem(loc, f"route `{route.name}` does nothing: it needs one of {one_of(_ACTIONS)}")
    elif len(actions) > 1:
        yield positions.problem(
            (*loc, actions[1]), f"`{actions[0]}` and `{actions[1]}`: a route has only one of them", key=True
        )
    elif actions == ["upstream"]:
        yield from _known_upstream(loc, route, config, positions)
        yield from _prefixes(loc, route, positions)
    else:
        yield from _without_effect(loc, route, actions[0], positions)
    yield from _answers(loc, route, positions)
    yield from _policies(loc, route, config, positions)
    yield from _match(loc, route, positions)


def _known_upstream(loc: Loc, route: Route, config: Config, positions: Positions) -> Iterator[Problem]:
    assert route.upstream is not None
    if route.upstream not in config.upstreams:
        known = list(config.upstreams)
        hint = did_you_mean(route.upstream, known) or (f"there are {', '.join(known[:10])}" if known else "there are none")
        yield positions.problem((*loc, "upstream"), "there is no upstream of this name", hint)


def _without_effect(loc: Loc, route: Route, action: str, positions: Positions) -> Iterator[Problem]:
    for name in _ONLY_UPSTREAM:
        if getattr(route, name) not in (None, False):
            yield positions.problem((*loc, name), f"`{name}` has no effect in a route with `{action}`", key=True)


def _prefixes(loc: Loc, route: Route, positions: Positions) -> Iterator[Problem]:
    if route.strip_prefix is not False and route.rewrite_prefix is not None:
        yield positions.problem((*loc, "rewrite_prefix"), "`strip_prefix` and `rewrite_prefix`: only one of them", key=True)
    elif route.strip_prefix is True:
        if not strip_prefix(route):
            yield positions.problem(
                (*loc, "strip_prefix"), "there is nothing to strip: `match.path` does not start with a literal part"
            )
    elif isinstance(route.strip_prefix, str) and not _starts_with(route.match.path, route.strip_prefix):
        yield positions.problem((*loc, "strip_prefix"), f"`match.path` (`{route.match.path}`) does not start with this prefix")
    if route.rewrite_prefix is not None and not _starts_with(route.match.path, route.rewrite_prefix.old):
        place = (*loc, "rewrite_prefix", "from")
        yield positions.problem(place, f"`match.path` (`{route.match.path}`) does not start with this prefix")


def _starts_with(path: str, prefix: str) -> bool:
    """Whether every path that `path` matches starts with the segments of `prefix`."""
    wanted = [segment for segment in prefix.split("/") if segment]
    return path.split("/")[1 : len(wanted) + 1] == wanted


def _answers(loc: Loc, route: Route, positions: Positions) -> Iterator[Problem]:
    redirect, respond = route.redirect, route.respond
    if redirect is not None:
        keeps = redirect.keep_path or redirect.keep_query
        if "#" in redirect.to or ("?" in redirect.to and keeps):
            yield positions.problem((*loc, "redirect", "to"), "nothing can be put behind a query or fragment")
        if not redirect.keep_path and redirect.to == route.match.path:
            yield positions.problem((*loc, "redirect", "to"), "the redirect leads to itself")
    if respond is not None:
        if respond.body and respond.status in (204, 205, 304):
            yield positions.problem((*loc, "respond", "body"), f"a {respond.status} response has no body", key=True)
        yield from _edited((*loc, "respond", "fields"), respond.fields, positions, request=False)
        for name in respond.fields:
            if name.lower() == "content-type":
                place = (*loc, "respond", "fields", name)
                yield positions.problem(place, "use `content_type` of `respond`", key=True)


def _match(loc: Loc, route: Route, positions: Positions) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name in route.match.headers:
        place = (*loc, "match", "headers", name)
        if name.lower() in seen:
            yield positions.problem(place, f"the header stands twice, also as `{seen[name.lower()]}`", key=True)
        seen[name.lower()] = name
        if name.lower() == "host":
            yield positions.problem(place, "use `match.host`", key=True)


# -- policies --------------------------------------------------------------------------------------------------------


def _policies(loc: Loc, policies: Policies, config: Config, positions: Positions) -> Iterator[Problem]:
    yield from _budgets(loc, policies, config, positions)
    for name in ("request_fields", "response_fields"):
        edits: FieldEdits | None = getattr(policies, name)
        if edits is None:
            continue
        request = name == "request_fields"
        yield from _edited((*loc, name, "set"), edits.set, positions, request=request)
        yield from _edited((*loc, name, "add"), edits.add, positions, request=request)
        for index, field in enumerate(edits.remove):
            refusal = _refusal(field, request=request)
            if refusal:
                yield positions.problem((*loc, name, "remove", index), f"`{field}` cannot be changed: {refusal}")
            elif field.lower() in {other.lower() for other in edits.set}:
                yield positions.problem((*loc, name, "remove", index), f"`{field}` is removed and set: `set` alone replaces it")


def _edited(loc: Loc, names: Iterable[str], positions: Positions, *, request: bool) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name in names:
        refusal = _refusal(name, request=request)
        if refusal:
            yield positions.problem((*loc, name), f"`{name}` cannot be changed: {refusal}", key=True)
        elif name.lower() in seen:
            yield positions.problem((*loc, name), f"the header stands twice, also as `{seen[name.lower()]}`", key=True)
        seen[name.lower()] = name


def _refusal(name: str, *, request: bool) -> str:
    """Why a header section must not be edited in this place, or nothing."""
    lower = name.lower()
    if lower in ("content-length", "transfer-encoding", "trailer"):
        return "it says where the message ends"
    if lower.encode("ascii") in HOP_BY_HOP:
        return "it belongs to one connection, not to the message"
    if lower == "via":
        return "it is how loops are found"
    if request and lower == "host":
        return "use `host` of the upstream"
    if request and lower == "expect":
        return "it says when the body is sent"
    if request and lower in _FORWARDED:
        return "use `server.forwarded` and `server.trusted_proxies`"
    return ""


def _budgets(loc: Loc, policies: Policies, config: Config, positions: Positions) -> Iterator[Problem]:
    """A part that was written here must fit into the whole that holds here; inherited parts are cut silently."""
    timeout = policies.timeout
    if timeout is None:
        return
    base = config.defaults.timeout
    request = timeout.request or (base.request if base else None) or _DEFAULT_REQUEST
    attempt = timeout.attempt or (base.attempt if base else None) or request
    parts = (
        ("attempt", timeout.attempt, "request", request),
        ("connect", timeout.connect, "request", request),
        ("connect", timeout.connect, "attempt", attempt),
    )
    for name, value, around, whole in parts:
        if value is not None and value > whole:
            message = f"`{name}` ({format_duration(value)}) is longer than `{around}` ({format_duration(whole)}) around it"
            yield positions.problem((*loc, "timeout", name), message)
            return


def _hidden(config: Config, positions: Positions) -> Iterator[Problem]:
    for index, other in hidden_routes(config):
        place = positions.at(("routes", other, "name"))
        hidden, hiding = config.routes[index].name, config.routes[other].name
        message = f"route `{hidden}` is never reached: `{hiding}` at {place} takes all its requests"
        yield positions.problem(("routes", index, "name"), message)
