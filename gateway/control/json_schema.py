"""The JSON schema of the configuration file, made from the models, for editors and linters."""

from __future__ import annotations

import functools
import json
from typing import Any, Final

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
    """The fields of the block at `loc`, by walking the schema. Empty when the block's keys are free names."""
    schema = json_schema()
    places = [schema]
    for step in loc:
        places = [inner for place in places for inner in _inner(_choices(place, schema), step)]
    return [name for place in places for choice in _choices(place, schema) for name in choice.get("properties", ())]


def _choices(place: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    found = [place]
    if "$ref" in place:
        found += _choices(schema["$defs"][place["$ref"].rpartition("/")[2]], schema)
    for keyword in ("anyOf", "allOf"):
        for option in place.get(keyword, ()):
            found += _choices(option, schema)
    return found


def _inner(choices: list[dict[str, Any]], step: str | int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for choice in choices:
        if isinstance(step, int):
            found += [choice["items"]] if isinstance(choice.get("items"), dict) else []
        elif step in choice.get("properties", ()):
            found.append(choice["properties"][step])
        else:
            found += choice.get("patternProperties", {}).values()
            found += [choice["additionalProperties"]] if isinstance(choice.get("additionalProperties"), dict) else []
    return found
