"""The `match:` blocks as conditions of the router."""

from __future__ import annotations

import re

from gateway.control.schema import Config
from gateway.control.schema import Match as MatchConfig
from gateway.control.words.values import Condition
from gateway.router import Match


def route_matches(config: Config) -> list[Match]:
    """The conditions of every route, in the order of the file."""
    return [_match(route.match) for route in config.routes]


def _match(match: MatchConfig) -> Match:
    return Match(
        host=match.host or "",
        path=match.path,
        methods=frozenset(method.encode("ascii") for method in match.methods),
        headers=_conditions({name.lower(): condition for name, condition in match.headers.items()}),
        query=_conditions(match.query),
        priority=match.priority,
    )


def _conditions(conditions: dict[str, Condition]) -> tuple[tuple[bytes, re.Pattern[bytes] | None], ...]:
    return tuple((name.encode("utf-8"), condition.pattern) for name, condition in conditions.items())
