"""The blocks `strip_prefix:` and `rewrite_prefix:`: the path that the upstream gets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote

from gateway.control.blocks.block import Asked, Block, Making, RouteFacts, Row, line
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.words import values
from gateway.control.words.inherit import Resolved
from gateway.control.words.model import Model, required
from gateway.snapshot import Rewrite


class RewritePrefix(Model):
    """Replace the beginning of the path, whole segments at a time."""

    old: values.Prefix = required("Prefix to replace.", alias="from")
    new: values.Prefix = required("What stands there instead.", alias="to")


def stripped(written: str | bool, paths: Sequence[str]) -> str:
    """The prefix to take off the path, without a final `/`; empty for none, or when the paths of the route differ in it."""
    if written is False:
        return ""
    if isinstance(written, str):
        return written.rstrip("/")
    prefixes = {_literal_part(path) for path in paths}
    return prefixes.pop() if len(prefixes) == 1 else ""


def _literal_part(path: str) -> str:
    literal = []
    for segment in path[1:].split("/"):
        if segment == "**" or segment.startswith("{"):
            break
        literal.append(segment)
    return "/" + "/".join(literal) if any(literal) else ""


def _without(prefix: str, paths: Sequence[str]) -> str | None:
    """A path pattern that matches paths which do not start with the segments of `prefix`, if there is one."""
    wanted = [segment for segment in prefix.split("/") if segment]
    return next((path for path in paths if path.split("/")[1 : len(wanted) + 1] != wanted), None)


def _check_strip(found: Resolved[str | bool], facts: RouteFacts, positions: Positions) -> Iterator[Problem]:
    if facts.upstream is None or found.value is False:
        return
    loc = (*facts.loc, "strip_prefix")
    if found.value is True:
        if not stripped(True, facts.paths):
            several = "the paths differ in what stands before the first parameter: write the prefix"
            nothing = "there is nothing to strip: `match.path` does not start with a literal part"
            yield positions.problem(loc, several if len(facts.paths) > 1 else nothing)
    else:
        yield from _beginning(str(found.value), facts, loc, positions)


def _beginning(prefix: str, facts: RouteFacts, loc: Loc, positions: Positions) -> Iterator[Problem]:
    path = _without(prefix, facts.paths)
    if path is not None:
        yield positions.problem(loc, f"`match.path` (`{path}`) does not start with this prefix")


def _check_rewrite(found: Resolved[RewritePrefix | None], facts: RouteFacts, positions: Positions) -> Iterator[Problem]:
    written = found.value
    if facts.upstream is not None and written is not None:
        yield from _beginning(written.old, facts, (*facts.loc, "rewrite_prefix", "from"), positions)


def _compile_strip(found: Resolved[str | bool], facts: RouteFacts, making: Making) -> dict[str, Any]:
    # Clients send the path percent-encoded; a prefix of `match.path` is decoded text.
    prefix = quote(stripped(found.value, facts.paths), safe="/-._~!$&'()*+,;=:@").encode("ascii")
    return {"rewrite": Rewrite(prefix, b"")} if prefix else {}


def _compile_rewrite(found: Resolved[RewritePrefix | None], facts: RouteFacts, making: Making) -> dict[str, Any]:
    written = found.value
    if written is None:
        return {}
    return {"rewrite": Rewrite(written.old.rstrip("/").encode("ascii"), written.new.rstrip("/").encode("ascii"))}


def _rows_strip(found: Resolved[str | bool], facts: RouteFacts, asked: Asked) -> list[Row]:
    prefix = stripped(found.value, facts.paths)
    return [("strip_prefix", prefix, found.place(asked.positions))] if prefix else []


BLOCKS: Final = (
    Block[RouteFacts]("strip_prefix", False, forwards=True, check=_check_strip, compile=_compile_strip, rows=_rows_strip),
    Block[RouteFacts](
        "rewrite_prefix",
        forwards=True,
        check=_check_rewrite,
        compile=_compile_rewrite,
        rows=line("rewrite_prefix", lambda one: one and f"{one.old} → {one.new}"),
    ),
)
