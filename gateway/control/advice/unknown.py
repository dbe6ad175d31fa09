"""What is said of a word that a block does not have: a slip of the pen, a word of another block, or one of another proxy."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Final

from gateway.control.advice.places import belongs, in_words, nested, plain, shape, shown_value, spelled, within
from gateway.control.advice.tables import read_table
from gateway.control.json_schema import known_fields
from gateway.control.reading.characters import odd_character, plain_text
from gateway.control.reading.nodes import Loc, Mapping, Node, Positions, Scalar
from gateway.control.schema import Match
from gateway.control.words.values import closest

_SURE, _LIKELY = 0.8, 0.6
"""How alike two words are that are taken for one: before all else, and where nothing else is known of it."""
_LISTED: Final = 30
_ALIKE: Final = frozenset({"apiVersion", "matches", "volumes"})
"""Words of other programs that are nearly one of ours."""
_OF_MATCH: Final = frozenset(Match.model_fields)
"""Written in a route they are no slip of the pen, however alike another word is."""


@dataclass(frozen=True, slots=True)
class Row:
    """An answer of the table."""

    say: str
    stands_for: str = ""
    """The word of the same block, or the words, that are not missing besides."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """What is said of an unknown word."""

    message: str
    hint: str
    meant: str = ""
    """The word of the same block that was meant, spelled otherwise: its value is read as if it were written right."""
    stands_for: str = ""
    """The word of the same block that it stands for: it is not missing besides."""
    elsewhere: bool = False
    """It is known what it is, and it is no word of this block."""
    place: tuple[str, ...] | None = None
    """The only place in which it may stand instead."""


@functools.cache
def table() -> dict[tuple[str, str], Row]:
    """Block and word (without its spelling) ▸ answer; the block is empty for answers that hold anywhere."""
    found: dict[tuple[str, str], Row] = {}
    for row in read_table("foreign_words.yaml"):
        for scope in row.get("at", "").split() or [""]:
            for name in row["names"].split():
                found.setdefault((scope, plain(name)), Row(row["say"], row.get("for", "")))
    return found


@functools.cache
def _by_word() -> dict[str, tuple[str, Row]]:
    """Word ▸ the first block that the table has it for, and the answer."""
    found: dict[str, tuple[str, Row]] = {}
    for (scope, word), row in table().items():
        found.setdefault(word, (scope, row))
    return found


def scope_of(loc: Loc) -> str:
    """What the table calls a block."""
    place = shape(loc)
    named = {(): "top", ("routes", "*"): "route", ("defaults",): "route", ("upstreams", "*"): "upstream"}
    entries = {("upstreams", "*", "endpoints", "*"): "endpoint", ("server", "listen", "*"): "listen"}
    return named.get(place) or entries.get(place) or next((step for step in reversed(place) if step != "*"), "")


def unknown_word(loc: Loc, node: Node, positions: Positions) -> Unknown:
    """The answer for the unknown key at `loc`, whose value is `node`."""
    name, block = str(loc[-1]), loc[:-1]
    known = known_fields(block)
    message = f"unknown field `{name}`{within(block, positions)}"
    return (
        _of_here(name, block, message, node)
        or _misspelled(name, message, known)
        or (name in _OF_MATCH and _foreign(scope_of(block), name, message, known))
        or _close(name, message, known, _SURE)
        or _foreign(scope_of(block), name, message, known)
        or _elsewhere(name, block, message, node, near=True)
        or _foreign("", name, message, known)
        or ("/" in name and _foreign("", name.rpartition("/")[2], message, known))
        or _close(name, message, known, _LIKELY)
        or _elsewhere(name, block, message, node, near=False)
        or _of_another_block(name, message)
        or Unknown(message, _listed(name, known, node))
    )


def _of_here(name: str, block: Loc, message: str, node: Node) -> Unknown | None:
    """Words that only their place tells."""
    scope = scope_of(block)
    if name in _ALIKE:
        return _foreign(scope, name, message, known_fields(block))
    if block == ("defaults",) and name == "match":
        return Unknown(message, "each route has its own `match`, there is none for all of them", elsewhere=True)
    part = re.fullmatch(r"([A-Za-z_]+)\s*[= ]\s*(\S+)", name)
    if part is not None and _is_null(node) and part[1] in known_fields(block):
        return Unknown(f"a colon is missing behind `{part[1]}`", f"write `{part[1]}: {part[2]}`", stands_for=part[1])
    if scope == "endpoint" and isinstance(node, Scalar) and str(node.value).isdigit() and (scope, plain(name)) not in table():
        return Unknown("an endpoint is a URL", f"write `- http://{name}:{node.value}`", stands_for="url")
    if scope == "rewrite_prefix" and name.startswith("/") and isinstance(node, Scalar):
        cure = f"write `rewrite_prefix: {{from: {name}, to: {node.value}}}`"
        return Unknown("the prefixes are named", cure, stands_for="from to")
    if scope == "route" and block[:1] == ("routes",) and _is_null(node) and (scope, plain(name)) not in table():
        return Unknown(message, f"the name of a route stands behind `name`: write `name: {name}`", stands_for="name")
    if not block and isinstance(node, Mapping) and {"version", "routes"} & node.items.keys():
        hint = f"take out the line `{name}:`, and one level of indentation below it"
        return Unknown(f"unknown field `{name}` around the configuration", hint, elsewhere=True)
    if not block and name.startswith("x-"):
        return Unknown(
            message, "what all routes share stands in `defaults:`; there is no place for other values", elsewhere=True
        )
    if name.startswith("traefik."):
        return Unknown(message, "routes are not read from labels: each is an entry of `routes:`", elsewhere=True)
    return None


def _misspelled(name: str, message: str, known: list[str]) -> Unknown | None:
    """The right word with odd characters, in another spelling, or with its value in the key."""
    odd = odd_character(name)
    key, colon, rest = plain_text(name).strip().partition(":")
    meant = next((word for word in known if plain(word) == plain(key)), "")
    if odd is not None:
        cure = (
            f"write `{meant or key}: {rest.strip()}`".replace(": `", "`")
            if colon
            else f"write `{meant or plain_text(name).strip()}`"
        )
        return Unknown(
            f"{odd[1]} in the key `{plain_text(name).strip()}`", cure, stands_for=meant, meant="" if colon else meant
        )
    if not meant:
        return None
    if colon:
        return Unknown(f"a blank is missing behind `{key}:`", f"write `{key}: {rest}`", stands_for=meant)
    return Unknown(message, f"did you mean `{meant}`?", meant=meant)


def _close(name: str, message: str, known: list[str], cutoff: float) -> Unknown | None:
    meant = closest(name, known, cutoff)
    return Unknown(message, f"did you mean `{meant}`?", meant=meant) if meant else None


def _foreign(scope: str, name: str, message: str, known: list[str]) -> Unknown | None:
    row = table().get((scope, plain(name)))
    if row is None:
        return None
    stands_for = row.stands_for if row.stands_for and set(row.stands_for.split()) <= set(known) else ""
    return Unknown(message, row.say, stands_for=stands_for, elsewhere=not stands_for)


def _of_another_block(name: str, message: str) -> Unknown | None:
    """A word of another proxy that the table has only for other blocks."""
    scope, row = _by_word().get(plain(name), ("", None))
    if row is None:
        return None
    where = {"top": "at the top of the file", "route": "in a route", "upstream": "in an upstream", "endpoint": "of an endpoint"}
    return Unknown(message, f"{where.get(scope, f'in `{scope}`')}: {row.say}", elsewhere=True)


def _elsewhere(name: str, block: Loc, message: str, node: Node, *, near: bool) -> Unknown | None:
    places = belongs(name, block)
    here = shape(block)
    if not places or (near and places[0][: len(here)] != here and here[: len(places[0])] != places[0]):
        return None
    place = places[0]
    word = spelled(name, place)
    below = place[: len(here)] == here
    value = shown_value(node, word)
    text = nested(place[len(here) :] if below and here[:1] not in (("routes",), ("upstreams",)) else place, word, value)
    higher = here[: len(place)] == place and place != ()
    where = f"{in_words(place)} itself" if higher else in_words(place)
    if len(places) > 1 and place[0] != "defaults":
        where = " or ".join(in_words(one) for one in places[:3])
    elif place[:1] == ("routes",) and not here:
        where += ", or into `defaults` for all of them"
    return Unknown(message, f"it belongs into {where}: `{text}`", elsewhere=True, place=place if len(places) == 1 else None)


def _listed(name: str, known: list[str], node: Node) -> str:
    if {"set", "add", "remove"} <= set(known) and re.fullmatch(r"[A-Za-z0-9-]+", name):
        return f"a field is written with `set`: `set: {{{name}: {shown_value(node, name)}}}`"
    more = ", …" if len(known) > _LISTED else ""
    return f"known here: {', '.join(known[:_LISTED])}{more}" if known else ""


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None
