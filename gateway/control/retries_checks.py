"""What is wrong with retries although each of their fields is right."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.control.effective import Retries, effective
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.schema import Config
from gateway.control.words.units import format_duration


def check_retries(config: Config, positions: Positions) -> Iterator[Problem]:
    """Everything that is wrong with the retries of all routes."""
    reported: set[Loc] = set()
    for index, route in enumerate(config.routes):
        found = effective(config, index)
        if route.upstream is None or found.retry.value is None:
            continue
        for problem_at, problem in _route(index, config, found.retry.value, positions):
            if problem_at not in reported:
                reported.add(problem_at)
                yield problem


def _route(index: int, config: Config, retries: Retries, positions: Positions) -> Iterator[tuple[Loc, Problem]]:
    base, most = retries.base, retries.max
    if base.value > most.value:
        origin = base.origin or most.origin
        assert origin is not None
        written = "base" if base.origin is not None else "max"
        message = f"`base` ({format_duration(base.value)}) is longer than `max` ({format_duration(most.value)})"
        yield origin, positions.problem(origin, message, f"`{written}` is written here; the other one is a default"
                                        if base.origin is None or most.origin is None else "")  # fmt: skip
    seen: dict[str, int] = {}
    for number, word in enumerate(retries.on.value):
        if word in seen and retries.on.origin is not None:
            at: Loc = (*retries.on.origin, number)
            yield at, positions.problem(at, f"`{word}` stands twice")
        seen.setdefault(word, number)
    key = retries.idempotency_key
    if key.value and key.origin is not None:
        removed = [value for value in effective(config, index).request_edits.remove if value.value.lower() == "idempotency-key"]
        for value in removed:
            assert value.origin is not None
            message = "`retry.idempotency_key` relies on this header: the upstream must get it"
            yield value.origin, positions.problem(value.origin, message)
