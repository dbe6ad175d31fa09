"""What one configuration changes in another, by name, with old and new value; nothing that only looks different.

Values are compared as they are understood (`2s` is `2000ms`, a short form is its long form) and shown as they are written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from gateway.control.load import Loaded
from gateway.control.reading.nodes import Loc, Scalar
from gateway.control.reading.problems import printable
from gateway.control.words.inherit import written_value
from gateway.control.words.model import HIDDEN, Model

NAMES: Final = ("name", "url", "address", "certificate")
"""Fields that tell the entries of a list apart."""
MOST: Final = 200
"""Changes that are printed; the rest is counted."""
_LONGEST: Final = 120
_EDITS: Final = (("set",), ("add",))
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

    def digest(self) -> bytes | None:
        """Of the content of the file that the value names."""
        return self.side.sources.digests.get(self.value)

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
    mine, others = _parts(old), _parts(new)
    if mine is None or others is None or type(old.value) is not type(new.value):
        yield from _changed(path, old, new)
        return
    for name, place in mine.items():
        if name not in others:
            yield Change("removed", path + name, "" if _is_block(place.value) else place.shown())
        else:
            yield from _compare((path + name).lstrip("."), place, others[name])
    for name, place in others.items():
        if name not in mine:
            yield Change("added", path + name, "", "" if _is_block(place.value) else place.shown())
    if isinstance(old.value, tuple) and [name for name in mine if name in others] != [name for name in others if name in mine]:
        yield Change("changed", f"{path or 'the list'}: another order")


def _parts(place: _Place) -> dict[str, _Place] | None:
    """What is compared by name, as it goes on in the path; None: the value is compared as a whole."""
    side, value, loc = place.side, place.value, place.loc
    if isinstance(value, Model):
        fields = type(value).model_fields.items()
        return {f".{field.alias or name}": _field(place, name, field.alias or name, field.default) for name, field in fields}
    if isinstance(value, dict):
        hidden = loc[-1:] in _EDITS
        return {f"[{key}]": _Place(side, inner, (*loc, key), hidden=hidden) for key, inner in value.items()}
    if isinstance(value, tuple) and all(_name_of(inner) is not None for inner in value):
        return {f"[{_name_of(inner)}]": _Place(side, inner, (*loc, index)) for index, inner in enumerate(value)}
    return None


def _field(place: _Place, name: str, step: str, default: Any) -> _Place:
    short = place.value.short_form is not None and place.value.short_form[0] == name
    value = written_value(place.value, name)
    return _Place(place.side, value, (*place.loc, step), None if value is None else default, place.hidden, short)


def _name_of(value: Any) -> str | None:
    for name in NAMES:
        if isinstance(value, Model) and name in type(value).model_fields:
            found = getattr(value, name)
            return str(getattr(found, "url", found))
    return None


def _is_block(value: Any) -> bool:
    return isinstance(value, (Model, dict, tuple))


def _changed(path: str, old: _Place, new: _Place) -> Iterator[Change]:
    if isinstance(new.value, (Model, dict)) and old.value is None:
        yield Change("added", path, "", _brief(new))
    elif isinstance(old.value, (Model, dict)) and new.value is None:
        yield Change("removed", path, _brief(old))
    elif old.value != new.value:
        yield Change("changed", path, old.shown(), new.shown())
    elif isinstance(old.value, Path) and old.digest() != new.digest():
        yield Change("changed", path, f"the content of `{old.value}`")


def _brief(place: _Place) -> str:
    """A block in its short form, if it was written so."""
    node, _, written = place.side.positions.find(place.loc)
    return place.shown() if written and isinstance(node, Scalar) else ""


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


def diff_effective(old: object, new: object, path: str = "") -> list[Change]:
    """All changes between two configurations as `/config` shows them: defaults merged, secrets hidden."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in dict.fromkeys([*old, *new]) if path or name != "hash"]
        sides = [(f"{path}.{name}" if path else name, old.get(name), new.get(name)) for name in names]
        return [change for name, before, after in sides for change in diff_effective(before, after, name)]
    if (
        isinstance(old, list)
        and isinstance(new, list)
        and (ours := _by_name(old)) is not None
        and (theirs := _by_name(new)) is not None
    ):
        both = dict.fromkeys([*ours, *theirs])
        return [change for name in both for change in diff_effective(ours.get(name), theirs.get(name), f"{path}[{name}]")]
    if old == new:
        return []
    kind = "added" if old is None else "removed" if new is None else "changed"
    if kind != "changed" and isinstance(old or new, dict):
        return [Change(kind, path)]
    return [Change(kind, path, *("" if one is None else _shortened(one) for one in (old, new)))]


def _by_name(entries: list[Any]) -> dict[str, Any] | None:
    """The entries of a list by what tells them apart; None when they have no names."""
    found = {}
    for entry in entries:
        name = next((entry[key] for key in NAMES if key in entry), None) if isinstance(entry, dict) else None
        if name is None:
            return None
        found[str(name)] = entry
    return found


def _shortened(value: object) -> str:
    text = printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
