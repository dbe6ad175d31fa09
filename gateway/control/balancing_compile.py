"""`load_balancing:` ▸ how the endpoints of an upstream are chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from hashlib import blake2b

from gateway.control.balancing import LoadBalancing
from gateway.control.balancing import Sticky as StickyConfig
from gateway.control.schema import NO_FALLBACK, Config, Route, Upstream
from gateway.endpoints import Steering, Sticky
from gateway.policies.load_balancing import Algorithm, BalancingSettings
from gateway.request_key import KeyPart


def balancing_settings(balancing: LoadBalancing) -> BalancingSettings:
    """The numbers of a balancer."""
    bound = math.inf if balancing.bounded_load is None else balancing.bounded_load
    return BalancingSettings(Algorithm(balancing.algorithm), bound, balancing.decay)


def steering(upstream: Upstream) -> Steering | None:
    """What of a request decides about its endpoint; None: nothing does."""
    key = tuple((KeyPart(part.kind), part.name.encode("utf-8")) for part in upstream.load_balancing.key or ())
    return Steering(key, _sticky(upstream.sticky)) if key or upstream.sticky is not None else None


def _sticky(sticky: StickyConfig | None) -> Sticky | None:
    if sticky is None:
        return None
    attributes = f"; Path={sticky.path}; HttpOnly; SameSite={sticky.same_site.capitalize()}"
    if sticky.ttl is not None:
        attributes = f"; Max-Age={max(1, round(sticky.ttl))}{attributes}"
    secure = True if sticky.same_site == "none" else sticky.secure
    return Sticky(sticky.cookie.encode("ascii"), attributes.encode("ascii"), secure)


def sticky_secret(name: str, upstream: Upstream) -> bytes:
    """What the values of the cookie are made with: for each upstream another; empty without a cookie.

    Raises ValueError when the file cannot be read.
    """
    if upstream.sticky is None:
        return b""
    secret = upstream.sticky.secret("secret_key") or ""
    return blake2b(f"{name}\0{secret}".encode(), digest_size=32, person=b"gateway sticky").digest()


def serving(route: Route, upstreams: Mapping[str, Upstream]) -> list[str]:
    """The names of the upstreams that can serve a route, as they are tried; also of a wrong configuration."""
    names: list[str] = []
    name = route.upstream
    while name is not None and name in upstreams and name not in names:
        names.append(name)
        name = fallback_of(route, upstreams) if len(names) == 1 else upstreams[name].fallback
    return names


def fallback_of(route: Route, upstreams: Mapping[str, Upstream]) -> str | None:
    """The name of the upstream that serves in place of the route's own; None: none does."""
    if route.upstream is None or route.fallback == NO_FALLBACK:
        return None
    return route.fallback or upstreams[route.upstream].fallback


def fallbacks_first(upstreams: Mapping[str, Upstream]) -> list[str]:
    """The names of all upstreams, each behind its fallback."""
    order: dict[str, None] = {}
    for name in upstreams:
        chain = [name]
        while (following := upstreams[chain[-1]].fallback) is not None and following not in order:
            chain.append(following)
        order.update(dict.fromkeys(reversed(chain)))
    return list(order)


def fields_that_steer(config: Config) -> Iterator[bytes]:
    """The request fields that decide about endpoints, in lower case."""
    for upstream in config.upstreams.values():
        if upstream.sticky is not None:
            yield b"cookie"
        for part in upstream.load_balancing.key or ():
            if part.kind == "header":
                yield part.name.encode("ascii")
            elif part.kind == "cookie":
                yield b"cookie"
