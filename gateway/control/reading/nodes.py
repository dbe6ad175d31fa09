"""YAML text to a tree of nodes that know where they stand.

Only true, false and null are resolved, and only when plain: everything else stays the text that was written, and the schema
decides whether it is a number. So `on:` is a key, `012` is 12, `1:30` is text and `X-Version: 1.10` keeps its zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeAlias

import yaml

from gateway.control.reading.problems import Problem, shown

MAX_DEPTH: Final = 32
MAX_KEY: Final = 1024
"""Characters of a key: more than YAML allows a key without `?`."""
MAX_NODES: Final = 200_000
"""Nodes of one file after expansion of aliases: an alias counts as much as what it stands for."""

Loc: TypeAlias = tuple[str | int, ...]
Expand: TypeAlias = Callable[[str], str]
"""Replaces `${…}` in a scalar; raises ValueError in words for the operator."""

_WORDS: Final[dict[str, bool | None]] = {
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    "null": None, "Null": None, "NULL": None, "~": None, "": None,
}  # fmt: skip
_ALLOWED_TAGS: Final = {None, "!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int
    length: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(slots=True)
class Scalar:
    """A value. `written` is the text before `${…}` was replaced, empty when there was none."""

    position: Position
    value: str | bool | None
    written: str = ""
    broken: bool = False
    """A problem is already reported here."""


@dataclass(slots=True)
class Sequence:
    position: Position
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Mapping:
    position: Position
    items: dict[str, tuple[Position, Node]] = field(default_factory=dict)
    """Key ▸ place of the key, value."""

    def values(self) -> list[Node]:
        """Without the keys."""
        return [value for _, value in self.items.values()]


Node: TypeAlias = Scalar | Sequence | Mapping


class _Stop(Exception):  # noqa: N818 - ends the parse of one file; its problem is already noted
    pass


class TreeParser:
    """Parses one file; problems are collected, not raised."""

    def __init__(self, file: str, text: str, expand: Expand) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        self._lines = text.splitlines()
        self._expand = expand
        self._anchors: dict[str, Node | None] = {}
        """None: it has begun, and not ended yet."""
        self._nulls: list[Problem] = []
        """Said only of what is YAML: a quote that is missing makes many."""
        self._count = 0

    def parse(self) -> Node | None:
        """The tree, or None when the text is empty or not YAML; `problems` says why."""
        root: Node | None = None
        try:
            for event in self._events:
                if isinstance(event, yaml.DocumentStartEvent):
                    if root is not None:
                        self._stop(self._at(event), "a second document (`---`): one file holds one document")
                    root = self._node(next(self._events), 0)
        except _Stop:
            return None
        except yaml.MarkedYAMLError as error:
            # Read only when something is wrong.
            from gateway.control.reading.yaml_mistakes import explained

            mistake = explained(error, self._lines)
            self._problem(Position(self.file, *mistake[:3]), mistake.message, mistake.hint)
            return None
        except yaml.YAMLError as error:
            reason = str(getattr(error, "reason", "")) or "unreadable characters"
            self._problem(Position(self.file, 1, 1), f"not valid YAML: {reason}")
            return None
        if root is None:
            self._problem(Position(self.file, 1, 1), "the file is empty", "`gateway init FILE` writes one to start from")
        self.problems += self._nulls
        return root

    def _problem(self, position: Position, message: str, hint: str = "") -> None:
        self.problems.append(problem_at(position, self._lines, message, hint))

    def _stop(self, position: Position, message: str) -> NoReturn:
        self._problem(position, message)
        raise _Stop

    def _at(self, event: Any) -> Position:
        start, end = event.start_mark, event.end_mark
        length = end.column - start.column if end.line == start.line else 1
        return Position(self.file, start.line + 1, start.column + 1, max(length, 1))

    def _node(self, event: Any, depth: int) -> Node:
        """What begins with this event, inside so many others."""
        position = self._at(event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor, position, depth)
        self._count_in(1, position)
        self._check_tag(event.tag, position)
        if event.anchor:
            self._anchors[event.anchor] = None
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, position)
        elif depth >= MAX_DEPTH:
            self._stop(position, f"nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(position, depth + 1)
        else:
            node = self._mapping(position, depth + 1)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, anchor: str | None, position: Position, depth: int) -> Node:
        node = self._anchors.get(anchor or "")
        if node is None:
            why = "contains itself" if anchor in self._anchors else "has no anchor before it"
            self._stop(position, f"the alias `*{anchor}` {why}")
        size, height = _extent(node)
        if depth + height > MAX_DEPTH:
            self._stop(position, f"nested deeper than {MAX_DEPTH} levels")
        self._count_in(size, position)
        return node

    def _count_in(self, size: int, position: Position) -> None:
        self._count += size
        if self._count > MAX_NODES:
            self._stop(position, f"more than {MAX_NODES} values, aliases included")

    def _check_tag(self, tag: str | None, position: Position) -> None:
        if tag not in _ALLOWED_TAGS:
            self._problem(position, f"the tag `{tag}` is not allowed: values have no types here")

    def _scalar(self, event: yaml.ScalarEvent, position: Position) -> Scalar:
        node = Scalar(position, event.value)
        if event.style in (None, "") and event.tag is None and event.value in _WORDS:
            node.value = _WORDS[event.value]
        elif "${" in event.value:
            node.written = event.value
            try:
                node.value = expanded = self._expand(event.value)
            except ValueError as error:
                self._broken(node, str(error))
            else:
                if any("\ud800" <= character <= "\udfff" for character in expanded):
                    self._broken(node, "what stands for the `${…}` is not UTF-8 text")
        if isinstance(node.value, str) and "\0" in node.value:
            self._broken(node, "a NUL character is never valid here")
        return node

    def _broken(self, node: Scalar, message: str) -> None:
        node.broken = True
        node.value = ""
        self._problem(node.position, message)

    def _sequence(self, position: Position, depth: int) -> Sequence:
        node = Sequence(position)
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            item = self._node(event, depth)
            self._refuse_null(item, item.position, "this entry")
            node.items.append(item)
        return node

    def _mapping(self, position: Position, depth: int) -> Mapping:
        node = Mapping(position)
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key, place = self._key(event, node)
            value = self._node(next(self._events), depth)
            if key not in node.items:
                self._refuse_null(value, place, f"`{key}`")
                node.items[key] = (place, value)
        return node

    def _key(self, event: Any, node: Mapping) -> tuple[str, Position]:
        position = self._at(event)
        if not isinstance(event, yaml.ScalarEvent):
            alias = isinstance(event, yaml.AliasEvent)
            self._stop(position, "a key cannot be an alias" if alias else "a key must be plain text")
        self._check_tag(event.tag, position)
        key = event.value
        if len(key) > MAX_KEY:
            self._stop(position, f"a key has at most {MAX_KEY} characters")
        if key == "<<":
            self._problem(position, "merge keys (`<<`) are not supported", "put what routes share under `defaults`")
        elif key in node.items:
            self._problem(position, f"the key `{key}` stands twice; first on line {node.items[key][0].line}")
        return key, position

    def _refuse_null(self, node: Node, place: Position, what: str) -> None:
        if isinstance(node, Scalar) and node.value is None and not node.broken:
            node.broken = True
            hint = "remove the line, or write a value"
            self._nulls.append(problem_at(place, self._lines, f"{what} has no value", hint))


def _extent(node: Node) -> tuple[int, int]:
    """How many values a node holds, itself among them, and in how many levels."""
    if isinstance(node, Scalar):
        return 1, 0
    inner = [_extent(item) for item in (node.items if isinstance(node, Sequence) else node.values())]
    return 1 + sum(size for size, _ in inner), 1 + max((height for _, height in inner), default=0)


def problem_at(position: Position, lines: list[str], message: str, hint: str = "") -> Problem:
    """A problem at a place, with its source line."""
    source = shown(lines[position.line - 1]) if 0 < position.line <= len(lines) else ""
    return Problem(position.file, position.line, position.column, message, hint, source, position.length)


def to_data(node: Node) -> Any:
    """The plain Python values of a tree."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [to_data(item) for item in node.items]
    return {key: to_data(value) for key, (_, value) in node.items.items()}


class Positions:
    """Where every value of a configuration was written."""

    def __init__(self, root: Node, lines: dict[str, list[str]]) -> None:
        self._root = root
        self._lines = lines

    def find(self, loc: Loc) -> tuple[Node, Position | None, bool]:
        """The node at `loc` and the place of its key, or those of its nearest written ancestor (then False)."""
        node, key = self._root, None
        for step in loc:
            if isinstance(node, Mapping) and isinstance(step, str) and step in node.items:
                key, node = node.items[step]
            elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
                key, node = None, node.items[step]
            elif step == 0 and not isinstance(node, Sequence):
                continue  # a single value stands for a list of one
            else:
                return node, key, False
        return node, key, True

    def at(self, loc: Loc, *, key: bool = False) -> Position:
        """The place of a value; of its key when asked for, or when the value is a block."""
        node, key_position, _ = self.find(loc)
        if key_position is not None and (key or not isinstance(node, Scalar)):
            return key_position
        return node.position

    def written(self, loc: Loc) -> Position | None:
        """The place of a value, or None when it is not in the file."""
        return self.at(loc) if self.find(loc)[2] else None

    def written_part(self, loc: Loc) -> Loc:
        """The leading steps of `loc` that are in the file: `timeout`, when `timeout.request` was written in short form."""
        for length in range(len(loc), 0, -1):
            if self.find(loc[:length])[2]:
                return loc[:length]
        return ()

    def problem(self, loc: Loc, message: str, hint: str = "", *, key: bool = False) -> Problem:
        """A problem with the value (or key) at `loc`."""
        return self.problem_at(self.at(loc, key=key), message, hint)

    def problem_at(self, position: Position, message: str, hint: str = "") -> Problem:
        """A problem at a place that is known already."""
        return problem_at(position, self._lines.get(position.file, []), message, hint)
