"""Which policies a path with dot segments could get around, where a route forwards them.

`/a/../b` is matched as it was sent, and an upstream may take it for `/b`. So whoever forwards such paths must stand for every
path: otherwise the client chooses, by what it writes before the `..`, whose policies hold for `/b`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.control.blocks.message.paths import FORWARD
from gateway.control.matches import route_matches
from gateway.control.reading.nodes import Positions
from gateway.control.reading.problems import Problem
from gateway.control.resolved import ResolvedConfig
from gateway.control.schema import Config
from gateway.control.shadowing import hosts_meet
from gateway.router import Match, rank

EVERY_PATH: Final = "/**"


def evasions(config: Config, resolved: ResolvedConfig, positions: Positions) -> Iterator[Problem]:
    """What is wrong with routes that forward dot segments."""
    routes = [one for one in resolved.routes if _forwards(one.facts.upstream, one.blocks["paths"].value.dot_segments)]
    if not routes:
        return
    matches = route_matches(config)
    for one in routes:
        place = one.blocks["paths"]["dot_segments"].origin
        assert place is not None  # it is not the default
        index, name = resolved.routes.index(one), one.facts.name
        other_paths = [path for path in one.facts.paths if path != EVERY_PATH]
        if other_paths:
            message = f"route `{name}` matches `{other_paths[0]}`: a path with `..` in it would leave that at the upstream"
            yield positions.problem(place, message, "only a route whose `match.path` is `/**` can forward dot segments")
            continue
        for word in ("strip_prefix", "rewrite_prefix"):
            if one.blocks[word].value not in (False, None):
                message = f"route `{name}` has `{word}`: a path with `..` in it could leave the prefix at the upstream"
                yield positions.problem(place, message, "give the upstream a host of its own, where no prefix is needed")
        for other, path in dict(_evaded(index, matches)).items():
            hidden = config.routes[other]
            message = (
                f"route `{hidden.name}` at {positions.at(('routes', other, 'name'))} could be evaded: "
                f"a path such as `/x/..{path}` is for `{name}`"
            )
            yield positions.problem(place, message, "give the route that forwards dot segments a `match.host` of its own")


def _forwards(upstream: str | None, word: str) -> bool:
    return upstream is not None and word == FORWARD


def _evaded(index: int, matches: list[tuple[int, Match]]) -> Iterator[tuple[int, str]]:
    """Routes that take some paths of hosts of this one before it does, or whose requests it may leave to them, and one of the
    paths."""
    for route in (match for number, match in matches if number == index):
        conditional = bool(route.methods or route.headers or route.query)
        for other, match in matches:
            meets = other != index and match.path != EVERY_PATH and hosts_meet(match.host, route.host)
            if meets and (conditional or rank(match, other) < rank(route, index)):
                yield other, match.path
