"""The block `priority:` of a route."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeAlias

from pydantic import PlainValidator, WithJsonSchema

from gateway.control.blocks.block import Asked, Block, RouteFacts, Row, slot
from gateway.control.words.inherit import Resolved
from gateway.control.words.values import did_you_mean, invalid, one_of
from gateway.policies.max_in_flight import RANKS


def _parse_priority(value: Any) -> str:
    if isinstance(value, str) and value in RANKS:
        return value
    hint = ""
    if isinstance(value, str):
        number = re.fullmatch(r"[+-]?[0-9]+", value)
        hint = "which of two routes wins is said by `priority` of `match`" if number else did_you_mean(value, RANKS)
    raise invalid(f"expected {one_of(RANKS)}", hint)


Priority: TypeAlias = Annotated[str, PlainValidator(_parse_priority), WithJsonSchema({"enum": list(RANKS)})]


def _rows(found: Resolved[str], facts: RouteFacts, asked: Asked) -> list[Row]:
    field = asked.file["server"].value.priority_field
    trusted = f" ({field} of trusted peers counts first)" if field is not None else ""
    return [("priority", f"{found.value}{trusted}", found.place(asked.positions))]


BLOCK: Final = Block[RouteFacts]("priority", "default", forwards=True, compile=slot("rank", RANKS.index), rows=_rows)
