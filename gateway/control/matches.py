"""The `match:` blocks as conditions of the router: one for each host and path that a route names."""

from __future__ import annotations

import re

from gateway.control.schema import Config
from gateway.control.schema import Match as MatchConfig
from gateway.router import LISTENER, SCHEME, Match


def route_matches(config: Config) -> list[tuple[int, Match]]:
    """The conditions of every route, with the number of the route, in the order of the file."""
    return [(index, match) for index, route in enumerate(config.routes) for match in _matches(route.match)]


def _matches(match: MatchConfig) -> list[Match]:
    methods = frozenset(method.encode("ascii") for method in match.methods)
    headers = tuple(
        (name.lower().encode("ascii"), _field_pattern(name.lower(), condition.pattern))
        for name, condition in match.headers.items()
    )
    if match.scheme is not None:
        headers += ((SCHEME, re.compile(match.scheme.encode("ascii"))),)
    if match.listen:
        headers += ((LISTENER, re.compile(b"|".join([re.escape(str(one).encode()) for one in match.listen]))),)
    query = tuple((name.encode("utf-8"), condition.pattern) for name, condition in match.query.items())
    return [Match(host, path, methods, headers, query, match.priority) for host in match.host or ("",) for path in match.path]


def _field_pattern(name: str, pattern: re.Pattern[bytes] | None) -> re.Pattern[bytes] | None:
    """Protocols are compared without regard to case (RFC 9110 7.8)."""
    return re.compile(pattern.pattern, re.IGNORECASE) if pattern is not None and name == "upgrade" else pattern
