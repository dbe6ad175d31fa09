"""The block `overload:` of the server."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from gateway.control.words import units, values
from gateway.control.words.model import Model, setting
from gateway.control.words.values import OrOff
from gateway.policies import NEVER

LagLimit: TypeAlias = Annotated[values.Duration, OrOff(NEVER)]


class Overload(Model):
    """How late the event loop may be before requests are refused with 503. `critical` never is."""

    default: LagLimit = setting("1s", "For `default`; `off`: never.")
    sheddable: LagLimit = setting("100ms", "For `sheddable`; `off`: never.")


def shown_lag(seconds: float) -> str:
    """A threshold in words."""
    return "off" if seconds == NEVER else units.format_duration(seconds)
