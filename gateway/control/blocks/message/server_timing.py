"""The block `server_timing:`."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from gateway.control.blocks.block import Block, RouteFacts, line, slot
from gateway.control.words.values import choice
from gateway.snapshot import ServerTiming as ServerTimingSnapshot

ServerTiming: TypeAlias = Annotated[str, *choice(*(word.value for word in ServerTimingSnapshot))]


BLOCK: Final = Block[RouteFacts](
    "server_timing", "on_request", compile=slot("server_timing", ServerTimingSnapshot), rows=line("server_timing", str)
)
