"""The JSON schema of the configuration file, made from the models, for editors and linters."""

from __future__ import annotations

import functools
import json
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel

from gateway.control.reading.nodes import Loc
from gateway.control.schema import Config

_REFERENCE: Final = r"\$\{[^}]*\}"
"""Any value may be, or hold, a `${…}`."""


@functools.cache
def json_schema() -> dict[str, Any]:
    """The schema, in the vocabulary that draft 7 and 2020-12 share."""
    schema = _tidied(Config.model_json_schema(by_alias=True))
    schema.pop("title", None)
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Gateway configuration", **schema}


def _tidied(schema: Any, *, named: bool = False) -> Any:
    """Without what pydantic adds for itself, and open for `${…}`. `named`: the keys are names, not keywords."""
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if named:
        return {name: _tidied(value) for name, value in schema.items()}
    options = [_tidied(option) for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    tidy = {
        key: _tidied(value, named=key in ("properties", "$defs", "patternProperties"))
        for key, value in schema.items()
        if key not in ("anyOf", "title") and not (key == "default" and value is None)
    }
    if len(options) == 1:
        tidy = options[0] | tidy if "$ref" not in options[0] else {"allOf": options} | tidy
    elif options:
        tidy["anyOf"] = options
    return _open_for_references(tidy)


def _open_for_references(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type") in ("integer", "boolean"):
        return schema | {"type": [schema["type"], "string"], "pattern": _REFERENCE}
    if schema.get("type") == "string" and "pattern" in schema and _REFERENCE not in schema["pattern"]:
        return schema | {"pattern": f"{schema['pattern']}|{_REFERENCE}"}
    if "enum" in schema and all(isinstance(word, str) for word in schema["enum"]):
        rest = {key: value for key, value in schema.items() if key != "enum"}
        return {"anyOf": [{"enum": schema["enum"]}, {"type": "string", "pattern": _REFERENCE}]} | rest
    return schema


def rendered_schema() -> str:
    """The schema as it stands in `config/gateway.schema.json`."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def known_fields(loc: Loc) -> list[str]:
    """The fields of the block at `loc`. Empty when the block's keys are free names."""
    kinds: list[Any] = [Config]
    for step in loc:
        kinds = [choice for kind in kinds for inner in _inner(kind, step) for choice in _choices(inner)]
    models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def _choices(kind: Any) -> list[Any]:
    if get_origin(kind) is Annotated:
        return _choices(get_args(kind)[0])
    return [inner for one in get_args(kind) for inner in _choices(one)] if get_origin(kind) in (Union, UnionType) else [kind]


def _inner(kind: Any, step: str | int) -> list[Any]:
    """What can stand under the field, the key or the number."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [field.annotation for name, field in kind.model_fields.items() if (field.alias or name) == step]
    container = {dict: str, tuple: int}.get(get_origin(kind))
    return [get_args(kind)[-1 if container is str else 0]] if container is not None and isinstance(step, container) else []
