"""The block `rewrite_response:`."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

from gateway.control.blocks.block import Block, Making, RouteFacts, line
from gateway.control.words.inherit import Policy, Resolved
from gateway.control.words.model import made_of, setting
from gateway.control.words.values import OrOff, switched
from gateway.policies.rewrite_response import RewriteResponseSettings


class RewriteResponse(Policy):
    """What upstreams say of their own addresses, as clients have to see it: scheme, name, and the prefix that was taken off."""

    location: bool = setting(True, "In `Location` and `Content-Location`.")
    cookie_path: bool = setting(True, "In the `Path` of cookies that are set.")


REWRITE_OFF: Final = RewriteResponse.make_off(location=False, cookie_path=False)
"""What `off` stands for: this very object."""

RewriteResponseValue: TypeAlias = Annotated[RewriteResponse | None, OrOff(REWRITE_OFF), switched("{cookie_path: false}")]


def _compile(found: Resolved[RewriteResponse], facts: RouteFacts, making: Making) -> dict[str, Any]:
    written = found.value
    if facts.upstream is None or not (written.location or written.cookie_path):
        return {"rewrite_response": None}
    return {"rewrite_response": made_of(written, RewriteResponseSettings)}


def _in_words(written: RewriteResponse) -> str:
    words = [word for word, chosen in (("location", written.location), ("cookie_path", written.cookie_path)) if chosen]
    return ", ".join(words) or "off"


BLOCK: Final = Block[RouteFacts](
    "rewrite_response", REWRITE_OFF, forwards=True, compile=_compile, rows=line("rewrite_response", _in_words)
)
