"""The base of all configuration models: closed, frozen, with short forms and secrets."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, SecretStr, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gateway.control.reading.expand import read_secret

T = TypeVar("T")

HIDDEN: Final = "***"
"""What is shown in place of a secret."""


def setting(default: object, description: str, **more: Any) -> Any:
    """A field with a default as an operator would write it, and its line of the manual."""
    return Field(default=default, description=description, **more)


def required(description: str, **more: Any) -> Any:
    """A field that must be written."""
    return Field(description=description, **more)


def made_of(block: object, kind: type[T], **others: Any) -> T:
    """Settings of a kind, a dataclass: the others as they are given, all other fields as they are called in the block."""
    same = [one.name for one in fields(kind) if one.name not in others]  # type: ignore[arg-type]
    return kind(**{name: getattr(block, name) for name in same}, **others)


class Model(BaseModel):
    """One block of the file. Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    short_form: ClassVar[tuple[str, JsonSchemaValue] | None] = None
    """The field that a bare value stands for, and the schema of that value: `timeout: 2s` is `timeout: {request: 2s}`."""

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if cls.short_form is not None and isinstance(value, str):
            return {cls.short_form[0]: value}
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        if cls.short_form is None:
            return schema
        resolved = handler.resolve_ref_schema(schema)
        full = dict(resolved)
        resolved.clear()
        resolved["anyOf"] = [cls.short_form[1], full]
        return schema

    def secret(self, name: str) -> str | None:
        """The secret of the field `name`, or of the file that `name_file` points to. Raises ValueError without secrets."""
        value: SecretStr | None = getattr(self, name)
        if value is not None:
            return value.get_secret_value()
        path: Path | None = getattr(self, f"{name}_file")
        return None if path is None else read_secret(path)
