"""The `match:` blocks as conditions of the router."""

from __future__ import annotations

import re

from gateway.control.schema import Config
from gateway.control.schema import Match as MatchConfig
from gateway.router import Match


def route_matches(config: Config) -> list[Match]:
    """The conditions of every route, in the order of the file."""
    return [_match(route.match) for route in config.routes]


def _match(match: MatchConfig) -> Match:
    return Match(
        host=match.host or "",
        path=match.path,
        methods=frozenset(method.encode("ascii") for method in match.methods),
        headers=tuple(
            (name.lower().encode("ascii"), _field_pattern(name.lower(), condition.pattern))
            for name, condition in match.headers.items()
        ),
        query=tuple((name.encode("utf-8"), condition.pattern) for name, condition in match.query.items()),
        priority=match.priority,
    )


def _field_pattern(name: str, pattern: re.Pattern[bytes] | None) -> re.Pattern[bytes] | None:
    """Protocols are compared without regard to case (RFC 9110 7.8)."""
    return re.compile(pattern.pattern, re.IGNORECASE) if pattern is not None and name == "upgrade" else pattern
