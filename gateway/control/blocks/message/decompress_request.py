"""The block `decompress_request:`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, TypeAlias

from gateway.control.blocks.block import Block, Making, RouteFacts, line
from gateway.control.words import values
from gateway.control.words.inherit import Policy, Resolved
from gateway.control.words.model import made_of, setting
from gateway.control.words.units import format_size
from gateway.control.words.values import OrOff, switched
from gateway.policies.decompress_request import DecompressRequestSettings


class DecompressRequest(Policy):
    """Coded request bodies, decoded before they go to the upstream."""

    max_size: values.Size = setting("10MiB", "Largest decoded body; more is 413. Default `10MiB`. `limits.body` holds too.")
    max_ratio: int = setting(
        100, "Most decoded bytes per byte received, beyond the first 64 KiB; more is 413. Default 100.", ge=1, le=100_000
    )


DECOMPRESSION_OFF: Final = DecompressRequest.make_off()
"""What `off` stands for: this very object."""

DecompressRequestValue: TypeAlias = Annotated[DecompressRequest | None, OrOff(DECOMPRESSION_OFF), switched("{max_size: 10MiB}")]


def _compile(found: Resolved[DecompressRequest], facts: RouteFacts, making: Making) -> dict[str, Any]:
    if found.value is DECOMPRESSION_OFF or facts.upstream is None:
        return {"decompress_request": None}
    return {"decompress_request": made_of(found.value, DecompressRequestSettings)}


def _in_words(written: DecompressRequest) -> str:
    return "off" if written is DECOMPRESSION_OFF else f"up to {format_size(written.max_size)}, {written.max_ratio}:1"


def _fields_read(found: Resolved[DecompressRequest], facts: RouteFacts) -> Iterator[bytes]:
    if found.value is not DECOMPRESSION_OFF and facts.upstream is not None:
        yield b"content-encoding"


BLOCK: Final = Block[RouteFacts](
    "decompress_request",
    DECOMPRESSION_OFF,
    forwards=True,
    compile=_compile,
    rows=line("decompress_request", _in_words),
    fields_read=_fields_read,
)
