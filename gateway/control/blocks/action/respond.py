"""The block `respond:`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.control.blocks.block import Block, RouteFacts, line, slot
from gateway.control.blocks.message.fields import check_names, field_line
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.words import values
from gateway.control.words.model import Model, setting
from gateway.snapshot import Respond as RespondSnapshot


class Respond(Model):
    """Answer here, without an upstream."""

    short_form = ("status", {"type": "integer"})

    status: int = setting(200, "Status code.", ge=200, le=599)
    body: str = setting("", "Body, as text.", max_length=65_536)
    content_type: values.FieldValue = setting("text/plain; charset=utf-8", "`Content-Type` of the body.")
    fields: dict[values.FieldName, values.FieldValue] = setting({}, "Further response headers.")

    def __str__(self) -> str:
        return str(self.status)


def _check(respond: Respond, loc: Loc, positions: Positions) -> Iterator[Problem]:
    if respond.body and respond.status in (204, 205, 304):
        yield positions.problem((*loc, "body"), f"a {respond.status} response has no body", key=True)
    yield from check_names((*loc, "fields"), respond.fields, positions, request=False)
    for name in respond.fields:
        if name.lower() == "content-type":
            yield positions.problem((*loc, "fields", name), "use `content_type` of `respond`", key=True)


def _made(respond: Respond | None) -> RespondSnapshot | None:
    if respond is None:
        return None
    body = respond.body.encode("utf-8")
    lines = [field_line(name, value) for name, value in respond.fields.items()]
    if body:
        lines.insert(0, field_line("Content-Type", respond.content_type))
    return RespondSnapshot(respond.status, body, tuple(lines))


BLOCK: Final = Block[RouteFacts](
    "respond", check_written=_check, compile=slot("respond", _made), rows=line("respond", lambda one: one and str(one))
)
