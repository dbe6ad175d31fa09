"""What a request is known by: the parts of the keys that rate limits count by and consistent hashing goes by."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Final

from gateway.proxy.exchange import Exchange
from gateway.request_key import KeyPart
from gateway.snapshot import Route

# A member looked up on its Enum class costs 0.07 µs on CPython 3.11, a global 0.01 µs.
_CLIENT_IP: Final = KeyPart.CLIENT_IP
_HEADER: Final = KeyPart.HEADER
_QUERY: Final = KeyPart.QUERY
_COOKIE: Final = KeyPart.COOKIE
_PATH: Final = KeyPart.PATH
_HOST: Final = KeyPart.HOST
_METHOD: Final = KeyPart.METHOD
_ROUTE: Final = KeyPart.ROUTE


def address_key(address: IPv4Address | IPv6Address) -> bytes:
    """An address as a key: IPv4 whole, of IPv6 the /64 that one subscriber has."""
    return address.packed if address.version == 4 else address.packed[:8]


def key_address(key: bytes) -> str:
    """The address of such a key, as an operator writes it: `192.0.2.7` or `2001:db8:1:2::/64`."""
    return str(IPv4Address(key)) if len(key) == 4 else f"{IPv6Address(key + bytes(8))}/64"


def client_key(x: Exchange) -> bytes | None:
    """The client's address as a key; None when it has none (Unix sockets)."""
    if x.client_ip is not None:
        return address_key(x.client_ip)
    connection = x.client
    key = connection.limit_key
    if key is None and connection.peer is not None:
        key = connection.limit_key = address_key(connection.peer)
    return key


def key_part(x: Exchange, route: Route, part: KeyPart, name: bytes) -> bytes | None:
    """One part of a key; None when the request has no such part."""
    if part is _CLIENT_IP:
        return client_key(x)
    if part is _HEADER:
        return x.field_value(name)
    if part is _QUERY:
        return x.query().get(name)
    if part is _COOKIE:
        return cookie_value(x.field_value(b"cookie"), name)
    if part is _PATH:
        wanted = name.decode("utf-8")
        return next((value for parameter, value in x.parameters if parameter == wanted), None)
    if part is _HOST:
        return x.host
    if part is _METHOD:
        return x.head.method
    if part is _ROUTE:
        return route.name.encode("ascii")
    return name


def cookie_value(field: bytes | None, name: bytes) -> bytes | None:
    """The first cookie of this name in a `Cookie` field (RFC 6265 5.4)."""
    if field is None:
        return None
    # Several Cookie lines are read as one list (RFC 9110 5.3), so a comma may stand where a semicolon should.
    for pair in field.replace(b", ", b"; ").split(b";"):
        found, equals, value = pair.strip(b" \t").partition(b"=")
        if equals and found == name:
            return value
    return None
