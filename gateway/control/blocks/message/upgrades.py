"""The block `upgrades:`."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

from gateway.control.blocks.block import Asked, Block, Making, RouteFacts, Row
from gateway.control.words.inherit import Resolved
from gateway.control.words.values import OrOff, choice

WEBSOCKET: Final = "websocket"

Upgrades: TypeAlias = Annotated[tuple[Annotated[str, *choice(WEBSOCKET)], ...] | None, OrOff(())]


def _compile(found: Resolved[tuple[str, ...]], facts: RouteFacts, making: Making) -> dict[str, Any]:
    return {"upgrades": frozenset(protocol.encode("ascii") for protocol in found.value)}


def _rows(found: Resolved[tuple[str, ...]], facts: RouteFacts, asked: Asked) -> list[Row]:
    return [("upgrades", ", ".join(found.value) or "off", found.place(asked.positions))]


BLOCK: Final = Block[RouteFacts]("upgrades", (WEBSOCKET,), forwards=True, compile=_compile, rows=_rows)
