"""`load_balancing:` ▸ how the endpoints of an upstream are chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gateway.control.balancing import LoadBalancing
from gateway.control.schema import Config, Upstream
from gateway.policies.load_balancing import Algorithm, BalancingSettings
from gateway.snapshot import KeyPart, Steering


def balancing_settings(balancing: LoadBalancing) -> BalancingSettings:
    """The numbers of a balancer."""
    bound = math.inf if balancing.bounded_load is None else balancing.bounded_load
    return BalancingSettings(Algorithm(balancing.algorithm), bound, balancing.decay)


def steering(upstream: Upstream) -> Steering | None:
    """What of a request decides about its endpoint; None: nothing does."""
    key = upstream.load_balancing.key
    if key is None:
        return None
    return Steering(key=tuple((KeyPart(part.kind), part.name.encode("utf-8")) for part in key))


def fields_that_steer(config: Config) -> Iterator[bytes]:
    """The request fields that decide about endpoints, in lower case."""
    for upstream in config.upstreams.values():
        for part in upstream.load_balancing.key or ():
            if part.kind == "header":
                yield part.name.encode("ascii")
            elif part.kind == "cookie":
                yield b"cookie"
