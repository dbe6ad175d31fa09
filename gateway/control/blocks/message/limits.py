"""The block `limits:` of a route."""

from __future__ import annotations

from typing import Final

from gateway.control.blocks.block import Asked, Block, RouteFacts, Row, slot
from gateway.control.words import values
from gateway.control.words.inherit import Policy, Resolved
from gateway.control.words.model import setting
from gateway.control.words.units import format_size
from gateway.control.words.values import NO_LIMIT


class RouteLimits(Policy):
    """What one request may cost."""

    body: values.BodySize = setting("10MiB", "Largest request body; more is 413. `off`: no limit.")


def _rows(found: Resolved[RouteLimits], facts: RouteFacts, asked: Asked) -> list[Row]:
    body = found.value.body
    return [("limits.body", "off" if body == NO_LIMIT else format_size(body), found["body"].place(asked.positions))]


BLOCK: Final = Block[RouteFacts](
    "limits", RouteLimits(), below=("server", "limits"), compile=slot("max_body", lambda limits: limits.body), rows=_rows
)
