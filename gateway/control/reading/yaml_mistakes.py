"""Text that is no YAML: where the mistake is and how it is mended, in place of what the parser stumbled over in the end."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import yaml

from gateway.control.reading.characters import odd_character
from gateway.control.reading.odd_lines import odd_line
from gateway.control.reading.problems import shown

_KEY: Final = r"[A-Za-z_][A-Za-z0-9_.-]*"
_FOREIGN: Final = (
    ("nginx", re.compile(r"^\s*(?:http|events|stream|server|upstream\s+\S+|location\s+[^{]+)\s*\{", re.MULTILINE)),
    ("HAProxy", re.compile(r"^(?:global|defaults|frontend|backend|listen)(?:[ \t]+[A-Za-z0-9._-]+)?[ \t]*$", re.MULTILINE)),
    ("Caddy", re.compile(r"^\s*(?:reverse_proxy|handle_path|file_server|encode|respond|redir|tls)\s+[^:\s]", re.MULTILINE)),
    ("Traefik or another program that reads TOML", re.compile(r"^\s*\[\[?[A-Za-z0-9_.\"-]+\]\]?\s*$", re.MULTILINE)),
)
_LOOKED_AT: Final = 20_000
_LONGEST: Final = 80


class Mistake(NamedTuple):
    """A mistake and its place; line and column count from 1."""

    line: int
    column: int
    length: int
    message: str
    hint: str = ""


def other_format(text: str) -> str:
    """Whose configuration this text looks like, when it is not YAML."""
    return next((whose for whose, pattern in _FOREIGN if pattern.search(text[:_LOOKED_AT])), "")


def explained(error: yaml.MarkedYAMLError, lines: list[str]) -> Mistake:
    """What is wrong, from what the parser says."""
    mark = error.problem_mark or error.context_mark
    context = error.context_mark or mark
    problem = error.problem or error.context or "not valid YAML"
    if mark is None or context is None:
        return Mistake(1, 1, 1, f"not valid YAML: {problem}")
    whose = other_format("\n".join(lines)) if "flow" not in (error.context or "") else ""
    if whose:
        return Mistake(
            1, 1, 1, f"not valid YAML: this looks like a configuration of {whose}", "`gateway init` writes a file to start from"
        )
    found = (
        _odd(lines, context.line, mark.line)
        or _tab(lines, mark.line)
        or _from_elsewhere(lines, max(min(context.line, mark.line - 1), mark.line - 2), mark.line)
        or _known(problem, error.context or "", lines, (context.line, context.column), (mark.line, mark.column))
        or Mistake(mark.line + 1, mark.column + 1, 1, f"not valid YAML: {problem}")
    )
    line = lines[found.line - 1] if found.line <= len(lines) else ""
    # A cure quotes the line, and a line may hold a secret.
    return found if shown(line) == line else found._replace(hint="")


def _odd(lines: list[str], first: int, last: int) -> Mistake | None:
    """An odd character in the lines that the parser was reading; the last one first."""
    for at in range(min(last, len(lines) - 1), max(min(first, last - 1), last - 3, 0) - 1, -1):
        found = odd_character(lines[at])
        if found is not None:
            return Mistake(at + 1, found[0] + 1, 1, f"not valid YAML: {found[1]}", found[2])
    return None


def _from_elsewhere(lines: list[str], first: int, last: int) -> Mistake | None:
    found = odd_line(lines, first, last)
    if found is None:
        return None
    row, column, message, hint = found
    return Mistake(row + 1, column + 1, max(len(lines[row].strip()), 1), f"not valid YAML: {message}", hint)


def _tab(lines: list[str], at: int) -> Mistake | None:
    match = re.match(r"[ -]*\t+", lines[at]) if at < len(lines) else None
    if match is None:
        return None
    column = match[0].index("\t")
    return Mistake(
        at + 1, column + 1, len(match[0]) - column, "not valid YAML: a tab", "indent with blanks, two for each level"
    )


def _known(problem: str, context: str, lines: list[str], opened: tuple[int, int], at: tuple[int, int]) -> Mistake | None:
    line = lines[at[0]] if at[0] < len(lines) else ""
    if "',' or" in problem:
        return _in_brackets(lines, opened, at)
    if "comment or line break" in problem or "alphabetic or numeric" in problem or "cannot start any token" in problem:
        return _first_character(lines[opened[0]], *opened)
    if "could not find expected ':'" in problem:
        return _without_colon(lines[opened[0]], *opened)
    if "mapping values are not allowed" in problem:
        return _second_colon(lines, *at)
    if "sequence entries are not allowed" in problem:
        entry = line[at[1] + 1 :].strip()
        return Mistake(
            at[0] + 1,
            at[1] + 1,
            1,
            "not valid YAML: a list does not begin behind its key",
            f"write `[{entry}]`, or put `- {entry}` on the next line",
        )
    if "unexpected end of stream" in problem and "quoted" in context:
        quote = lines[opened[0]][opened[1]]
        text = lines[opened[0]][opened[1] :].rstrip()
        return Mistake(
            opened[0] + 1,
            opened[1] + 1,
            len(text),
            f"not valid YAML: the quote `{quote}` is not closed",
            f"write `{text}{quote}`",
        )
    if "escape" in problem or "hexdecimal" in problem:
        return _escape(lines[opened[0]], *opened)
    if "expected key" in problem or "'-' indicator" in problem:
        return _odd_place(lines, *at)
    if "document start" in problem:
        return Mistake(
            at[0] + 1,
            at[1] + 1,
            1,
            "not valid YAML: this is not `key: value`",
            "every line of the file belongs to a key such as `routes:`",
        )
    return None


# -- brackets ----------------------------------------------------------------------------------------------------------


def _in_brackets(lines: list[str], opened: tuple[int, int], at: tuple[int, int]) -> Mistake:
    line, column = lines[at[0]] if at[0] < len(lines) else "", at[1]
    bracket = lines[opened[0]][opened[1]]
    closing = "}" if bracket == "{" else "]"
    if line[column : column + 1] in ("{", "[") and (at[0] > opened[0] or column > opened[1]):
        return _braces(line, *at)
    if line[column : column + 1] in ("}", "]") and line[column] != closing:
        return Mistake(
            at[0] + 1, column + 1, 1, f"not valid YAML: `{bracket}` is closed by `{line[column]}`", f"write `{closing}`"
        )
    if line[column : column + 1] == ":" and (start := line.rfind(": ", 0, column)) >= 0:
        text = re.split(r"[,}\]]", line[start + 2 :])[0].strip()
        if ";" in text:
            message, cure = "not valid YAML: what stands in braces is parted by commas", text.replace(";", ",")
            return Mistake(at[0] + 1, start + 3, len(text), message, f"write `{cure}`")
        message = "not valid YAML: a value with a colon and a blank in it needs quotes"
        return Mistake(at[0] + 1, start + 3, len(text), message, f'write `"{text}"`')
    if at[0] == opened[0] and line[column : column + 1] == '"':
        text = (re.match(r'"[^"]*"', line[column:]) or ['"'])[0]
        return Mistake(at[0] + 1, column + 1, len(text), "not valid YAML: a comma is missing", f"write `, {text}`")
    if at[0] == opened[0]:
        return Mistake(
            at[0] + 1,
            column + 1,
            1,
            f"not valid YAML: a comma is missing, or `{closing}`",
            "a text with `,`, `[`, `]`, `{`, `}` or quotes in it stands in quotes",
        )
    before = next((number for number in range(at[0] - 1, opened[0] - 1, -1) if lines[number].strip()), opened[0])
    if lines[opened[0]].rstrip().endswith(("{", "[", ",")) or opened == (0, 0):
        end = len(lines[before].rstrip())
        return Mistake(
            before + 1,
            max(end, 1),
            1,
            f"not valid YAML: a comma is missing at the end of the line, or `{closing}`",
            f"write `{lines[before].strip()[:_LONGEST]},`",
        )
    text = lines[opened[0]].rstrip()
    return Mistake(
        opened[0] + 1,
        opened[1] + 1,
        max(len(text) - opened[1], 1),
        f"not valid YAML: `{bracket}` is not closed",
        f"write `{text[opened[1] :][:_LONGEST]}{closing}`",
    )


def _braces(line: str, row: int, column: int) -> Mistake:
    """An unquoted text with braces inside braces."""
    start = max(line.rfind(mark, 0, column) + len(mark) if mark in line[:column] else 0 for mark in (": ", "[", "{", ", ", ","))
    start += len(line[start:column]) - len(line[start:column].lstrip())
    end, depth = column, 0
    while end < len(line) and not (depth == 0 and line[end] in ",}]"):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(line[end], 0)
        end += 1
    text = line[start:end].strip()
    reference = "${" in text
    what = "a `${…}` inside `{…}` or `[…]`" if reference else "a text with braces inside `{…}` or `[…]`"
    return Mistake(row + 1, start + 1, len(text), f"not valid YAML: {what} needs quotes", f'write it in quotes: `"{text}"`')


# -- characters --------------------------------------------------------------------------------------------------------


def _first_character(line: str, row: int, column: int) -> Mistake:
    match = re.match(r"[^,\]}#]+" if re.search(r"[{\[]", line[:column]) else r".+", line[column:])
    text = (match[0] if match else line[column:]).rstrip()
    if text == "*" and (key := re.search(r"(host|path):\s*$", line[:column])) is not None:
        cure = "without `host` any is taken: remove it" if key[1] == "host" else "write `path: /**`"
        return Mistake(
            row + 1, column + 1, 1, "not valid YAML: a value that is `*` needs quotes, and there is a better one", cure
        )
    return Mistake(
        row + 1,
        column + 1,
        max(len(text), 1),
        f"not valid YAML: a value that begins with `{line[column : column + 1]}` needs quotes",
        f'write `"{text[:_LONGEST]}"`',
    )


def _escape(line: str, row: int, column: int) -> Mistake:
    match = re.match(r'"((?:\\.|[^"\\])*)"', line[column:])
    text = match[1] if match is not None else ""
    hint = f"write `'{text}'`" if text and "'" not in text else "in double quotes a backslash is written `\\\\`"
    return Mistake(
        row + 1,
        column + 1,
        len(match[0]) if match else 1,
        "not valid YAML: in double quotes a backslash begins an escape, and this is none",
        hint,
    )


def _without_colon(line: str, row: int, column: int) -> Mistake:
    text = line[column:].rstrip()
    match = re.match(rf"({_KEY}):(\S.*)", text)
    if match is not None:
        hint = f"write `{match[1]}: {match[2][:_LONGEST]}`"
        return Mistake(row + 1, column + 1, len(text), f"not valid YAML: a blank is missing behind `{match[1]}:`", hint)
    if re.match(r"-\S", text):
        return Mistake(
            row + 1, column + 1, len(text), "not valid YAML: a blank is missing behind `-`", f"write `- {text[1:][:_LONGEST]}`"
        )
    equals = re.match(rf"({_KEY})\s*=\s*(.+)", text)
    if equals is not None:
        return Mistake(
            row + 1,
            column + 1,
            len(text),
            "not valid YAML: a key ends with a colon",
            f"write `{equals[1]}: {equals[2][:_LONGEST]}`",
        )
    limit = re.match(r"timeout +([a-z-]+) +([0-9]+[a-z]*)", text)
    if limit is not None:
        word = {"connect": "connect", "tunnel": "idle"}.get(limit[1], "request")
        hint = f"write `timeout: {{{word}: {limit[2]}}}`"
        return Mistake(row + 1, column + 1, len(text), "not valid YAML: a colon is missing behind the key", hint)
    spaced = re.match(rf"({_KEY}) +([^:]+?);?$", text)
    hint = f"write `{spaced[1]}: {spaced[2][:_LONGEST]}`" if spaced else "a line is `key: value`, or `- entry` in a list"
    return Mistake(row + 1, column + 1, max(len(text), 1), "not valid YAML: a colon is missing behind the key", hint)


def _second_colon(lines: list[str], row: int, column: int) -> Mistake | None:
    line = lines[row]
    match = re.match(rf"\s*(?:- +)*{_KEY}: +", line[:column])
    if match is None:
        return _odd_place(lines, row, len(line) - len(line.lstrip()))
    text = line[match.end() :].rstrip()
    quote = "'" if '"' in text else '"'
    return Mistake(
        row + 1,
        match.end() + 1,
        len(text),
        "not valid YAML: a value with a colon and a blank in it needs quotes",
        f"write `{quote}{text[:_LONGEST]}{quote}`",
    )


# -- indentation -------------------------------------------------------------------------------------------------------


def _odd_place(lines: list[str], row: int, column: int) -> Mistake | None:
    if row >= len(lines):
        return None
    line = lines[row]
    indent = len(line) - len(line.lstrip())
    if column > indent:
        if line[column : column + 1] in ("}", "]"):
            return Mistake(row + 1, column + 1, 1, f"not valid YAML: one `{line[column]}` too many", "remove it")
        match = re.match(rf"\s*(?:- +)*{_KEY}: *", line)
        if match is None or line[match.end() : match.end() + 1] not in ("'", '"'):
            return None
        text, quote = line[match.end() :].rstrip(), "'" if line[match.end()] == '"' else '"'
        return Mistake(
            row + 1,
            column + 1,
            max(len(line.rstrip()) - column, 1),
            "not valid YAML: text behind the closing quote",
            f"put quotes around the whole value: `{quote}{text[:_LONGEST]}{quote}`",
        )
    places = _places(lines[:row], entry=line.lstrip().startswith("- "))
    if not places:
        return None
    nearest = min(places, key=lambda place: (abs(place - indent), -place))
    like, text = places[nearest], line.strip()
    if nearest == indent:
        return _wrong_kind(lines, row, like)
    above = _line_above(lines, row)
    if (found := _no_colon(lines, above) or _no_dash(lines, like, indent - nearest)) is not None:
        return found
    entry = re.fullmatch(r"\s*- +([^\s:{\[][^:]*(?::\S*)?)", lines[like].rstrip())
    if entry is not None:
        word = "url" if "://" in entry[1] else "address"
        hint = f"write `- {word}: {entry[1][:_LONGEST]}` there, and indent this line by {_blanks(nearest)}"
        return Mistake(
            row + 1,
            indent + 1,
            len(text),
            f"not valid YAML: the entry on line {like + 1} is a text, so nothing stands below it",
            hint,
        )
    message = f"not valid YAML: this line is indented by {_blanks(indent)}, and no block around it is"
    return Mistake(
        row + 1,
        indent + 1,
        len(text),
        message,
        f"indent it by {_blanks(nearest)}, as line {like + 1}: `{' ' * nearest}{text[:_LONGEST]}`",
    )


def _line_above(lines: list[str], row: int) -> int:
    return next((at for at in range(row - 1, -1, -1) if lines[at].strip() and not lines[at].lstrip().startswith("#")), 0)


def _no_colon(lines: list[str], at: int) -> Mistake | None:
    """A key without its colon, with its block below it."""
    text = lines[at].strip()
    if re.fullmatch(_KEY, text) is None:
        return None
    column = len(lines[at]) - len(lines[at].lstrip())
    return Mistake(at + 1, column + 1, len(text), "not valid YAML: a colon is missing behind the key", f"write `{text}:`")


def _no_dash(lines: list[str], at: int, deeper: int) -> Mistake | None:
    """The first line of an entry without its dash, the others below it."""
    text, above = lines[at].strip(), lines[_line_above(lines, at)].strip()
    if deeper != len("- ") or above not in ("routes:", "endpoints:", "listen:") or text.startswith("-"):
        return None
    column = len(lines[at]) - len(lines[at].lstrip())
    message = f"not valid YAML: `{above[:-1]}` is a list, and an entry begins with `- `"
    return Mistake(at + 1, column + 1, len(text), message, f"write `- {text[:_LONGEST]}`")


def _wrong_kind(lines: list[str], row: int, like: int) -> Mistake:
    """A line that is well indented, but is no key among keys, or no entry among entries."""
    text, other = lines[row].strip(), lines[like].strip()
    if ":" not in other and " " in other and not other.startswith("-"):
        return _without_colon(lines[like], like, len(lines[like]) - len(lines[like].lstrip()))
    if ":" not in other and not other.startswith("-"):
        column = len(lines[like]) - len(lines[like].lstrip())
        return Mistake(
            like + 1,
            column + 1,
            len(other),
            "not valid YAML: a colon is missing behind the key",
            f"write `{other[:_LONGEST]}:`",
        )
    column = len(lines[row]) - len(lines[row].lstrip())
    message = (
        f"not valid YAML: line {like + 1} is {'an entry of a list' if other.startswith('-') else 'a key'}, and this is not"
    )
    hint = (
        f"write `- {text[:_LONGEST]}`"
        if other.startswith("-")
        else "what belongs to a list stands below the key of the list, indented"
    )
    return Mistake(row + 1, column + 1, len(text), message, hint)


def _places(lines: list[str], *, entry: bool) -> dict[int, int]:
    """Where the blocks that are open behind these lines have their keys (or entries), and the last line that does."""
    found: dict[int, int] = {}
    for number, line in enumerate(lines):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        indent = len(line) - len(line.lstrip())
        found = {place: at for place, at in found.items() if place <= indent}
        dash = re.match(r"(?:- +)+", line.lstrip())
        if entry or dash is None:
            found[indent] = number
        if dash is not None and not entry:
            found.pop(indent, None)
            found[indent + len(dash[0])] = number
    return found


def _blanks(count: int) -> str:
    return "nothing" if not count else "one blank" if count == 1 else f"{count} blanks"
