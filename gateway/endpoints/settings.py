"""How a group chooses among its endpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gateway.policies.ejection import EjectionSettings
from gateway.policies.health import AvailabilitySettings
from gateway.policies.load_balancing import BalancingSettings


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
