"""What one configuration changes in another, by name, with old and new value; nothing that only looks different.

Values are compared as they are understood (`2s` is `2000ms`, a short form is its long form) and shown as they are written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, SecretStr

from gateway.control.load import Loaded
from gateway.control.reading.nodes import Loc, Scalar
from gateway.control.reading.problems import printable
from gateway.control.words.inherit import written_value
from gateway.control.words.model import HIDDEN, Model

NAMES: Final = ("name", "url", "address")
"""Fields that tell the entries of a list apart."""
MOST: Final = 200
"""Changes that are printed; the rest is counted."""
_LONGEST: Final = 120
_EDITS: Final = ("set", "add")
"""Values of headers are not shown: they may be credentials."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `kind`: `added`, `removed` or `changed`."""

    kind: str
    path: str
    old: str = ""
    new: str = ""

    def __str__(self) -> str:
        sign = {"added": "+", "removed": "-"}.get(self.kind, "~")
        if not (self.old or self.new):
            return f"{sign} {self.path}"
        if self.old and self.new:
            return f"{sign} {self.path}: {self.old} → {self.new}"
        return f"{sign} {self.path}: {self.old or self.new}"


@dataclass(frozen=True, slots=True)
class _Place:
    """One side of a comparison: a value, where it was written, and how it is shown when it was not."""

    side: Loaded
    value: Any
    loc: Loc
    built_in: Any = None
    hidden: bool = False
    short: bool = False
    """A bare value in place of the block around it stands for this one."""

    def shown(self) -> str:
        """The value as it was written, or as the manual says it."""
        if self.hidden or isinstance(self.value, SecretStr):
            return HIDDEN
        node, _, written = self.side.positions.find(self.loc)
        if isinstance(node, Scalar) and (written or self.short):
            text = _text(node.written or node.value)
        elif isinstance(self.built_in, str) and not written:
            text = self.built_in
        else:
            text = _text(self.value)
        text = printable(text)
        return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def diff(old: Loaded, new: Loaded) -> list[Change]:
    """All changes, in the order of the manual."""
    return list(_compare("", _Place(old, old.config, ()), _Place(new, new.config, ())))


def render(changes: list[Change]) -> str:
    """One line per change; `no changes` for none."""
    lines = [str(change) for change in changes[:MOST]]
    if len(changes) > MOST:
        lines.append(f"… and {len(changes) - MOST} more changes")
    return "\n".join(lines) or "no changes"


def _compare(path: str, old: _Place, new: _Place) -> Iterator[Change]:
    one, other = old.value, new.value
    if isinstance(one, Model) and type(one) is type(other):
        for name, field in type(one).model_fields.items():
            step = field.alias or name
            here = f"{path}.{step}" if path else step
            yield from _compare(here, _field(old, name, step, field.default), _field(new, name, step, field.default))
    elif isinstance(one, dict) and isinstance(other, dict):
        hidden = path.rpartition(".")[2] in _EDITS
        yield from _entries(
            path,
            {str(key): _Place(old.side, value, (*old.loc, key), hidden=hidden) for key, value in one.items()},
            {str(key): _Place(new.side, value, (*new.loc, key), hidden=hidden) for key, value in other.items()},
        )
    elif isinstance(one, tuple) and isinstance(other, tuple) and _is_named(one + other):
        yield from _entries(path, _named(old), _named(new))
        common = [[name for name in _named(side) if name in _named(another)] for side, another in ((old, new), (new, old))]
        if common[0] != common[1]:
            yield Change("changed", f"{path or 'the list'}: another order")
    elif _plain(one) != _plain(other):
        yield _change(path, old, new)
    elif isinstance(one, Path) and _content(old) != _content(new):
        yield Change("changed", path, f"the content of `{one}`")


def _field(place: _Place, name: str, step: str, default: Any) -> _Place:
    short = place.value.short_form is not None and place.value.short_form[0] == name
    value = written_value(place.value, name)
    return _Place(place.side, value, (*place.loc, step), None if value is None else default, place.hidden, short)


def _content(place: _Place) -> bytes | None:
    return place.side.sources.digests.get(place.value)


def _is_named(values: tuple[Any, ...]) -> bool:
    return bool(values) and all(isinstance(value, Model) and _name_of(value) is not None for value in values)


def _name_of(value: BaseModel) -> str | None:
    for name in NAMES:
        if name in type(value).model_fields:
            found = getattr(value, name)
            return str(getattr(found, "url", found))
    return None


def _named(place: _Place) -> dict[str, _Place]:
    return {str(_name_of(value)): _Place(place.side, value, (*place.loc, index)) for index, value in enumerate(place.value)}


def _entries(path: str, old: dict[str, _Place], new: dict[str, _Place]) -> Iterator[Change]:
    for name, place in old.items():
        here = f"{path}[{name}]"
        if name not in new:
            yield Change("removed", here, "" if _is_block(place.value) else place.shown())
        else:
            yield from _compare(here, place, new[name])
    for name, place in new.items():
        if name not in old:
            yield Change("added", f"{path}[{name}]", "", "" if _is_block(place.value) else place.shown())


def _is_block(value: Any) -> bool:
    return isinstance(value, (BaseModel, dict, tuple))


def _change(path: str, old: _Place, new: _Place) -> Change:
    if isinstance(new.value, (BaseModel, dict)) and old.value is None:
        return Change("added", path, "", _brief(new))
    if isinstance(old.value, (BaseModel, dict)) and new.value is None:
        return Change("removed", path, _brief(old))
    return Change("changed", path, old.shown(), new.shown())


def _brief(place: _Place) -> str:
    """A block in its short form, if it was written so."""
    node, _, written = place.side.positions.find(place.loc)
    return place.shown() if written and isinstance(node, Scalar) else ""


def _plain(value: Any) -> Any:
    """What two equal values have in common, whatever their types make of `==`."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Model):
        return {name: _plain(written_value(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return value


def _text(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_text(inner) for inner in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, Model):
        return _text({field.alias or name: written_value(value, name) for name, field in type(value).model_fields.items()})
    return str(getattr(value, "shown", None) or getattr(value, "url", None) or value)
