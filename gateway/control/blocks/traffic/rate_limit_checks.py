"""What is wrong with rate limits although each of their fields is right."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.control.blocks.traffic.rate_limit import RateLimit
from gateway.control.blocks.traffic.rate_limit_compile import (
    candidate_settings,
    key_value,
    most_cost,
    redis_settings,
    settings_of,
)
from gateway.control.effective import effective
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.schema import Config
from gateway.control.words.values import did_you_mean
from gateway.policies.rate_limit import LARGEST_LOG, Algorithm, LimitSettings
from gateway.router import split_path


def check_limits(config: Config, positions: Positions) -> Iterator[Problem]:
    """Everything that is wrong with the rate limits and their store."""
    yield from _redis(config, positions)
    yield from _listed(("defaults",), config.defaults.rate_limit or (), positions)
    for index, route in enumerate(config.routes):
        yield from _listed(("routes", index), route.rate_limit or (), positions)
        yield from _parameters(index, config, positions)


def _redis(config: Config, positions: Positions) -> Iterator[Problem]:
    redis = config.redis
    given = [bool(redis.url.password), redis.password is not None, redis.password_file is not None]
    if sum(given) > 1:
        where = "password_file" if redis.password_file is not None else "password"
        yield positions.problem(("redis", where), "the password stands in more than one place", key=True)
    if redis.url.username and redis.username is not None:
        yield positions.problem(("redis", "username"), "the URL holds a user too: only one of them", key=True)
    if redis.ca is not None:
        if not redis.url.tls:
            yield positions.problem(("redis", "ca"), "`ca` has no effect without TLS", "TLS is `rediss://`", key=True)
        elif not redis.ca.is_file():
            yield positions.problem(("redis", "ca"), "`ca`: there is no such file")
    if redis.timeout > 1:
        yield positions.problem(("redis", "timeout"), "every request would wait that long: at most `1s`")
    if redis.password_file is not None:
        try:
            redis_settings(redis)
        except ValueError as error:
            yield positions.problem(("redis", "password_file"), str(error))


def _listed(scope: Loc, limits: tuple[RateLimit, ...], positions: Positions) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, limit in enumerate(limits):
        loc: Loc = (*scope, "rate_limit", index)
        if limit.name in first:
            if limit.name == "default" and not positions.find((*loc, "name"))[2]:
                yield positions.problem(loc, "one of several limits needs a `name`")
            else:
                yield positions.problem((*loc, "name"), f"another limit of the same name is number {first[limit.name] + 1}")
        first.setdefault(limit.name, index)
        yield from _limit(loc, limit, positions)


def _limit(loc: Loc, limit: RateLimit, positions: Positions) -> Iterator[Problem]:
    if limit.limit.per is None and limit.per is None:
        number = limit.limit.limit
        yield positions.problem((*loc, "limit"), "the period is missing", f"write `{number}/min`, or add `per: 1m`")
        return
    if limit.limit.per is not None and limit.per is not None:
        yield positions.problem((*loc, "per"), "the period stands in `limit` already", key=True)
        return
    yield from _numbers(loc, settings_of(limit), limit.burst, positions)
    if limit.candidate is not None:
        if limit.candidate.limit.per is not None and limit.candidate.per is not None:
            yield positions.problem((*loc, "candidate", "per"), "the period stands in `limit` already", key=True)
        settings = candidate_settings(limit, limit.candidate)
        yield from _numbers((*loc, "candidate"), settings, limit.candidate.burst, positions)
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
        settings = LimitSettings(override.limit, 1.0, Algorithm(limit.algorithm), override.burst or 0)
        capacities.append((settings.capacity, f"the override of `{key}`"))
    if limit.candidate is not None:
        capacities.append((candidate_settings(limit, limit.candidate).capacity, "the candidate"))
    least, whose = min(capacities)
    if most_cost(limit) > least:
        yield positions.problem(place, f"a request of cost {most_cost(limit)} is never admitted: {whose} lets {least} through")


def _keys(loc: Loc, limit: RateLimit, positions: Positions) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for index, part in enumerate(limit.key):
        if str(part) in seen:
            yield positions.problem((*loc, "key", index), f"`{part}` stands twice in the key")
        seen.setdefault(str(part), index)
    for written, override in limit.overrides.items():
        place: Loc = (*loc, "overrides", written)
        try:
            key_value(limit, written)
        except ValueError as error:
            yield positions.problem(place, str(error), key=True)
        settings = LimitSettings(override.limit, 1.0, Algorithm(limit.algorithm), override.burst or 0)
        if override.burst is not None and settings.algorithm is not Algorithm.TOKEN_BUCKET:
            yield positions.problem((*place, "burst"), f"`burst` has no effect with `{limit.algorithm}`", key=True)
        if settings.algorithm is Algorithm.SLIDING_LOG and override.limit > LARGEST_LOG:
            yield positions.problem(place, f"the limit of a `sliding_log` is at most {LARGEST_LOG}")
        if written in limit.exempt.keys:
            yield positions.problem(place, "this key is exempt: the override has no effect", key=True)
    for index, written in enumerate(limit.exempt.keys):
        try:
            key_value(limit, written)
        except ValueError as error:
            yield positions.problem((*loc, "exempt", "keys", index), str(error))


def _parameters(index: int, config: Config, positions: Positions) -> Iterator[Problem]:
    """`path:NAME` counts by a parameter of the route's own path."""
    found = effective(config, index).rate_limit
    route = config.routes[index]
    known = [segment[1:-1] for segment in split_path(route.match.path) if segment.startswith("{")]
    for number, limit in enumerate(found.value):
        for place, part in enumerate(limit.key):
            if part.kind == "path" and part.name not in known:
                assert found.origin is not None
                inherited = found.origin[0] == "defaults"
                loc: Loc = ("routes", index, "match", "path") if inherited else (*found.origin, number, "key", place)
                message = f"`{part}`: the path of route `{route.name}` has no parameter of this name"
                hint = did_you_mean(part.name, known)
                if inherited and limit.missing == "skip":
                    continue
                if inherited:
                    hint = f"the limit `{limit.name}` of `defaults` counts by it; with `missing: skip` it would not apply here"
                yield positions.problem(loc, message, hint)
