"""Keys in the configuration: what rate limits count by, and what consistent hashing goes by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from gateway.control.words import values
from gateway.control.words.values import ONE_OR_MANY, invalid, text_value
from gateway.request_key import KeyPart

KEY_PATTERN: Final = r"^(client_ip|host|method|route|(header|query|cookie|path|constant):.+)$"

BARE_PARTS: Final = ("client_ip", "host", "method", "route")
NAMED_PARTS: Final = ("header", "query", "cookie", "path", "constant")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a key: `client_ip`, or `header:X-Tenant`."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


def _parse_part(text: str) -> Part:
    kind, colon, name = text.partition(":")
    name = name.strip(" ")
    if not colon and kind in BARE_PARTS:
        return Part(kind)
    if kind not in NAMED_PARTS:
        hint = values.did_you_mean(kind, (*BARE_PARTS, *NAMED_PARTS))
        if colon and kind in BARE_PARTS:
            hint = f"`{kind}` stands alone"
        raise invalid("expected `client_ip`, `host`, `method`, `route`, or `header:`, `query:`, `cookie:`, `path:`, "
                      "`constant:` and a name", hint)  # fmt: skip
    if not name:
        raise invalid(f"a name is missing: write `{kind}:NAME`")
    if len(name) > 128 or not name.isprintable():
        raise invalid("a name is at most 128 printable characters long")
    if kind == "header":
        name = values.own_key_field(name)
    return Part(kind, name)


PartValue: TypeAlias = Annotated[
    Part, *text_value("a key such as `client_ip` or `header:X-Tenant`", _parse_part, pattern=KEY_PATTERN)
]
KeyParts: TypeAlias = Annotated[tuple[PartValue, ...], ONE_OR_MANY]


def fields_of_key(key: Iterable[Part]) -> Iterator[bytes]:
    """The request fields that a key is made of, in lower case."""
    for part in key:
        if part.kind == "header":
            yield part.name.encode("ascii")
        elif part.kind == "cookie":
            yield b"cookie"


def compiled_key(key: Iterable[Part]) -> tuple[tuple[KeyPart, bytes], ...]:
    """The parts as the data plane asks for them."""
    return tuple((KeyPart(part.kind), part.name.encode("utf-8")) for part in key)
