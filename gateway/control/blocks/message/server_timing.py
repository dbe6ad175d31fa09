"""The block `server_timing:`."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

from gateway.control.blocks.block import Asked, Block, Making, RouteFacts, Row
from gateway.control.words.inherit import Resolved
from gateway.control.words.values import choice
from gateway.snapshot import ServerTiming as ServerTimingSnapshot

ServerTiming: TypeAlias = Annotated[str, *choice(*(word.value for word in ServerTimingSnapshot))]


def _compile(found: Resolved[str], facts: RouteFacts, making: Making) -> dict[str, Any]:
    return {"server_timing": ServerTimingSnapshot(found.value)}


def _rows(found: Resolved[str], facts: RouteFacts, asked: Asked) -> list[Row]:
    return [("server_timing", found.value, found.place(asked.positions))]


BLOCK: Final = Block[RouteFacts]("server_timing", "on_request", compile=_compile, rows=_rows)
