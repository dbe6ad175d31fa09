"""Which upstream serves a request, and which endpoint takes an attempt where something of the request decides about it."""

from __future__ import annotations

from collections import Counter
from random import random

from gateway.endpoints import Affinity, Endpoint
from gateway.gates import Gate
from gateway.proxy.exchange import Exchange
from gateway.proxy.steps.request_keys import cookie_value, key_part
from gateway.snapshot import Route, Upstream


def pick(x: Exchange, route: Route, upstream: Upstream, failed: Endpoint | None) -> Endpoint | None:
    """An endpoint for the next attempt, another one than `failed` if there is one; None when none is available."""
    affinity = upstream.affinity
    if affinity is None:
        return upstream.group.pick(random(), failed)
    return _by_affinity(x, route, upstream, affinity, failed)


def _by_affinity(x: Exchange, route: Route, upstream: Upstream, affinity: Affinity, failed: Endpoint | None) -> Endpoint | None:
    """The endpoint that is chosen by the cookie of the client and the key of the request.

    A cookie that names no available endpoint is ignored, whatever it holds.
    """
    sticky = affinity.sticky
    if sticky is not None:
        value = cookie_value(x.field_value(b"cookie"), sticky.cookie)
        endpoint = upstream.group.by_cookie.get(value) if value else None
        if endpoint is not None and endpoint is not failed:
            return endpoint
        if not affinity.key:
            return upstream.group.pick(random(), failed)
    return upstream.group.pick(random(), failed, hash_key(x, route, affinity))


def hash_key(x: Exchange, route: Route, affinity: Affinity) -> bytes | None:
    """The request's key for consistent hashing; None when it lacks a part of it."""
    key = b""
    for part, name in affinity.key:
        value = key_part(x, route, part, name)
        if value is None:
            return None
        # Values that only look alike when joined share an endpoint at worst.
        key = value if not key else key + b"\0" + value
    return key


def fallback_for(route: Route, upstream: Upstream) -> Upstream:
    """The upstream that serves in place of the route's own, none of whose endpoints is fit; itself when none is anywhere."""
    fallback = route.fallback
    while fallback is not None and not fallback.group.fit:
        fallback = fallback.fallback
    if fallback is None:
        return upstream
    upstream.metrics.fallbacks += 1
    return fallback


def gates_to(route: Route, upstream: Upstream) -> tuple[Gate, ...]:
    """The gates that a request of the route passes on its way to a fallback."""
    own = route.upstream.gate if route.upstream is not None else None
    gates = tuple([gate for gate in route.gates if gate is not own])
    return gates if upstream.gate is None else (*gates, upstream.gate)


def states_of(upstream: Upstream) -> str:
    """How its endpoints are, in words."""
    states = Counter(endpoint.state.value for endpoint in upstream.group.endpoints)
    return "endpoints: " + (", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none")
