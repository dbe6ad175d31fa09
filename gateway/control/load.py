"""File ▸ YAML tree with positions ▸ `${…}` ▸ `Config`, with every error of every file reported at once.

Nothing here raises anything but `ConfigError`, whatever the file holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping as Environment
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from gateway.control import checks
from gateway.control.json_schema import known_fields
from gateway.control.reading.expand import expand, read_secret
from gateway.control.reading.files import Sources, digest, digest_of, digests_of, matching
from gateway.control.reading.nodes import (
    Loc,
    Mapping,
    Node,
    Position,
    Positions,
    Scalar,
    Sequence,
    TreeParser,
    problem_at,
    to_data,
)
from gateway.control.reading.problems import ConfigError, Problem
from gateway.control.resolved import ResolvedConfig, resolve_config
from gateway.control.salvage import salvage
from gateway.control.schema import Config
from gateway.control.words.values import did_you_mean

MAX_FILE: Final = 8 * 1024 * 1024
MAX_INCLUDES: Final = 1000
INCLUDABLE: Final = ("routes", "upstreams")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration and where each of its values was written."""

    config: Config
    positions: Positions
    hash: str
    """First 12 hex digits of the SHA-256 over all values, `${…}` replaced."""
    path: Path
    files: tuple[Path, ...]
    """The main file and the included ones."""
    sources: Sources
    """All that it was made of, for whoever looks for changes."""
    resolved: ResolvedConfig
    """What holds for each route and upstream, and where it was written."""
    data: Any
    """The values as they were written, `${…}` replaced: what `from_data` makes the same configuration of."""


STDIN: Final = Path("-")
"""Stands for standard input, which can be read once."""


def load(path: str | Path, environ: Environment[str, str] | None = None) -> Loaded:
    """Read and validate a configuration file and what it includes. Raises ConfigError with all problems."""
    return _Loader(Path(path), os.environ if environ is None else environ).load()


def from_data(data: Any, path: Path, name: str) -> Loaded:
    """A configuration that another process has loaded and checked. Nothing is known of where its values were written."""
    config = Config.model_validate(data, context={"base": path.parent})
    positions = Positions(Mapping(Position(str(path), 0, 0)), {})
    return Loaded(config, positions, name, path, (path,), Sources(), resolve_config(config), data)


class _Loader:
    def __init__(self, path: Path, environ: Environment[str, str]) -> None:
        self.path = path
        self.environ = environ
        self.base = path.parent
        self.problems: list[Problem] = []
        self.lines: dict[str, list[str]] = {}
        self.files: list[Path] = [path]
        self.digests: dict[Path, bytes | None] = {path: None}
        self.patterns: list[str] = []
        self.named: set[Path] = set()
        """The files that values of the configuration name."""

    def load(self) -> Loaded:
        root = self._parse(self.path)
        if root is None:
            raise self._error()
        if not isinstance(root, Mapping):
            self._report(root.position, "expected a mapping: `version:`, `upstreams:`, `routes:` and so on")
            raise self._error()
        self._include(root)
        positions = Positions(root, self.lines)
        data = to_data(root)
        config, faults = self._validate(data, positions)
        if config is None:
            # What only shows once the faulty parts are out of the way.
            config, _ = self._validate(salvage(data, faults), positions)
            if config is not None:
                self.problems += checks.check(config, resolve_config(config), positions)
            raise self._error()
        resolved = resolve_config(config)
        self.problems += checks.check(config, resolved, positions)
        if self.problems:
            raise self._error()
        name = hashlib.sha256(json.dumps(data, sort_keys=True).encode("ascii")).hexdigest()[:12]
        return Loaded(config, positions, name, self.path, tuple(self.files), self._sources(), resolved, data)

    def _error(self) -> ConfigError:
        return ConfigError(self.problems, self._sources())

    def _sources(self) -> Sources:
        return Sources(self.digests | digests_of(self.named), tuple(self.patterns))

    def _read_secret(self, path: Path) -> str:
        self.digests[path] = digest_of(path)
        return read_secret(path)

    def _report(self, position: Position, message: str, hint: str = "") -> None:
        self.problems.append(problem_at(position, self.lines.get(position.file, []), message, hint))

    # -- files -------------------------------------------------------------------------------------------------------

    def _parse(self, path: Path) -> Node | None:
        text = self._read(path)
        if text is None:
            return None
        name = str(path)
        self.lines[name] = text.splitlines()
        parser = TreeParser(name, text, lambda value: expand(value, self.environ, self.base, self._read_secret))
        root = parser.parse()
        self.problems += parser.problems
        return root

    def _read(self, path: Path) -> str | None:
        self.digests.setdefault(path, None)
        try:
            with sys.stdin.buffer if path == STDIN else path.open("rb") as file:
                content = file.read(MAX_FILE + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a path"
            self.problems.append(Problem(str(path), 0, 0, f"cannot read the file: {reason}"))
            return None
        # Of a pipe there is nothing to look at again.
        whole = len(content) <= MAX_FILE and path.is_file()
        self.digests[path] = digest(content) if whole else digest_of(path)
        if len(content) > MAX_FILE:
            self.problems.append(Problem(str(path), 0, 0, f"the file is larger than {MAX_FILE >> 20}MiB"))
            return None
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            column = error.start - content.rfind(b"\n", 0, error.start)
            self.problems.append(Problem(str(path), line, column, "the file is not UTF-8 text"))
            return None

    # -- includes ----------------------------------------------------------------------------------------------------

    def _include(self, root: Mapping) -> None:
        """Put the routes and upstreams of the included files behind those of the main file."""
        found: set[Path] = set()
        for pattern in self._patterns(root):
            assert isinstance(pattern.value, str)
            found.update(self._matching(pattern, pattern.value))
        if len(found) > MAX_INCLUDES:
            self._report(root.items["include"][0], f"more than {MAX_INCLUDES} included files")
            return
        for path in sorted(found, key=lambda file: (file.name, str(file))):
            if self._is_main(path):
                continue
            self.files.append(path)
            tree = self._parse(path)
            if isinstance(tree, Mapping):
                self._merge(root, tree)
            elif tree is not None:
                self._report(tree.position, "expected a mapping with `routes:` and `upstreams:`")

    def _is_main(self, path: Path) -> bool:
        try:
            return path.samefile(self.path)
        except (OSError, ValueError):  # one of them is a chain of links without an end, for example
            return False

    def _patterns(self, root: Mapping) -> list[Scalar]:
        node = root.items["include"][1] if "include" in root.items else None
        listed = node.items if isinstance(node, Sequence) else [node] if isinstance(node, Scalar) else []
        return [item for item in listed if isinstance(item, Scalar) and isinstance(item.value, str) and item.value]

    def _matching(self, pattern: Scalar, text: str) -> list[Path]:
        path = self.base / text
        self.patterns.append(str(path))
        found = matching(path)
        if found is None:
            self._report(pattern.position, "there is no such file or folder to include")
        return found or []

    def _merge(self, root: Mapping, tree: Mapping) -> None:
        for name, (key, node) in tree.items.items():
            if name not in INCLUDABLE:
                hint = did_you_mean(name, INCLUDABLE) or "this belongs into the main file"
                self._report(key, f"an included file holds only `routes` and `upstreams`, not `{name}`", hint)
            elif name == "routes" and isinstance(node, Sequence):
                place, routes = root.items.get(name, (key, Sequence(key)))
                if isinstance(routes, Sequence):
                    root.items[name] = (place, Sequence(routes.position, [*routes.items, *node.items]))
            elif name == "upstreams" and isinstance(node, Mapping):
                place, upstreams = root.items.get(name, (key, Mapping(key)))
                if isinstance(upstreams, Mapping):
                    self._refuse_twice(upstreams, node)
                    root.items[name] = (place, Mapping(upstreams.position, upstreams.items | node.items))
            elif not (isinstance(node, Scalar) and node.broken):
                self._report(key, f"expected a {'list' if name == 'routes' else 'mapping'} under `{name}`")

    def _refuse_twice(self, own: Mapping, more: Mapping) -> None:
        for name in own.items.keys() & more.items.keys():
            self._report(more.items[name][0], f"the upstream `{name}` is already defined at {own.items[name][0]}")

    # -- validation --------------------------------------------------------------------------------------------------

    def _validate(self, data: Any, positions: Positions) -> tuple[Config | None, list[Loc]]:
        """The configuration, or the places of the faults that keep it from being one; those are reported."""
        try:
            return Config.model_validate(data, context={"base": self.base, "named": self.named}), []
        except ValidationError as error:
            errors = error.errors(include_url=False)
            self.problems += filter(None, (_explained(dict(one), positions) for one in errors))
            return None, [tuple(one["loc"]) for one in errors]


_PLAIN_TEXTS: Final = {
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "int_parsing_size": "the number is too large",
    "bool_parsing": "expected `true` or `false`",
    "bool_type": "expected `true` or `false`",
    "string_type": "expected text",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "dict_type": "expected a mapping (`name: value`)",
    "model_type": "expected a mapping (`name: value`)",
    "tuple_type": "expected a list (`[a, b]`)",
    "string_pattern_mismatch": "not valid here",
}


def _explained(error: dict[str, Any], positions: Positions) -> Problem | None:
    """One pydantic error in the operator's words; None when it only follows from one already reported."""
    kind, loc = str(error["type"]), tuple(error["loc"])
    on_key = bool(loc) and loc[-1] == "[key]"
    loc = loc[:-1] if on_key else loc
    if kind == "missing":
        return positions.problem(loc[:-1], f"the field `{loc[-1]}` is missing{_within(loc[:-1], positions)}")
    if kind == "extra_forbidden":
        known = known_fields(loc[:-1])
        hint = did_you_mean(str(loc[-1]), known) or (f"known here: {', '.join(known)}" if known else "")
        return positions.problem(loc, f"unknown field `{loc[-1]}`{_within(loc[:-1], positions)}", hint, key=True)
    node = positions.find(loc)[0]
    if isinstance(node, Scalar) and node.broken:
        return None
    if kind == "too_short" and (not isinstance(node, Sequence) or node.items):
        return None  # each of its entries is reported already
    context = error.get("ctx", {})
    name = next((str(step) for step in reversed(positions.written_part(loc)) if isinstance(step, str)), "")
    message = context.get("message") if kind == "invalid" else _bounds(kind, context) or _PLAIN_TEXTS.get(kind)
    if message is None:
        message = "not valid here"
    hint = str(context.get("hint", "")) if kind == "invalid" else ""
    if isinstance(node, Scalar) and node.written:
        # What stands for `${…}` may be secret, and a hint may quote it.
        hint = f"after `{node.written[:80]}` was replaced" if not node.written.startswith("${file") else ""
    elif kind == "string_type" and isinstance(node, Scalar) and isinstance(node.value, bool):
        hint = f'as text it is written `"{str(node.value).lower()}"`'
    return positions.problem(loc, f"`{name}`: {message}" if name else message, hint, key=on_key)


def _bounds(kind: str, context: dict[str, Any]) -> str | None:
    for bound, words in (("ge", "at least"), ("le", "at most"), ("gt", "more than"), ("lt", "less than")):
        if bound in context:
            return f"must be {words} {context[bound]}"
    if kind in ("too_long", "string_too_long") and "max_length" in context:
        return f"must not be longer than {context['max_length']}"
    return None


def _within(loc: Loc, positions: Positions) -> str:
    """` in …`: the block in the operator's words, routes by their name."""
    if not loc:
        return ""
    steps = list(loc)
    if len(steps) >= 2 and steps[0] == "routes" and isinstance(steps[1], int):
        node = positions.find((*steps[:2], "name"))
        named = node[0].value if node[2] and isinstance(node[0], Scalar) and not node[0].written else None
        route = f"route `{named}`" if named else f"route {steps[1] + 1}"
        rest = ".".join(str(step) for step in steps[2:])
        return f" in `{rest}` of {route}" if rest else f" in {route}"
    return f" in `{'.'.join(str(step) for step in steps)}`"
