"""The blocks `strip_prefix:` and `rewrite_prefix:`: the path that the upstream gets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

from gateway.control.blocks.block import Asked, Block, Making, RouteFacts, Row, line
from gateway.control.reading.nodes import Positions
from gateway.control.reading.problems import Problem
from gateway.control.words import values
from gateway.control.words.inherit import Resolved
from gateway.control.words.model import Model, required
from gateway.snapshot import Rewrite


class RewritePrefix(Model):
    """Replace the beginning of the path, whole segments at a time."""

    old: values.Prefix = required("Prefix to replace.", alias="from")
    new: values.Prefix = required("What stands there instead.", alias="to")


def stripped(written: str | bool, path: str) -> str:
    """The prefix to take off the path, without a final `/`; empty for none."""
    if written is False:
        return ""
    if isinstance(written, str):
        return written.rstrip("/")
    literal = []
    for segment in path[1:].split("/"):
        if segment == "**" or segment.startswith("{"):
            break
        literal.append(segment)
    return "/" + "/".join(literal) if any(literal) else ""


def _starts_with(path: str, prefix: str) -> bool:
    """Whether every path that `path` matches starts with the segments of `prefix`."""
    wanted = [segment for segment in prefix.split("/") if segment]
    return path.split("/")[1 : len(wanted) + 1] == wanted


def _check_strip(found: Resolved[str | bool], facts: RouteFacts, positions: Positions) -> Iterator[Problem]:
    if facts.upstream is None or found.value is False:
        return
    loc = (*facts.loc, "strip_prefix")
    if found.value is True:
        if not stripped(True, facts.path):
            yield positions.problem(loc, "there is nothing to strip: `match.path` does not start with a literal part")
    elif not _starts_with(facts.path, str(found.value)):
        yield positions.problem(loc, f"`match.path` (`{facts.path}`) does not start with this prefix")


def _check_rewrite(found: Resolved[RewritePrefix | None], facts: RouteFacts, positions: Positions) -> Iterator[Problem]:
    written = found.value
    if facts.upstream is not None and written is not None and not _starts_with(facts.path, written.old):
        place = (*facts.loc, "rewrite_prefix", "from")
        yield positions.problem(place, f"`match.path` (`{facts.path}`) does not start with this prefix")


def _compile_strip(found: Resolved[str | bool], facts: RouteFacts, making: Making) -> dict[str, Any]:
    # Clients send the path percent-encoded; a prefix of `match.path` is decoded text.
    prefix = quote(stripped(found.value, facts.path), safe="/-._~!$&'()*+,;=:@").encode("ascii")
    return {"rewrite": Rewrite(prefix, b"")} if prefix else {}


def _compile_rewrite(found: Resolved[RewritePrefix | None], facts: RouteFacts, making: Making) -> dict[str, Any]:
    written = found.value
    if written is None:
        return {}
    return {"rewrite": Rewrite(written.old.rstrip("/").encode("ascii"), written.new.rstrip("/").encode("ascii"))}


def _rows_strip(found: Resolved[str | bool], facts: RouteFacts, asked: Asked) -> list[Row]:
    prefix = stripped(found.value, facts.path)
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
