"""`retry:` ▸ what the attempt loop asks; `retry_budget:` ▸ the live budget of an upstream."""

from __future__ import annotations

from time import monotonic
from typing import Final

from tenacity.wait import wait_random_exponential

from gateway.control.blocks.traffic.retry import ALL_5XX, CAUSES, Hedge, RetryBudget
from gateway.control.effective import Retries
from gateway.policies.hedging import HedgeDelay, HedgeSettings
from gateway.policies.retry import BudgetSettings, Cause, RetrySettings
from gateway.policies.retry import RetryBudget as LiveBudget
from gateway.snapshot import Retry, Upstream

_CAUSES: Final = {cause.value: cause for cause in Cause if cause.value in CAUSES}


def compile_retry(retries: Retries | None) -> Retry | None:
    """The policy of a route; None when it is off."""
    if retries is None:
        return None
    words = retries.on.value
    statuses = {int(word) for word in words if word.isdigit()}
    if ALL_5XX in words:
        statuses.update(range(500, 600))
    settings = RetrySettings(
        max_retries=retries.max_retries.value,
        causes=frozenset(_CAUSES[word] for word in words if word in _CAUSES),
        statuses=frozenset(statuses),
        idempotency_key=retries.idempotency_key.value,
        replay=retries.replay.value,
    )
    wait = wait_random_exponential(multiplier=retries.base.value, max=retries.max.value)
    return Retry(settings, wait)


def compile_hedge(hedge: Hedge | None) -> HedgeDelay | None:
    """When a copy is sent; None: never."""
    return None if hedge is None else HedgeDelay(HedgeSettings(hedge.after.seconds, hedge.after.quantile, hedge.max))


def longest_back_off(retries: Retries) -> float:
    """Seconds that all back-offs of a request take at worst."""
    base, most = retries.base.value, retries.max.value
    return float(sum(min(most, base * 2**number) for number in range(retries.max_retries.value)))


def retry_budget(written: RetryBudget, previous: Upstream | None, workers: int) -> LiveBudget:
    """A worker's part of the budget of an upstream; the one it had, as long as its settings are the same."""
    settings = BudgetSettings(written.ratio, written.min_per_second / workers, written.window)
    if previous is not None and previous.retry_budget.settings == settings:
        return previous.retry_budget
    return LiveBudget(settings, monotonic())
