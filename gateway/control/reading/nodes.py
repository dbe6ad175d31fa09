"""YAML text to a tree of nodes that know where they stand.

Only true, false and null are resolved, and only when plain: everything else stays the text that was written, and the schema
decides whether it is a number. So `on:` is a key, `012` is 12, `1:30` is text and `X-Version: 1.10` keeps its zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import yaml

from gateway.control.reading.problems import Problem, shown

MAX_DEPTH: Final = 32
MAX_NODES: Final = 200_000
"""Nodes of one file after expansion of aliases: an alias counts as much as what it stands for."""

Loc: TypeAlias = tuple[str | int, ...]
Expand: TypeAlias = Callable[[str], str]
"""Replaces `${…}` in a scalar; raises ValueError in words for the operator."""

_WORDS: Final[dict[str, bool | None]] = {
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    "null": None, "Null": None, "NULL": None, "~": None, "": None,
}  # fmt: skip
_ALLOWED_TAGS: Final = {
    None,
    "!",
    "tag:yaml.org,2002:str",
    "tag:yaml.org,2002:map",
    "tag:yaml.org,2002:seq",
}
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
    size: int = 1
    height: int = 0


@dataclass(slots=True)
class Sequence:
    position: Position
    items: list[Node] = field(default_factory=list)
    size: int = 1
    height: int = 1


@dataclass(slots=True)
class Mapping:
    position: Position
    items: dict[str, tuple[Position, Node]] = field(default_factory=dict)
    """Key ▸ place of the key, value."""
    size: int = 1
    height: int = 1


Node: TypeAlias = Scalar | Sequence | Mapping


class _Stop(Exception):  # noqa: N818 - ends the parse of one file; its problem is already noted
    pass


@dataclass(slots=True)
class _Open:
    node: Sequence | Mapping
    anchor: str | None
    key: str | None = None
    key_position: Position | None = None


class TreeParser:
    """Parses one file; problems are collected, not raised."""

    def __init__(self, file: str, text: str, expand: Expand) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._text = text
        self._lines = text.splitlines()
        self._expand = expand
        self._anchors: dict[str, Node | None] = {}
        self._open: list[_Open] = []
        self._count = 0
        self._root: Node | None = None

    def parse(self) -> Node | None:
        """The tree, or None when the text is empty or not YAML; `problems` says why."""
        try:
            for event in yaml.parse(self._text, Loader=_LOADER):
                self._take(event)
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
        if self._root is None:
            self._problem(Position(self.file, 1, 1), "the file is empty", "`gateway init FILE` writes one to start from")
        return self._root

    def _problem(self, position: Position, message: str, hint: str = "") -> None:
        self.problems.append(problem_at(position, self._lines, message, hint))

    def _at(self, start: Any, end: Any) -> Position:
        if start is None:
            return Position(self.file, 1, 1)
        length = end.column - start.column if end.line == start.line else 1
        return Position(self.file, start.line + 1, start.column + 1, max(length, 1))

    def _take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._start(event)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self._end()
        elif isinstance(event, yaml.DocumentStartEvent) and self._root is not None:
            self._problem(
                self._at(event.start_mark, event.start_mark), "a second document (`---`): one file holds one document"
            )
            raise _Stop

    def _check_tag(self, tag: str | None, position: Position) -> None:
        if tag not in _ALLOWED_TAGS:
            self._problem(position, f"the tag `{tag}` is not allowed: values have no types here")

    def _expects_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].node, Mapping) and self._open[-1].key is None

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        position = self._at(event.start_mark, event.end_mark)
        self._check_tag(event.tag, position)
        if self._expects_key():
            self._key(event.value, position)
            return
        node = Scalar(position, event.value)
        if event.style in (None, "") and event.tag is None and event.value in _WORDS:
            node.value = _WORDS[event.value]
        elif "${" in event.value:
            self._expanded(node, event.value)
        if isinstance(node.value, str) and "\0" in node.value:
            self._broken(node, "a NUL character is never valid here")
        if event.anchor:
            self._anchors[event.anchor] = node
        self._place(node)

    def _expanded(self, node: Scalar, text: str) -> None:
        node.written = text
        try:
            node.value = expanded = self._expand(text)
        except ValueError as error:
            self._broken(node, str(error))
            return
        if any("\ud800" <= character <= "\udfff" for character in expanded):
            self._broken(node, "what stands for the `${…}` is not UTF-8 text")

    def _broken(self, node: Scalar, message: str) -> None:
        node.broken = True
        node.value = ""
        self._problem(node.position, message)

    def _key(self, key: str, position: Position) -> None:
        top = self._open[-1]
        assert isinstance(top.node, Mapping)
        if key == "<<":
            self._problem(position, "merge keys (`<<`) are not supported", "put what routes share under `defaults`")
        elif key in top.node.items:
            first = top.node.items[key][0]
            self._problem(position, f"the key `{key}` stands twice; first on line {first.line}")
        top.key, top.key_position = key, position

    def _alias(self, event: yaml.AliasEvent) -> None:
        position = self._at(event.start_mark, event.end_mark)
        if self._expects_key():
            self._problem(position, "a key cannot be an alias")
            raise _Stop
        anchor = event.anchor or ""
        node = self._anchors.get(anchor)
        if node is None:
            inside = anchor in self._anchors
            self._problem(position, f"the alias `*{anchor}` " + ("contains itself" if inside else "has no anchor before it"))
            raise _Stop
        if len(self._open) + node.height > MAX_DEPTH:
            self._problem(position, f"nested deeper than {MAX_DEPTH} levels")
            raise _Stop
        self._place(node)

    def _start(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        position = self._at(event.start_mark, event.start_mark)
        self._check_tag(event.tag, position)
        if self._expects_key():
            self._problem(position, "a key must be plain text")
            raise _Stop
        if len(self._open) >= MAX_DEPTH:
            self._problem(position, f"nested deeper than {MAX_DEPTH} levels")
            raise _Stop
        node = Mapping(position) if isinstance(event, yaml.MappingStartEvent) else Sequence(position)
        if event.anchor:
            self._anchors[event.anchor] = None
        self._open.append(_Open(node, event.anchor))

    def _end(self) -> None:
        closed = self._open.pop()
        if closed.anchor:
            self._anchors[closed.anchor] = closed.node
        # Its children are counted already; only what an alias repeats is added again.
        self._count -= closed.node.size - 1
        self._place(closed.node)

    def _place(self, node: Node) -> None:
        self._count += node.size
        if self._count > MAX_NODES:
            self._problem(node.position, f"more than {MAX_NODES} values, aliases included")
            raise _Stop
        if not self._open:
            self._root = node
            return
        top = self._open[-1]
        top.node.size += node.size
        top.node.height = max(top.node.height, node.height + 1)
        if isinstance(top.node, Sequence):
            top.node.items.append(node)
            return
        assert top.key is not None
        assert top.key_position is not None
        if top.key not in top.node.items:
            top.node.items[top.key] = (top.key_position, node)
        top.key = None


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
