"""The block `circuit_breaker:` of an upstream: the model, what can be wrong with it, what it becomes, how it is explained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, TypeAlias

from pydantic import Field

from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.words import units, values
from gateway.control.words.model import Model, setting
from gateway.control.words.units import format_duration
from gateway.control.words.values import choice, text_value
from gateway.policies.circuit_breaker import NEVER, STATUSES, BreakerSettings

MODES: Final = ("enforce", "shadow", "off")


def _rate(text: str) -> float:
    share = units.parse_percent(text)
    if share <= 0:
        raise units.UnitError("must be more than `0%`")
    return share


def _window(text: str) -> float:
    return _between(text, 1.0, 3600.0)


def _open_time(text: str) -> float:
    return _between(text, 0.1, units.MAX_DURATION)


def _between(text: str, least: float, most: float) -> float:
    seconds = units.parse_duration(text)
    if not least <= seconds <= most:
        raise units.UnitError(f"must be between `{format_duration(least)}` and `{format_duration(most)}`")
    return seconds


Rate: TypeAlias = Annotated[float, *text_value("a percentage such as `50%`", _rate, pattern=units.PERCENT_PATTERN)]
Window: TypeAlias = Annotated[float, *text_value("a duration such as `10s`", _window, pattern=units.DURATION_PATTERN)]
OpenTime: TypeAlias = Annotated[float, *text_value("a duration such as `5s`", _open_time, pattern=units.DURATION_PATTERN)]


class CircuitBreaker(Model):
    """When an endpoint is not asked any more, because it keeps failing; and how it comes back."""

    short_form = ("mode", {"enum": list(MODES)})

    mode: Annotated[str, *choice(*MODES)] = setting(
        "enforce", "`enforce`; `shadow`: everything is counted and shown, but nothing is refused; `off`. Short form: `off`."
    )
    failure_rate: Rate = setting("50%", "Open when so many of the calls in the window failed.")
    slow_call: values.Duration | None = setting(
        None, "A call is slow when its response head took this long. Default: slow calls are not counted."
    )
    slow_rate: Rate = setting("50%", "Open when so many of the calls in the window were slow, with `slow_call`.")
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
    return BreakerSettings(
        failure_rate=written.failure_rate,
        slow_call=NEVER if written.slow_call is None else written.slow_call,
        slow_rate=written.slow_rate,
        window=written.window,
        min_requests=written.min_requests,
        open_for=written.open_for,
        max_open_for=written.max_open_for,
        probes=written.probes,
        ramp=written.ramp,
        # The usual ones are one object, so that settings of many upstreams compare at once.
        statuses=STATUSES if frozenset(written.statuses) == STATUSES else frozenset(written.statuses),
        enforce=written.mode == "enforce",
    )


def check_breaker(loc: Loc, written: CircuitBreaker, positions: Positions) -> Iterator[Problem]:
    """What is wrong although each field is right."""
    if written.open_for > written.max_open_for:
        longest = format_duration(written.max_open_for)
        at = "open_for" if positions.written((*loc, "open_for")) else "max_open_for"
        message = f"`open_for` ({format_duration(written.open_for)}) is longer than `max_open_for` ({longest})"
        yield positions.problem((*loc, at), message)
    if written.slow_call is None and positions.written((*loc, "slow_rate")):
        yield positions.problem((*loc, "slow_rate"), "`slow_rate` has no effect without `slow_call`", key=True)


def breaker_rows(loc: Loc, written: CircuitBreaker, positions: Positions) -> list[tuple[str, str, str]]:
    """Name, value and place, for `gateway explain`."""
    place = str(positions.written(loc) or "default")
    if written.mode == "off":
        return [("circuit_breaker", "off", place)]
    shadow = ", shadow: nothing is refused" if written.mode == "shadow" else ""
    window = f"{written.min_requests} calls or more in {format_duration(written.window)}"
    rows = [("circuit_breaker", f"opens when {_percent(written.failure_rate)} of {window} failed{shadow}", place)]
    if written.slow_call is not None:
        slow = f"opens when {_percent(written.slow_rate)} took {format_duration(written.slow_call)} or longer"
        rows.append(("circuit_breaker.slow_call", slow, _at(positions, (*loc, "slow_call"))))
    times = f"{format_duration(written.open_for)}, doubling to {format_duration(written.max_open_for)}"
    rows.append(("circuit_breaker.open_for", times, _at(positions, (*loc, "open_for"))))
    back = f"{written.probes} probes, then a ramp of {format_duration(written.ramp)}"
    rows.append(("circuit_breaker.probes", back, _at(positions, (*loc, "probes"))))
    rows.append(
        ("circuit_breaker.statuses", ", ".join(map(str, written.statuses)) or "none", _at(positions, (*loc, "statuses")))
    )
    return rows


def _at(positions: Positions, loc: Loc) -> str:
    return str(positions.written(loc) or "default")


def _percent(share: float) -> str:
    return f"{share * 100:.4g}%"
