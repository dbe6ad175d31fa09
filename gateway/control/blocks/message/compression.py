"""The block `compression:`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Final, TypeAlias

from gateway.control.blocks.block import Asked, Block, Making, Request, RouteFacts, Row
from gateway.control.reading.nodes import Positions
from gateway.control.words import values
from gateway.control.words.inherit import Policy, Resolved
from gateway.control.words.model import made_of, setting
from gateway.control.words.units import format_size
from gateway.control.words.values import ONE_OR_MANY, OrOff, choice, invalid, switched, text_value
from gateway.policies.compression import CODINGS, TYPES, Breach, CompressionSettings, Types, negotiate
from gateway.proxy.bodies.coders import DEFAULT_LEVELS, LEVELS, LIBRARIES, coder
from gateway.snapshot import Compression as CompressionSnapshot
from gateway.snapshot import FieldEdits

_TYPE: Final = re.compile(r"\*/\*|[a-z0-9!#$&^_.+-]+/\*|\*\+[a-z0-9.-]+|[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")


def _parse_type(text: str) -> str:
    lower = text.lower()
    if _TYPE.fullmatch(lower) is None:
        hint = "parameters such as `charset` are not looked at" if ";" in text else ""
        raise invalid("expected a media type: `application/json`, `text/*`, `*+json` or `*/*`", hint)
    return lower


MediaType: TypeAlias = Annotated[str, *text_value("a media type such as `text/*`", _parse_type)]


class Levels(Policy):
    """How hard each coding tries."""

    zstd: int = setting(DEFAULT_LEVELS["zstd"], "1 (fast) to 19. Default 1.", ge=LEVELS["zstd"][0], le=LEVELS["zstd"][1])
    br: int = setting(DEFAULT_LEVELS["br"], "0 (fast) to 11. Default 4.", ge=LEVELS["br"][0], le=LEVELS["br"][1])
    gzip: int = setting(DEFAULT_LEVELS["gzip"], "1 (fast) to 9. Default 1.", ge=LEVELS["gzip"][0], le=LEVELS["gzip"][1])


BreachValue: TypeAlias = Annotated[str, *choice(*(one.value for one in Breach))]
NotAcceptable: TypeAlias = Annotated[str, *choice("identity", "406")]
AcceptEncoding: TypeAlias = Annotated[str, *choice("forward", "identity")]


class Compression(Policy):
    """How responses are compressed. Nothing is, unless a route or `defaults` has this block or `on`."""

    codings: Annotated[tuple[Annotated[str, *choice(*CODINGS)], ...], ONE_OR_MANY] = setting(
        CODINGS, "What is offered, the preferred one first. Default `[zstd, br, gzip]`.", min_length=1, max_length=len(CODINGS)
    )
    min_size: values.Size = setting("1KiB", "A smaller body is left as it is. Default `1KiB`.")
    types: Annotated[tuple[MediaType, ...], ONE_OR_MANY] = setting(
        TYPES,
        "Media types that are compressed: `application/json`, `text/*`, `*+json`, `*/*`. Default: text and the like.",
        min_length=1,
        max_length=256,
    )
    levels: Levels = setting({}, "How hard each coding tries.")
    breach: BreachValue = setting(
        "set_cookie",
        "What is left alone because a secret beside text of an attacker could be guessed from the size: `set_cookie` (default: "
        "responses that set a cookie), `credentials` (and all to requests with `Cookie` or `Authorization`), `off`.",
    )
    opt_out: Annotated[values.FieldName, OrOff("")] = setting(
        "X-No-Compression", "A request with this header gets no compression. Default `X-No-Compression`; `off`: none."
    )
    not_acceptable: NotAcceptable = setting(
        "identity", "For a client that accepts nothing that is offered: `identity` (default: as it is) or `406`."
    )
    accept_encoding: AcceptEncoding = setting(
        "forward",
        "What the upstream is asked for: `forward` (default: what the client asked for; what comes compressed is passed on), "
        "`identity` (nothing compressed, so that all of it is done here).",
    )


COMPRESSION_OFF: Final = Compression.make_off()
"""What `off` stands for: this very object."""

CompressionValue: TypeAlias = Annotated[Compression | None, OrOff(COMPRESSION_OFF), switched("{min_size: 1KiB}")]


def _compile(found: Resolved[Compression], facts: RouteFacts, making: Making) -> dict[str, Any]:
    """None where no coding can be offered."""
    written = found.value
    if facts.upstream is None or written is COMPRESSION_OFF:
        return {"compression": None}
    offered = [made for name in written.codings if (made := coder(name, getattr(written.levels, name))) is not None]
    if not offered:
        return {"compression": None}
    settings = made_of(
        written,
        CompressionSettings,
        codings=tuple(one.name for one in offered),
        types=Types(written.types),
        breach=Breach(written.breach),
        opt_out=written.opt_out.lower().encode("ascii"),
        refuse=written.not_acceptable == "406",
    )
    counted = making.metrics.compressing(facts.name)
    return {"compression": CompressionSnapshot(settings, tuple((one, counted.coding(one.name)) for one in offered), counted)}


def plain_upstream(written: Compression, edits: FieldEdits | None) -> FieldEdits | None:
    """The changes to the request fields, with what `accept_encoding: identity` adds."""
    if written is COMPRESSION_OFF or written.accept_encoding == "forward":
        return edits
    own = edits or FieldEdits()
    told = b"".join([part for part in own.parts if isinstance(part, bytes)]).split(b"\r\n")
    if any(line[:16].lower() == b"accept-encoding:" for line in (*own.lines, *told)):
        return edits
    return replace(own, drop=own.drop | {b"accept-encoding"}, lines=(*own.lines, b"Accept-Encoding: identity"))


def _fields_read(found: Resolved[Compression], facts: RouteFacts) -> Iterator[bytes]:
    written = found.value
    if written is COMPRESSION_OFF or facts.upstream is None:
        return
    yield from (b"accept-encoding", b"if-none-match", b"if-match", b"cache-control")
    if written.opt_out:
        yield written.opt_out.lower().encode("ascii")
    if written.breach == "credentials":
        yield from (b"cookie", b"authorization")


def _notes(found: Resolved[Compression], positions: Positions) -> Iterator[str]:
    """Codings that are configured and cannot be offered here, each with the place where it stands."""
    if found.value is COMPRESSION_OFF:
        return
    origin = found["codings"].origin or found.origin
    for coding in found.value.codings:
        library = LIBRARIES[coding]
        if library and origin is not None:
            place = positions.at(origin)
            yield f"{place}: note: `{coding}` is not offered: {library} is not installed (extra `compression`)"


def _rows(found: Resolved[Compression], facts: RouteFacts, asked: Asked) -> list[Row]:
    """What holds, and what this request would get."""
    written = found.value
    if written is COMPRESSION_OFF:
        return [("compression", "off", found.place(asked.positions))]
    offered = [name for name in written.codings if not LIBRARIES[name]]
    missing = [name for name in written.codings if LIBRARIES[name]]
    shown = ", ".join(f"{name} level {getattr(written.levels, name)}" for name in offered) or "nothing"
    if missing:
        shown += f" (not installed: {', '.join(missing)})"
    codings = found["codings"] if found["codings"].origin is not None else found
    types = "text and the like" if found["types"].origin is None else ", ".join(written.types)

    def row(name: str, text: str) -> Row:
        return f"compression.{name}", text, found[name].place(asked.positions)

    return [
        ("compression", shown, codings.place(asked.positions)),
        row("min_size", format_size(written.min_size)),
        row("types", types),
        row("breach", written.breach),
        row("opt_out", written.opt_out or "off"),
        row("not_acceptable", written.not_acceptable),
        row("accept_encoding", written.accept_encoding),
        ("compression of this request", _outcome(written, offered, asked.request), ""),
    ]


def _outcome(compression: Compression, offered: list[str], request: Request) -> str:
    fields = request.headers
    if compression.opt_out and compression.opt_out.lower().encode("ascii") in fields:
        return f"none: it has {compression.opt_out}"
    if b"no-transform" in fields.get(b"cache-control", b"").lower():
        return "none: it says `Cache-Control: no-transform`"
    if compression.breach == "credentials" and (b"cookie" in fields or b"authorization" in fields):
        return "none: it brings credentials"
    accept = fields.get(b"accept-encoding")
    choice = negotiate(accept, tuple(name.encode("ascii") for name in offered))
    if choice.coding >= 0:
        return f"{offered[choice.coding]}, if the response is of a type and size to compress"
    if not choice.plain and compression.not_acceptable == "406":
        return "406: it accepts nothing that is offered"
    return "none: it has no Accept-Encoding" if accept is None else "none: its Accept-Encoding asks for none that is offered"


BLOCK: Final = Block[RouteFacts](
    "compression", COMPRESSION_OFF, forwards=True, compile=_compile, rows=_rows, fields_read=_fields_read, notes=_notes
)
