"""The block `paths:` of a route. What its `forward` could be used to get around is checked in `control/evasion.py`."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from gateway.control.blocks.block import Asked, Block, RouteFacts, Row, slot
from gateway.control.words.inherit import Policy, Resolved
from gateway.control.words.model import setting
from gateway.control.words.values import choice

FORWARD: Final = "forward"

DotSegments: TypeAlias = Annotated[str, *choice("reject", FORWARD)]


class RoutePaths(Policy):
    """What to do with paths that others may read differently."""

    dot_segments: DotSegments = setting(
        "reject",
        "`reject`: a path with `.` or `..` segments is 400; `forward`: it is matched and goes on as it was sent, for object "
        "stores whose keys hold them. Only where no policy can be evaded by it: `match.path` is `/**`.",
    )


def _rows(found: Resolved[RoutePaths], facts: RouteFacts, asked: Asked) -> list[Row]:
    dots = found["dot_segments"]
    return [("paths.dot_segments", dots.value, dots.place(asked.positions))]


BLOCK: Final = Block[RouteFacts](
    "paths",
    RoutePaths(),
    below=("server", "paths"),
    forwards=True,
    compile=slot("forwards_dots", lambda paths: paths.dot_segments == FORWARD),
    rows=_rows,
)
