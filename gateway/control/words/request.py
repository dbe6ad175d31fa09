"""A request, as the router and `gateway explain` see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """A request with its field names in lower case."""

    method: bytes
    host: bytes
    path: bytes
    """Normalised; as it was sent when it holds dot segments."""
    query: dict[bytes, bytes]
    headers: dict[bytes, bytes]
    dots: bool = False
    """The path holds dot segments."""
