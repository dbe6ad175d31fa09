"""Inheritance: what holds of a value that may be written in several places, and where it was written.

The nearest place wins. A `Policy` is inherited field by field, at any depth; every other value as a whole. This is the only
mechanism there is: each route is resolved once (`settings.py`), and all that comes after reads the result.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Generic, Self, TypeAlias, TypeVar

from gateway.control.reading.nodes import Loc, Positions
from gateway.control.words.model import Model

T = TypeVar("T")

Scope: TypeAlias = tuple[Loc, Any]
"""A place, and what is written there."""

BUILT_IN: Final = "default"
"""The place of a value that was not written."""


@dataclass(frozen=True, slots=True)
class Resolved(Generic[T]):
    """A value that holds, and the place it was written at."""

    value: T
    """With all that is inherited in it."""
    origin: Loc | None = None
    """The nearest place at which it, or a part of it, was written. None: nobody wrote it."""
    parts: Mapping[str, Resolved[Any]] = field(default_factory=dict)
    """The fields of a policy that is not off, each with its own origin."""
    cut: Resolved[T] | None = None
    """What was written, where another value bounds it."""

    def __getitem__(self, name: str) -> Resolved[Any]:
        return self.parts[name]

    def within(self, bound: Resolved[T], value: T) -> Resolved[T]:
        """Another value, because of a bound around this one."""
        return Resolved(value, bound.origin, self.parts, self)

    def place(self, positions: Positions) -> str:
        """Where it was written, in words."""
        place = BUILT_IN if self.origin is None else str(positions.at(self.origin))
        return place if self.cut is None else f"{place} (the budget around it)"


class Policy(Model):
    """A block that is inherited field by field. The defaults of its fields are what holds where nobody wrote them."""

    off: ClassVar[Any] = None
    """The very object that `off` stands for. What is written beside an inherited `off` starts from the defaults."""
    nearest: ClassVar[frozenset[str]] = frozenset()
    """The fields that are not inherited: the nearest block says them, written or not."""

    @classmethod
    def make_off(cls, **values: Any) -> Self:
        """The object that `off` stands for."""
        made = cls(**values)
        cls.off = made
        return made

    @classmethod
    def resolve(cls, scopes: Sequence[tuple[Loc, Model]]) -> Resolved[Self]:
        """The fields of the blocks that are written, nearest first."""
        parts: dict[str, Resolved[Any]] = {}
        for name, default in _defaults(cls).items():
            step = cls.model_fields[name].alias or name
            if isinstance(default, Policy):
                inner = [((*loc, step), getattr(block, name)) for loc, block in scopes]
                parts[name] = type(default).resolve(inner)
                continue
            parts[name] = Resolved(default)
            for loc, block in scopes:
                if name in block.model_fields_set or name in cls.nearest:
                    parts[name] = Resolved(getattr(block, name), (*loc, step))
                    break
        value = cls.model_construct(**{name: part.value for name, part in parts.items()})
        return Resolved(value, scopes[0][0] if scopes else None, parts)


@functools.cache
def _defaults(cls: type[Policy]) -> dict[str, Any]:
    usual = cls()
    return {name: getattr(usual, name) for name in cls.model_fields}


@functools.cache
def _usual(cls: type[Policy]) -> Resolved[Any]:
    return cls.resolve(())


def resolve(scopes: Sequence[Scope], built_in: Any) -> Resolved[Any]:
    """What holds of one field, written in `scopes` (nearest first) or else `built_in`."""
    nearest = scopes[0][1] if scopes else built_in
    if isinstance(built_in, Policy) and nearest is not built_in.off:
        kind = type(built_in)
        return kind.resolve([one for one in scopes if one[1] is not kind.off]) if scopes else _usual(kind)
    return Resolved(nearest, scopes[0][0] if scopes else None)


def written_value(block: Model, name: str) -> Any:
    """What the block itself says; None for a field that is not written there and so inherited."""
    value = getattr(block, name)
    said = not isinstance(block, Policy) or name in block.model_fields_set or name in block.nearest
    return value if said or isinstance(value, Policy) else None
