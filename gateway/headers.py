"""HTTP field law: what an intermediary must know about field names and values (RFC 9110, 7239, 6265).

Pure functions on bytes. Python's own helpers are too generous for this work (`int()` takes `1_0`, `strip()` eats 0x85), so
every grammar here is a bytes pattern.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
"""One character of a token (RFC 9110 5.6.2), as a character class."""

FIELD_NAME: Final = re.compile(TOKEN + rb"+")
FIELD_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

ENTITY_TAG: Final = re.compile(rb'(?:W/)?"[^"]*"')
"""An entity tag (RFC 9110 8.8.3); blanks inside are tolerated."""

_HOST: Final = re.compile(rb"(?:([A-Za-z0-9\-._~!$&'()*+;=%]*)|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?")
_WEIGHT: Final = re.compile(rb"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._\-]{1,128}")

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Fields of one connection, never forwarded (RFC 9110 7.6.1, 11.7)."""

NEVER_NOMINATED: Final = frozenset(
    {
        b"host",
        b"content-length",
        b"content-type",
        b"content-encoding",
        b"authorization",
        b"cookie",
        b"set-cookie",
        b"date",
        b"via",
        b"forwarded",
        b"cache-control",
        b"vary",
    }
)
"""End-to-end fields that a `Connection` field may not remove: to obey it would let a client strip what others rely on."""


def normalise_host(value: bytes) -> bytes | None:
    """The host of a `Host` value or authority: lower case, no port, no final dot. None when the value is not valid.

    RFC 9112 3.2: an invalid value is to be answered 400. An empty value is valid (and gives an empty host).
    """
    match = _HOST.fullmatch(value)
    if match is None:
        return None
    name, literal, port = match.groups()
    if port is not None and (name == b"" or (port and int(port) > 65535)):
        return None
    if literal is not None:
        try:
            return b"[" + IPv6Address(literal.decode("ascii")).compressed.encode("ascii") + b"]"
        except ValueError:
            return None
    host: bytes = name.lower()
    return host[:-1] if host.endswith(b".") else host


def valid_request_id(value: bytes) -> bool:
    """A request id from outside is taken only when it cannot do harm in a log or a field: 1 to 128 of `A-Za-z0-9._-`."""
    return _REQUEST_ID.fullmatch(value) is not None


def list_members(value: bytes) -> list[bytes]:
    """The members of a comma-separated list in lower case, empty ones dropped (RFC 9110 5.6.1.2)."""
    return [member for part in value.split(b",") if (member := part.strip(b" \t").lower())]


def weights(value: bytes) -> dict[bytes, int]:
    """The members of a weighted list (RFC 9110 12.4.2) in lower case, each with its weight in thousandths.

    A member whose weight is not valid is left out: what a client did not say clearly it did not say. Of a member that
    stands twice the lower weight counts.
    """
    found: dict[bytes, int] = {}
    for part in value.lower().split(b","):
        name, *parameters = part.split(b";")
        name = name.strip(b" \t")
        if FIELD_NAME.fullmatch(name) is None:
            continue
        weight = 1000
        for parameter in parameters:
            key, _, text = parameter.strip(b" \t").partition(b"=")
            if key.rstrip(b" \t") == b"q":
                match = _WEIGHT.fullmatch(text) if len(key) == 1 else None
                weight = -1 if match is None else int(text.replace(b".", b"").ljust(4, b"0"))
        if weight >= 0:
            found[name] = min(weight, found.get(name, 1000))
    return found


def entity_tags(value: bytes) -> list[bytes]:
    """The entity tags of a list such as `If-None-Match`, each as it stands (RFC 9110 8.8.3)."""
    return ENTITY_TAG.findall(value)


def http_date(seconds: float) -> bytes:
    """An IMF-fixdate (RFC 9110 5.6.7) of seconds since the epoch."""
    return formatdate(seconds, usegmt=True).encode("ascii")


class Networks:
    """A set of address ranges. Single addresses and IPv4-mapped IPv6 are understood."""

    __slots__ = ("_ranges",)

    def __init__(self, cidrs: tuple[str, ...] = ()) -> None:
        """Raises ValueError for what is not an address or a range."""
        self._ranges = tuple(
            (net.version, int(net.network_address), int(net.broadcast_address)) for net in map(ip_network, cidrs)
        )

    def __contains__(self, address: IPv4Address | IPv6Address | None) -> bool:
        if address is None or not self._ranges:
            return False
        number, version = int(address), address.version
        return any(version == kind and first <= number <= last for kind, first, last in self._ranges)

    def __bool__(self) -> bool:
        return bool(self._ranges)


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """An IP address without zone; IPv4-mapped IPv6 becomes IPv4. None for anything else (a Unix socket peer, garbage)."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def client_address(
    peer: IPv4Address | IPv6Address | None, forwarded_for: bytes, trusted: Networks
) -> IPv4Address | IPv6Address | None:
    """Who the request is from: the right-most address of `X-Forwarded-For` that is not a trusted proxy.

    `forwarded_for` is the combined field value as received from a trusted peer. A member that is no address ends the
    search: what stands left of it was not written by a proxy we trust.
    """
    client = peer
    for member in reversed(forwarded_for.split(b",")):
        text = member.strip(b" \t").decode("latin-1")
        if text.startswith("["):
            text = text[1:].partition("]")[0]
        elif text.count(":") == 1:
            text = text.partition(":")[0]
        address = parse_address(text)
        if address is None:
            return client
        client = address
        if address not in trusted:
            return client
    return client


def forwarded_node(address: IPv4Address | IPv6Address | None) -> bytes:
    """An RFC 7239 node: IPv6 in brackets and quotes, `unknown` where there is no address."""
    if address is None:
        return b"unknown"
    text = str(address).encode("ascii")
    return b'"[' + text + b']"' if address.version == 6 else text


def quoted_string(value: bytes) -> bytes:
    """A quoted-string (RFC 9110 5.6.4) of printable bytes."""
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
