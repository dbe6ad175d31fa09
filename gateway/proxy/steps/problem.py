"""Refusals that are rendered once and sent to many: while an upstream is shut off, a refusal must cost little.

Only the id differs from request to request, and it has a fixed length; the date is renewed every second.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import getrandbits
from typing import TYPE_CHECKING, Final

from gateway.proxy.steps.fields import edited_lines, own_answer, problem_body, problem_lines

if TYPE_CHECKING:
    from gateway.errors import Failed
    from gateway.proxy.exchange import Exchange
    from gateway.snapshot import Snapshot

_PLACE: Final = b"%032x" % getrandbits(128)
"""Stands for the id while an answer is rendered."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A whole answer in parts, between which the id belongs; it holds for this world and date."""

    snapshot: Snapshot
    date: bytes
    size: int
    """Of the body."""
    parts: list[bytes]


def answer_again(x: Exchange, failed: Failed, route: str | None) -> bool:
    """Send the answer of `failed` as it was rendered for others; False when this request wants another form of it."""
    if not x.keep_alive or not x.head.minor or len(x.request_id) != len(_PLACE) or x.head.method == b"HEAD":
        return False
    assert failed.ready is not None
    date = x.client_connection.plane.date
    ready: _Ready | None = failed.ready.get(route)
    if ready is None or ready.date is not date or ready.snapshot is not x.snapshot:
        ready = failed.ready[route] = _render(x, failed, route, date)
    x.response_bytes = ready.size
    x.client_connection.transport.write(x.request_id.join(ready.parts))
    return True


def _render(x: Exchange, failed: Failed, route: str | None, date: bytes) -> _Ready:
    lines = problem_lines(failed, x.snapshot.server.name, x.route)
    if x.route is not None and x.route.response_edits is not None:
        lines = edited_lines(lines, x.route.response_edits)
    lines = (*lines, x.snapshot.names.request_id_line + _PLACE)
    body = problem_body(failed, route, _PLACE)
    answer = own_answer(failed.failure.status, lines, body, date=date, keep_alive=True)
    return _Ready(x.snapshot, date, len(body), answer.split(_PLACE))
