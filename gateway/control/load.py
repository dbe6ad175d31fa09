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
from gateway.control.blocks.server.server import Admin
from gateway.control.reading.expand import expand, read_secret
from gateway.control.reading.files import Sources, digest, digest_of, digests_of, matching
from gateway.control.reading.nodes import (
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


def load_admin(path: str | Path) -> Admin | None:
    """The `admin` of a file that may not be valid otherwise: who edits it must still reach the gateway that runs."""
    loader = _Loader(Path(path), os.environ)
    root = loader._parse(loader.path)
    written = to_data(root).get("admin", {}) if isinstance(root, Mapping) else None
    try:
        return None if written is None else Admin.model_validate(written, context={"base": loader.base})
    except ValidationError:
        return None


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
            self._refuse_root(root)
            raise self._error()
        self._include(root)
        positions = Positions(root, self.lines)
        data = to_data(root)
        config = self._validate(data)
        if config is None or self.problems:
            # Read only when something is wrong.
            from gateway.control.advice.report import all_problems

            self.problems = all_problems(root, self.lines, self.base, self.problems)
            raise self._error()
        resolved = resolve_config(config)
        self.problems += checks.check(config, resolved, positions)
        if self.problems:
            raise self._error()
        name = hashlib.sha256(json.dumps(data, sort_keys=True).encode("ascii")).hexdigest()[:12]
        return Loaded(config, positions, name, self.path, tuple(self.files), self._sources(), resolved, data)

    def _refuse_root(self, root: Node) -> None:
        from gateway.control.reading.yaml_mistakes import other_format

        whose = other_format("\n".join(self.lines[root.position.file]))
        hint = f"this looks like a configuration of {whose}; `gateway init` writes a file to start from" if whose else ""
        self._report(root.position, "expected a mapping: `version:`, `upstreams:`, `routes:` and so on", hint)

    def _validate(self, data: Any) -> Config | None:
        try:
            return Config.model_validate(data, context={"base": self.base, "named": self.named})
        except ValidationError:
            return None

    def _error(self) -> ConfigError:
        from gateway.control.advice.polish import polish

        return ConfigError(polish(self.problems, self.lines), self._sources())

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
