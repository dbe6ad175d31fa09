"""Which endpoint takes an attempt, where something of the request decides about it."""

from __future__ import annotations

from random import random
from typing import TYPE_CHECKING

from gateway.proxy.keys import key_part

if TYPE_CHECKING:
    from gateway.endpoints import Endpoint
    from gateway.proxy.exchange import Exchange
    from gateway.snapshot import Route, Steering, Upstream


def steered(x: Exchange, route: Route, upstream: Upstream, steering: Steering, failed: Endpoint | None) -> Endpoint | None:
    """As `EndpointGroup.pick`, by the key of the request."""
    return upstream.group.pick(random(), failed, _key(x, route, steering))


def _key(x: Exchange, route: Route, steering: Steering) -> bytes | None:
    """The request's key for consistent hashing; None when it lacks a part of it."""
    key = b""
    for part, name in steering.key:
        value = key_part(x, route, part, name)
        if value is None:
            return None
        # Values that only look alike when joined share an endpoint at worst.
        key = value if not key else key + b"\0" + value
    return key
