"""Endpoints and the group they form: the live side of an upstream. Who may take an exchange, and who takes the next one.

`available` is computed when something changes (`refresh`), not per request: on the healthy path a pick costs what the
balancer costs.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.policies.load_balancing import Algorithm, Balancer, balancer
from gateway.ports import Pool


class Endpoint:
    """One address of an upstream. Settings are fixed; `in_flight` and the pool are live."""

    __slots__ = ("authority", "host", "in_flight", "path", "pool", "port", "tls", "url", "weight")

    def __init__(self, url: str, *, host: str, port: int, path: str, tls: bool, weight: int, authority: bytes) -> None:
        self.url = url
        self.host = host
        self.port = port
        self.path = path
        """Unix socket path, or empty."""
        self.tls = tls
        self.weight = weight
        self.authority = authority
        """What `Host` says when the upstream does not preserve the client's."""
        self.in_flight = 0
        self.pool: Pool


class EndpointGroup:
    """The endpoints of one upstream and the balancer over those that are available."""

    __slots__ = ("_balancer", "algorithm", "available", "endpoints")

    def __init__(self, endpoints: Sequence[Endpoint], algorithm: Algorithm) -> None:
        self.algorithm = algorithm
        self.endpoints = tuple(endpoints)
        """All of them."""
        self.available: tuple[Endpoint, ...] = ()
        """Those that take exchanges now."""
        self._balancer: Balancer
        self.refresh()

    def refresh(self) -> None:
        """Something that decides about availability or weight has changed."""
        self.available = self.endpoints
        self._balancer = balancer(self.algorithm, [endpoint.weight for endpoint in self.available])

    def pick(self, chance: float, failed: Endpoint | None = None) -> Endpoint | None:
        """The endpoint for the next attempt; another one than `failed` where there is one; None when none is available.

        `chance` is uniform in [0, 1).
        """
        available = self.available
        if not available:
            return None
        avoid = available.index(failed) if failed is not None and failed in available else -1
        return available[self._balancer.pick(available, chance, avoid)]
