"""Facts of a request in the values of headers: `{client_ip}`, `{path.id}`. All other braces stand for themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.control.words.values import did_you_mean, one_of
from gateway.snapshot import Fact, FieldPart

PATH: Final = "path."
WORDS: Final = tuple(fact.value for fact in Fact if fact is not Fact.PATH)
_BRACES: Final = re.compile(r"\{\{([^\W\d][\w.-]*)\}\}|\{([^\W\d][\w.-]*)\}")
"""A word in double braces, which is text, and a word in braces, which is a fact. JSON has neither."""


def facts_in(value: str) -> list[str]:
    """The words that stand for facts, whether there are such facts or not."""
    return [match[2] for match in _BRACES.finditer(value) if match[2]]


def wrong_fact(word: str, parameters: Sequence[str] | None) -> tuple[str, str] | None:
    """What is wrong with a word for a fact, and a hint. `parameters` are those of the route's path; None: not known yet."""
    if word in WORDS:
        return None
    if word.startswith(PATH):
        name = word.removeprefix(PATH)
        if parameters is None or name in parameters:
            return None
        return f"`{{{word}}}`: the path of the route has no parameter `{name}`", did_you_mean(name, parameters)
    hint = did_you_mean(word, (*WORDS, *(PATH + name for name in parameters or ())))
    known = one_of([f"{{{one}}}" for one in (*WORDS, f"{PATH}NAME")])
    as_text = f"as text it is written `{{{{{word}}}}}`"
    return f"`{{{word}}}` is no fact of a request: expected {known}", f"{hint} {as_text}" if hint else as_text


def parts_of(name: str, value: str, route: str) -> tuple[FieldPart, ...]:
    """A field line with its CRLF, compiled: bytes, and facts that each request says anew."""
    parts: list[FieldPart] = []
    text, at = f"{name}: ", 0
    for match in _BRACES.finditer(value):
        text += value[at : match.start()]
        at = match.end()
        word = match[2]
        if word == Fact.ROUTE.value:
            text += route
        elif word:
            kind, _, parameter = word.partition(".")
            parts += [text.encode(), (Fact(kind), parameter)]
            text = ""
        else:
            text += f"{{{match[1]}}}"
    parts.append(f"{text}{value[at:]}\r\n".encode())
    return tuple(parts)
