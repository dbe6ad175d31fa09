"""All that is wrong with a file that is no configuration, each mistake once and nothing that only follows from another."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from gateway.control import checks
from gateway.control.advice.explain import Source, example_of, explained
from gateway.control.advice.mend import Mended, fill, mend, outdented
from gateway.control.reading.nodes import Loc, Mapping, Positions, to_data
from gateway.control.reading.problems import Problem
from gateway.control.resolved import resolve_config
from gateway.control.salvage import salvage
from gateway.control.schema import Config

_ROUNDS: Final = 4
"""How often something is put right to look for mistakes behind it."""


def all_problems(root: Mapping, lines: dict[str, list[str]], base: Path, problems: list[Problem]) -> list[Problem]:
    """The problems that are known already, and all others."""
    found = dict.fromkeys(problems)
    positions = Positions(root, lines)
    first = Mended()
    outdented(root, positions, first)
    fill(root)
    for turn in range(_ROUNDS):
        _, errors, source = _tried(to_data(root), positions, base)
        mended = mend(root, errors, source)
        if not turn:
            mended.problems += first.problems
            mended.silenced |= first.silenced
        said = {(key.file, key.line, key.column) for key in mended.silenced}
        found = {one: None for one in found if (one.file, one.line, one.column) not in said}
        found.update(dict.fromkeys(mended.problems))
        if not mended.problems:
            break
    found = dict.fromkeys(_null(one, root) for one in found)
    fill(root, nulls=True)
    data: dict[str, Any] = to_data(root)
    faults: list[Loc] = []
    for turn in range(_ROUNDS + 1):
        if turn:
            data = salvage(data, faults)
        config, errors, source = _tried(data, positions, base)
        if config is not None:
            found.update(dict.fromkeys(checks.check(config, resolve_config(config), positions)))
            break
        faults = [tuple(one["loc"]) for one in errors]
        same: set[tuple[Loc, str, int]] = set()
        for one in errors:
            # What is missing only now has just been taken out.
            problem = explained(one, source) if not turn or one["type"] not in ("missing", "too_short") else None
            if problem is None:
                continue
            # Entries of one list, in one line, that are wrong in the same way are one mistake.
            loc = tuple(one["loc"])
            entry = next((at for at in range(len(loc) - 1, 1, -1) if isinstance(loc[at], int)), len(loc))
            mark = (loc[:entry], problem.message, problem.line)
            if mark not in same:
                found[problem] = None
            same.add(mark)
    return list(found)


def _null(problem: Problem, root: Mapping) -> Problem:
    """A problem of a key without a value, with what could be written."""
    match = re.fullmatch(r"`(.+)` has no value", problem.message)
    if match is None:
        return problem
    upstreams = root.items["upstreams"][1] if "upstreams" in root.items else None
    names = list(upstreams.items) if isinstance(upstreams, Mapping) else []
    if re.search(r":\s*&\S+\s*$", problem.source):
        return replace(problem, hint="a text that begins with `&` needs quotes")
    example = f"{match[1]}: {names[0]}" if match[1] in ("upstream", "fallback") and names else example_of(match[1])
    return replace(problem, hint=f"write `{example}`, or remove the line") if example else problem


def _tried(data: dict[str, Any], positions: Positions, base: Path) -> tuple[Config | None, list[dict[str, Any]], Source]:
    """The configuration that the values are, or pydantic's errors."""
    source = Source(data, positions, base)
    try:
        return Config.model_validate(data, context={"base": base}), [], source
    except ValidationError as error:
        return None, [dict(one) for one in error.errors(include_url=False)], source
