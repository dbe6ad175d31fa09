"""The files a configuration is made of, and whether they are still the same.

Only content counts: a symbolic link that points elsewhere (a Kubernetes ConfigMap is swapped that way), a file replaced by a
rename and a file written in place all look alike. Stamps only tell when it is worth reading.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TypeAlias

Digests: TypeAlias = dict[Path, bytes | None]
"""File ▸ SHA-256 of its content; None when it cannot be read."""
Stamps: TypeAlias = dict[Path, tuple[int, ...] | None]


@dataclass(frozen=True, slots=True)
class Sources:
    """What a configuration was made of."""

    digests: Mapping[Path, bytes | None] = field(default_factory=dict)
    """The main file, the included ones, secrets and certificates: all that was read, or would have been, as it was then."""
    patterns: tuple[str, ...] = ()
    """Where included files are looked for: files, folders, and patterns of `glob`."""

    def paths(self) -> list[Path]:
        """Every file there is to look at now: an included folder may have got more."""
        found = dict.fromkeys(self.digests)
        for pattern in self.patterns:
            found.update(dict.fromkeys(matching(Path(pattern)) or ()))
        return list(found)


def matching(path: Path) -> list[Path] | None:
    """The files that an `include` stands for; None when it names a file or folder that is not there."""
    if glob.has_magic(str(path)):
        # Not Path.glob: it takes no absolute patterns and cannot fail quietly on unreadable folders.
        # Nor Path.is_file: it fails below a folder that may not be searched, and for an endless chain of links.
        return [Path(name) for name in glob.glob(str(path)) if os.path.isfile(name)]  # noqa: PTH113, PTH207
    try:
        if path.is_dir():
            return [file for file in path.iterdir() if file.suffix in (".yaml", ".yml") and not file.name.startswith(".")]
        return [path] if path.is_file() else None
    except OSError:
        return None


def digest(content: bytes) -> bytes:
    """What stands for a content."""
    return hashlib.sha256(content).digest()


def digest_of(path: Path) -> bytes | None:
    """What stands for the content of a file; None when there is no file that can be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except (OSError, ValueError):
        return None


def digests_of(paths: Iterable[Path]) -> Digests:
    """The digests of all of them."""
    return {path: digest_of(path) for path in paths}


def stamps_of(paths: Iterable[Path]) -> Stamps:
    """What changes in the folder entries when the files do, on file systems that keep time well."""
    return {path: _stamp(path) for path in paths}


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Look(Enum):
    """What to do after a look at the files."""

    NOTHING = "nothing"
    WAIT = "wait"
    """They have changed: look again soon, whether somebody is still writing."""
    RELOAD = "reload"


class Settling:
    """Decides when changed files are worth a reload: once, when two looks in a row have seen the same new content.

    Half a file may well be valid, so what still changes is not taken.
    """

    __slots__ = ("_known", "_pending")

    def __init__(self, known: Mapping[Path, bytes | None]) -> None:
        self._known = dict(known)
        self._pending: Digests | None = None

    def seen(self, digests: Digests) -> Look:
        """The files look like this now."""
        if digests == self._known:
            self._pending = None
            return Look.NOTHING
        if digests != self._pending:
            self._pending = digests
            return Look.WAIT
        self._known, self._pending = digests, None
        return Look.RELOAD

    def tried(self, read: Mapping[Path, bytes | None], paths: Iterable[Path]) -> None:
        """A reload has just been tried with this content, whatever came of it; these are the files to look at from now on."""
        self._known = {path: read[path] if path in read else self._known.get(path) for path in paths}
        self._pending = None
