"""Which regular expressions an operator may write: those that no client's value can make slow.

Python's engine backtracks, so `(a+)+$` takes seconds on 30 characters. Refused are repeats of something that itself varies
in length or choice, and more than two unbounded repeats in all; possessive ones (`*+`, `++`) do not count, since they
never give anything back.
"""

from __future__ import annotations

import re._parser as parser  # type: ignore[import-not-found]
from typing import Any, Final

MOST_REPEATS: Final = 2
_LONG: Final = 64
"""A repeat of up to this many is taken for bounded."""

_HINT: Final = "possessive repeats such as `[a-z]*+` are always fast"


def slow_pattern(source: str) -> tuple[str, str] | None:
    """What makes the pattern slow on some value, and a hint; None when nothing does. `source` compiles."""
    found = _Repeats()
    found.walk(parser.parse(source))
    if found.nested:
        return "a repeat of something that varies can take for ever on some values", _HINT
    if found.count > MOST_REPEATS:
        return f"more than {MOST_REPEATS} unbounded repeats can take very long on some values", _HINT
    return None


class _Repeats:
    def __init__(self) -> None:
        self.count = 0
        self.nested = False

    def walk(self, tree: Any, *, inside: bool = False) -> None:
        for operator, argument in tree:
            name = str(operator)
            if name in ("MAX_REPEAT", "MIN_REPEAT"):
                low, high, body = argument
                self.nested |= inside and high != low
                unbounded = int(high) > _LONG
                self.count += unbounded
                self.walk(body, inside=inside or unbounded)
            elif name == "POSSESSIVE_REPEAT":
                self.walk(argument[2])
            elif name == "ATOMIC_GROUP":
                self.walk(argument)
            elif name == "BRANCH":
                self.nested |= inside
                for branch in argument[1]:
                    self.walk(branch, inside=inside)
            elif name == "SUBPATTERN":
                self.walk(argument[-1], inside=inside)
            elif name in ("ASSERT", "ASSERT_NOT"):
                self.walk(argument[1], inside=inside)
            elif name == "GROUPREF_EXISTS":
                self.nested |= inside
