"""A request, as the router and `gateway explain` see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """A request with its path normalised and its field names in lower case."""

    method: bytes
    host: bytes
    path: bytes
    query: dict[bytes, bytes]
    headers: dict[bytes, bytes]
