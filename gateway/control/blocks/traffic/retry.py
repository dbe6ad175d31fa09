"""The blocks `retry:`, `hedge:` and `retry_budget:` of the configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from gateway.control.words import units, values
from gateway.control.words.model import Model, required, setting
from gateway.control.words.values import OneOrMany, did_you_mean, invalid, text_value

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


def _parse_share(text: str) -> float:
    return units.parse_percent(text)


def _parse_window(text: str) -> float:
    seconds = units.parse_duration(text)
    if not 0.1 <= seconds <= 60:
        raise units.UnitError("must be between `100ms` and `60s`")
    return seconds


def _parse_pause(text: str) -> float:
    seconds = units.parse_duration(text)
    if not 0.001 <= seconds <= 60:
        raise units.UnitError("must be between `1ms` and `60s`")
    return seconds


Condition: TypeAlias = Annotated[
    str,
    *text_value(
        "a cause or a status", _parse_condition, type=["string", "integer"], pattern=CONDITION_PATTERN, minimum=400, maximum=599
    ),
]
Replay: TypeAlias = Annotated[
    int, *text_value("a size such as `64KiB`, or `off`", _parse_replay, pattern=rf"^off$|{units.SIZE_PATTERN}")
]
Share: TypeAlias = Annotated[float, *text_value("a percentage such as `20%`", _parse_share, pattern=units.PERCENT_PATTERN)]
Window: TypeAlias = Annotated[float, *text_value("a duration such as `1s`", _parse_window, pattern=units.DURATION_PATTERN)]
Pause: TypeAlias = Annotated[float, *text_value("a duration such as `25ms`", _parse_pause, pattern=units.DURATION_PATTERN)]


class Backoff(Model):
    """The wait before a retry: drawn at random from 0 to `base`, to twice that for the next one, and so on up to `max`."""

    base: Pause | None = setting(None, "Longest wait before the first retry. Default `25ms`.")
    max: Pause | None = setting(None, "Longest wait before any. Default `250ms`.")


class Retry(Model):
    """When a request is sent again. Only idempotent ones are, unless nothing was sent."""

    short_form = ("max_retries", {"type": "integer", "minimum": 0, "maximum": MOST_RETRIES})

    max_retries: int | None = setting(None, "Attempts beyond the first. Default 1.", ge=0, le=MOST_RETRIES)
    on: Annotated[tuple[Condition, ...] | None, OneOrMany()] = setting(
        None,
        "Causes: `connect` (no connection), `reset` (closed without a whole response head), `timeout` (`timeout.attempt`), "
        "`invalid` (no valid HTTP), `5xx`, or a status such as `503`. Default `[connect, reset, timeout, 502, 503, 504]`.",
        min_length=1,
        max_length=64,
    )
    backoff: Backoff = setting({}, "The wait before a retry.")
    replay: Replay | None = setting(
        None, "How much of a request body is kept to be sent again; larger ones are not. Default `64KiB`; `off`: none."
    )
    idempotency_key: bool | None = setting(
        None, "Believe an `Idempotency-Key` header: such a request may be repeated whatever its method. Default `false`."
    )


RETRY_OFF: Final = Retry()
"""What `off` stands for: this very object."""


_PERCENTILE: Final = re.compile(r"p([0-9]{2}(?:\.[0-9])?)")


@dataclass(frozen=True, slots=True)
class After:
    """How long to wait before a hedge: seconds, or a share of the recent answers between 0 and 1."""

    seconds: float = 0.0
    quantile: float = 0.0

    def __str__(self) -> str:
        return f"p{self.quantile * 100:g}" if self.quantile else units.format_duration(self.seconds)


def _parse_after(text: str) -> After:
    match = _PERCENTILE.fullmatch(text)
    if match is not None:
        percent = float(match[1])
        if percent < 50:
            raise invalid("at least `p50`: half of all requests would be sent twice")
        return After(quantile=percent / 100)
    try:
        return After(seconds=_parse_pause(text))
    except units.UnitError as error:
        raise invalid(
            f"{error}; or a percentile such as `p95`", f"did you mean `{error.hint}`?" if error.hint else ""
        ) from None


AFTER_PATTERN: Final = rf"^p[5-9][0-9](\.[0-9])?$|{units.DURATION_PATTERN}"
AfterValue: TypeAlias = Annotated[
    After, *text_value("a duration such as `50ms`, or `p95`", _parse_after, pattern=AFTER_PATTERN)
]


class Hedge(Model):
    """A second copy of a safe request that is not answered soon, to another endpoint. The first good answer counts."""

    short_form = ("after", {"type": "string", "pattern": AFTER_PATTERN})

    after: AfterValue = required("How long to wait: `50ms`, or a percentile of the upstream's recent answers such as `p95`.")
    max: int = setting(1, "Copies beyond the first.", ge=1, le=3)


HEDGE_OFF: Final = Hedge.model_validate({"after": "p95"})
"""What `off` stands for: this very object."""


class RetryBudget(Model):
    """What retries and hedges of an upstream may cost, over all routes."""

    short_form = ("ratio", {"type": "string", "pattern": units.PERCENT_PATTERN})

    ratio: Share = setting("20%", "Retries, as a share of the requests.")
    min_per_second: float = setting(10.0, "Retries per second that are allowed beyond that.", ge=0, le=10_000)
    window: Window = setting("100ms", "For how long the share of requests is saved up, `100ms` to `60s`.")
