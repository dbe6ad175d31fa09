"""`${…}` in values: environment variables and files, replaced after the YAML is parsed, so that they cannot inject any."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

MAX_FILE: Final = 64 * 1024

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^{}]*)(\}?)")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def expand(text: str, environ: Mapping[str, str], base: Path, read: Callable[[Path], str] | None = None) -> str:
    """`${VAR}`, `${VAR:-default}`, `${VAR:?message}`, `${file:/path}`; `$${` is a literal `${`.

    As in a shell, `:-` and `:?` treat an empty variable as unset. Paths are relative to `base`. `read` opens files in place of
    `read_secret`. Raises ValueError in words for the operator that never hold a value.
    """

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        if not match[2]:
            raise ValueError("`${` without `}`; a literal `${` is written `$${`")
        return _resolve(match[1], environ, base, read or read_secret)

    return _REFERENCE.sub(replace, text)


def _resolve(reference: str, environ: Mapping[str, str], base: Path, read: Callable[[Path], str]) -> str:
    if reference.startswith("file:"):
        return read(base / reference[5:])
    name, separator, rest = reference.partition(":")
    if _NAME.fullmatch(name) is None or (separator and rest[:1] not in ("-", "?")):
        raise ValueError(f"not a reference: write {_meant(reference)}")
    value = environ.get(name)
    if not separator:
        if value is None:
            raise ValueError(f"the environment variable `{name}` is not set; a default is written `${{{name}:-default}}`")
        return value
    if value:
        return value
    if rest[0] == "?":
        raise ValueError(f"the environment variable `{name}` is not set: {rest[1:] or 'it is required'}")
    return rest[1:]


def _meant(reference: str) -> str:
    """What a reference in another program's form is here. Only names are quoted: what stands behind may be a secret."""
    other = re.fullmatch(r"(?:env[:.]|ENV[:.])([A-Za-z_][A-Za-z0-9_]*)", reference)
    if other is not None:
        return f"`${{{other[1]}}}`"
    name = _NAME.match(reference)
    if name is not None and reference[name.end() : name.end() + 1] in (":", "-", "="):
        return f"`${{{name[0]}:-default}}`, with `:-` before the default"
    return "`${VAR}`, `${VAR:-default}`, `${VAR:?message}` or `${file:/path}`"


def read_secret(path: Path) -> str:
    """The text of a small file without its final line break. Raises ValueError that names the file, never its content."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read `{path}`: {getattr(error, 'strerror', None) or 'not a path'}") from None
    if len(content) > MAX_FILE:
        raise ValueError(f"`{path}` is larger than {MAX_FILE // 1024}KiB")
    try:
        return content.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError(f"`{path}` is not UTF-8 text") from None
