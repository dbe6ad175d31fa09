"""The block `hedge:`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias

from gateway.control.blocks.block import Asked, Block, RouteFacts, Row, slot
from gateway.control.words import units
from gateway.control.words.inherit import Resolved
from gateway.control.words.model import Model, required, setting
from gateway.control.words.values import invalid, text_value
from gateway.policies.hedge import SAFE, HedgeDelay, HedgeSettings

_PERCENTILE: Final = re.compile(r"p([0-9]{2}(?:\.[0-9])?)")


@dataclass(frozen=True, slots=True)
class After:
    """How long to wait before a hedge: seconds, or a share of the recent answers between 0 and 1."""

    seconds: float = 0.0
    quantile: float = 0.0

    def __str__(self) -> str:
        return f"p{self.quantile * 100:g}" if self.quantile else units.format_duration(self.seconds)


def _parse_after(text: str) -> After:
    match = _PERCENTILE.fullmatch(text)
    if match is not None:
        percent = float(match[1])
        if percent < 50:
            raise invalid("at least `p50`: half of all requests would be sent twice")
        return After(quantile=percent / 100)
    try:
        return After(seconds=units.parse_duration_within(text, "1ms", "60s"))
    except units.UnitError as error:
        raise invalid(
            f"{error}; or a percentile such as `p95`", f"did you mean `{error.hint}`?" if error.hint else ""
        ) from None


AFTER_PATTERN: Final = rf"^p[5-9][0-9](\.[0-9])?$|{units.DURATION_PATTERN}"
AfterValue: TypeAlias = Annotated[
    After, *text_value("a duration such as `50ms`, or `p95`", _parse_after, pattern=AFTER_PATTERN)
]


class Hedge(Model):
    """A second copy of a safe request that is not answered soon, to another endpoint. The first good answer counts."""

    short_form = ("after", {"type": "string", "pattern": AFTER_PATTERN})

    after: AfterValue = required("How long to wait: `50ms`, or a percentile of the upstream's recent answers such as `p95`.")
    max: int = setting(1, "Copies beyond the first.", ge=1, le=3)


HEDGE_OFF: Final = Hedge.model_validate({"after": "p95"})
"""What `off` stands for: this very object."""


def _made(hedge: Hedge) -> HedgeDelay | None:
    settings = HedgeSettings(hedge.after.seconds, hedge.after.quantile, hedge.max)
    return None if hedge is HEDGE_OFF else HedgeDelay(settings)


def _rows(found: Resolved[Hedge], facts: RouteFacts, asked: Asked) -> list[Row]:
    """Nothing when it is off everywhere."""
    hedge, place = found.value, found.place(asked.positions)
    if hedge is HEDGE_OFF:
        return [("hedge", "off", place)] if found.origin is not None else []
    copies = "one more copy" if hedge.max == 1 else f"up to {hedge.max} more copies, each"
    text = f"{copies} after {hedge.after}, from the retry budget"
    if asked.request.method not in SAFE:
        text = "not for this method"
    elif len(asked.upstream["endpoints"].value) < 2:
        text += "; needs a second endpoint"
    return [("hedge", text, place)]


def _dump(found: Resolved[Hedge]) -> dict[str, Any] | None:
    hedge = found.value
    return None if hedge is HEDGE_OFF else {"after": hedge.after.seconds or str(hedge.after), "max": hedge.max}


BLOCK: Final = Block[RouteFacts]("hedge", HEDGE_OFF, forwards=True, compile=slot("hedge", _made), rows=_rows, dump=_dump)
