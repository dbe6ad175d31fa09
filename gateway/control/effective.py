"""What holds for a route once `defaults` and built-in defaults are merged, and where each value comes from.

The one place that knows inheritance: `compile` takes the values, `explain` the origins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from gateway.control.blocks.message.access_log import BUILT_IN_SLOW
from gateway.control.blocks.traffic.rate_limit import RateLimit
from gateway.control.blocks.traffic.retry import HEDGE_OFF, RETRY_OFF, Hedge
from gateway.control.reading.nodes import Loc
from gateway.control.schema import EDITS_OFF, WEBSOCKET, Config, FieldEdits, Policies, Route
from gateway.policies.retry import RetrySettings
from gateway.policies.timeout import TimeoutSettings

T = TypeVar("T")

_BUILT_IN_TIMEOUT: Final = TimeoutSettings()
_BUILT_IN_BODY: Final = 10 * 1024 * 1024
_BUILT_IN_RETRY: Final = RetrySettings()
_BUILT_IN_CONDITIONS: Final = ("connect", "reset", "timeout", "502", "503", "504")
_BUILT_IN_BACKOFF: Final = (0.025, 0.25)


@dataclass(frozen=True, slots=True)
class Value(Generic[T]):
    """A resolved value and the place it was written at; None for a built-in default."""

    value: T
    origin: Loc | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Edits:
    """Merged changes to a header section: name ▸ value with origin."""

    set: dict[str, Value[str]]
    add: tuple[tuple[str, Value[str]], ...]
    remove: tuple[Value[str], ...]


@dataclass(frozen=True, slots=True)
class EffectiveLog:
    """Which requests are logged."""

    on: Value[bool]
    sample: Value[float]
    slow: Value[float]


@dataclass(frozen=True, slots=True)
class Effective:
    """Everything a route inherits or decides. Times in seconds, sizes in bytes."""

    request: Value[float]
    attempt: Value[float]
    connect: Value[float]
    idle: Value[float]
    max_body: Value[int]
    request_edits: Edits
    response_edits: Edits
    upgrades: Value[tuple[str, ...]]
    server_timing: Value[str]
    access_log: EffectiveLog
    priority: Value[str]
    rate_limit: Value[tuple[RateLimit, ...]]
    retry: Value[Retries | None]
    hedge: Value[Hedge | None]


@dataclass(frozen=True, slots=True)
class Retries:
    """The retries of a route, when they are not off."""

    max_retries: Value[int]
    on: Value[tuple[str, ...]]
    base: Value[float]
    max: Value[float]
    replay: Value[int]
    idempotency_key: Value[bool]


def scopes_of(config: Config, index: int | None) -> list[tuple[Loc, Policies]]:
    """Where the settings of a route may be written, nearest first; None: of what no route takes."""
    base: list[tuple[Loc, Policies]] = [(("defaults",), config.defaults)]
    return base if index is None else [(("routes", index), config.routes[index]), *base]


def effective_log(config: Config, index: int | None) -> EffectiveLog:
    """What holds for the access log of route number `index`; None: of what no route takes."""
    scopes = scopes_of(config, index)
    return EffectiveLog(_is_logged(scopes), _of_log(scopes, "sample", 1.0), _of_log(scopes, "slow", BUILT_IN_SLOW))


def effective(config: Config, index: int) -> Effective:
    """What holds for route number `index`."""
    scopes = scopes_of(config, index)
    request = _timeout(scopes, "request", _BUILT_IN_TIMEOUT.request)
    attempt = _clamped(_timeout(scopes, "attempt", float("inf")), request)
    return Effective(
        request=request,
        attempt=attempt,
        connect=_clamped(_timeout(scopes, "connect", _BUILT_IN_TIMEOUT.connect), attempt),
        idle=_timeout(scopes, "idle", _BUILT_IN_TIMEOUT.idle),
        max_body=_max_body(config, scopes),
        request_edits=_edits(scopes, "request_fields"),
        response_edits=_edits(scopes, "response_fields"),
        upgrades=_first(scopes, "upgrades", (WEBSOCKET,)),
        server_timing=_first(scopes, "server_timing", "on_request"),
        access_log=effective_log(config, index),
        priority=_first(scopes, "priority", "default"),
        rate_limit=_first(scopes, "rate_limit", ()),
        retry=_retries(scopes),
        hedge=_hedge(scopes),
    )


def _first(scopes: list[tuple[Loc, Policies]], name: str, built_in: T) -> Value[T]:
    for loc, policies in scopes:
        value: T | None = getattr(policies, name)
        if value is not None:
            return Value(value, (*loc, name))
    return Value(built_in)


def _is_logged(scopes: list[tuple[Loc, Policies]]) -> Value[bool]:
    for loc, policies in scopes:
        if policies.access_log is not None:
            return Value(policies.access_log.enabled, (*loc, "access_log"))
    return Value(True)


def _of_log(scopes: list[tuple[Loc, Policies]], name: str, built_in: float) -> Value[float]:
    for loc, policies in scopes:
        value: float | None = getattr(policies.access_log, name, None)
        if value is not None:
            return Value(value, (*loc, "access_log", name))
    return Value(built_in)


def _timeout(scopes: list[tuple[Loc, Policies]], name: str, built_in: float) -> Value[float]:
    return _within(scopes, ("timeout", name), built_in)


def _within(scopes: list[tuple[Loc, Policies]], path: tuple[str, ...], built_in: T) -> Value[T]:
    """The value of a field inside blocks: the first that is written."""
    for loc, policies in scopes:
        value: Any = policies
        for name in path:
            value = getattr(value, name, None)
        if value is not None:
            return Value(value, (*loc, *path))
    return Value(built_in)


def _retries(scopes: list[tuple[Loc, Policies]]) -> Value[Retries | None]:
    """`off` ends what is inherited: a route that writes something under a `defaults: {retry: off}` starts from the built-in."""
    written = [(loc, policies) for loc, policies in scopes if policies.retry is not None]
    if written and written[0][1].retry is RETRY_OFF:
        return Value(None, (*written[0][0], "retry"))
    on = [(loc, policies) for loc, policies in written if policies.retry is not RETRY_OFF]
    return Value(
        Retries(
            max_retries=_within(on, ("retry", "max_retries"), _BUILT_IN_RETRY.max_retries),
            on=_within(on, ("retry", "on"), _BUILT_IN_CONDITIONS),
            base=_within(on, ("retry", "backoff", "base"), _BUILT_IN_BACKOFF[0]),
            max=_within(on, ("retry", "backoff", "max"), _BUILT_IN_BACKOFF[1]),
            replay=_within(on, ("retry", "replay"), _BUILT_IN_RETRY.replay),
            idempotency_key=_within(on, ("retry", "idempotency_key"), _BUILT_IN_RETRY.idempotency_key),
        )
    )


def _hedge(scopes: list[tuple[Loc, Policies]]) -> Value[Hedge | None]:
    found: Value[Hedge | None] = _first(scopes, "hedge", None)
    return found if found.value is not HEDGE_OFF else Value(None, found.origin)


def _clamped(inner: Value[float], outer: Value[float]) -> Value[float]:
    """An inherited part of a budget never exceeds the whole: a route that sets only `timeout: 1s` means all of it."""
    if inner.value <= outer.value:
        return inner
    return Value(outer.value, outer.origin, "the budget around it")


def _max_body(config: Config, scopes: list[tuple[Loc, Policies]]) -> Value[int]:
    for loc, policies in scopes:
        if policies.limits is not None and policies.limits.body is not None:
            return Value(policies.limits.body, (*loc, "limits", "body"))
    if config.server.limits.body is not None:
        return Value(config.server.limits.body, ("server", "limits", "body"))
    return Value(_BUILT_IN_BODY)


def _edits(scopes: list[tuple[Loc, Policies]], name: str) -> Edits:
    """The route's own changes over those of `defaults`: by header name, and a list of removals replaces a list."""
    (own_loc, own_scope), (base_loc, base_scope) = scopes
    own: FieldEdits | None = getattr(own_scope, name)
    base: FieldEdits | None = getattr(base_scope, name)
    if own is EDITS_OFF:
        return Edits({}, (), ())
    merged: dict[str, tuple[str, Value[str]]] = {}
    added: dict[str, tuple[str, Value[str]]] = {}
    removed_here = {field.lower() for field in own.remove} if own is not None else set()
    for loc, edits in ((base_loc, base), (own_loc, own)):
        if edits is None:
            continue
        for field, value in edits.set.items():
            merged[field.lower()] = (field, Value(value, (*loc, name, "set", field)))
        for field, value in edits.add.items():
            added[field.lower()] = (field, Value(value, (*loc, name, "add", field)))
        if edits is base:
            for field in removed_here:
                merged.pop(field, None)
                added.pop(field, None)
    remover_loc, remover = (own_loc, own) if own is not None and own.remove else (base_loc, base)
    removed = tuple(
        Value(field, (*remover_loc, name, "remove", at)) for at, field in enumerate(remover.remove if remover else ())
    )
    return Edits(dict(merged.values()), tuple(added.values()), removed)


def strip_prefix(route: Route) -> str:
    """The prefix to take off the path, without a final `/`; empty for none."""
    if route.strip_prefix is False:
        return ""
    if isinstance(route.strip_prefix, str):
        return route.strip_prefix.rstrip("/")
    literal = []
    for segment in route.match.path[1:].split("/"):
        if segment == "**" or segment.startswith("{"):
            break
        literal.append(segment)
    return "/" + "/".join(literal) if any(literal) else ""
