"""The block `rate_limit:`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.control.blocks.block import Asked, Block, Counted, RouteFacts, Row
from gateway.control.blocks.server.redis import Redis
from gateway.control.blocks.traffic.rate_limit_compile import (
    candidate_of,
    compile_limits,
    in_words,
    key_value,
    most_cost,
    override_settings,
    settings_of,
)
from gateway.control.blocks.traffic.rate_limit_model import RateLimit
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.words.inherit import BUILT_IN, Resolved
from gateway.control.words.keys import fields_of_key
from gateway.control.words.values import did_you_mean, repeated
from gateway.errors import Failure
from gateway.policies.rate_limit import LARGEST_LOG, Algorithm, LimitSettings
from gateway.proxy.steps.request_keys import key_address
from gateway.snapshot import Route

_LONGEST: Final = 40
"""Characters of a value that are shown."""
_EFFECTS: Final = {"skipped": "not limited", "missing_denied": "denied"}
"""What follows from a part of the key that is missing, by the decision that is counted."""


def _check_written(limits: tuple[RateLimit, ...], scope: Loc, positions: Positions) -> Iterator[Problem]:
    for index, first in repeated(limit.name for limit in limits):
        if limits[index].name == "default" and not positions.find((*scope, index, "name"))[2]:
            yield positions.problem((*scope, index), "one of several limits needs a `name`")
        else:
            yield positions.problem((*scope, index, "name"), f"another limit of the same name is number {first + 1}")
    for index, limit in enumerate(limits):
        yield from _limit((*scope, index), limit, positions)


def _limit(loc: Loc, limit: RateLimit, positions: Positions) -> Iterator[Problem]:
    if limit.limit.per is None and limit.per is None:
        number = limit.limit.limit
        yield positions.problem((*loc, "limit"), "the period is missing", f"write `{number}/min`, or add `per: 1m`")
        return
    if limit.limit.per is not None and limit.per is not None:
        yield positions.problem((*loc, "per"), "the period stands in `limit` already", key=True)
        return
    yield from _numbers(loc, settings_of(limit), limit.burst, positions)
    yield from _drains(loc, settings_of(limit), positions)
    if limit.candidate is not None:
        if limit.candidate.limit.per is not None and limit.candidate.per is not None:
            yield positions.problem((*loc, "candidate", "per"), "the period stands in `limit` already", key=True)
        settings = settings_of(candidate_of(limit, limit.candidate))
        yield from _numbers((*loc, "candidate"), settings, limit.candidate.burst, positions)
        yield from _drains((*loc, "candidate"), settings, positions)
    if limit.mode == "off":
        return
    yield from _cost(loc, limit, positions)
    yield from _keys(loc, limit, positions)


def _numbers(loc: Loc, settings: LimitSettings, burst: int | None, positions: Positions) -> Iterator[Problem]:
    if burst is not None and settings.algorithm is not Algorithm.TOKEN_BUCKET:
        yield positions.problem((*loc, "burst"), f"`burst` has no effect with `{settings.algorithm.value}`",
                                "it belongs to `algorithm: token_bucket`", key=True)  # fmt: skip
    if settings.algorithm is Algorithm.SLIDING_LOG and settings.limit > LARGEST_LOG:
        yield positions.problem(
            (*loc, "limit"),
            f"a `sliding_log` keeps the time of every request: its limit is at most {LARGEST_LOG}",
            "`sliding_window` has no such bound",
        )


def _drains(loc: Loc, settings: LimitSettings, positions: Positions) -> Iterator[Problem]:
    if settings.algorithm is Algorithm.TOKEN_BUCKET and settings.capacity * settings.per / settings.limit > 7 * 86_400:
        yield positions.problem((*loc, "limit"), "a full bucket would take more than a week to drain")


def _cost(loc: Loc, limit: RateLimit, positions: Positions) -> Iterator[Problem]:
    cost = limit.cost
    place: Loc = (*loc, "cost")
    if cost.header is not None and cost.query is not None:
        yield positions.problem((*place, "query"), "`header` and `query`: only one of them", key=True)
    elif cost.header is None and cost.query is None:
        if cost.max is not None or positions.find((*place, "min"))[2]:
            name = "max" if cost.max is not None else "min"
            yield positions.problem((*place, name), f"`{name}` has no effect without `header` or `query`", key=True)
    elif cost.max is None:
        yield positions.problem(place, "`max` is missing: without it a client could spend the whole limit of others at once")
    elif not cost.min <= cost.default <= cost.max:
        yield positions.problem(place, f"`default` ({cost.default}) must lie between `min` ({cost.min}) and `max` ({cost.max})")
    capacities = [(settings_of(limit).capacity, "the limit")]
    for key, override in limit.overrides.items():
        capacities.append((override_settings(limit, override).capacity, f"the override of `{key}`"))
    if limit.candidate is not None:
        capacities.append((settings_of(candidate_of(limit, limit.candidate)).capacity, "the candidate"))
    least, whose = min(capacities)
    if most_cost(limit) > least:
        yield positions.problem(place, f"a request of cost {most_cost(limit)} is never admitted: {whose} lets {least} through")


def _keys(loc: Loc, limit: RateLimit, positions: Positions) -> Iterator[Problem]:
    for index, _ in repeated(limit.key):
        yield positions.problem((*loc, "key", index), f"`{limit.key[index]}` stands twice in the key")
    for written, override in limit.overrides.items():
        place: Loc = (*loc, "overrides", written)
        try:
            key_value(limit.key, written)
        except ValueError as error:
            yield positions.problem(place, str(error), key=True)
        yield from _numbers(place, override_settings(limit, override), override.burst, positions)
        if written in limit.exempt.keys:
            yield positions.problem(place, "this key is exempt: the override has no effect", key=True)
    for index, written in enumerate(limit.exempt.keys):
        try:
            key_value(limit.key, written)
        except ValueError as error:
            yield positions.problem((*loc, "exempt", "keys", index), str(error))


def _check(found: Resolved[tuple[RateLimit, ...]], facts: RouteFacts, positions: Positions) -> Iterator[Problem]:
    """`path:NAME` counts by a parameter of the route's own path."""
    if not facts.name:
        return
    for number, limit in enumerate(found.value):
        for place, part in enumerate(limit.key):
            if part.kind == "path" and part.name not in facts.parameters:
                assert found.origin is not None
                inherited = found.origin[: len(facts.loc)] != facts.loc
                if inherited and limit.missing == "skip":
                    continue
                loc: Loc = (*facts.loc, "match", "path") if inherited else (*found.origin, number, "key", place)
                message = f"`{part}`: the path of route `{facts.name}` has no parameter of this name"
                hint = did_you_mean(part.name, facts.parameters)
                if inherited:
                    hint = f"the limit `{limit.name}` of `defaults` counts by it; with `missing: skip` it would not apply here"
                yield positions.problem(loc, message, hint)


def _fields_read(found: Resolved[tuple[RateLimit, ...]], facts: RouteFacts) -> Iterator[bytes]:
    for limit in found.value:
        if limit.cost.header is not None:
            yield limit.cost.header.lower().encode("ascii")
        yield from fields_of_key(limit.key)


def _foresee(route: Route) -> tuple[Failure, ...]:
    return (Failure.RATE_LIMITED,) if route.rate_limit else ()


def _rows(found: Resolved[tuple[RateLimit, ...]], facts: RouteFacts, asked: Asked) -> list[Row]:
    """Every limit, and by which key it counts this request."""
    if not found.value:
        return [("rate_limit", "off", found.place(asked.positions))]
    assert found.origin is not None
    rows: list[Row] = []
    for number, limit in enumerate(found.value):
        place = str(asked.positions.at((*found.origin, number)))
        inherited = found.origin[: len(facts.loc)] != facts.loc
        shared = ", shared by all routes that inherit it" if inherited else ""
        mode = "" if limit.mode == "enforce" else f", {limit.mode}"
        name = f"rate_limit.{limit.name}"
        settings = settings_of(limit)
        exact = " (exact)" if settings.exact else ""
        rows.append((name, f"{in_words(settings)}, {limit.algorithm}{exact}{mode}{shared}", place))
        if (counted := asked.counted.get(limit.name)) is not None:
            places = {word: str(asked.positions.at((*found.origin, number, word))) for word in ("exempt", "overrides")}
            rows += _counted(name, limit, counted, places)
        if limit.candidate is not None:
            rows.append(
                (f"{name}.candidate", f"{in_words(settings_of(candidate_of(limit, limit.candidate)))}, only counted", "")
            )
    return [*rows, _who_counts(asked)]


def _who_counts(asked: Asked) -> Row:
    written = asked.positions.written
    redis: Redis = asked.file["redis"].value
    if redis.url.scheme or asked.file["server"].value.workers == 1:
        return "rate_limit counts", str(redis.url) or "in process", str(written(("redis", "url")) or BUILT_IN)
    return "rate_limit counts", "in the supervisor, for all workers", str(written(("server", "workers")) or BUILT_IN)


def _counted(name: str, limit: RateLimit, counted: Counted, places: dict[str, str]) -> Iterator[Row]:
    """What the data plane counts the request by, and as how much."""
    yield f"{name}.key", _key(limit, counted), ""
    if counted.digest is not None:
        yield f"{name}.digest", counted.digest.hex(), ""
    if counted.decision == "exempt":
        yield f"{name}.exempt", "yes: it is not counted", places["exempt"]
    if counted.overridden:
        yield f"{name}.overrides", f"{in_words(counted.settings)} for this key", places["overrides"]
    cost = limit.cost.header or limit.cost.query
    if cost or limit.cost.default != 1:
        text = f"{cost}, {limit.cost.min} to {limit.cost.max}" if cost else str(limit.cost.default)
        yield f"{name}.cost", f"{text}: {counted.cost}" if cost and counted.cost else text, ""


def _key(limit: RateLimit, counted: Counted) -> str:
    without = _EFFECTS.get(counted.decision, "one count for all such requests")
    parts = []
    for part, value in zip(limit.key, counted.values, strict=True):
        if part.kind == "client_ip" and value is None and not counted.from_known:
            parts.append("client_ip (of the connection, or what a trusted proxy says: --from ADDRESS tells)")
        elif value is None:
            parts.append(f"{part} is missing: {without}")
        elif part.kind == "client_ip":
            parts.append(f"client_ip = {key_address(value)}")
        elif part.kind == "constant":
            parts.append(str(part))
        else:
            shown = repr(value[:_LONGEST])[1:] + ("…" if len(value) > _LONGEST else "")
            parts.append(f"{part} = {shown}")
    return " and ".join(parts)


BLOCK: Final = Block[RouteFacts](
    "rate_limit",
    (),
    check_written=_check_written,
    check=_check,
    compile=compile_limits,
    rows=_rows,
    fields_read=_fields_read,
    foresee=_foresee,
)
