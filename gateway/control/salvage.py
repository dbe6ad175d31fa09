"""What is left of a configuration without its faulty parts, so that one run finds the mistakes of every kind.

Cross checks (names that must exist, budgets that contradict one another) need a whole `Config`. Each block that does not fit
is taken out of a copy of the values; where its absence would be a mistake of its own, something stands in for it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Final

from gateway.control.reading.nodes import Loc

_ENDPOINT: Final = "https://stand-in"
_ANSWERS: Final = {"redirect": "https://stand-in/", "respond": "404"}


def salvage(data: dict[str, Any], faults: Iterable[Loc]) -> dict[str, Any]:
    """A copy of the values without what is faulty."""
    left = copy.deepcopy(data)
    places: set[tuple[Any, ...]] = set(faults)
    # A list without a valid entry is called too short besides; its entries are what is wrong.
    outer = {loc[:length] for loc in places for length in range(len(loc))}
    for top, *steps in sorted(places - outer, key=str):
        block = left.get(top)
        if not steps or not isinstance(block, (dict, list)):
            left.pop(top, None)
        elif top == "routes":
            block[steps[0]] = _route(block[steps[0]], *steps)
        elif isinstance(block, dict) and steps[0] not in block:
            continue  # its key was a fault, and it has gone with it
        elif top == "upstreams" and steps[1:] != ["[key]"]:
            block[steps[0]] = _upstream(block[steps[0]], *steps[1:])
        elif isinstance(block, dict):
            block.pop(steps[0], None)
        else:
            left.pop(top)
    return {"version": "1", "routes": [_route(None, 0)]} | left


def _route(route: Any, index: int, part: str = "", *_: Any) -> dict[str, Any]:
    # A path that is not known neither hides other routes nor is hidden.
    name, match = f"stand-in-{index}", {"path": f"/stand-in-{index}"}
    if not isinstance(route, dict) or part in ("", "upstream"):
        return {"name": name, "match": match, "respond": "404"}
    if part == "match":  # any prefix fits what is not known
        return {key: value for key, value in route.items() if key not in ("strip_prefix", "rewrite_prefix")} | {"match": match}
    if part == "name":
        return route | {"name": name}
    if part in _ANSWERS:
        return route | {part: _ANSWERS[part]} if part in route else route
    return {key: value for key, value in route.items() if key != part}


def _upstream(upstream: Any, part: str = "", *steps: Any) -> dict[str, Any]:
    if not isinstance(upstream, dict) or not part:
        return {"endpoints": [_ENDPOINT]}
    if part != "endpoints":
        return {key: value for key, value in upstream.items() if key != part}
    listed = upstream.get(part)
    if not steps or not isinstance(listed, list):
        return upstream | {part: [_ENDPOINT]}
    at = steps[0]
    return upstream | {part: [*listed[:at], f"{_ENDPOINT}-{at}", *listed[at + 1 :]]}
