"""One address of an upstream: where it is, what it is doing, and what is thought of its health."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from gateway.policies.circuit_breaker import NEVER, Breaker
from gateway.policies.health import AvailabilitySettings, State, ramp
from gateway.ports import Pool

if TYPE_CHECKING:
    from gateway.endpoints.group import EndpointGroup

RAMP_STEP: Final = 1.0
"""Seconds between two steps of a slow start."""


class Endpoint:
    """One address of an upstream. Settings are fixed; load, health and the pool are live. Instants are monotonic seconds."""

    __slots__ = (
        "address",
        "authority",
        "backup",
        "breaker",
        "breaker_open",
        "cookie",
        "ejected_for",
        "ejected_until",
        "ejections",
        "errors",
        "failures",
        "group",
        "guard",
        "host",
        "id",
        "in_flight",
        "label",
        "latency",
        "latency_at",
        "path",
        "permit",
        "pool",
        "port",
        "probe_says",
        "ramp_since",
        "requests",
        "rest_until",
        "resting_share",
        "share",
        "since",
        "state",
        "tls",
        "up",
        "url",
        "weight",
    )

    def __init__(
        self,
        url: str,
        *,
        host: str,
        port: int,
        path: str,
        tls: bool,
        weight: int,
        authority: bytes,
        backup: bool = False,
        address: str = "",
    ) -> None:
        self.url = url
        """As it was written, normalised."""
        self.host = host
        """As it was written: a name or an address. TLS asks for it."""
        self.address = address or host
        """Where to connect to: the host, or the address that its name stands for."""
        self.label = f"{url} ({address})" if address else url
        """Unique in the group; for people, logs and metrics."""
        self.id = blake2b(self.label.encode("utf-8"), digest_size=16).digest()
        """Stands for the address where nobody needs to know it; the same in every gateway."""
        self.port = port
        self.path = path
        """Unix socket path, or empty."""
        self.tls = tls
        self.weight = weight
        self.backup = backup
        """Takes exchanges only while too few others can."""
        self.authority = authority
        """What `Host` says when the upstream does not preserve the client's."""
        self.requests = 0
        """Sent to it so far: one per attempt."""
        self.cookie = b""
        """What the cookie of its group says for it; empty where no cookie keeps clients."""
        self.in_flight = 0
        self.latency = 0.0
        """Average seconds to a response head, where the upstream balances by latency; 0: nothing known."""
        self.latency_at = 0.0
        """When it was last brought up to date."""
        self.pool: Pool
        self.group: EndpointGroup
        """The one that new requests use."""

        self.failures = 0
        """Exchanges that failed in a row; answers such as 500 do not end the row."""
        self.errors = 0
        """The same with such answers."""
        self.ejected_until = 0.0
        """When the last ejection ends or ended."""
        self.ejections = 0
        """In a row."""
        self.ejected_for = ""
        self.up = True
        """What active probes say; true without them."""
        self.probe_says = ""
        self.rest_until = 0.0
        """Until when it asked to be left alone."""
        self.resting_share = 1.0
        """What it gets of its weight meanwhile."""
        self.breaker_open = False
        """The breaker admits nothing: it is open, or its probes are all on their way. Whoever sets it refreshes the group."""
        self.breaker: Breaker | None = None
        """Learns what became of each attempt."""
        self.guard: Breaker | None = None
        """The breaker while it must be asked for a permit: None on the healthy path, where `permit` is good."""
        self.permit: object = None
        """What an attempt must bring back when it is settled, so that the breaker knows of what time it speaks."""
        self.ramp_since = -NEVER
        """When it came back."""

        self.state = State.HEALTHY
        self.since = 0.0
        """Of the state."""
        self.share = 1.0
        """What it gets of its weight now: 0 to 1."""

    @property
    def why(self) -> str:
        """What led to the state, in words; empty for a healthy endpoint."""
        if self.state is State.UNHEALTHY:
            return self.probe_says
        if self.state is State.EJECTED:
            return self.ejected_for
        return "Retry-After" if self.state is State.RESTING else ""

    def judged(self, now: float, settings: AvailabilitySettings) -> State:
        """The state it is in from now on; `share` is set with it."""
        self.share = 1.0
        if self.breaker_open:
            return State.BREAKER_OPEN
        if not self.up:
            return State.UNHEALTHY
        if now < self.ejected_until:
            return State.EJECTED
        if now < self.rest_until:
            self.share = self.resting_share
            return State.RESTING
        # A breaker has a way back of its own.
        if self.state in (State.UNHEALTHY, State.EJECTED) or (self.state is State.RESTING and not self.resting_share):
            self.ramp_since = now
        self.share = ramp(settings, self.ramp_since, now)
        return State.HEALTHY if self.share == 1.0 else State.SLOW_START

    def changes_at(self, now: float) -> float:
        """When time alone may change its state or share."""
        if self.state is State.EJECTED:
            return self.ejected_until
        if self.state is State.RESTING:
            return self.rest_until
        return now + RAMP_STEP if self.state is State.SLOW_START else NEVER
