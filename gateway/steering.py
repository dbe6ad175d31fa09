"""What of a request decides about it: the parts of keys, and what leads it to an endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class KeyPart(Enum):
    """Where a part of a key comes from."""

    CLIENT_IP = "client_ip"
    HEADER = "header"
    QUERY = "query"
    COOKIE = "cookie"
    PATH = "path"
    HOST = "host"
    METHOD = "method"
    ROUTE = "route"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Steering:
    """What of a request decides which endpoint takes it."""

    key: tuple[tuple[KeyPart, bytes], ...] = ()
    """The parts of the key of consistent hashing, each with its name."""
    sticky: Sticky | None = None


@dataclass(frozen=True, slots=True)
class Sticky:
    """A cookie that keeps a client with the endpoint that served it first. Its values are with the endpoints."""

    cookie: bytes
    """Its name."""
    attributes: bytes
    """What follows the value in `Set-Cookie`, but for `Secure`."""
    secure: bool | None
    """None: `Secure` when the client came by HTTPS."""
