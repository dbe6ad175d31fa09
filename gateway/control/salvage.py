"""What is left of a configuration without its faulty parts, so that one run finds the mistakes of every kind.

Cross checks (names that must exist, budgets that contradict one another) need a whole `Config`. Each value that does not
fit is taken out of a copy of the tree, or replaced by a stand-in where its absence would be a mistake of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Final

from gateway.control.reading.nodes import Loc, Mapping, Node, Position, Positions, Scalar, Sequence

_ENDPOINT: Final = "http://stand-in"
_LOCATION: Final = "https://stand-in/"
_STAND_INS: Final = {"url": _ENDPOINT, "address": "127.0.0.1:0", "to": _LOCATION, "version": "1"}
_ANSWERS: Final = {"redirect": _LOCATION, "respond": "404"}


def salvage(root: Mapping, faults: Iterable[tuple[str, Loc]]) -> Mapping:
    """A copy of the tree without what is faulty: pairs of pydantic's error type and where."""
    tree = copy.deepcopy(root)
    positions = Positions(tree, {})
    doomed: set[int] = set()
    listed = list(faults)
    outer = {loc[:length] for _, loc in listed for length in range(len(loc))}
    for kind, loc in listed:
        if kind == "missing":
            _add_missing(positions, loc, doomed)
        elif loc not in outer:
            # (A list without a valid entry is called too short besides; its entries are what is wrong.)
            _take_out(positions, positions.written_part(loc), doomed)
    _sweep(tree, doomed)
    return tree


def _add_missing(positions: Positions, loc: Loc, doomed: set[int]) -> None:
    parent = positions.find(loc[:-1])[0]
    name = str(loc[-1])
    if not isinstance(parent, Mapping):
        _take_out(positions, positions.written_part(loc), doomed)
    elif name == "match":
        parent.items[name] = (parent.position, _unlikely_match(parent.position, loc))
    elif name == "name":
        parent.items[name] = (parent.position, Scalar(parent.position, f"stand-in-{loc[1]}"))
    elif name == "routes":
        parent.items[name] = (parent.position, Sequence(parent.position, [_unlikely_route(parent.position)]))
    elif name == "endpoints":
        parent.items[name] = (parent.position, Sequence(parent.position, [Scalar(parent.position, _ENDPOINT)]))
    elif name in _STAND_INS:
        parent.items[name] = (parent.position, Scalar(parent.position, _STAND_INS[name]))
    else:
        _take_out(positions, loc[:-1], doomed)


def _take_out(positions: Positions, loc: Loc, doomed: set[int]) -> None:
    if len(loc) >= 3 and loc[0] == "routes":
        route = positions.find(loc[:2])[0]
        part = str(loc[2])
        if isinstance(route, Mapping):
            if part == "match":
                # A path that is not known neither hides other routes nor is hidden, and fits any prefix.
                route.items["match"] = (route.position, _unlikely_match(route.position, loc))
                route.items.pop("strip_prefix", None)
                route.items.pop("rewrite_prefix", None)
                return
            if part in _ANSWERS:
                route.items[part] = (route.position, Scalar(route.position, _ANSWERS[part]))
                return
            if part in ("name", "upstream"):
                doomed.add(id(route))
                return
    if loc[2:4] == ("load_balancing", "key"):
        balancing = positions.find(loc[:3])[0]
        if isinstance(balancing, Mapping):
            # A key that is wrong is not missing besides.
            balancing.items["key"] = (balancing.position, Scalar(balancing.position, "client_ip"))
    elif loc:
        doomed.add(id(positions.find(loc)[0]))


def _unlikely_route(position: Position) -> Mapping:
    fields = {"name": "stand-in", "respond": "404"}
    written: dict[str, tuple[Position, Node]] = {name: (position, Scalar(position, text)) for name, text in fields.items()}
    return Mapping(position, {**written, "match": (position, _unlikely_match(position, ("routes", 0)))})


def _unlikely_match(position: Position, loc: Loc) -> Mapping:
    path = Scalar(position, f"/stand-in-{loc[1]}")
    return Mapping(position, {"path": (position, path)})


def _sweep(node: Node, doomed: set[int]) -> None:
    """Remove the doomed nodes. A list of endpoints that would be empty gets a stand-in."""
    if isinstance(node, Mapping):
        node.items = {name: (key, child) for name, (key, child) in node.items.items() if id(child) not in doomed}
        for name, (_, child) in node.items.items():
            _sweep(child, doomed)
            if name == "endpoints" and isinstance(child, Sequence) and not child.items:
                child.items.append(Scalar(child.position, _ENDPOINT))
    elif isinstance(node, Sequence):
        node.items = [item for item in node.items if id(item) not in doomed]
        for item in node.items:
            _sweep(item, doomed)
