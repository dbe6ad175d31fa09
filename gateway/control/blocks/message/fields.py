"""The blocks `request_fields:` and `response_fields:`, and what is wrong with names of fields anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, Self

from gateway.control.blocks.block import Asked, Block, Making, RouteFacts, Row
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.words import values
from gateway.control.words.facts import facts_in, parts_of, wrong_fact
from gateway.control.words.inherit import Policy, Resolved
from gateway.control.words.model import HIDDEN, Model, setting
from gateway.headers import HOP_BY_HOP
from gateway.snapshot import FieldEdits as FieldEditsSnapshot

_VARIABLE: Final = re.compile(
    r"\$(?:remote_(?:addr|port|user)|(?:http_|arg_|cookie_|request_|server_|ssl_|realip_|upstream_)[a-z_]+|host|scheme|uri|args"
    r"|proxy_add_x_forwarded_for|binary_remote_addr)\b|%\[[a-z0-9_.,()-]+\]|%[A-Z_]{4,}(?:\([^)]*\))?%"
)
"""Variables of nginx, HAProxy and Envoy."""
_FORWARDED: Final = frozenset({"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port"})


class FieldEdits(Policy):
    """Changes to a header section. They apply in this order: `remove`, `set`, `add`."""

    nearest = frozenset({"set", "add", "remove"})

    set: dict[values.FieldName, values.FieldValue] = setting(
        {},
        "Headers to write, in place of any that were there. Values may hold facts of the request: `{client_ip}`, "
        "`{request_id}`, `{route}`, `{host}`, `{scheme}`, `{method}`, and `{path.NAME}`, a parameter of the path.",
    )
    add: dict[values.FieldName, values.FieldValue] = setting({}, "Headers to add to those that are there.")
    remove: tuple[values.FieldName, ...] = setting((), "Headers to remove.")

    @classmethod
    def resolve(cls, scopes: Sequence[tuple[Loc, Model]]) -> Resolved[Self]:
        """What is written nearer comes over the rest: by header name, and a list of removals replaces a list."""
        merged: dict[str, dict[str, tuple[str, Resolved[Any]]]] = {"set": {}, "add": {}}
        removed: dict[str, Resolved[Any]] = {}
        for loc, block in reversed(scopes):
            assert isinstance(block, FieldEdits)
            for kind, written in (("set", block.set), ("add", block.add)):
                for name in block.remove:
                    merged[kind].pop(name.lower(), None)
                for name, value in written.items():
                    merged[kind][name.lower()] = (name, Resolved(value, (*loc, kind, name)))
            if block.remove:
                removed = {name: Resolved(name, (*loc, "remove", at)) for at, name in enumerate(block.remove)}
        parts: dict[str, Resolved[Any]] = {}
        for kind, found in merged.items():
            named = dict(found.values())
            parts[kind] = Resolved({name: one.value for name, one in named.items()}, None, named)
        parts["remove"] = Resolved(tuple(removed), None, removed)
        edits = cls.model_construct(**{name: part.value for name, part in parts.items()})
        return Resolved(edits, scopes[0][0] if scopes else None, parts)


EDITS_OFF: Final = FieldEdits.make_off()
"""What `off` stands for: this very object."""


def check_names(loc: Loc, names: Iterable[str], positions: Positions, *, request: bool) -> Iterator[Problem]:
    """What is wrong with fields that are written into a header section."""
    seen: dict[str, str] = {}
    for name in names:
        refusal = _refusal(name, request=request)
        if refusal:
            yield positions.problem((*loc, name), f"`{name}` cannot be changed: {refusal}", key=True)
        elif name.lower() in seen:
            yield positions.problem((*loc, name), f"the header stands twice, also as `{seen[name.lower()]}`", key=True)
        seen[name.lower()] = name


def _refusal(name: str, *, request: bool) -> str:
    """Why a header section must not be edited in this place, or nothing."""
    lower = name.lower()
    if lower in ("content-length", "transfer-encoding", "trailer"):
        return "it says where the message ends"
    if lower.encode("ascii") in HOP_BY_HOP:
        return "it belongs to one connection, not to the message"
    if lower == "via":
        return "it is how loops are found"
    if request and lower == "host":
        return "use `host` of the upstream"
    if request and lower == "expect":
        return "it says when the body is sent"
    if request and lower in _FORWARDED:
        return "use `server.forwarded` and `server.trusted_proxies`"
    return ""


def _check_written(written: FieldEdits, loc: Loc, positions: Positions, *, request: bool) -> Iterator[Problem]:
    yield from check_names((*loc, "set"), written.set, positions, request=request)
    yield from check_names((*loc, "add"), written.add, positions, request=request)
    for index, field in enumerate(written.remove):
        refusal = _refusal(field, request=request)
        place = (*loc, "remove", index)
        if refusal:
            yield positions.problem(place, f"`{field}` cannot be changed: {refusal}")
        elif field.lower() in {other.lower() for other in written.set}:
            yield positions.problem(place, f"`{field}` is removed and set: `set` alone replaces it")


def _check(found: Resolved[FieldEdits], facts: RouteFacts, positions: Positions, *, request: bool) -> Iterator[Problem]:
    """Facts that there are not. Which parameters the path has only a route says."""
    if request and facts.name and facts.upstream is None:
        return
    for kind in ("set", "add"):
        for one in found.parts[kind].parts.values() if found.parts else ():
            assert one.origin is not None
            inherited = one.origin[: len(facts.loc)] != facts.loc
            for word in facts_in(one.value):
                wrong = wrong_fact(word, facts.parameters if facts.name else None)
                if wrong is None or (inherited and wrong_fact(word, None) is not None):
                    continue
                loc: Loc = (*facts.loc, "match", "path") if inherited else one.origin
                hint = f"`{one.origin[-1]}` of `{'.'.join(map(str, one.origin[:2]))}` tells it" if inherited else wrong[1]
                yield positions.problem(loc, wrong[0], hint)


def _notes(found: Resolved[FieldEdits], positions: Positions) -> Iterator[str]:
    """Variables of other programs, which are sent as they stand."""
    for kind in ("set", "add"):
        for one in found.parts[kind].parts.values() if found.parts else ():
            variable = _VARIABLE.search(one.value)
            if variable is not None and one.origin is not None:
                yield (
                    f"{positions.at(one.origin)}: note: `{variable[0]}` is sent as it stands: facts of a request are written "
                    "in braces, as `{client_ip}`; `X-Forwarded-For`, `-Host` and `-Proto` are set without being asked for"
                )


def field_line(name: str, value: str) -> bytes:
    """A field line without CRLF."""
    return f"{name}: {value}".encode()


def _compile(found: Resolved[FieldEdits], facts: RouteFacts, making: Making, *, slot: str) -> dict[str, Any]:
    edits = found.value
    drop = frozenset(name.lower().encode("ascii") for name in (*edits.set, *edits.remove))
    compiled = [parts_of(name, value, facts.name) for name, value in (*edits.set.items(), *edits.add.items())]
    steady = next((at for at, parts in enumerate(compiled) if len(parts) > 1), len(compiled))
    lines = tuple(part[:-2] for parts in compiled[:steady] for part in parts if isinstance(part, bytes))
    parts = tuple(part for parts in compiled[steady:] for part in parts)
    return {slot: FieldEditsSnapshot(drop, lines, parts) if drop or lines or parts else None}


def _rows(found: Resolved[FieldEdits], facts: RouteFacts, asked: Asked, *, block: str) -> list[Row]:
    """Header values may be credentials: only the name, the facts in the value and the place are shown."""
    return [
        (f"{block}.{kind}", ": ".join([name, *_told(one.value, facts, asked)]), one.place(asked.positions))
        for kind in ("remove", "set", "add")
        if kind in found.parts
        for name, one in found[kind].parts.items()
    ]


def _told(value: str, facts: RouteFacts, asked: Asked) -> list[str]:
    """The facts of the request in a value, in words."""
    known = {"route": facts.name.encode("ascii"), **asked.request.facts}
    told = [f"{{{word}}} = {known[word].decode('ascii')}" if word in known else f"{{{word}}}" for word in facts_in(value)]
    return [", ".join(told)] if told else []


def _dump(found: Resolved[FieldEdits]) -> dict[str, Any]:
    edits = found.value
    return {"set": dict.fromkeys(edits.set, HIDDEN), "add": dict.fromkeys(edits.add, HIDDEN), "remove": list(edits.remove)}


def _block(name: str, slot: str, *, request: bool) -> Block[RouteFacts]:
    return Block(
        name,
        FieldEdits(),
        forwards=request,
        check_written=partial(_check_written, request=request),
        check=partial(_check, request=request),
        compile=partial(_compile, slot=slot),
        rows=partial(_rows, block=name),
        notes=_notes,
        dump=_dump,
    )


BLOCKS: Final = (
    _block("request_fields", "request_edits", request=True),
    _block("response_fields", "response_edits", request=False),
)
