"""What operators order circuit breakers to do, done in one process; and the answers of several processes as one.

An order travels as plain data: `do` is list, open, close or release; `upstream` and `endpoint` say whom (None: all);
`until` (a monotonic instant, the same in all processes of a machine), `by` and `reason` go with an override.
"""

from __future__ import annotations

from datetime import UTC, datetime
from time import monotonic, time
from typing import Any, Final, Protocol, TypeAlias

from gateway.policies import NEVER
from gateway.policies.circuit_breaker import BreakerState, Forced
from gateway.proxy.plane import DataPlane
from gateway.proxy.upstream.circuit_breaker import EndpointBreaker

Order: TypeAlias = dict[str, Any]
Shown: TypeAlias = list[dict[str, Any]]

_WORST_FIRST: Final = [
    state.value for state in (BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.RAMPING, BreakerState.CLOSED)
]


class UnknownError(Exception):
    """There is no such breaker; the text says which there are."""


class Obeys(Protocol):
    """A gateway of one process or of several."""

    async def order_breakers(self, order: Order) -> Shown:
        """Obey. The breakers it is about, as they are then. Raises UnknownError."""


def obey(plane: DataPlane, order: Order) -> Shown:
    """Obey in this process. Raises UnknownError."""
    now = monotonic()
    upstream, endpoint = order["upstream"], order["endpoint"]
    if order["do"] == "list":
        named = list(plane.breakers) if upstream is None else _named(plane, upstream, endpoint)
    else:
        named = _named(plane, upstream, endpoint)
        for one in named:
            if order["do"] == "release":
                one.breaker.release(now, f"released by {order['by']}")
            else:
                one.breaker.force(Forced(order["do"] == "open", order["until"], order["by"], order["reason"]), now)
    offset = time() - now
    return [_shown(one, now, offset) for one in named]


def _named(plane: DataPlane, upstream: str, label: str | None) -> list[EndpointBreaker]:
    """The breakers that an order names: of one endpoint, or of all of an upstream."""
    found = [one for one in plane.breakers if one.upstream == upstream]
    if not found:
        if upstream in [one.name for one in plane.snapshot.upstreams]:
            raise UnknownError("The upstream has no circuit breakers: they are off.")
        names = ", ".join(sorted({one.upstream for one in plane.breakers}))
        raise UnknownError(f"There are circuit breakers of: {names or 'no upstream'}.")
    named = [one for one in found if label in (None, one.endpoint.label)]
    if not named:
        labels = ", ".join(one.endpoint.label for one in found)
        raise UnknownError(f"The endpoints of the upstream are: {labels}.")
    return named


def _shown(one: EndpointBreaker, now: float, offset: float) -> dict[str, Any]:
    breaker = one.breaker
    counts = breaker.window.counts(now)
    forced = breaker.forced
    probes_at = breaker.due if breaker.state is BreakerState.OPEN else NEVER
    return {
        "upstream": one.upstream,
        "endpoint": one.endpoint.label,
        "mode": "enforce" if breaker.settings.enforce else "shadow",
        "state": breaker.state.value,
        "reason": breaker.reason or None,
        "admitted_share": round(breaker.share(now), 3),
        "window": _window(breaker.settings.window, counts.calls, counts.failed, counts.slow),
        "probes_out": breaker.probing,
        "openings_in_a_row": breaker.trips,
        "opened_at": _instant(breaker.opened_at, offset),
        "probes_at": _instant(probes_at, offset),
        "forced": None
        if forced is None
        else {
            "to": "open" if forced.open else "closed",
            "by": forced.by,
            "reason": forced.reason,
            "until": _instant(forced.until, offset),
        },
    }


def _window(seconds: float, calls: int, failed: int, slow: int) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "calls": calls,
        "failed": failed,
        "failure_rate": round(failed / (calls or 1), 4),
        "slow": slow,
        "slow_rate": round(slow / (calls or 1), 4),
    }


def _instant(monotonic_at: float, offset: float) -> str | None:
    if abs(monotonic_at) == NEVER:
        return None
    return datetime.fromtimestamp(monotonic_at + offset, UTC).isoformat(timespec="seconds")


def as_one(answers: dict[int, Shown]) -> Shown:
    """What several workers show, by their numbers: calls added up, of states the worst, and whose is another."""
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for worker, answer in answers.items():
        for one in answer:
            found.setdefault((one["upstream"], one["endpoint"]), {})[worker] = one
    return [_as_one(of_workers) for of_workers in found.values()]


def _as_one(of_workers: dict[int, dict[str, Any]]) -> dict[str, Any]:
    every = sorted(of_workers.values(), key=lambda one: _WORST_FIRST.index(one["state"]))
    worst = every[0]
    windows = [one["window"] for one in every]
    counts = (sum(window[name] for window in windows) for name in ("calls", "failed", "slow"))
    states = {str(worker): one["state"] for worker, one in of_workers.items()}
    return worst | {
        "window": _window(worst["window"]["seconds"], *counts),
        "admitted_share": round(sum(one["admitted_share"] for one in every) / len(every), 3),
        "probes_out": sum(one["probes_out"] for one in every),
        "opened_at": min((one["opened_at"] for one in every if one["opened_at"]), default=None),
        "probes_at": min((one["probes_at"] for one in every if one["probes_at"]), default=None),
        "workers": states if len(set(states.values())) > 1 else None,
    }
