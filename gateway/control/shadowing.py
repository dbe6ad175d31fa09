"""Which routes can never win, because another of better rank takes every request that they match."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

from gateway.control.matches import route_matches
from gateway.control.schema import Config
from gateway.router import REST, Match, rank, split_path

_MAX_COMPARED: Final = 200_000
"""Pairs; beyond that a configuration is too large to be compared route by route in reasonable time."""


def hidden_routes(config: Config) -> Iterator[tuple[int, int]]:
    """Pairs (hidden, hiding) of route numbers, one per hidden route: all its hosts and paths are taken by others."""
    listed = route_matches(config)
    hiding = dict(_hidden_matches([match for _, match in listed]))
    reached = {index for at, (index, _) in enumerate(listed) if at not in hiding}
    hidden: dict[int, int] = {}
    for at, other in hiding.items():
        index, by = listed[at][0], listed[other][0]
        if index not in reached and by != index:
            hidden.setdefault(index, by)
    yield from hidden.items()


def _hidden_matches(matches: list[Match]) -> Iterator[tuple[int, int]]:
    ranks = [rank(match, index) for index, match in enumerate(matches)]
    compared = 0
    groups = _groups(matches)
    for index, match in enumerate(matches):
        for other in _candidates(index, matches, groups):
            compared += 1
            if compared > _MAX_COMPARED:
                return
            if ranks[other] < ranks[index] and covers(matches[other], match):
                yield index, other
                break


_Groups = dict[tuple[int, str, int], list[int]]


def _key(match: Match) -> tuple[int, str, int]:
    return match.priority, match.host, len(split_path(match.path))


def _groups(matches: list[Match]) -> _Groups:
    groups: _Groups = defaultdict(list)
    for index, match in enumerate(matches):
        groups[_key(match)].append(index)
    return groups


def _candidates(index: int, matches: list[Match], groups: _Groups) -> Iterator[int]:
    """Routes that may hide this one: of equal priority only those of equal shape, since a wider one ranks lower."""
    match = matches[index]
    yield from (other for other in groups[_key(match)] if other != index)
    for (priority, _, _), members in groups.items():
        if priority > match.priority:
            yield from members


def covers(wide: Match, narrow: Match) -> bool:
    """Whether every request that `narrow` matches is matched by `wide` too; in doubt False."""
    return (
        _covers_host(wide.host, narrow.host)
        and _covers_path(split_path(wide.path), split_path(narrow.path))
        and _covers_methods(wide.methods, narrow.methods)
        and _covers_conditions(dict(wide.headers), dict(narrow.headers))
        and _covers_conditions(dict(wide.query), dict(narrow.query))
    )


def _covers_host(wide: str, narrow: str) -> bool:
    if not wide or wide == narrow:
        return True
    return wide.startswith("*.") and bool(narrow) and narrow.removeprefix("*").endswith(wide[1:])


def hosts_meet(one: str, other: str) -> bool:
    """Whether there is a host that both patterns of a route match."""
    return _covers_host(one, other) or _covers_host(other, one)


def _covers_path(wide: tuple[str, ...], narrow: tuple[str, ...]) -> bool:
    for at, segment in enumerate(wide):
        if segment == REST:
            return True
        if at >= len(narrow) or narrow[at] == REST:
            return False
        if segment.startswith("{"):
            if not narrow[at]:
                return False
        elif segment != narrow[at]:
            return False
    return len(wide) == len(narrow)


def _covers_methods(wide: frozenset[bytes], narrow: frozenset[bytes]) -> bool:
    if not wide:
        return True
    served = wide | {b"HEAD"} if b"GET" in wide else wide
    return bool(narrow) and narrow <= served


def _covers_conditions(
    wide: Mapping[bytes, re.Pattern[bytes] | None], narrow: Mapping[bytes, re.Pattern[bytes] | None]
) -> bool:
    for name, pattern in wide.items():
        if name not in narrow:
            return False
        other = narrow[name]
        if pattern is not None and (other is None or other.pattern != pattern.pattern):
            return False
    return True
