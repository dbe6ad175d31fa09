"""The blocks `max_in_flight:`, `overload:` and `priority:` of the configuration, and the values in them."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Final, TypeAlias

from pydantic import PlainValidator, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue

from gateway.control import units, values
from gateway.control.model import Model, required, setting
from gateway.control.values import OrOff, did_you_mean, invalid, one_of, text_value
from gateway.policies import NEVER
from gateway.policies.concurrency import RANKS

SHARE_PATTERN: Final = r"^[0-9]{1,3}(\.[0-9]+)?%$"
_SHARE: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)%")


def _parse_share(text: str) -> float:
    match = _SHARE.fullmatch(text)
    if match is None:
        raise invalid("expected a share such as `95%`")
    share = float(match[1]) / 100
    if not 0.01 <= share <= 1:
        raise invalid("a share is between `1%` and `100%`")
    return share


def _parse_priority(value: Any) -> str:
    if isinstance(value, str) and value in RANKS:
        return value
    hint = ""
    if isinstance(value, str):
        number = re.fullmatch(r"[+-]?[0-9]+", value)
        hint = "which of two routes wins is said by `priority` of `match`" if number else did_you_mean(value, RANKS)
    raise invalid(f"expected {one_of(RANKS)}", hint)


Share: TypeAlias = Annotated[float, *text_value("a share such as `95%`", _parse_share, pattern=SHARE_PATTERN)]
Priority: TypeAlias = Annotated[str, PlainValidator(_parse_priority), WithJsonSchema({"enum": list(RANKS)})]
LagLimit: TypeAlias = Annotated[values.Duration, OrOff(NEVER)]


class Queue(Model):
    """Requests that wait for a slot. Who cannot be served in time is refused, not served."""

    short_form = ("size", {"type": "integer"})

    size: int = setting(100, "How many may wait; more are 503, the lowest priority first.", ge=1, le=100_000)
    max_wait: values.Duration = setting("100ms", "How long one may wait; then 503. Its own budget counts too.")


class Shares(Model):
    """How much of the limit a priority may fill. What is above it is kept for the higher ones, where a route has them."""

    default: Share = setting("95%", "For `default`.")
    sheddable: Share = setting("90%", "For `sheddable`.")


class Adaptive(Model):
    """The limit rises while answers come in time, and falls when they are late or say that there are too many requests."""

    min: int = setting(10, "Never less.", ge=1, le=1_000_000)
    max: int = setting(200, "Never more.", ge=1, le=1_000_000)
    latency: values.Duration = setting("1s", "An answer that takes longer is late.")
    backoff: Share = setting("90%", "What is left of the limit when too many answers are bad.")
    tolerance: Annotated[float, *text_value("a share such as `10%`", _parse_share, pattern=SHARE_PATTERN)] = setting(
        "10%", "How many answers may be bad: late, 429, 503, 504, or none."
    )


OFF_SCHEMA: Final[JsonSchemaValue] = {"type": "integer"}


class MaxInFlight(Model):
    """How many requests may be in flight at once, per worker, and how many wait."""

    short_form: ClassVar = ("limit", OFF_SCHEMA)

    limit: int = required("Requests in flight.", ge=1, le=1_000_000)
    queue: Annotated[Queue | None, OrOff(None)] = setting({}, "The queue; `off`: none. Short form: `queue: 50`.")
    shares: Shares = setting({}, "How much of the limit a priority may fill.")


class UpstreamMaxInFlight(Model):
    """How many requests may be at the upstream at once, per worker, and how many wait."""

    short_form: ClassVar = ("limit", OFF_SCHEMA)

    limit: int | None = setting(None, "Requests in flight. With `adaptive`: those to begin with.", ge=1, le=1_000_000)
    adaptive: Annotated[Adaptive | None, OrOff(None)] = setting(None, "Find the limit by how the upstream answers.")
    queue: Annotated[Queue | None, OrOff(None)] = setting({}, "The queue; `off`: none. Short form: `queue: 50`.")
    shares: Shares = setting({}, "How much of the limit a priority may fill.")


class Overload(Model):
    """How late the event loop may be before requests are refused with 503. `critical` never is."""

    default: LagLimit = setting("1s", "For `default`; `off`: never.")
    sheddable: LagLimit = setting("100ms", "For `sheddable`; `off`: never.")


def shown_lag(seconds: float) -> str:
    """A threshold in words."""
    return "off" if seconds == NEVER else units.format_duration(seconds)
