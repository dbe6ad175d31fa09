"""What a new block of the YAML can forget: one rule per place. A field that is inherited is followed to all of them."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gateway.control.blocks.block import Block, Making
from gateway.control.blocks.registry import ROUTE_BLOCKS, UPSTREAM_BLOCKS
from gateway.control.compile import compile_config
from gateway.control.json_schema import json_schema, known_fields
from gateway.control.load import Loaded, load
from gateway.control.reading.problems import ConfigError
from gateway.control.schema import Defaults, Route, Upstream
from gateway.control.tools.dump import effective_config
from gateway.control.tools.explain import explain
from gateway.control.words.inherit import Policy, Resolved
from gateway.metrics import GatewayMetrics
from gateway.snapshot import Route as CompiledRoute
from gateway.snapshot import Snapshot
from gateway.snapshot import Upstream as CompiledUpstream

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "config" / "gateway.yaml"

BLOCKS: tuple[Block[Any], ...] = (*ROUTE_BLOCKS, *UPSTREAM_BLOCKS)
FACTS = {"name", "match", "upstream"}
"""What says which route it is; all its blocks know them."""
INHERITED = {block.name: block for block in ROUTE_BLOCKS if block.name in Defaults.model_fields}

CANDIDATES = (
    "7s", "900ms", "40ms", "60ms", "3KiB", "5KiB", "12%", "13%", "2", "3", "true", "false", "off", "on", "10/min", "20/min",
    "[gzip]", "[br]", "[connect]", "[reset]", "['text/*']", "['text/html']", "{X-Sample: a}", "{X-Other: a}", "[X-Sample]",
    "[X-Other]", "X-Sample", "X-Other", "[websocket]",
)  # fmt: skip
"""Values as an operator writes them: of each field two have to fit. A field of a new kind needs its own."""


def make(folder: Path, defaults: str = "", route: str = "") -> Loaded:
    """A configuration with one route; `defaults` stands on line 2, what the route says on line 6."""
    path = folder / "gateway.yaml"
    path.write_text(
        f"version: 1\ndefaults: {{{defaults}}}\nupstreams: {{u: {{endpoints: ['http://10.0.0.1:1', 'http://10.0.0.2:1']}}}}\n"
        f"routes:\n  - {{name: r, match: {{}}, upstream: u,\n     {route}}}\n",
        encoding="utf-8",
    )
    return load(path, {})


def compiled(loaded: Loaded) -> Snapshot:
    """What the data plane gets of it."""

    def no_pool(*facts: object) -> object:
        return facts

    return compile_config(loaded, GatewayMetrics("0"), no_pool)  # type: ignore[arg-type]


# -- every inherited field -----------------------------------------------------------------------------------------------


def fields_of(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The fields of a policy, at any depth; a value that is inherited as a whole is one."""
    if not isinstance(value, Policy):
        yield path
        return
    for name in type(value).model_fields:
        yield from fields_of(getattr(value, name), (*path, type(value).model_fields[name].alias or name))


FIELDS = [field for block in INHERITED.values() for field in fields_of(block.built_in, (block.name,))]


def written(path: tuple[str, ...], value: str) -> str:
    """`retry: {backoff: {base: 40ms}}`."""
    *outer, last = path
    text = f"{last}: {value}"
    for name in reversed(outer):
        text = f"{name}: {{{text}}}"
    return text


def part(loaded: Loaded, path: tuple[str, ...]) -> Resolved[Any]:
    """The field, as it holds for the route."""
    found = loaded.resolved.routes[0].blocks[path[0]]
    for name in path[1:]:
        found = found[name]
    return found


def words(schema: Any) -> Iterator[str]:
    """The words that any field may have."""
    if isinstance(schema, dict):
        yield from (str(word) for word in schema.get("enum", ()))
        for inner in schema.values():
            yield from words(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from words(inner)


@cache
def two_values(path: tuple[str, ...], folder: Path) -> tuple[str, str]:
    """Two values that the field may have, and that differ."""
    found: list[tuple[str, Any]] = []
    for value in (*CANDIDATES, *dict.fromkeys(words(json_schema()))):
        try:
            held = part(make(folder, written(path, value)), path).value
        except (ConfigError, KeyError):
            continue
        if all(held != other for _, other in found):
            found.append((value, held))
        if len(found) == 2:
            return found[0][0], found[1][0]
    raise AssertionError(f"no two of CANDIDATES fit `{'.'.join(path)}`: add values")


def plain(value: Any) -> Any:
    """A compiled value as data that compares: without what is counted."""
    if isinstance(value, (str, bytes, int, float, enum.Enum, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if type(value).__module__.startswith("gateway.metrics"):
        return None
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    else:
        names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())] or list(vars(value))
    return {name: plain(getattr(value, name)) for name in names if not callable(getattr(value, name, None))}


def settings(loaded: Loaded) -> dict[str, Any]:
    """The compiled route, but for its upstream."""
    # The access log carries the hash of the file, which says nothing of the block.
    route = compiled(dataclasses.replace(loaded, hash="")).routes[0]
    made = {field.name: plain(getattr(route, field.name)) for field in dataclasses.fields(route) if field.name != "upstream"}
    return made | {"retry.wait": vars(route.retry.wait) if route.retry is not None else None}


def shown(loaded: Loaded, block: str) -> list[str]:
    """What `/config` shows of the block."""
    return [str(effective_config(loaded)["routes"][0][block])]


def explained(loaded: Loaded, block: str) -> list[str]:
    """What `gateway explain` says of the block, without blanks."""
    lines = explain(loaded, "GET", "/", ["Accept-Encoding: gzip"]).splitlines()
    return [" ".join(line.split()) for line in lines if line.startswith(f"  {block}")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For files that are looked at once."""
    return tmp_path_factory.mktemp("blocks")


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_what_defaults_say_is_seen_everywhere(path: tuple[str, ...], folder: Path) -> None:
    """A value of `defaults` reaches the route's settings with its place, `/config`, `gateway explain` and the data plane."""
    one, other = two_values(path, folder)

    first = make(folder, written(path, one))
    views = (shown(first, path[0]), explained(first, path[0]), settings(first))
    origin, place = part(first, path).origin, f"{first.path}:2"
    second = make(folder, written(path, other))

    assert origin is None or origin[: len(path) + 1] == ("defaults", *path)
    assert shown(second, path[0]) != views[0]
    assert explained(second, path[0]) != views[1]
    assert settings(second) != views[2]
    lines = views[1] + explained(second, path[0])
    assert any(place in line for line in lines)


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_a_route_has_the_last_word(path: tuple[str, ...], folder: Path) -> None:
    """What the route itself says beats `defaults`, in all four places."""
    one, other = two_values(path, folder)

    alone = make(folder, route=written(path, one))
    views = (part(alone, path).value, shown(alone, path[0]), settings(alone))
    both = make(folder, written(path, other), written(path, one))

    if path[-1] not in ("set", "add"):  # these are added to what is inherited
        assert (part(both, path).value, shown(both, path[0])) == views[:2]
        assert settings(both) == views[2]
    lines = explained(both, path[0]) + explained(make(folder, written(path, one), written(path, other)), path[0])
    assert any(f"{both.path}:6" in line for line in lines)


def test_off_ends_what_is_inherited(folder: Path) -> None:
    """What a route writes where `defaults` says `off` starts from the built-in values, not from nothing."""
    for path in FIELDS:
        block = INHERITED[path[0]]
        if len(path) < 2 or getattr(block.built_in, "off", None) is None:
            continue
        one, _ = two_values(path, folder)
        alone, beside = (settings(make(folder, text, written(path, one))) for text in ("", f"{path[0]}: off"))
        assert alone == beside, path


# -- the lists -----------------------------------------------------------------------------------------------------------


def test_every_field_belongs_to_a_block() -> None:
    """Each field of a route and of an upstream is one block in the list, and each block is a field."""
    assert sorted(block.name for block in ROUTE_BLOCKS) == sorted(set(Route.model_fields) - FACTS)
    assert sorted(block.name for block in UPSTREAM_BLOCKS) == sorted(Upstream.model_fields)


@pytest.mark.parametrize("block", INHERITED.values(), ids=INHERITED)
def test_what_is_inherited_has_a_built_in_value(block: Block[Any]) -> None:
    """Where nobody writes it, the block itself says what holds."""
    assert block.built_in is not None


def test_every_slot_is_filled_by_one_block() -> None:
    """Each slot of the compiled route and upstream comes from a block, or is what several of them make together."""
    loaded = load(REFERENCE, {})
    filled: dict[str, set[str]] = {}
    making = Making(GatewayMetrics("0"), "", 1, loaded.resolved.file, {})
    for route in loaded.resolved.routes:
        for block in ROUTE_BLOCKS:
            for slot in block.compile(route.blocks[block.name], route.facts, making):
                filled.setdefault(f"route.{slot}", set()).add(block.name)
    for upstream in loaded.resolved.upstreams.values():
        for upstream_block in UPSTREAM_BLOCKS:
            for slot in upstream_block.compile(upstream.blocks[upstream_block.name], upstream.facts, making):
                filled.setdefault(f"upstream.{slot}", set()).add(upstream_block.name)

    together = {"route.name", "route.metrics", "route.upstream", "route.fallback"}
    joint = ("name", "group", "settings", "metrics", "fallback", "affinity", "names", "retry_budget")
    together |= {f"upstream.{slot}" for slot in joint}
    slots = {f"route.{field.name}" for field in dataclasses.fields(CompiledRoute)}
    slots |= {f"upstream.{field.name}" for field in dataclasses.fields(CompiledUpstream)}
    assert set(filled) == slots - together
    assert [names for names in filled.values() if len(names) > 1 and names != {"strip_prefix", "rewrite_prefix"}] == []


# -- the places ----------------------------------------------------------------------------------------------------------


@cache
def reference() -> Loaded:
    """The configuration that shows all there is."""
    return load(REFERENCE, {})


SAMPLE = """\
version: 1
defaults: {hedge: p95, request_fields: {remove: [X-A]}, response_fields: {remove: [X-B]}}
upstreams:
  u: {endpoints: ["http://a.test:1"], sticky: c, fallback: v}
  v: {endpoints: ["http://a.test:2"]}
routes:
  - {name: a, match: {path: /a}, upstream: u, strip_prefix: /a}
  - {name: b, match: {path: /b}, upstream: u, rewrite_prefix: {from: /b, to: /c}}
  - {name: c, match: {path: /c}, redirect: /a}
  - {name: d, match: {path: /d}, respond: 404}
"""


@pytest.fixture(scope="module")
def explanations(folder: Path) -> str:
    """What `gateway explain` says where each block has something to say."""
    path = folder / "sample.yaml"
    path.write_text(SAMPLE, encoding="utf-8")
    loaded = load(path, {})
    return "\n".join(explain(loaded, "GET", url) for url in ("/a", "/b", "/c", "/d"))


CONNECTIONS = {"keep_alive", "max_connections", "tls"}
"""How connections are made is no matter of a single request: `/config` shows it."""


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_every_block_is_explained(block: Block[Any], explanations: str) -> None:
    """`gateway explain` has a line that begins with the word of the block."""
    lines = re.findall(rf"^  {block.name.removesuffix('s')}[s.\s]", explanations, re.MULTILINE)

    assert lines or block.name in CONNECTIONS


def test_every_block_is_in_the_effective_configuration() -> None:
    """`/config` of the reference shows each block of a route and of an upstream."""
    dumped = effective_config(reference())

    assert {block.name for block in ROUTE_BLOCKS} <= {name for route in dumped["routes"] for name in route}
    assert {block.name for block in UPSTREAM_BLOCKS} <= {name for one in dumped["upstreams"].values() for name in one}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_editors_know_every_block(block: Block[Any]) -> None:
    """The JSON schema has it where the list has it."""
    place = ("routes", 0) if block in ROUTE_BLOCKS else ("upstreams", "any")

    assert block.name in known_fields(place)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_the_reference_shows_every_block(block: Block[Any]) -> None:
    """`config/gateway.yaml` has it, at least in a comment."""
    assert re.search(rf"\b{block.name}:", REFERENCE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_the_documentation_tells_of_every_block(block: Block[Any]) -> None:
    """A page for operators mentions it by its word."""
    pages = [
        ROOT / "README.md",
        *(page for page in (ROOT / "docs").glob("*.md") if page.stem not in ("architecture", "decisions")),
    ]

    assert any(re.search(rf"`{block.name}\b|\b{block.name}:", page.read_text(encoding="utf-8")) for page in pages)
