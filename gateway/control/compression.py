"""The block `compression:` of the configuration."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeAlias

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from gateway.control import units, values
from gateway.control.model import Model, setting
from gateway.control.values import OFF, OneOrMany, OrOff, choice, invalid, text_value
from gateway.policies.compression import CODINGS, Breach
from gateway.proxy.bodies.coders import LEVELS

ON: Final = "on"

_TYPE: Final = re.compile(r"\*/\*|[a-z0-9!#$&^_.+-]+/\*|\*\+[a-z0-9.-]+|[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")


def _parse_type(text: str) -> str:
    lower = text.lower()
    if _TYPE.fullmatch(lower) is None:
        hint = "parameters such as `charset` are not looked at" if ";" in text else ""
        raise invalid("expected a media type: `application/json`, `text/*`, `*+json` or `*/*`", hint)
    return lower


MediaType: TypeAlias = Annotated[str, *text_value("a media type such as `text/*`", _parse_type)]


Size: TypeAlias = Annotated[int, *text_value("a size such as `1KiB`", units.parse_size, pattern=units.SIZE_PATTERN)]


class Switched:
    """Annotation: `on` stands for the block with nothing written in it."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def opened(value: Any) -> Any:
            return {} if value == ON or value is True else OFF if value is False else value

        return core_schema.no_info_before_validator_function(opened, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"const": ON}, {"type": "boolean"}, *handler(schema).get("anyOf", [])]}


class Levels(Model):
    """How hard each coding tries."""

    zstd: int | None = setting(None, "1 (fast) to 19. Default 1.", ge=LEVELS["zstd"][0], le=LEVELS["zstd"][1])
    br: int | None = setting(None, "0 (fast) to 11. Default 4.", ge=LEVELS["br"][0], le=LEVELS["br"][1])
    gzip: int | None = setting(None, "1 (fast) to 9. Default 1.", ge=LEVELS["gzip"][0], le=LEVELS["gzip"][1])


BreachValue: TypeAlias = Annotated[str, *choice(*(one.value for one in Breach))]
NotAcceptable: TypeAlias = Annotated[str, *choice("identity", "406")]
AcceptEncoding: TypeAlias = Annotated[str, *choice("forward", "identity")]


class Compression(Model):
    """How responses are compressed. Nothing is, unless a route or `defaults` has this block or `on`."""

    codings: Annotated[tuple[Annotated[str, *choice(*CODINGS)], ...] | None, OneOrMany()] = setting(
        None, "What is offered, the preferred one first. Default `[zstd, br, gzip]`.", min_length=1, max_length=len(CODINGS)
    )
    min_size: Size | None = setting(None, "A smaller body is left as it is. Default `1KiB`.")
    types: Annotated[tuple[MediaType, ...] | None, OneOrMany()] = setting(
        None,
        "Media types that are compressed: `application/json`, `text/*`, `*+json`, `*/*`. Default: text and the like.",
        min_length=1,
        max_length=256,
    )
    levels: Levels = setting({}, "How hard each coding tries.")
    breach: BreachValue | None = setting(
        None,
        "What is left alone because a secret beside text of an attacker could be guessed from the size: `set_cookie` (default: "
        "responses that set a cookie), `credentials` (and all to requests with `Cookie` or `Authorization`), `off`.",
    )
    opt_out: Annotated[values.FieldName | None, OrOff("")] = setting(
        None, "A request with this header gets no compression. Default `X-No-Compression`; `off`: none."
    )
    not_acceptable: NotAcceptable | None = setting(
        None, "For a client that accepts nothing that is offered: `identity` (default: as it is) or `406`."
    )
    accept_encoding: AcceptEncoding | None = setting(
        None,
        "What the upstream is asked for: `forward` (default: what the client asked for; what comes compressed is passed on), "
        "`identity` (nothing compressed, so that all of it is done here).",
    )


COMPRESSION_OFF: Final = Compression()
"""What `off` stands for: this very object."""

CompressionValue: TypeAlias = Annotated[Compression | None, OrOff(COMPRESSION_OFF), Switched()]


class Decompression(Model):
    """Coded request bodies, decoded before they go to the upstream."""

    max_size: Size | None = setting(None, "Largest decoded body; more is 413. Default `10MiB`. `limits.body` holds too.")
    max_ratio: int | None = setting(
        None, "Most decoded bytes per byte received, beyond the first 64 KiB; more is 413. Default 100.", ge=1, le=100_000
    )


DECOMPRESSION_OFF: Final = Decompression()
"""What `off` stands for: this very object."""

DecompressionValue: TypeAlias = Annotated[Decompression | None, OrOff(DECOMPRESSION_OFF), Switched()]
