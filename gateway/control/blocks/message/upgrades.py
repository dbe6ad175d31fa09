"""The block `upgrades:`."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from gateway.control.blocks.block import Block, RouteFacts, line, slot
from gateway.control.words.values import OrOff, choice

WEBSOCKET: Final = "websocket"

Upgrades: TypeAlias = Annotated[tuple[Annotated[str, *choice(WEBSOCKET)], ...] | None, OrOff(())]


BLOCK: Final = Block[RouteFacts](
    "upgrades",
    (WEBSOCKET,),
    forwards=True,
    compile=slot("upgrades", lambda words: frozenset(word.encode("ascii") for word in words)),
    rows=line("upgrades", lambda words: ", ".join(words) or "off"),
)
