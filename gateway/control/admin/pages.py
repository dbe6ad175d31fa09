"""Pages of the admin listener about what is going on in a worker, and how those of several workers become one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from time import monotonic
from typing import Any, Final

from gateway.endpoints import Endpoint, EndpointGroup
from gateway.policies.max_in_flight import RANKS
from gateway.snapshot import Route, Snapshot


def _route(route: Route) -> dict[str, object]:
    """What a route does, and how much of it is going on."""
    shown: dict[str, object] = {"name": route.name}
    if route.upstream is not None:
        shown["upstream"] = route.upstream.name
    if route.redirect is not None:
        shown["redirect"] = asdict(route.redirect)
    if route.respond is not None:
        shown["respond"] = {"status": route.respond.status}
    return shown | {
        "timeout": asdict(route.timeout),
        "max_body": None if route.max_body < 0 else route.max_body,
        "rewrite": None if route.rewrite is None else asdict(route.rewrite),
        "in_flight": route.metrics.in_flight,
        "priority": RANKS[route.rank],
        "max_in_flight": None if route.gate is None else route.gate.shown(),
        "requests": sum(route.metrics.requests.values()),
    }


def _upstreams(snapshot: Snapshot) -> Iterator[dict[str, object]]:
    now = monotonic()
    for upstream in snapshot.upstreams:
        yield {
            "name": upstream.name,
            "load_balancing": upstream.group.settings.balancing.algorithm.value,
            "retry_budget": upstream.retry_budget.left(now),
            "panic": upstream.group.panic,
            "endpoints": [_endpoint(endpoint, upstream.group, now) for endpoint in upstream.group.endpoints],
            "max_in_flight": None if upstream.gate is None else upstream.gate.shown(),
        }


def _endpoint(endpoint: Endpoint, group: EndpointGroup, now: float) -> dict[str, object]:
    """`state_for` and `ago` in seconds; `weight_now` is what it gets of its weight at the moment."""
    breaker = endpoint.breaker
    return {
        "url": endpoint.url,
        "address": endpoint.address if endpoint.label != endpoint.url else None,
        "state": endpoint.state.value,
        "state_for": round(now - endpoint.since, 1) if endpoint.since else None,
        "why": endpoint.why or None,
        "available": endpoint in group.available,
        "weight": endpoint.weight,
        "backup": endpoint.backup,
        "weight_now": round(endpoint.weight * endpoint.share, 2) if endpoint in group.available else 0,
        "requests": endpoint.requests,
        "failed": endpoint.failed,
        "failures_in_a_row": endpoint.errors,
        "last_failure": {"reason": endpoint.last_failure, "ago": round(now - endpoint.failed_at, 1)}
        if endpoint.failed
        else None,
        "circuit_breaker": breaker and breaker.state.value + (" (forced)" if breaker.forced is not None else ""),
        "in_flight": endpoint.in_flight,
        "connections": endpoint.pool.counts(),
    }


LIVE: Final[dict[str, Callable[[Snapshot], list[dict[str, Any]]]]] = {
    "routes": lambda snapshot: [_route(route) for route in snapshot.routes],
    "upstreams": lambda snapshot: list(_upstreams(snapshot)),
}
"""The pages by name."""

ADDED: Final = frozenset({"in_flight", "queued", "requests", "failed", "open", "idle"})
"""Numbers that are added up over the workers; others are shown once if all agree, else for each worker."""
NAMES: Final = ("name", "url", "label")
"""What tells the entries of a list apart."""


def merged(pages: dict[int, Any], field: str = "") -> Any:
    """One page of several workers, by their numbers, as one."""
    values = list(pages.values())
    first = values[0]
    if all(isinstance(value, dict) for value in values):
        names = dict.fromkeys(name for value in values for name in value)
        return {name: merged({at: page[name] for at, page in pages.items() if name in page}, name) for name in names}
    if all(isinstance(value, list) for value in values) and all(isinstance(one, dict) for value in values for one in value):
        return _merged_lists(pages)
    if field in ADDED and all(isinstance(value, (int, float)) for value in values):
        return sum(values)
    if all(value == first for value in values):
        return first
    return {f"worker {at}": value for at, value in pages.items()}


def _merged_lists(pages: dict[int, list[dict[str, Any]]]) -> list[Any]:
    entries: dict[str, dict[int, dict[str, Any]]] = {}
    for at, page in pages.items():
        for place, entry in enumerate(page):
            name = next((str(entry[name]) + str(entry.get("address")) for name in NAMES if name in entry), str(place))
            entries.setdefault(name, {})[at] = entry
    return [merged(found) for found in entries.values()]
