"""Endpoints and the group they form: the live side of an upstream. Who may take an exchange, and who takes the next one.

`available` is computed when something changes (`refresh`), not per request: on the healthy path a pick costs what the
balancer costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from gateway.policies.load_balancing import (
    Algorithm,
    Balancer,
    BalancingSettings,
    average_latency,
    balancer,
    decayed_latency,
    points_per_weight,
)
from gateway.ports import Pool

DEFAULT: Final = BalancingSettings()


class Endpoint:
    """One address of an upstream. Settings are fixed; `in_flight` and the pool are live."""

    __slots__ = (
        "authority",
        "backup",
        "host",
        "id",
        "in_flight",
        "latency",
        "latency_at",
        "path",
        "pool",
        "port",
        "tls",
        "url",
        "weight",
    )

    def __init__(
        self, url: str, *, host: str, port: int, path: str, tls: bool, weight: int, authority: bytes, backup: bool = False
    ) -> None:
        self.url = url
        self.id = blake2b(url.encode("utf-8"), digest_size=16).digest()
        """Stands for the address where nobody needs to know it; the same in every gateway."""
        self.host = host
        self.port = port
        self.path = path
        """Unix socket path, or empty."""
        self.tls = tls
        self.weight = weight
        self.backup = backup
        """Takes exchanges only while no other endpoint does."""
        self.authority = authority
        """What `Host` says when the upstream does not preserve the client's."""
        self.in_flight = 0
        self.latency = 0.0
        """Average seconds to a response head, where the upstream balances by latency; 0: nothing known."""
        self.latency_at = 0.0
        """When it was last brought up to date."""
        self.pool: Pool


class EndpointGroup:
    """The endpoints of one upstream and the balancer over those that are available."""

    __slots__ = ("_balancer", "_points_per_weight", "available", "endpoints", "settings", "timed")

    def __init__(self, endpoints: Sequence[Endpoint], settings: BalancingSettings = DEFAULT) -> None:
        self.settings = settings
        self.endpoints = tuple(endpoints)
        """All of them."""
        self.timed = settings.algorithm is Algorithm.LATENCY
        """Wants to be told how long attempts take (`observe`)."""
        self.available: tuple[Endpoint, ...] = ()
        """Those that take exchanges now."""
        self._points_per_weight = points_per_weight([endpoint.weight for endpoint in endpoints])
        self._balancer: Balancer
        self.refresh()

    def refresh(self) -> None:
        """Something that decides about availability or weight has changed."""
        self.available = primaries_or_backups(self.endpoints)
        if self.available:
            weights = [endpoint.weight for endpoint in self.available]
            ids = [endpoint.id for endpoint in self.available]
            self._balancer = balancer(self.settings, weights, ids, self._points_per_weight)

    def pick(self, chance: float, failed: Endpoint | None = None, key: bytes | None = None) -> Endpoint | None:
        """The endpoint for the next attempt; another one than `failed` where there is one; None when none is available.

        `chance` is uniform in [0, 1). `key` is what consistent hashing goes by, if the request has it.
        """
        available = self.available
        if len(available) < 2:
            return available[0] if available else None
        avoid = available.index(failed) if failed is not None and failed in available else -1
        return available[self._balancer.pick(available, chance, avoid, key)]

    def observe(self, endpoint: Endpoint, seconds: float, now: float, *, failed: bool) -> None:
        """An attempt on `endpoint` took so long to its response head, or to its failure."""
        elapsed = now - endpoint.latency_at
        endpoint.latency = average_latency(endpoint.latency, seconds, elapsed, self.settings.decay, failed=failed)
        endpoint.latency_at = now

    def tick(self, now: float) -> None:
        """Once a second: what was observed loses weight."""
        if self.timed:
            for endpoint in self.endpoints:
                endpoint.latency = decayed_latency(endpoint.latency, now - endpoint.latency_at, self.settings.decay)
                endpoint.latency_at = now


def primaries_or_backups(endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Of endpoints that could take exchanges, those that do: the backups only when there are no others."""
    return tuple(endpoint for endpoint in endpoints if not endpoint.backup) or tuple(endpoints)
