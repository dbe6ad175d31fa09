"""The block `upgrades:`."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Final, TypeAlias

from gateway.control.blocks.block import Block, RouteFacts, line, slot
from gateway.control.words.values import OrOff, invalid, text_value
from gateway.headers import TOKEN

WEBSOCKET: Final = "websocket"
_TOKEN: Final = TOKEN.decode("ascii")
_PROTOCOL: Final = re.compile(rf"{_TOKEN}+(?:/{_TOKEN}+)?")
_LIKENESS: Final = 0.8
"""From here on a word is `websocket`, misspelt: for all others there is no list to look them up in."""


def _protocol(text: str) -> str:
    if len(text) > 64 or _PROTOCOL.fullmatch(text) is None:
        raise invalid("a protocol is a name as clients send it in `Upgrade`, with its version if it has one: `SPDY/3.1`")
    name = text.lower()
    if name in ("ws", "wss") or (name != WEBSOCKET and difflib.SequenceMatcher(None, name, WEBSOCKET).ratio() >= _LIKENESS):
        raise invalid("not a protocol", f"did you mean `{WEBSOCKET}`?")
    if name == "h2c":
        raise invalid("HTTP/2 inside a tunnel would pass every policy by, so `h2c` is never upgraded to")
    return text


Protocol: TypeAlias = Annotated[str, *text_value("a protocol such as `websocket`", _protocol, pattern="^[!-~]+$")]
Upgrades: TypeAlias = Annotated[tuple[Protocol, ...] | None, OrOff(())]


BLOCK: Final = Block[RouteFacts](
    "upgrades",
    (WEBSOCKET,),
    forwards=True,
    compile=slot("upgrades", lambda words: frozenset(word.lower().encode("ascii") for word in words)),
    rows=line("upgrades", lambda words: ", ".join(words) or "off"),
)
