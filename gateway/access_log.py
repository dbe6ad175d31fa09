"""What the access log writes about the requests of a route, compiled: names, units, templates and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AccessNames:
    """How the fields of the access log are called, and in which units its numbers are."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Default name ▸ name; what is not there keeps its own."""
    protocol: bytes = b"HTTP/1.%d"
    time_scale: float = 1.0
    time_form: bytes = b"%.3f"
    duration_scale: float = 1000.0
    """From seconds."""
    duration_form: bytes = b"%.3f"


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """What is written about the requests of a route, as templates; see `proxy/access_log/line.py`."""

    line: bytes
    refused: bytes
    """For a connection that was answered before there was a request."""
    time_scale: float = 1.0
    duration_scale: float = 1000.0
    share: float = 1.0
    """Of the requests that neither failed nor were slow, so many are written."""
    slow: float = float("inf")
    """Seconds from which a request is slow."""
    sampled: bytes = b""
    """What the line of a request says in addition that stands for others too."""
    slow_mark: bytes = b""
    detail_key: bytes = b""
    fallback_key: bytes = b""
    breaker_key: bytes = b""
    attempts_key: bytes = b""
    connect: bytes = b""
    """The template of what opening connections took."""
    backoff: bytes = b""
    """The template of what was waited between attempts."""
    optional: bool = False
    """One of the following is asked for."""
    query_key: bytes = b""
    redact: frozenset[bytes] = frozenset()
    """Lower-case names of query parameters whose values are not written."""
    request_fields_key: bytes = b""
    request_fields: frozenset[bytes] = frozenset()
    response_fields_key: bytes = b""
    response_fields: frozenset[bytes] = frozenset()
