"""The block `redirect:`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

from gateway.control.blocks.block import Block, RouteFacts, line, slot
from gateway.control.reading.nodes import Positions
from gateway.control.reading.problems import Problem
from gateway.control.words import values
from gateway.control.words.inherit import Resolved
from gateway.control.words.model import Model, required, setting
from gateway.control.words.values import number_of
from gateway.snapshot import Redirect as RedirectSnapshot


class Redirect(Model):
    """Send the client elsewhere."""

    short_form = ("to", {"type": "string"})

    to: values.Location = required("`https://host/…` or a path.")
    status: Annotated[int, *number_of(301, 302, 303, 307, 308)] = setting(
        "307", "`307` and `308` keep the method; `301` and `308` are remembered by browsers."
    )
    keep_path: bool = setting(False, "Put the path of the request behind `to`.")
    keep_query: bool | None = setting(None, "Keep the query of the request. Default: as `keep_path`.")

    def __str__(self) -> str:
        return f"{self.status} to {self.to}"


def _check(found: Resolved[Redirect | None], facts: RouteFacts, positions: Positions) -> Iterator[Problem]:
    redirect, loc = found.value, (*facts.loc, "redirect", "to")
    if redirect is None:
        return
    if "#" in redirect.to or ("?" in redirect.to and (redirect.keep_path or redirect.keep_query)):
        yield positions.problem(loc, "nothing can be put behind a query or fragment")
    if not redirect.keep_path and redirect.to in facts.paths:
        yield positions.problem(loc, "the redirect leads to itself")


def _made(redirect: Redirect | None) -> RedirectSnapshot | None:
    if redirect is None:
        return None
    to = redirect.to.encode("ascii")
    keep_query = redirect.keep_path if redirect.keep_query is None else redirect.keep_query
    to = to.rstrip(b"/") if redirect.keep_path else to
    return RedirectSnapshot(redirect.status, to, redirect.keep_path, keep_query)


BLOCK: Final = Block[RouteFacts](
    "redirect", check=_check, compile=slot("redirect", _made), rows=line("redirect", lambda one: one and str(one))
)
