"""When a request would be sent again, and what that may cost."""

from __future__ import annotations

from typing import Any

from gateway.control.blocks.traffic.retry import Hedge
from gateway.control.effective import Retries, Value
from gateway.control.load import Loaded
from gateway.control.retries_compile import longest_back_off
from gateway.control.words.units import format_duration, format_size
from gateway.policies.hedging import SAFE
from gateway.policies.retry import IDEMPOTENT

Row = tuple[str, str, str]


def retry_rows(loaded: Loaded, found: Value[Retries | None], upstream: str, method: bytes) -> list[Row]:
    """Name, value and place of everything that decides about retries of a request."""
    retries = found.value
    if retries is None:
        return [("retry", "off", _place(loaded, found))]
    again = "yes" if method in IDEMPOTENT else "only if nothing was sent"
    if method not in IDEMPOTENT and retries.idempotency_key.value:
        again += ", or with an `Idempotency-Key`"
    budget = loaded.config.upstreams[upstream].retry_budget
    written = loaded.positions.written(("upstreams", upstream, "retry_budget"))
    cost = f"{budget.ratio:.4%}".rstrip("%").rstrip("0").rstrip(".")
    return [
        ("retry.max_retries", str(retries.max_retries.value), _place(loaded, retries.max_retries)),
        ("retry.on", ", ".join(retries.on.value), _place(loaded, retries.on)),
        ("retry of this method", again, ""),
        ("retry.backoff.base", format_duration(retries.base.value), _place(loaded, retries.base)),
        ("retry.backoff.max", format_duration(retries.max.value), _place(loaded, retries.max)),
        ("retry back-off in all", f"at most {format_duration(longest_back_off(retries))}", ""),
        ("retry.replay", format_size(retries.replay.value) if retries.replay.value else "off", _place(loaded, retries.replay)),
        ("retry.idempotency_key", str(retries.idempotency_key.value).lower(), _place(loaded, retries.idempotency_key)),
        (
            "retry_budget",
            f"{cost}% of the requests + {budget.min_per_second:g}/s, saved up for {format_duration(budget.window)}",
            str(written or "default"),
        ),
    ]


def hedge_rows(loaded: Loaded, found: Value[Hedge | None], upstream: str, method: bytes) -> list[Row]:
    """The same for hedging; nothing when it is off everywhere."""
    hedge = found.value
    if hedge is None:
        return [("hedge", "off", _place(loaded, found))] if found.origin is not None else []
    copies = "one more copy" if hedge.max == 1 else f"up to {hedge.max} more copies, each"
    text = f"{copies} after {hedge.after}, from the retry budget"
    if method not in SAFE:
        text = "not for this method"
    elif len(loaded.config.upstreams[upstream].endpoints) < 2:
        text += "; needs a second endpoint"
    return [("hedge", text, _place(loaded, found))]


def _place(loaded: Loaded, value: Value[Any]) -> str:
    place = "default" if value.origin is None else str(loaded.positions.at(value.origin))
    return f"{place} ({value.note})" if value.note else place
