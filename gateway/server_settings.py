"""The side that clients see, resolved: listeners, what one connection may cost, and how the gateway names things."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from enum import Enum

from gateway.headers import Networks
from gateway.policies.overload import OverloadSettings


@dataclass(frozen=True, slots=True)
class Rights:
    """Who may do what with a file that the gateway makes."""

    mode: int = 0
    """Permission bits; 0: as the process makes files."""
    owner: int = -1
    group: int = -1
    """Numbers of a user and a group; -1: those of the process."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One address to listen on: `host` and `port`, or a Unix socket `path`."""

    host: str = ""
    port: int = 0
    path: str = ""
    tls: ssl.SSLContext | None = field(default=None, compare=False)
    rights: Rights = Rights()
    """Of the file of a Unix socket."""
    tls_fingerprint: str = ""
    """Stands for `tls` in comparisons: a digest over its settings and the content of its files."""

    @property
    def place(self) -> tuple[str, int, str]:
        """Where it listens, whatever it shows there."""
        return self.host, self.port, self.path

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection or message may cost. Sizes in bytes; each limit has its own failure."""

    headers: int = 32 * 1024
    header_count: int = 128
    target: int = 8 * 1024
    response_headers: int = 64 * 1024
    connections: int = 10_000
    requests_per_connection: int = 10_000
    tunnels: int = 1_000
    upload_rate: int = 240
    """Bytes per second a client must upload on average, after a grace of 5 s beyond `body_idle`; 0: any."""
    rate_limit_keys: int = 100_000


@dataclass(frozen=True, slots=True)
class ServerTimeouts:
    """Time limits of the downstream connection and of shutdown, in seconds."""

    header: float = 10.0
    body_idle: float = 30.0
    write_stall: float = 30.0
    keep_alive: float = 75.0
    drain: float = 25.0
    drain_delay: float = 0.0


class ForwardedFields(Enum):
    """Which fields tell the upstream about the client."""

    X_FORWARDED = "x_forwarded"
    FORWARDED = "forwarded"
    BOTH = "both"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The resolved `server:` block."""

    listeners: tuple[Listener, ...]
    name: str
    """Our pseudonym in `Via` and `Proxy-Status`; also how a loop is detected."""
    trusted_proxies: Networks
    limits: Limits = Limits()
    timeouts: ServerTimeouts = ServerTimeouts()
    forwarded: ForwardedFields = ForwardedFields.X_FORWARDED
    overload: OverloadSettings = OverloadSettings()
    encoded_slash: bool = True
    double_slash: bool = True


@dataclass(frozen=True, slots=True)
class Names:
    """Request field names that an operator can choose, in lower case, and the same encoded for sending."""

    request_id: bytes = b"x-request-id"
    budget: bytes = b"x-request-timeout-ms"
    request_id_line: bytes = b"X-Request-ID: "
    budget_line: bytes = b"X-Request-Timeout-Ms: "
    priority: bytes = b""
    """Empty: nobody may say it."""
