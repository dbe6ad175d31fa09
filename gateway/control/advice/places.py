"""Where the words of the YAML may stand, by walking the schema; and places in words."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any, Final

from gateway.control.json_schema import json_schema
from gateway.control.reading.nodes import Loc, Mapping, Node, Positions, Scalar, Sequence

ANY: Final = "*"
"""Stands for every name and every number in a place."""
_DEEPEST: Final = 8
_LONGEST: Final = 60
_SECRET: Final = re.compile(r"(?i)password|secret|token|credential|://[^/]*@")


def plain(name: str) -> str:
    """A name without what spellings differ in: `rate-limit`, `rateLimit` and `rate_limit` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def shape(loc: Loc) -> tuple[str, ...]:
    """A place without names and numbers: `("routes", "*", "timeout")`."""
    named = loc[:1] == ("upstreams",)
    return tuple(ANY if isinstance(step, int) or (named and at == 1) else step for at, step in enumerate(loc))


@functools.cache
def words() -> dict[str, list[tuple[str, ...]]]:
    """Every word of the YAML without its spelling ▸ the places of the blocks that have it, the nearest to the top first."""
    found: dict[str, list[tuple[str, ...]]] = {}
    schema = json_schema()
    for place, name in _walk(schema, schema, ()):
        places = found.setdefault(plain(name), [])
        if place not in places:
            places.append(place)
    for places in found.values():
        places.sort(key=lambda place: (len(place), place[:1] == ("defaults",)))
    return found


def spelled(name: str, place: tuple[str, ...]) -> str:
    """The word as it is written in a place."""
    return next((word for found, word in _properties(place) if plain(word) == plain(name) and found == place), name)


@functools.cache
def _properties(place: tuple[str, ...]) -> list[tuple[tuple[str, ...], str]]:
    schema = json_schema()
    return [one for one in _walk(schema, schema, ()) if one[0] == place]


def _walk(node: dict[str, Any], schema: dict[str, Any], place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if len(place) > _DEEPEST:
        return
    if "$ref" in node:
        yield from _walk(schema["$defs"][node["$ref"].rpartition("/")[2]], schema, place)
    for keyword in ("anyOf", "allOf"):
        for option in node.get(keyword, ()):
            yield from _walk(option, schema, place)
    for name, inner in node.get("properties", {}).items():
        yield place, name
        yield from _walk(inner, schema, (*place, name))
    listed = [node["items"]] if isinstance(node.get("items"), dict) else []
    listed += node.get("patternProperties", {}).values()
    listed += [node["additionalProperties"]] if isinstance(node.get("additionalProperties"), dict) else []
    for inner in listed:
        yield from _walk(inner, schema, (*place, ANY))


def in_words(place: tuple[str, ...]) -> str:
    """A block as an operator calls it: `a route`, `timeout` of a route."""
    if not place:
        return "the top of the file"
    if place[-1] == ANY and len(place) > 2:
        return f"an entry of {in_words(place[:-1])}"
    head = {("routes", ANY): "a route", ("upstreams", ANY): "an upstream"}.get((place[0], place[1])) if place[1:] else None
    rest = ".".join(step for step in (place[2:] if head else place) if step != ANY)
    return f"`{rest}` of {head}" if head and rest else head or f"`{rest}`"


def belongs(name: str, loc: Loc) -> list[tuple[str, ...]]:
    """The places, other than this one, in which a word of the YAML may stand: those that are equally near."""
    here = shape(loc)
    places = [place for place in words().get(plain(name), ()) if place != here]

    def distance(place: tuple[str, ...]) -> tuple[int, int]:
        if place[: len(here)] == here and here:
            return 0, len(place)
        if here[: len(place)] == place and place:
            return 1, -len(place)
        if here and place[:1] == here[:1]:
            return 2, len(place)
        return (4 if place[:1] == ("defaults",) else 3), len(place)

    nearest = min(map(distance, places), default=None)
    return [place for place in places if distance(place) == nearest]


def nested(place: tuple[str, ...], name: str, value: str) -> str:
    """What is written, from the block that has a name of its own (a route, an upstream, the top) down to the value."""
    text = f"{name}: {value}"
    steps = place[2:] if place[:2] in (("routes", ANY), ("upstreams", ANY)) else place
    for step in reversed(steps):
        text = f"[{{{text}}}]" if step == ANY else f"{step}: {text}" if text.startswith("[") else f"{step}: {{{text}}}"
    return text


def shown_value(node: Node, name: str = "") -> str:
    """A short value as it can be written in a line; `…` for what is long, or may be secret."""
    try:
        text = _flow(node)
    except ValueError:
        return "…"
    return "…" if len(text) > _LONGEST or _SECRET.search(f"{name} {text}") else text


def _flow(node: Node) -> str:
    if isinstance(node, Scalar):
        if node.broken or node.written:
            raise ValueError("not to be shown")
        return quoted(node.value)
    if isinstance(node, Sequence):
        return f"[{', '.join(_flow(item) for item in node.items)}]"
    assert isinstance(node, Mapping)
    return f"{{{', '.join(f'{quoted(key)}: {_flow(item)}' for key, (_, item) in node.items.items())}}}"


_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:+%=?&~@^$()-]*[A-Za-z0-9_./+%=?&~@^$()*-]")


def quoted(value: Any) -> str:
    """A value as YAML that can stand inside braces."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{quoted(key)}: {quoted(item)}' for key, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(quoted(item) for item in value)}]"
    text = str(value)
    if text in ("true", "false", "null", "~", ""):
        return f'"{text}"'
    if text == "/**" or (_PLAIN.fullmatch(text) and text[0] not in "-?:%@&*!=|>'\"" and ": " not in text):
        return text
    return f'"{text}"' if '"' not in text and "\\" not in text else f"'{text}'"


def within(loc: Loc, positions: Positions) -> str:
    """` in …`: the block in the operator's words, routes by their name."""
    if not loc:
        return ""
    steps = list(loc)
    if len(steps) >= 2 and steps[0] == "routes" and isinstance(steps[1], int):
        node = positions.find((*steps[:2], "name"))
        named = node[0].value if node[2] and isinstance(node[0], Scalar) and not node[0].written else None
        route = f"route `{named}`" if named else f"route {steps[1] + 1}"
        rest = ".".join(_written(loc, positions)[2:])
        return f" in `{rest}` of {route}" if rest else f" in {route}"
    return f" in `{'.'.join(_written(loc, positions))}`"


def _written(loc: Loc, positions: Positions) -> list[str]:
    """The steps; a single value that stands for a list is no entry of one."""
    found = []
    for at, step in enumerate(loc):
        if isinstance(step, str) or isinstance(positions.find(loc[:at])[0], Sequence):
            found.append(str(step))
    return found
