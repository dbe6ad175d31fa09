"""The page `docs/configuration.md`: every field there is, made from the JSON schema by `make docs`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.control.json_schema import json_schema
from gateway.control.words import keys, units, values

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"

HEAD: Final = """# Every field

<!-- Made by `make docs` from the JSON schema, which is made from the models. -->

One section for each block, one row for each field. `[]` stands for an item of a list, `NAME` for a name that you choose.
Unknown fields are errors. The same with comments, as one file: [config/gateway.yaml](../config/gateway.yaml). For editors:
`gateway schema`.

| written | is |
|---|---|
| duration | `250ms`, `5s`, `1m30s`, `1h` |
| size | `1024B`, `64KiB`, `10MiB`, `10MB` |
| percentage | `50%`, `0.1%` |
| text with `${…}` | `${VAR}`, `${VAR:-default}`, `${VAR:?message if unset}`, `${file:/path}`; a literal `${` is `$${` |
| path of a file | relative to the main configuration file |

A field of a policy that a route does not write is inherited from `defaults`, one by one; a list replaces a list.
"""

REFERENCE: Final = r"|\$\{[^}]*\}"
WORDS: Final = {
    units.DURATION_PATTERN: "duration",
    units.SIZE_PATTERN: "size",
    units.PERCENT_PATTERN: "percentage",
    rf"^off$|{units.SIZE_PATTERN}": "size, `off`",
    values.NAME_PATTERN: "name",
    keys.KEY_PATTERN: "key",
    "^off$|^[0-9.]+%$": "percentage, `off`",
    "^[0-9]+(/[0-9a-z]+)?$": "number, number/period",
}
"""Pattern ▸ what people call a text like that."""

READ_ON: Final = {
    "access_log": "access-log.md",
    "circuit_breaker": "circuit-breakers.md",
    "compression": "compression.md",
    "decompress_request": "compression.md#requests",
    "ejection": "health.md#ejection",
    "health": "health.md",
    "hedge": "retries.md#hedging",
    "load_balancing": "load-balancing.md",
    "match": "routes.md",
    "max_in_flight": "admission.md",
    "rate_limit": "rate-limits.md",
    "redis": "rate-limits.md#redis",
    "retry": "retries.md",
    "retry_budget": "retries.md#the-budget",
    "sticky": "load-balancing.md#sticky-sessions",
    "timeout": "timeouts.md",
}
"""Word of the YAML ▸ the page that explains it."""


@dataclass
class Section:
    """A block: its schema, and every place where it can stand."""

    schema: dict[str, Any]
    places: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The first place."""
        return self.places[0]


def choices(node: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All that may be written for a node, with the name of the definition that it comes from."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        for inner, choice in choices(schema["$defs"][name], schema):
            yield inner or name, choice
    for keyword in ("anyOf", "allOf"):
        for option in node.get(keyword, ()):
            yield from choices(option, schema)
    if not any(keyword in node for keyword in ("$ref", "anyOf", "allOf")):
        yield "", node


def below(place: str, node: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The blocks at or right below a node: place, name of the definition, schema."""
    for name, choice in choices(node, schema):
        if name and "properties" in choice:
            yield place, name, choice
        if isinstance(choice.get("items"), dict):
            yield from below(f"{place}[]", choice["items"], schema)
        for inner in named(choice):
            yield from below(f"{place}.NAME", inner, schema)


def named(choice: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas of values under names that are free."""
    more = choice.get("additionalProperties")
    return [*choice.get("patternProperties", {}).values(), *([more] if isinstance(more, dict) else [])]


def sections(schema: dict[str, Any]) -> list[Section]:
    """Every block once, in the order in which a reader of the file meets them."""
    found: dict[str, Section] = {"": Section(schema, ["the file"])}

    def walk(prefix: str, block: dict[str, Any]) -> None:
        for word, node in block["properties"].items():
            for place, name, inner in below(prefix + word, node, schema):
                new = name not in found
                section = found.setdefault(name, Section(inner))
                if place not in section.places:
                    section.places.append(place)
                if new:
                    walk(f"{place}.", inner)

    walk("", schema)
    return list(found.values())


def kind(node: dict[str, Any], schema: dict[str, Any]) -> str:
    """What may be written for a node, in words."""
    words: list[str] = []
    for name, choice in choices(node, schema):
        what = ["block"] if name and "properties" in choice else kinds_of(choice, schema)
        words += [word for word in what if word not in words]
    return ", ".join(sorted(words, key=lambda word: (word.startswith("list "), word == "block")))


def kinds_of(choice: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """What one choice allows, in words."""
    pattern = choice.get("pattern", "").removesuffix(REFERENCE)
    if "enum" in choice or "const" in choice:
        return [f"`{word}`" for word in choice.get("enum", [choice.get("const")])]
    if pattern in WORDS:
        return WORDS[pattern].split(", ")
    if "properties" in choice:
        return [f"`{{{', '.join(f'{word}: …' for word in choice['properties'])}}}`"]
    if "items" in choice:
        return [f"list of {kind(choice['items'], schema).replace(', ', ' or ')}"]
    types = choice.get("type", [])
    if "object" in types:
        inner = ", ".join(dict.fromkeys(kind(one, schema) for one in named(choice)))
        return [f"names with {inner}"]
    if "boolean" in types:
        return ["`true`", "`false`"]
    if "integer" in types or "number" in types:
        least, most = choice.get("minimum"), choice.get("maximum")
        return ["number" if most is None or least is None else f"{least:,} to {most:,}".replace(",", " ")]
    return [] if choice.get("pattern") == REFERENCE[1:] else ["text"]


def anchor(title: str) -> str:
    """The fragment of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


def default(node: dict[str, Any], needed: bool) -> str:
    """What holds when the field is not written: nothing where the description or the block below says it."""
    value = node.get("default")
    if needed:
        return "required"
    return "" if value is None or value == {} else f"`{value if value and isinstance(value, str) else json.dumps(value)}`"


def cell(text: str) -> str:
    """Text in a table."""
    return text.replace("|", "\\|")


def rows(section: Section, schema: dict[str, Any], titles: dict[str, str], left_out: set[str]) -> Iterator[str]:
    """The table of a block."""
    yield "| field | what is written | default | what it is |\n|---|---|---|---|"
    needed = section.schema.get("required", ())
    prefix = "" if section.title == "the file" else f"{section.title}."
    for word, node in section.schema["properties"].items():
        if word in left_out:
            continue
        shown = f"`{word}`"
        inner = [name for _, name, _ in below(prefix + word, node, schema)]
        text = node.get("description") or schema["$defs"][inner[0]].get("description", "")
        if inner:
            shown = f"[{shown}](#{anchor(titles[inner[0]])})"
        yield f"| {shown} | {cell(kind(node, schema))} | {cell(default(node, word in needed))} | {cell(text)} |"


def page() -> str:
    """The page."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    schema = json_schema()
    found = sections(schema)
    titles = {name: section.title for section in found for name in schema["$defs"] if _is(section, name, schema)}
    inherited = set(schema["$defs"]["Defaults"]["properties"])
    yield HEAD
    for section in found:
        title = section.title
        top = "." not in title
        yield f"{'##' if top else '###'} {'The file' if title == 'the file' else f'`{title}`'}\n"
        yield section.schema.get("description", "") + "\n"
        if len(section.places) > 1:
            yield f"Also: {', '.join(f'`{place}`' for place in section.places[1:])}.\n"
        word = re.sub(r"\[\]|\.NAME", "", title).rpartition(".")[2]
        if word in READ_ON:
            yield f"More: [{READ_ON[word].partition('#')[0].removesuffix('.md')}]({READ_ON[word]}).\n"
        left_out = inherited if title == "routes[]" else set()
        yield from rows(section, schema, titles, left_out)
        yield "\nAnd everything that [`defaults`](#defaults) has.\n" if left_out else ""


def _is(section: Section, name: str, schema: dict[str, Any]) -> bool:
    return any(choice is section.schema for _, choice in choices({"$ref": f"#/$defs/{name}"}, schema))
