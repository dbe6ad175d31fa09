"""Mistakes about words and shapes, each reported once and then put right in the tree, so that nothing follows from them.

The tree that is left is only looked at for further mistakes; it never becomes a configuration.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from gateway.control.advice.cures import cure, fits
from gateway.control.advice.explain import Source, explained
from gateway.control.advice.places import ANY, plain, shape, shown_value, spelled, within
from gateway.control.advice.unknown import Unknown, unknown_word
from gateway.control.json_schema import known_fields
from gateway.control.reading.characters import odd_character, plain_text
from gateway.control.reading.nodes import Loc, Mapping, Node, Position, Positions, Scalar, Sequence
from gateway.control.reading.problems import Problem
from gateway.control.schema import Config

_ACTIONS: Final = ("upstream", "redirect", "respond")
_CHOSEN: Final[dict[str, type[Scalar]]] = {"set": Scalar, "add": Scalar}
"""Blocks whose keys are names that an operator chooses, and what stands behind them."""
_STAND_IN: Final = "https://stand-in"
_MOST: Final = 100
"""Unknown words of one block that are looked at one by one: nobody has misspelt more."""


@dataclass(slots=True)
class Mended:
    """What was found in one round."""

    problems: list[Problem] = field(default_factory=list)
    silenced: set[Position] = field(default_factory=set)
    """Keys without a value of which more is known now: that they have none is not said besides."""
    provide: bool = False
    """The upstreams may be what a word was meant for: those that routes name are not missing besides."""


def mend(root: Mapping, errors: Iterable[dict[str, Any]], source: Source) -> Mended:
    """Report what pydantic's errors say about words and shapes, and put it right in the tree. Empty: there was nothing."""
    found = Mended()
    listed = [(str(error["type"]), tuple(error["loc"]), error) for error in errors]
    blocks: dict[Loc, list[str]] = {}
    missing: dict[Loc, list[str]] = {}
    for kind, loc, _ in listed:
        if kind in ("extra_forbidden", "missing"):
            (blocks if kind == "extra_forbidden" else missing).setdefault(loc[:-1], []).append(str(loc[-1]))
    for block, names in blocks.items():
        _words(root, block, names, missing.get(block, []), found, source)
    for kind, loc, error in listed:
        if kind in ("model_type", "dict_type", "tuple_type"):
            _shape(root, loc, error, found, source)
    _cut_routes(root, missing, found, source.positions)
    fill(root, provide=found.provide)
    return found


# -- words -------------------------------------------------------------------------------------------------------------


def _words(root: Mapping, block: Loc, names: list[str], missing: list[str], found: Mended, source: Source) -> None:
    """The unknown words of one block. Those with the same answer are one mistake."""
    positions = source.positions
    parent = positions.find(block)[0]
    if not isinstance(parent, Mapping):
        return
    names = [name for name in names if name in parent.items]
    names, more = names[:_MOST], names[_MOST:]
    if more:
        message = f"{len(more)} more unknown fields{within(block, positions)}"
        found.problems.append(positions.problem((*block, more[0]), message, key=True))
        for name in more:
            del parent.items[name]
    found.silenced.update(key for key, node in (parent.items[name] for name in names) if _is_null(node))
    names = [name for name in names if not _indent(parent, block, name, found, positions)]
    names = [name for name in names if not _dedent(root, block, name, found, source.positions)]
    answers = {
        name: _value_too(unknown_word((*block, name), parent.items[name][1], positions), name, block, source) for name in names
    }
    foreign_file = (
        not block
        and not parent.items.keys() & {"routes", "upstreams"}
        and any(a.elsewhere for a in answers.values())
        and all(a.elsewhere or a.stands_for for a in answers.values())
    )
    groups: dict[str, list[str]] = {}
    for name, answer in answers.items():
        told = answer.hint if answer.stands_for or answer.elsewhere else name
        groups.setdefault("" if foreign_file else told, []).append(name)
    for together in groups.values():
        # Of several words that tell what it is, one that names it.
        together.sort(key=lambda name: ("looks like" not in answers[name].hint, not answers[name].stands_for))
        answer = answers[together[0]]
        message = answer.message
        if len(together) > 1 and not foreign_file:
            several = ", ".join(f"`{name}`" for name in together[:-1]) + f" and `{together[-1]}`"
            message = f"unknown fields {several}{within(block, positions)}"
        found.problems.append(positions.problem((*block, together[0]), message, answer.hint, key=True))
    for name, answer in answers.items():
        _put_right(root, block, name, answer, missing)
    if foreign_file or any(not (answer.meant or answer.stands_for or answer.elsewhere) for answer in answers.values()):
        for name in missing:
            parent.items.setdefault(name, (parent.position, _nothing(parent.position)))
    if names and shape(block) == ("routes", ANY) and not parent.items.keys() & set(_ACTIONS):
        parent.items["upstream"] = (parent.position, _nothing(parent.position))
    if foreign_file:
        parent.items["version"] = (parent.position, Scalar(parent.position, "1"))
    found.provide = found.provide or (names != [] and not block and "upstreams" not in parent.items)


def _value_too(answer: Unknown, name: str, block: Loc, source: Source) -> Unknown:
    """The answer, with a cure for the value if it does not fit the word that was meant."""
    node = source.positions.find((*block, name))[0]
    if not answer.meant or isinstance(node, Mapping) or "…" in shown_value(node, answer.meant):
        return answer
    data: Any = source.data
    for step in block:
        data = data[step] if not isinstance(step, int) or isinstance(data, list) else data
    value = data[name]
    if answer.meant in data or fits(source.data, (*block, answer.meant), value, source.base):
        return answer
    data[answer.meant] = value
    found = cure(source.data, (*block, answer.meant), source.base)
    del data[answer.meant]
    return replace(answer, hint=f"write {found}", meant="", stands_for=answer.meant) if found else answer


def _dedent(root: Mapping, block: Loc, name: str, found: Mended, positions: Positions) -> bool:
    """A line of the last route that is not indented: it begins the line, or is indented by other characters than blanks."""
    routes = root.items["routes"][1] if not block and "routes" in root.items else None
    last = routes.items[-1] if isinstance(routes, Sequence) and routes.items else None
    word = plain(plain_text(name))
    fields = {plain(field): field for field in known_fields(("routes", 0))}
    key, node = root.items[name] if not block else (Position("", 0, 0), None)
    if not isinstance(last, Mapping) or node is None or word not in fields or fields[word] in last.items:
        return False
    first = next(iter(last.items.values()), None)
    odd = odd_character(name) is not None
    if first is None or first[0].line >= key.line or not (odd or (word == "upstream" and isinstance(node, Scalar))):
        return False
    if not odd:
        message = f"`{name}` belongs into route `{_name_of(last)}` above"
        found.problems.append(
            positions.problem_at(key, message, f"indent it by {first[0].column - 1} blanks, as line {first[0].line}")
        )
    else:
        answer = unknown_word((name,), node, positions)
        found.problems.append(positions.problem_at(key, answer.message, answer.hint))
    last.items[fields[word]] = root.items.pop(name)
    return True


def _put_right(root: Mapping, block: Loc, name: str, answer: Unknown, missing: list[str]) -> None:
    parent: Node = root
    for step in block:
        parent = _inside(parent, step)
    assert isinstance(parent, Mapping)
    key, node = parent.items.pop(name)
    if answer.meant:
        if answer.meant in _ACTIONS and parent.items.keys() & set(_ACTIONS):
            return  # a route has only one of them
        parent.items.setdefault(answer.meant, (key, node))
    elif answer.stands_for:
        # (A limit that is broken would be taken out, and be missing then.)
        least = answer.stands_for == "limit" and block[-1:] == ("max_in_flight",)
        for word in answer.stands_for.split():
            parent.items.setdefault(word, (key, Scalar(key, "1000") if least else _nothing(node.position)))
    elif answer.place is not None and (not answer.place[len(block) :] or answer.place[len(block)] in missing):
        _move(root, block, answer.place, name, (key, node))


def _move(root: Mapping, block: Loc, place: tuple[str, ...], name: str, written: tuple[Position, Node]) -> None:
    """A word of ours to the place where it belongs, if that is around or below its block and has none yet."""
    here = shape(block)
    if not (place[: len(here)] == here or here[: len(place)] == place):
        return
    target: Node = root
    for step in block[: len(place)]:
        target = _inside(target, step)
    for step in place[len(here) :]:
        if step == ANY or not isinstance(target, Mapping):
            return
        target = target.items.setdefault(step, (written[0], Mapping(written[0])))[1]
    if isinstance(target, Mapping):
        target.items.setdefault(spelled(name, place), written)


def _inside(node: Node, step: str | int) -> Node:
    if isinstance(node, Mapping) and isinstance(step, str):
        return node.items[step][1]
    return node.items[step] if isinstance(node, Sequence) and isinstance(step, int) else node


def _indent(parent: Mapping, block: Loc, name: str, found: Mended, positions: Positions) -> bool:
    """A line that belongs to the block above it, which has no value because of that."""
    above: tuple[str, Position] | None = None
    for other, (key, node) in parent.items.items():
        if other == name:
            break
        if _is_null(node) or (above is not None and above[0] == other):
            above = other, key
        elif above is not None and other not in known_fields((*block, above[0])):
            above = None
    if above is None:
        return False
    # Names that an operator chooses are known by what stands behind them.
    chosen = _CHOSEN.get(above[0]) if above[0] in known_fields(block) and name not in known_fields(block) else None
    if plain(name) not in map(plain, known_fields((*block, above[0]))) and not (
        chosen is not None and isinstance(parent.items[name][1], chosen)
    ):
        return False
    outer, place = above
    found.silenced.add(place)
    key, node = parent.items.pop(name)
    if _is_null(parent.items[outer][1]):
        parent.items[outer] = (place, Mapping(place))
    inner = parent.items[outer][1]
    if isinstance(inner, Mapping):
        if not inner.items:
            parent_name = f"`{outer}` on line {place.line}"
            hint = f"indent it by {place.column + 1} blanks, two more than `{outer}`"
            message = f"`{name}` belongs into {parent_name}, which has no value without it"
            found.problems.append(positions.problem_at(key, message, hint))
        inner.items[name] = (key, node)
    return True


def outdented(root: Mapping, positions: Positions, found: Mended) -> None:
    """Upstreams that begin in the first column, below an `upstreams:` that has no value because of that."""
    key, node = root.items.get("upstreams", (root.position, root))
    known = known_fields(())
    names = (
        [name for name, (_, one) in root.items.items() if name not in known and _has_endpoints(one)] if _is_null(node) else []
    )
    if not names:
        return
    found.silenced.add(key)
    message = f"`{names[0]}` belongs into `upstreams` on line {key.line}, which has no value without it"
    hint = "indent it by 2 blanks, and what stands below it too"
    found.problems.append(positions.problem_at(root.items[names[0]][0], message, hint))
    root.items["upstreams"] = (key, Mapping(key, {name: root.items.pop(name) for name in names}))


def _has_endpoints(node: Node) -> bool:
    return isinstance(node, Mapping) and "endpoints" in node.items


# -- shapes ------------------------------------------------------------------------------------------------------------


def _shape(root: Mapping, loc: Loc, error: dict[str, Any], found: Mended, source: Source) -> None:
    """A list where names are wanted, names where a list is wanted; an upstream that is none."""
    node, key, there = source.positions.find(loc)
    if not there or (isinstance(node, Scalar) and node.broken):
        return
    if loc == ("routes",) and isinstance(node, Mapping):
        single = {"match", "upstream", "name"} & node.items.keys()
        first = next(iter(node.items), "app")
        hint = (
            f"put `- ` before its first line: `- {first}: ...`" if single else f"write `- name: {first}` in place of `{first}:`"
        )
        found.problems.append(source.positions.problem(loc, "`routes` is a list", hint, key=True))
        root.items["routes"] = (node.position, Sequence(node.position, [node] if single else _named(node)))
    elif loc == ("upstreams",) and isinstance(node, Sequence):
        names = [_name_of(item) for item in node.items]
        name = next(filter(None, names), "app")
        hint = f"write `{name}:` in place of `- name: {name}`, and the rest indented below it"
        found.problems.append(
            source.positions.problem(loc, "`upstreams` is no list: each has its name as the key", hint, key=True)
        )
        items = {name: (item.position, item) for name, item in zip(names, node.items, strict=True) if name}
        for item in node.items:
            if isinstance(item, Mapping):
                item.items.pop("name", None)
        root.items["upstreams"] = (node.position, Mapping(node.position, items))
        found.provide = found.provide or not all(names)
    elif shape(loc) == ("upstreams", ANY):
        upstreams = root.items["upstreams"][1]
        name = str(loc[-1])
        assert isinstance(upstreams, Mapping)
        if name in Config.model_fields and name not in root.items and name != "upstreams":
            message = f"`{name}` is indented too far: here it would be an upstream of this name"
            found.problems.append(source.positions.problem(loc, message, "begin it in the first column", key=True))
            root.items[name] = upstreams.items.pop(name)
        elif not _indent(upstreams, ("upstreams",), name, found, source.positions):
            problem = explained(error, source)
            found.problems += [problem] if problem is not None else []
            upstreams.items[name] = (key or node.position, _upstream(node.position))


def _name_of(node: Node) -> str:
    name = node.items["name"][1] if isinstance(node, Mapping) and "name" in node.items else None
    return name.value if isinstance(name, Scalar) and isinstance(name.value, str) else ""


def _named(routes: Mapping) -> list[Node]:
    for name, (key, route) in routes.items.items():
        if isinstance(route, Mapping):
            route.items.setdefault("name", (key, Scalar(key, name)))
    return [route for _, route in routes.items.values()]


def _cut_routes(root: Mapping, missing: dict[Loc, list[str]], found: Mended, positions: Positions) -> None:
    """A dash too many, which cuts a route in two: what follows lacks a name, and what stands before has little else."""
    routes = root.items["routes"][1] if "routes" in root.items else None
    if not isinstance(routes, Sequence):
        return
    for at in range(len(routes.items) - 1, 0, -1):
        above, below = routes.items[at - 1], routes.items[at]
        if not (isinstance(above, Mapping) and isinstance(below, Mapping)) or "name" in below.items:
            continue
        halves = "name" in above.items and "match" not in above.items and "match" in missing.get(("routes", at - 1), [])
        if halves and "match" in below.items and not above.items.keys() & below.items.keys():
            message = f"the dash begins another route: this belongs to route `{_name_of(above)}` above"
            found.problems.append(positions.problem_at(below.position, message, "write two blanks in place of `- `"))
            above.items.update(below.items)
            del routes.items[at]


# -- what stands in ----------------------------------------------------------------------------------------------------


def fill(root: Mapping, *, provide: bool = False, nulls: bool = False) -> None:
    """Let nothing follow from values that are missing or broken, and of which that is said already.

    `provide`: the upstreams that routes name are there. `nulls`: upstreams without a value are, too.
    """
    _merge(root)
    listed = _below(root, "routes")
    upstreams = root.items["upstreams"][1] if "upstreams" in root.items else None
    if (isinstance(upstreams, Scalar) and upstreams.broken) or (provide and upstreams is None):
        provide, upstreams = True, Mapping(root.position)
        root.items["upstreams"] = (root.position, upstreams)
    if isinstance(upstreams, Mapping):
        for name, (key, node) in upstreams.items.items():
            if isinstance(node, Scalar) and node.broken and (nulls or not _is_null(node)):
                upstreams.items[name] = (key, _upstream(node.position))
        for target in (_scalar(route, part) for route in listed for part in ("upstream", "fallback")):
            if provide and target is not None and isinstance(target.value, str) and target.value not in ("", "off"):
                upstreams.items.setdefault(target.value, (target.position, _upstream(target.position)))
    first = next(iter(upstreams.items), None) if isinstance(upstreams, Mapping) else None
    for block in _below(root, "upstreams"):
        if (written := _scalar(block, "fallback")) is not None and written.broken:
            del block.items["fallback"]
    for block in listed:
        for part in (*_ACTIONS, "fallback"):
            if (written := _scalar(block, part)) is None or not written.broken:
                continue
            key, _ = block.items.pop(part)
            if part == "upstream" and first is not None:
                block.items[part] = (key, Scalar(written.position, first))
            elif part != "fallback":
                block.items["respond"] = (key, Scalar(written.position, "404"))


def _below(root: Mapping, name: str) -> list[Mapping]:
    """The routes, or the upstreams, that are blocks."""
    node = root.items[name][1] if name in root.items else None
    nodes = (
        node.items
        if isinstance(node, Sequence)
        else [one for _, one in node.items.values()]
        if isinstance(node, Mapping)
        else []
    )
    return [one for one in nodes if isinstance(one, Mapping)]


def _scalar(block: Mapping, name: str) -> Scalar | None:
    node = block.items[name][1] if name in block.items else None
    return node if isinstance(node, Scalar) else None


def _merge(node: Node) -> None:
    """Merge keys are refused; what they would have brought is not missing besides."""
    if isinstance(node, Sequence):
        for item in node.items:
            _merge(item)
    elif isinstance(node, Mapping):
        _, merged = node.items.pop("<<", (None, None))
        for one in merged.items if isinstance(merged, Sequence) else [merged]:
            node.items = {**(one.items if isinstance(one, Mapping) else {}), **node.items}
        for _, inner in node.items.values():
            _merge(inner)


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None


def _nothing(position: Position) -> Scalar:
    """A value of which all is said."""
    return Scalar(position, "", broken=True)


def _upstream(position: Position) -> Mapping:
    endpoints = Sequence(position, [Scalar(position, _STAND_IN)])
    return Mapping(position, {"endpoints": (position, endpoints)})
