"""What of a request a key can be made of: rate limits count by keys, and consistent hashing goes by them."""

from __future__ import annotations

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
