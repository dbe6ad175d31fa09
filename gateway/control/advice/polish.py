"""The last look at messages: characters that only look right, and references in the form of other programs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from gateway.control.advice.places import plain
from gateway.control.advice.unknown import table
from gateway.control.json_schema import known_fields
from gateway.control.reading.characters import odd_character
from gateway.control.reading.problems import Problem, hide_secrets

_REFERENCES: Final = (
    re.compile(r"(?<!\$)\$([A-Za-z_][A-Za-z0-9_]*)"),
    re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)"),
    re.compile(r"\{\$([A-Za-z_][A-Za-z0-9_]*)\}"),
    re.compile(r"\{env\.([A-Za-z_][A-Za-z0-9_]*)\}"),
    re.compile(r"%\(([A-Za-z_][A-Za-z0-9_]*)\)s"),
    re.compile(r"%([A-Z_][A-Z0-9_]*)%"),
    re.compile(r"\{\{\s*\.?(?:Env\.|env\.|Values\.)?\s*(?:env\s+)?\"?([A-Za-z_][A-Za-z0-9_.]*)\"?\s*\}\}"),
)


def polish(problems: Iterable[Problem], lines: Mapping[str, list[str]]) -> list[Problem]:
    """The problems, told by their cause."""
    listed = list(problems)
    tagged = {(one.file, one.line, one.column) for one in listed if one.message.startswith("the tag `")}
    told = [one for one in listed if one.message.startswith("the tag `") or (one.file, one.line, one.column) not in tagged]
    told = [_of_another(one) for one in told]
    return [_hinted(_reference(_character(problem, lines), lines)) for problem in told]


def _of_another(problem: Problem) -> Problem:
    """A line of another program's configuration, `word value;`, by its first word."""
    words = problem.source.split()
    if "a colon is missing" in problem.message and len(words) > 1 and not problem.hint.startswith("write `timeout"):
        row = table().get(("route", plain(words[0]))) or table().get(("", plain(words[0])))
        if row is not None and plain(words[0]) not in map(plain, known_fields(("routes", 0))):
            return replace(problem, message=f"not valid YAML: a line of another program, `{words[0]}`", hint=row.say)
    return problem


def _hinted(problem: Problem) -> Problem:
    """A cure for mistakes that are found where nothing is known of what else is in the file."""
    if problem.hint:
        return problem
    if problem.message.startswith("the tag `"):
        return replace(problem, hint="a text that begins with `!` needs quotes")
    if "stands twice; first on line" in problem.message:
        return replace(problem, hint="remove one of the two, or put what they hold under one of them")
    if problem.message == "a key must be plain text" and "{{" in problem.source:
        return replace(problem, hint='`{{…}}` is not replaced here: an environment variable is written `"${NAME}"`')
    return problem


def _marked(problem: Problem, lines: Mapping[str, list[str]]) -> tuple[str, int, int]:
    """The line, and the part of it that is underlined."""
    listed = lines.get(problem.file, [])
    line = listed[problem.line - 1] if 0 < problem.line <= len(listed) else ""
    return line, problem.column - 1, problem.column - 1 + problem.length


def _character(problem: Problem, lines: Mapping[str, list[str]]) -> Problem:
    line, start, end = _marked(problem, lines)
    found = odd_character(line, start, end) if "(U+" not in problem.message else None
    if found is None:
        return problem
    hint = found[2] if hide_secrets(line) == line else ""
    return replace(problem, column=found[0] + 1, length=1, message=found[1], hint=hint)


def _reference(problem: Problem, lines: Mapping[str, list[str]]) -> Problem:
    line, start, end = _marked(problem, lines)
    text = line[start:end]
    if "unknown field" in problem.message or problem.hint.startswith("write") or "${" in text or hide_secrets(line) != line:
        return problem
    for pattern in _REFERENCES:
        if pattern.search(text):
            cure = pattern.sub(lambda match: f"${{{match[1].rpartition('.')[2]}}}", text)
            return replace(problem, hint=f"an environment variable is written `${{NAME}}`: `{cure}`")
    return problem
