"""HTTP field law: what an intermediary must know about field names and values (RFC 9110, 7239, 6265).

Pure functions on bytes. Python's own helpers are too generous for this work (`int()` takes `1_0`, `strip()` eats 0x85), so
every grammar here is a bytes pattern.
"""

from __future__ import annotations

import re
from calendar import monthrange, timegm
from email.utils import formatdate
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import quote_from_bytes

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
"""One character of a token (RFC 9110 5.6.2), as a character class."""

FIELD_NAME: Final = re.compile(TOKEN + rb"+")
FIELD_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")

ENTITY_TAG: Final = re.compile(rb'(?:W/)?"[^"]*"')
"""An entity tag (RFC 9110 8.8.3); blanks inside are tolerated."""

_REG_NAME: Final = rb"[A-Za-z0-9\-._~!$&'()*+;=]*+"
_HOST: Final = re.compile(
    rb"(?:(" + _REG_NAME + rb"(?:%[0-9A-Fa-f]{2}" + _REG_NAME + rb")*)|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?"
)
_WEIGHT: Final = re.compile(rb"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._\-]{1,128}")
_RETRY_AFTER: Final = re.compile(rb"^retry-after:[ \t]*([^\r\n]*?)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)

_VISIBLE: Final = bytes(set(range(0x21, 0x7F)) - {0x25})
_MONTHS: Final = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_DAY: Final = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_MONTH: Final = b"(?P<month>" + b"|".join(_MONTHS) + b")"
_TIME: Final = rb"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DATES: Final = (
    re.compile(_DAY + rb", (?P<day>[0-9]{2}) " + _MONTH + rb" (?P<year>[0-9]{4}) " + _TIME + rb" GMT"),
    re.compile(
        rb"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?P<day>[0-9]{2})-"
        + _MONTH
        + rb"-(?P<year>[0-9]{2}) "
        + _TIME
        + rb" GMT"
    ),
    re.compile(_DAY + b" " + _MONTH + rb" (?P<day>[ 0-9][0-9]) " + _TIME + rb" (?P<year>[0-9]{4})"),
)
"""IMF-fixdate, and the obsolete forms of RFC 850 and of asctime (RFC 9110 5.6.7)."""
_YEAR: Final = 31_556_952
"""Seconds of a mean Gregorian year."""

LONGEST_DELAY: Final = 2**31
"""Seconds in place of more digits than anybody means, as RFC 9111 1.2.2 has it for its own delays."""

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


def port_of(authority: bytes, scheme: bytes) -> bytes:
    """The port of a `Host` value or authority, or that of the scheme, `http` or `https`, where it names none."""
    match = _HOST.fullmatch(authority)
    written: bytes | None = match[3] if match is not None else None
    return written or (b"443" if scheme == b"https" else b"80")


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


def parse_http_date(value: bytes, now: float) -> int | None:
    """Seconds since the epoch of a date in any of the three forms, which all are GMT (RFC 9110 5.6.7); None for anything else.

    The name of the day is not compared with the date. A year of two digits is the latest one that makes the date at most 50
    years later than `now`, which is in seconds since the epoch.
    """
    for pattern in _DATES:
        if (match := pattern.fullmatch(value)) is not None:
            break
    else:
        return None
    day, hour, minute, second, year = (int(match[name]) for name in ("day", "hour", "minute", "second", "year"))
    month = _MONTHS.index(match["month"]) + 1
    if hour > 23 or minute > 59 or second > 60:  # 60: a leap second
        return None
    if len(match["year"]) == 4:
        return _seconds(year, month, day, hour, minute, second)
    latest = now + 50 * _YEAR
    last = int(1970 + latest // _YEAR) // 100 * 100 + 100 + year
    for full in range(last, last - 500, -100):  # five: 29 February is not in every year that ends in 00
        found = _seconds(full, month, day, hour, minute, second)
        if found is not None and found <= latest:
            return found
    return None


def _seconds(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int | None:
    """Seconds since the epoch; None for a day that is in no calendar."""
    if not 1 <= year <= 9999 or not 1 <= day <= monthrange(year, month)[1]:
        return None
    return timegm((year, month, day, hour, minute, second))


def retry_after(fields: bytes, now: float) -> float | None:
    """Seconds that `Retry-After` asks to wait (RFC 9110 10.2.3), as a number or until a date; None: not there, or not legible.

    `fields` are field lines with CRLF, of which the first of this name counts. `now` is in seconds since the epoch.
    """
    match = _RETRY_AFTER.search(fields)
    if match is None:
        return None
    value = match[1]
    if value.isdigit():
        digits = value.lstrip(b"0")
        return float(digits or 0) if len(digits) <= 9 else float(LONGEST_DELAY)
    at = parse_http_date(value, now)
    return None if at is None else max(0.0, at - now)


UNIX: Final = "unix"
"""Stands among addresses for the peers of Unix sockets."""


def visible(value: bytes) -> bytes:
    """A value of any bytes as part of a field: all but visible ASCII is percent-encoded, and `%`, so that it can be undone."""
    return quote_from_bytes(value, _VISIBLE).encode("ascii")


class Networks:
    """A set of address ranges. Single addresses and IPv4-mapped IPv6 are understood; `unix` is whoever has no address."""

    __slots__ = ("_ranges", "_unix")

    def __init__(self, cidrs: tuple[str, ...] = ()) -> None:
        """Raises ValueError for what is not an address or a range."""
        networks = [ip_network(cidr) for cidr in cidrs if cidr != UNIX]
        self._ranges = tuple((net.version, int(net.network_address), int(net.broadcast_address)) for net in networks)
        everybody = {net.version for net in networks if net.prefixlen == 0}
        self._unix = UNIX in cidrs or everybody == {4, 6}

    def __contains__(self, address: IPv4Address | IPv6Address | None) -> bool:
        if address is None:
            return self._unix
        number, version = int(address), address.version
        return any(version == kind and first <= number <= last for kind, first, last in self._ranges)

    def __bool__(self) -> bool:
        return bool(self._ranges) or self._unix


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
