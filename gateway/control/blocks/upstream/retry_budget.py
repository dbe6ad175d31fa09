"""The block `retry_budget:` of an upstream."""

from __future__ import annotations

from time import monotonic
from typing import Annotated, Final, TypeAlias

from gateway.control.blocks.block import Block, Row, UpstreamFacts
from gateway.control.reading.nodes import Positions
from gateway.control.words import units
from gateway.control.words.inherit import Resolved
from gateway.control.words.model import Model, setting
from gateway.control.words.units import format_duration
from gateway.control.words.values import duration_within, text_value
from gateway.policies.retry import BudgetSettings
from gateway.policies.retry import RetryBudget as LiveBudget

Share: TypeAlias = Annotated[
    float, *text_value("a percentage such as `20%`", units.parse_percent, pattern=units.PERCENT_PATTERN)
]
Window: TypeAlias = Annotated[float, *duration_within("100ms", "60s", "1s")]


class RetryBudget(Model):
    """What retries and hedges of an upstream may cost, over all routes."""

    short_form = ("ratio", {"type": "string", "pattern": units.PERCENT_PATTERN})

    ratio: Share = setting("20%", "Retries, as a share of the requests.")
    min_per_second: float = setting(10.0, "Retries per second that are allowed beyond that.", ge=0, le=10_000)
    window: Window = setting("100ms", "For how long the share of requests is saved up, `100ms` to `60s`.")


def live_budget(written: RetryBudget, previous: LiveBudget | None, workers: int) -> LiveBudget:
    """A worker's part of the budget of an upstream; the one it had, as long as its settings are the same."""
    settings = BudgetSettings(written.ratio, written.min_per_second / workers, written.window)
    if previous is not None and previous.settings == settings:
        return previous
    return LiveBudget(settings, monotonic())


def budget_row(found: Resolved[RetryBudget], positions: Positions) -> Row:
    """What retries may cost. It is shown with the retries of a route."""
    budget = found.value
    cost = f"{budget.ratio:.4%}".rstrip("%").rstrip("0").rstrip(".")
    text = f"{cost}% of the requests + {budget.min_per_second:g}/s, saved up for {format_duration(budget.window)}"
    return "retry_budget", text, found.place(positions)


BLOCK: Final = Block[UpstreamFacts]("retry_budget")
