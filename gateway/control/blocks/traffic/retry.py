"""The block `retry:`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, TypeAlias

from tenacity.wait import wait_random_exponential

from gateway.control.blocks.block import Asked, Block, RouteFacts, Row, slot
from gateway.control.blocks.upstream.retry_budget import budget_row
from gateway.control.reading.nodes import Positions
from gateway.control.reading.problems import Problem
from gateway.control.words import units, values
from gateway.control.words.inherit import Policy, Resolved
from gateway.control.words.model import setting
from gateway.control.words.units import format_duration, format_size
from gateway.control.words.values import ONE_OR_MANY, did_you_mean, duration_within, invalid, repeated, text_value
from gateway.policies.retry import IDEMPOTENT, Cause, RetrySettings
from gateway.snapshot import Retry as RetrySnapshot

CAUSES: Final = ("connect", "reset", "timeout", "invalid")
ALL_5XX: Final = "5xx"
CONDITION_PATTERN: Final = r"^(connect|reset|timeout|invalid|5xx|[45][0-9]{2})$"

MOST_RETRIES: Final = 10


def _parse_condition(text: str) -> str:
    if text in CAUSES or text == ALL_5XX:
        return text
    if len(text) == 3 and text.isdigit() and "400" <= text <= "599":
        return text
    hint = did_you_mean(text, (*CAUSES, ALL_5XX))
    raise invalid("expected `connect`, `reset`, `timeout`, `invalid`, `5xx` or a status from 400 to 599", hint)


def _parse_replay(text: str) -> int:
    size = 0 if text == values.OFF else units.parse_size(text)
    if size > 1 << 20:
        raise units.UnitError("at most `1MiB`: it is kept in memory for each upload in progress")
    return size


Condition: TypeAlias = Annotated[
    str,
    *text_value(
        "a cause or a status", _parse_condition, type=["string", "integer"], pattern=CONDITION_PATTERN, minimum=400, maximum=599
    ),
]
Replay: TypeAlias = Annotated[
    int, *text_value("a size such as `64KiB`, or `off`", _parse_replay, pattern=rf"^off$|{units.SIZE_PATTERN}")
]
Pause: TypeAlias = Annotated[float, *duration_within("1ms", "60s", "25ms")]


class Backoff(Policy):
    """The wait before a retry: drawn at random from 0 to `base`, to twice that for the next one, and so on up to `max`."""

    base: Pause = setting("25ms", "Longest wait before the first retry. Default `25ms`.")
    max: Pause = setting("250ms", "Longest wait before any. Default `250ms`.")


class Retry(Policy):
    """When a request is sent again. Only idempotent ones are, unless nothing was sent."""

    short_form = ("max_retries", {"type": "integer", "minimum": 0, "maximum": MOST_RETRIES})

    max_retries: int = setting(1, "Attempts beyond the first. Default 1.", ge=0, le=MOST_RETRIES)
    on: Annotated[tuple[Condition, ...], ONE_OR_MANY] = setting(
        ("connect", "reset", "timeout", "502", "503", "504"),
        "Causes: `connect` (no connection), `reset` (closed without a whole response head), `timeout` (`timeout.attempt`), "
        "`invalid` (no valid HTTP), `5xx`, or a status such as `503`. Default `[connect, reset, timeout, 502, 503, 504]`.",
        min_length=1,
        max_length=64,
    )
    backoff: Backoff = setting({}, "The wait before a retry.")
    replay: Replay = setting(
        "64KiB", "How much of a request body is kept to be sent again; larger ones are not. Default `64KiB`; `off`: none."
    )
    idempotency_key: bool = setting(
        False, "Believe an `Idempotency-Key` header: such a request may be repeated whatever its method. Default `false`."
    )


RETRY_OFF: Final = Retry.make_off()
"""What `off` stands for: this very object."""


_CAUSES: Final = {cause.value: cause for cause in Cause if cause.value in CAUSES}


def _check(found: Resolved[Retry], facts: RouteFacts, positions: Positions) -> Iterator[Problem]:
    if facts.upstream is None or found.value is RETRY_OFF:
        return
    base, most = found["backoff"]["base"], found["backoff"]["max"]
    if base.value > most.value:
        origin = base.origin or most.origin
        assert origin is not None
        written = "base" if base.origin is not None else "max"
        message = f"`base` ({format_duration(base.value)}) is longer than `max` ({format_duration(most.value)})"
        both = base.origin is not None and most.origin is not None
        yield positions.problem(origin, message, "" if both else f"`{written}` is written here; the other one is a default")
    on = found["on"]
    for index, _ in repeated(on.value):
        yield positions.problem((*(on.origin or ()), index), f"`{on.value[index]}` stands twice")


def _made(written: Retry) -> RetrySnapshot | None:
    if written is RETRY_OFF:
        return None
    statuses = {int(word) for word in written.on if word.isdigit()}
    if ALL_5XX in written.on:
        statuses.update(range(500, 600))
    settings = RetrySettings(
        max_retries=written.max_retries,
        causes=frozenset(_CAUSES[word] for word in written.on if word in _CAUSES),
        statuses=frozenset(statuses),
        idempotency_key=written.idempotency_key,
        replay=written.replay,
    )
    wait = wait_random_exponential(multiplier=written.backoff.base, max=written.backoff.max)
    return RetrySnapshot(settings, wait)


def longest_back_off(retry: Retry) -> float:
    """Seconds that all back-offs of a request take at worst."""
    base, most = retry.backoff.base, retry.backoff.max
    return float(sum(min(most, base * 2**number) for number in range(retry.max_retries)))


def _rows(found: Resolved[Retry], facts: RouteFacts, asked: Asked) -> list[Row]:
    """Everything that decides about retries of the request, and what they may cost."""
    retry, method = found.value, asked.request.method
    if retry is RETRY_OFF:
        return [("retry", "off", found.place(asked.positions))]
    again = "yes" if method in IDEMPOTENT else "only if nothing was sent"
    if method not in IDEMPOTENT and retry.idempotency_key:
        again += ", or with an `Idempotency-Key`"

    def row(name: str, text: str, part: Resolved[Any]) -> Row:
        return f"retry.{name}", text, part.place(asked.positions)

    backoff = found["backoff"]
    return [
        row("max_retries", str(retry.max_retries), found["max_retries"]),
        row("on", ", ".join(retry.on), found["on"]),
        ("retry of this method", again, ""),
        row("backoff.base", format_duration(retry.backoff.base), backoff["base"]),
        row("backoff.max", format_duration(retry.backoff.max), backoff["max"]),
        ("retry back-off in all", f"at most {format_duration(longest_back_off(retry))}", ""),
        row("replay", format_size(retry.replay) if retry.replay else "off", found["replay"]),
        row("idempotency_key", str(retry.idempotency_key).lower(), found["idempotency_key"]),
        budget_row(asked.upstream["retry_budget"], asked.positions),
    ]


BLOCK: Final = Block[RouteFacts]("retry", Retry(), forwards=True, check=_check, compile=slot("retry", _made), rows=_rows)
