"""How a group chooses among its endpoints, and what of a request has a say in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gateway.policies.ejection import EjectionSettings
from gateway.policies.health import AvailabilitySettings
from gateway.policies.load_balancing import BalancingSettings
from gateway.request_key import KeyPart


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """How a group chooses among its endpoints."""

    balancing: BalancingSettings = BalancingSettings()
    availability: AvailabilitySettings = AvailabilitySettings()
    ejection: EjectionSettings | None = None
    """None: nothing that exchanges say puts an endpoint aside."""
    secret: bytes = field(default=b"", repr=False)
    """What the cookie that keeps a client is made with; empty: there is none."""


DEFAULT: Final = GroupSettings()


@dataclass(frozen=True, slots=True)
class Affinity:
    """What of a request decides which endpoint takes it."""

    key: tuple[tuple[KeyPart, bytes], ...] = ()
    """The parts of the key of consistent hashing, each with its name."""
    sticky: Sticky | None = None


@dataclass(frozen=True, slots=True)
class Sticky:
    """A cookie that keeps a client with the endpoint that served it first. Its values are with the endpoints."""

    cookie: bytes
    """Its name."""
    attributes: bytes
    """What follows the value in `Set-Cookie`, but for `Secure`."""
    secure: bool | None
    """None: `Secure` when the client came by HTTPS."""
