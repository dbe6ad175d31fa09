"""How much may come out of a coded request body: a few KiB can hold gigabytes (a bomb)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GRACE: Final = 64 * 1024
"""Bytes that may come out whatever the ratio: short texts of one letter are no attack."""


@dataclass(frozen=True, slots=True)
class DecompressRequestSettings:
    """What an operator decides."""

    max_size: int = 10 * 1024 * 1024
    """Bytes of the decoded body."""
    max_ratio: int = 100
    """Decoded bytes per byte received."""


def allowance(settings: DecompressRequestSettings, received: int, decoded: int) -> int:
    """How many bytes more may come out of a body of which so many were received and decoded."""
    return max(0, min(settings.max_size, max(GRACE, settings.max_ratio * received)) - decoded)
