"""`compression:` ▸ what the data plane does with a response, and what `explain` and `check` say about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from gateway.control.compression import COMPRESSION_OFF, DECOMPRESSION_OFF, Decompression
from gateway.control.compression import Compression as CompressionConfig
from gateway.control.effective import Value
from gateway.control.load import Loaded
from gateway.control.matches import Request
from gateway.control.nodes import Loc
from gateway.control.schema import Config
from gateway.control.units import format_size
from gateway.metrics import GatewayMetrics
from gateway.policies.compression import CODINGS, TYPES, Breach, CompressionSettings, Types, negotiate
from gateway.policies.decompression import DecompressionSettings
from gateway.proxy.bodies.coders import DEFAULT_LEVELS, LIBRARIES, coder
from gateway.snapshot import Compression, FieldEdits

Row = tuple[str, str, str]

_BUILT_IN: Final = CompressionSettings()
_DECODED: Final = DecompressionSettings()


@dataclass(frozen=True, slots=True)
class EffectiveCompression:
    """What holds for a route, and where it was written."""

    switched: Value[bool]
    codings: Value[tuple[str, ...]]
    min_size: Value[int]
    types: Value[tuple[str, ...]]
    levels: dict[str, Value[int]]
    breach: Value[str]
    opt_out: Value[str]
    not_acceptable: Value[str]
    accept_encoding: Value[str]


def effective_compression(config: Config, index: int) -> EffectiveCompression:
    """The block of route number `index` over that of `defaults`, field by field."""
    scopes: list[tuple[Loc, CompressionConfig]] = []
    switched: Value[bool] = Value(False)
    for loc, policies in ((("routes", index), config.routes[index]), (("defaults",), config.defaults)):
        block = policies.compression
        if block is None:
            continue
        place: Loc = (*loc, "compression")
        if not scopes:
            switched = Value(block is not COMPRESSION_OFF, place)
        if block is COMPRESSION_OFF:
            break
        scopes.append((place, block))

    def first(name: str, built_in: Any) -> Value[Any]:
        for loc, block in scopes:
            value = getattr(block, name)
            if value is not None:
                return Value(value, (*loc, name))
        return Value(built_in)

    def level(coding: str) -> Value[int]:
        for loc, block in scopes:
            value: int | None = getattr(block.levels, coding)
            if value is not None:
                return Value(value, (*loc, "levels", coding))
        return Value(DEFAULT_LEVELS[coding])

    return EffectiveCompression(
        switched=switched,
        codings=first("codings", CODINGS),
        min_size=first("min_size", _BUILT_IN.min_size),
        types=first("types", TYPES),
        levels={coding: level(coding) for coding in CODINGS},
        breach=first("breach", _BUILT_IN.breach.value),
        opt_out=first("opt_out", "X-No-Compression"),
        not_acceptable=first("not_acceptable", "identity"),
        accept_encoding=first("accept_encoding", "forward"),
    )


def compile_compression(config: Config, index: int, metrics: GatewayMetrics) -> Compression | None:
    """The compression of route number `index`; None without, and where no coding of it can be offered."""
    if config.routes[index].upstream is None:
        return None
    found = effective_compression(config, index)
    offered = [made for name in found.codings.value if (made := coder(name, found.levels[name].value)) is not None]
    if not found.switched.value or not offered:
        return None
    settings = CompressionSettings(
        codings=tuple(one.name for one in offered),
        min_size=found.min_size.value,
        types=Types(found.types.value),
        breach=Breach(found.breach.value),
        opt_out=found.opt_out.value.lower().encode("ascii"),
        refuse=found.not_acceptable.value == "406",
    )
    counted = metrics.compressing(config.routes[index].name)
    return Compression(settings, tuple((one, counted.coding(one.name)) for one in offered), counted)


def plain_upstream(config: Config, index: int, edits: FieldEdits | None) -> FieldEdits | None:
    """The changes to the request fields, with what `accept_encoding: identity` adds."""
    found = effective_compression(config, index)
    if not found.switched.value or found.accept_encoding.value == "forward":
        return edits
    own = edits or FieldEdits()
    if any(line[:16].lower() == b"accept-encoding:" for line in own.lines):
        return edits
    return FieldEdits(own.drop | {b"accept-encoding"}, (*own.lines, b"Accept-Encoding: identity"))


def request_fields_read(config: Config) -> Iterator[bytes]:
    """The request fields that compression reads, in lower case."""
    for index in range(len(config.routes)):
        found = effective_compression(config, index)
        if found.switched.value and config.routes[index].upstream is not None:
            yield from (b"accept-encoding", b"if-none-match", b"if-match", b"cache-control")
            if found.opt_out.value:
                yield found.opt_out.value.lower().encode("ascii")
            if found.breach.value == "credentials":
                yield from (b"cookie", b"authorization")
        if compile_decompression(config, index) is not None:
            yield b"content-encoding"


def effective_decompression(config: Config, index: int) -> tuple[Value[bool], DecompressionSettings]:
    """Whether request bodies are decoded on route number `index`, and within which bounds."""
    switched: Value[bool] = Value(False)
    found: list[Decompression] = []
    for loc, policies in ((("routes", index), config.routes[index]), (("defaults",), config.defaults)):
        block = policies.decompress_request
        if block is None:
            continue
        if not found:
            switched = Value(block is not DECOMPRESSION_OFF, (*loc, "decompress_request"))
        if block is DECOMPRESSION_OFF:
            break
        found.append(block)
    size = next((block.max_size for block in found if block.max_size is not None), _DECODED.max_size)
    ratio = next((block.max_ratio for block in found if block.max_ratio is not None), _DECODED.max_ratio)
    return switched, DecompressionSettings(size, ratio)


def compile_decompression(config: Config, index: int) -> DecompressionSettings | None:
    """The bounds for decoded request bodies; None where they pass as they are."""
    switched, settings = effective_decompression(config, index)
    return settings if switched.value and config.routes[index].upstream is not None else None


def decompression_rows(loaded: Loaded, index: int) -> list[Row]:
    """What holds for route number `index`."""
    if loaded.config.routes[index].upstream is None:
        return []
    switched, settings = effective_decompression(loaded.config, index)
    place = "default" if switched.origin is None else str(loaded.positions.at(switched.origin))
    shown = f"up to {format_size(settings.max_size)}, {settings.max_ratio}:1" if switched.value else "off"
    return [("decompress_request", shown, place)]


def compression_notes(loaded: Loaded) -> list[str]:
    """Codings that are configured and cannot be offered here, each with the place where it stands."""
    notes: dict[str, None] = {}
    for index, route in enumerate(loaded.config.routes):
        found = effective_compression(loaded.config, index)
        if not found.switched.value or route.upstream is None:
            continue
        for coding in found.codings.value:
            library = LIBRARIES[coding]
            origin = found.codings.origin or found.switched.origin
            if library and origin is not None:
                place = loaded.positions.at(origin)
                notes[f"{place}: note: `{coding}` is not offered: {library} is not installed (extra `compression`)"] = None
    return list(notes)


def compression_rows(loaded: Loaded, index: int, request: Request) -> list[Row]:
    """What holds for route number `index`, and what this request would get."""

    def origin(value: Value[Any]) -> str:
        return "default" if value.origin is None else str(loaded.positions.at(value.origin))

    found = effective_compression(loaded.config, index)
    if loaded.config.routes[index].upstream is None:
        return []
    if not found.switched.value:
        return [("compression", "off", origin(found.switched))]
    offered = [name for name in found.codings.value if not LIBRARIES[name]]
    missing = [name for name in found.codings.value if LIBRARIES[name]]
    shown = ", ".join(f"{name} level {found.levels[name].value}" for name in offered) or "nothing"
    if missing:
        shown += f" (not installed: {', '.join(missing)})"
    types = "text and the like" if found.types.origin is None else ", ".join(found.types.value)
    return [
        ("compression", shown, origin(found.codings if found.codings.origin is not None else found.switched)),
        ("compression.min_size", format_size(found.min_size.value), origin(found.min_size)),
        ("compression.types", types, origin(found.types)),
        ("compression.breach", found.breach.value, origin(found.breach)),
        ("compression.opt_out", found.opt_out.value or "off", origin(found.opt_out)),
        ("compression.not_acceptable", found.not_acceptable.value, origin(found.not_acceptable)),
        ("compression.accept_encoding", found.accept_encoding.value, origin(found.accept_encoding)),
        ("compression of this request", _outcome(found, offered, request), ""),
    ]


def _outcome(found: EffectiveCompression, offered: list[str], request: Request) -> str:
    fields = request.headers
    if found.opt_out.value and found.opt_out.value.lower().encode("ascii") in fields:
        return f"none: it has {found.opt_out.value}"
    if b"no-transform" in fields.get(b"cache-control", b"").lower():
        return "none: it says `Cache-Control: no-transform`"
    if found.breach.value == "credentials" and (b"cookie" in fields or b"authorization" in fields):
        return "none: it brings credentials"
    accept = fields.get(b"accept-encoding")
    choice = negotiate(accept, tuple(name.encode("ascii") for name in offered))
    if choice.coding >= 0:
        return f"{offered[choice.coding]}, if the response is of a type and size to compress"
    if not choice.plain and found.not_acceptable.value == "406":
        return "406: it accepts nothing that is offered"
    return "none: it has no Accept-Encoding" if accept is None else "none: its Accept-Encoding asks for none that is offered"
