"""The block `timeout:`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Self

from gateway.control.blocks.block import Asked, Block, RouteFacts, Row, slot
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.words import units, values
from gateway.control.words.inherit import Policy, Resolved
from gateway.control.words.model import Model, setting
from gateway.control.words.units import format_duration
from gateway.policies.timeout import TimeoutSettings

NAMES: Final = ("request", "attempt", "connect", "idle")


class Timeout(Policy):
    """The time budget of a request, up to the response head. It covers everything: waiting, connecting, every attempt."""

    short_form = ("request", {"type": "string", "pattern": units.DURATION_PATTERN})

    request: values.Duration = setting(
        "15s", "From the complete request to the response head; then 504. Long polls need more. Default `15s`."
    )
    attempt: values.Duration | None = setting(None, "For one attempt at an endpoint. Default: as `request`.")
    connect: values.Duration = setting("3s", "To open a connection to an endpoint. Default `3s`.")
    idle: values.Duration = setting("5m", "Longest silence inside a stream or WebSocket. Default `5m`.")

    @classmethod
    def resolve(cls, scopes: Sequence[tuple[Loc, Model]]) -> Resolved[Self]:
        """A part of the budget never exceeds the whole: a route that sets only `timeout: 1s` means all of it."""
        found = super().resolve(scopes)
        request = found["request"]
        attempt = _bounded(found["attempt"], request)
        parts = {**found.parts, "attempt": attempt, "connect": _bounded(found["connect"], attempt)}
        return Resolved(cls.model_construct(**{name: part.value for name, part in parts.items()}), found.origin, parts)


def _bounded(inner: Resolved[Any], outer: Resolved[Any]) -> Resolved[Any]:
    return inner if inner.value is not None and inner.value <= outer.value else inner.within(outer, outer.value)


def _check(found: Resolved[Timeout], facts: RouteFacts, positions: Positions) -> Iterator[Problem]:
    """A part that was written here must fit into the whole that holds here; inherited parts are cut silently."""
    for name in ("attempt", "connect"):
        written = found[name].cut
        if written is None or written.origin is None or written.origin[: len(facts.loc)] != facts.loc:
            continue
        around = "attempt" if name == "connect" and written.value <= found.value.request else "request"
        whole = format_duration(found[around].value)
        message = f"`{name}` ({format_duration(written.value)}) is longer than `{around}` ({whole}) around it"
        yield positions.problem(written.origin, message)
        return


def _made(timeout: Timeout) -> TimeoutSettings:
    return TimeoutSettings(timeout.request, timeout.attempt or timeout.request, timeout.connect, timeout.idle)


def _rows(found: Resolved[Timeout], facts: RouteFacts, asked: Asked) -> list[Row]:
    return [(f"timeout.{name}", format_duration(found[name].value), found[name].place(asked.positions)) for name in NAMES]


BLOCK: Final = Block[RouteFacts]("timeout", Timeout(), forwards=True, check=_check, compile=slot("timeout", _made), rows=_rows)
