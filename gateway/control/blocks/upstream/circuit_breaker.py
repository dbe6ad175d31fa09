"""The block `circuit_breaker:` of an upstream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, TypeAlias

from pydantic import Field

from gateway.control.blocks.block import Asked, Block, Row, UpstreamFacts, slot
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.words import values
from gateway.control.words.inherit import BUILT_IN, Resolved
from gateway.control.words.model import Model, made_of, setting
from gateway.control.words.units import format_duration
from gateway.control.words.values import choice, duration_within
from gateway.errors import Failure
from gateway.policies import NEVER
from gateway.policies.circuit_breaker import STATUSES, BreakerSettings
from gateway.snapshot import Route

MODES: Final = ("enforce", "shadow", "off")


Window: TypeAlias = Annotated[float, *duration_within("1s", "1h", "10s")]
OpenTime: TypeAlias = Annotated[float, *duration_within("100ms", "24h")]


class CircuitBreaker(Model):
    """When an endpoint is not asked any more, because it keeps failing; and how it comes back."""

    short_form = ("mode", {"enum": list(MODES)})

    mode: Annotated[str, *choice(*MODES)] = setting(
        "enforce", "`enforce`; `shadow`: everything is counted and shown, but nothing is refused; `off`. Short form: `off`."
    )
    failure_rate: values.Share = setting("50%", "Open when so many of the calls in the window failed.")
    slow_call: values.Duration | None = setting(
        None, "A call is slow when its response head took this long. Default: slow calls are not counted."
    )
    slow_rate: values.Share = setting("50%", "Open when so many of the calls in the window were slow, with `slow_call`.")
    window: Window = setting("10s", "How far back calls count, `1s` to `1h`.")
    min_requests: int = setting(20, "With fewer calls in the window it stays closed.", ge=1, le=1_000_000)
    open_for: OpenTime = setting(
        "5s", "How long it is open the first time; twice as long each further time in a row. Up to 20 % are added by chance."
    )
    max_open_for: OpenTime = setting("5m", "The longest it is open.")
    probes: int = setting(
        3, "Half open: most requests that try the endpoint at a time, and how many of them in a row must succeed.", ge=1, le=100
    )
    ramp: values.Delay = setting("10s", "After that, how long the share of requests that are let through grows to all.")
    statuses: tuple[Annotated[int, Field(ge=500, le=599)], ...] = setting(
        ("500", "502", "503", "504"), "Statuses of the endpoint that count as failures, 500 to 599.", max_length=100
    )


def breaker_settings(written: CircuitBreaker) -> BreakerSettings | None:
    """What it becomes; None: off."""
    if written.mode == "off":
        return None
    return made_of(
        written,
        BreakerSettings,
        slow_call=NEVER if written.slow_call is None else written.slow_call,
        # The usual ones are one object, so that settings of many upstreams compare at once.
        statuses=STATUSES if frozenset(written.statuses) == STATUSES else frozenset(written.statuses),
        enforce=written.mode == "enforce",
    )


def _check(written: CircuitBreaker, loc: Loc, positions: Positions) -> Iterator[Problem]:
    if written.open_for > written.max_open_for:
        longest = format_duration(written.max_open_for)
        at = "open_for" if positions.written((*loc, "open_for")) else "max_open_for"
        message = f"`open_for` ({format_duration(written.open_for)}) is longer than `max_open_for` ({longest})"
        yield positions.problem((*loc, at), message)
    if written.slow_call is None and positions.written((*loc, "slow_rate")):
        yield positions.problem((*loc, "slow_rate"), "`slow_rate` has no effect without `slow_call`", key=True)


def _rows(found: Resolved[CircuitBreaker], facts: UpstreamFacts, asked: Asked) -> list[Row]:
    written, place = found.value, found.place(asked.positions)
    if written.mode == "off":
        return [("circuit_breaker", "off", place)]
    shadow = ", shadow: nothing is refused" if written.mode == "shadow" else ""
    window = f"{written.min_requests} calls or more in {format_duration(written.window)}"
    rows = [("circuit_breaker", f"opens when {_percent(written.failure_rate)} of {window} failed{shadow}", place)]
    times = f"{format_duration(written.open_for)}, doubling to {format_duration(written.max_open_for)}"
    named = [
        ("open_for", times),
        ("probes", f"{written.probes} probes, then a ramp of {format_duration(written.ramp)}"),
        ("statuses", ", ".join(map(str, written.statuses)) or "none"),
    ]
    if written.slow_call is not None:
        slow = f"opens when {_percent(written.slow_rate)} took {format_duration(written.slow_call)} or longer"
        named.insert(0, ("slow_call", slow))
    at = asked.positions.written
    loc = (*facts.loc, "circuit_breaker")
    return rows + [(f"circuit_breaker.{name}", text, str(at((*loc, name)) or BUILT_IN)) for name, text in named]


def _percent(share: float) -> str:
    return f"{share * 100:.4g}%"


def _foresee(route: Route) -> tuple[Failure, ...]:
    serving = route.upstream
    while serving is not None:
        if serving.circuit_breaker is not None:
            return (Failure.CIRCUIT_OPEN,)
        serving = serving.fallback
    return ()


BLOCK: Final = Block[UpstreamFacts](
    "circuit_breaker", check_written=_check, compile=slot("circuit_breaker", breaker_settings), rows=_rows, foresee=_foresee
)
