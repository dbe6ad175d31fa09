"""The blocks `fallback:` of routes and upstreams: who serves while no endpoint of an upstream is available."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from gateway.control.blocks.block import Asked, Block, RouteFacts, Row, UpstreamFacts
from gateway.control.reading.nodes import Loc
from gateway.control.words.inherit import Resolved

NO_FALLBACK: Final = ""
"""What `off` stands for in a route."""


def chain(upstream: str | None, own: str | None, fallbacks: Mapping[str, str | None]) -> tuple[str, ...]:
    """The names of the upstreams that can serve a route, as they are tried; also of a wrong configuration.

    `own` is the fallback of the route, `fallbacks` those of all upstreams.
    """
    names: list[str] = []
    name = upstream
    while name is not None and name in fallbacks and name not in names:
        names.append(name)
        name = fallbacks[name] if own is None or len(names) > 1 else own or None
    return tuple(names)


def fallbacks_first(fallbacks: Mapping[str, str | None]) -> list[str]:
    """The names of all upstreams, each behind its fallback."""
    order: dict[str, None] = {}
    for name in fallbacks:
        order.update(dict.fromkeys(reversed(chain(name, None, fallbacks))))
    return list(order)


def circles(fallbacks: Mapping[str, str | None]) -> Iterator[tuple[str, ...]]:
    """Upstreams that stand in for one another in a circle, each circle once, from the first of its members in the file."""
    listed = list(fallbacks)
    for name in listed:
        steps = chain(name, None, fallbacks)
        if fallbacks[steps[-1]] == name and name == min(steps, key=listed.index):
            yield (*steps, name)


def places(route: Resolved[str | None], facts: RouteFacts) -> tuple[Resolved[str], ...]:
    """Who serves in place of the route's own upstream, each with the place that says so."""
    loc: Loc = facts.loc if route.value is not None else ("upstreams", facts.upstream or "")
    if route.value == NO_FALLBACK:
        return (Resolved("off", (*loc, "fallback")),)
    found = []
    for name in facts.serving[1:]:
        found.append(Resolved(name, (*loc, "fallback")))
        loc = ("upstreams", name)
    return tuple(found)


def _rows(found: Resolved[str | None], facts: UpstreamFacts, asked: Asked) -> list[Row]:
    return [("fallback", one.value, one.place(asked.positions)) for one in asked.fallbacks]


ROUTE_BLOCK: Final = Block[RouteFacts]("fallback", forwards=True)
UPSTREAM_BLOCK: Final = Block[UpstreamFacts]("fallback", rows=_rows)
