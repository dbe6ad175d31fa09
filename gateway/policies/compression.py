"""Whether a response is compressed, and with which coding (RFC 9110 8.4.1, 12.5.3); what becomes of its fields then.

Pure: field lines in, decisions and field lines out. The encoders are in `proxy/bodies/coders.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from gateway.headers import entity_tags, list_members, weights

CODINGS: Final = ("zstd", "br", "gzip")
"""The codings there are, in the order in which the gateway prefers them."""

TYPES: Final = (
    "text/*",
    "application/json",
    "application/javascript",
    "application/x-javascript",
    "application/ecmascript",
    "application/xml",
    "application/graphql-response+json",
    "application/x-ndjson",
    "application/jsonl",
    "application/wasm",
    "application/manifest+json",
    "application/vnd.ms-fontobject",
    "font/ttf",
    "font/otf",
    "image/svg+xml",
    "image/bmp",
    "image/x-icon",
    "*+json",
    "*+xml",
)
"""What is worth it; images, archives and films are compressed already."""

EVENT_STREAM: Final = b"text/event-stream"


class Breach(Enum):
    """Which responses are left alone because they may hold a secret beside what an attacker can choose (BREACH)."""

    OFF = "off"
    SET_COOKIE = "set_cookie"
    """Those that set a cookie."""
    CREDENTIALS = "credentials"
    """Those, and all to requests with `Cookie` or `Authorization`."""


class Types:
    """A set of media types: exact ones, `text/*` and `*+json`."""

    __slots__ = ("_exact", "_prefixes", "_suffixes", "everything")

    def __init__(self, written: Iterable[str] = TYPES) -> None:
        listed = [one.lower().encode("ascii") for one in written]
        self.everything = b"*/*" in listed
        self._exact = frozenset(one for one in listed if b"*" not in one)
        self._prefixes = tuple(one[:-1] for one in listed if one.endswith(b"/*"))
        self._suffixes = tuple(one[1:] for one in listed if one.startswith(b"*+"))

    def __contains__(self, media_type: bytes) -> bool:
        """`media_type` is in lower case and without parameters."""
        if media_type in self._exact or media_type.startswith(self._prefixes) or media_type.endswith(self._suffixes):
            return True
        return self.everything and media_type != b""


@dataclass(frozen=True, slots=True, eq=False)
class CompressionSettings:
    """What an operator decides."""

    codings: tuple[bytes, ...] = tuple(coding.encode("ascii") for coding in CODINGS)
    """Those that are offered, the preferred one first."""
    min_size: int = 1024
    """Bytes below which it is not worth it. A response of unknown length counts as large."""
    types: Types = Types()
    breach: Breach = Breach.SET_COOKIE
    opt_out: bytes = b"x-no-compression"
    """Request field by which a client wants no compression, in lower case; empty: none."""
    refuse: bool = False
    """Answer 406 when the client accepts neither a coding that is offered nor none. Otherwise it gets none."""


@dataclass(slots=True, eq=False)
class Choice:
    """What a client accepts."""

    coding: int
    """The place of the coding among those that are offered; -1: none."""
    plain: bool = field(kw_only=True)
    """It takes a response that is not coded."""


def negotiate(accept: bytes | None, codings: tuple[bytes, ...]) -> Choice:
    """The best coding for an `Accept-Encoding` (RFC 9110 12.5.3); None when the request has no such field.

    Without the field every coding would do, but a client that knows about codings says so: it gets none.
    """
    if accept is None:
        return Choice(-1, plain=True)
    found = weights(accept)
    others = found.get(b"*", 0)
    best, at = 0, -1
    for place, coding in enumerate(codings):
        weight = found.get(coding)
        if weight is None and coding == b"gzip":
            weight = found.get(b"x-gzip")
        if weight is None:
            weight = others
        if weight > best:
            best, at = weight, place
    identity = found.get(b"identity")
    if identity is None:
        # Not named, it is acceptable unless `*` excludes it; it is never what a client prefers to the codings it names.
        return Choice(at, plain=found.get(b"*") != 0)
    return Choice(at if best >= identity else -1, plain=identity > 0)


# -- why a response was not compressed ---------------------------------------------------------------------------------

STATUS: Final = "status"
"""Partial content, or a status without content."""
CODED: Final = "coded"
NO_TRANSFORM: Final = "no_transform"
OPT_OUT: Final = "opt_out"
NOT_ACCEPTED: Final = "not_accepted"
TYPE: Final = "type"
SIZE: Final = "size"
SET_COOKIE: Final = "set_cookie"
CREDENTIALS: Final = "credentials"

_UNCODED_STATUSES: Final = frozenset({204, 205, 206, 304})


# -- the fields of a response ------------------------------------------------------------------------------------------

_TYPE: Final = 1
_ENCODING: Final = 2
_RANGE: Final = 3
_CACHE: Final = 4
_VARY: Final = 5
_TAG: Final = 6
_COOKIE: Final = 7
_BYTES: Final = 8
"""About the bytes before coding: wrong for those after it."""

_KINDS: Final = {
    b"content-type": _TYPE,
    b"content-encoding": _ENCODING,
    b"content-range": _RANGE,
    b"cache-control": _CACHE,
    b"vary": _VARY,
    b"etag": _TAG,
    b"set-cookie": _COOKIE,
    b"accept-ranges": _BYTES,
    b"content-md5": _BYTES,
    b"digest": _BYTES,
    b"content-digest": _BYTES,
    b"repr-digest": _BYTES,
}

_ACCEPT_ENCODING: Final = b"accept-encoding"


class Fields:
    """What a response's field lines say about compression, and the same lines as they go out in each case."""

    __slots__ = ("_kept", "_variants", "media_type", "plain", "reason", "settings", "source", "tag")

    def __init__(self, block: bytes, settings: CompressionSettings, source: object = None) -> None:
        """`block` are field lines, each with its CRLF."""
        self.settings = settings
        self.source = source
        """What else the block was made from; for who remembers it."""
        self.media_type = b""
        """In lower case, without parameters."""
        self.tag = b""
        """The entity tag as the upstream sent it."""
        self.reason = ""
        """Why such a response is not compressed whoever asks; empty: nothing speaks against it."""
        self._variants: dict[bytes, bytes] = {}
        plain: list[bytes] = []
        kept: list[bytes] = []
        vary = -1
        varies = cookie = coded = partial = fixed = False
        for line in block.split(b"\r\n")[:-1]:
            name = line[: line.find(b":")]
            kind = _KINDS.get(name.lower(), 0)
            if not kind:
                plain.append(line)
                kept.append(line)
                continue
            value = line[len(name) + 1 :].strip(b" \t")
            if kind == _VARY:
                members = list_members(value)
                varies |= _ACCEPT_ENCODING in members or b"*" in members
                if members:
                    vary = len(plain)
            elif kind == _TYPE:
                self.media_type = value.partition(b";")[0].strip(b" \t").lower()
            elif kind == _CACHE:
                fixed |= b"no-transform" in value.lower()
            elif kind == _TAG:
                self.tag = value
            coded |= kind == _ENCODING
            partial |= kind == _RANGE
            cookie |= kind == _COOKIE
            plain.append(line)
            if kind == _TAG:
                kept.append(name + b": " + weakened(value))
            elif kind not in (_BYTES, _VARY):
                kept.append(line)
        if not varies:
            if vary < 0:
                plain.append(b"Vary: Accept-Encoding")
            else:
                plain[vary] += b", Accept-Encoding"
        kept += [line for line in plain if line[:5].lower() == b"vary:"]
        plain.append(b"")
        self.plain = b"\r\n".join(plain)
        """The lines of a response that is not coded: it says all the same that it could have been (RFC 9110 12.5.5)."""
        self._kept = b"\r\n".join([*kept, b""])
        if partial:
            self.reason = STATUS
        elif coded:
            self.reason = CODED
        elif fixed:
            self.reason = NO_TRANSFORM
        elif cookie and settings.breach is not Breach.OFF:
            self.reason = SET_COOKIE
        elif self.media_type not in settings.types:
            self.reason = TYPE

    def coded(self, coding: bytes) -> bytes:
        """The lines of the response in this coding; an empty one: of a 304 for it."""
        lines = self._variants.get(coding)
        if lines is None:
            lines = self._variants[coding] = self._kept + (b"Content-Encoding: %b\r\n" % coding if coding else b"")
        return lines


def weakened(tag: bytes) -> bytes:
    """The tag of what is coded here: the bytes differ, so a strong tag becomes weak (RFC 9110 8.8.1)."""
    return b"W/" + tag if tag.startswith(b'"') and tag.endswith(b'"') and len(tag) > 1 else tag


_ANY_TAG: Final = re.compile(rb'W/("[^"]*")|"[^"]*"')


@dataclass(slots=True, eq=False)
class Tags:
    """Which kinds of entity tags the upstream of a route sends. Learnt from its responses."""

    strong: bool = False
    weak: bool = False

    def seen(self, tag: bytes) -> None:
        """A response had this tag."""
        if tag.startswith(b"W/"):
            self.weak = True
        elif tag:
            self.strong = True


def upstream_condition(value: bytes, tags: Tags) -> bytes:
    """An `If-None-Match` or `If-Match` as the upstream must see it.

    A weak tag may be one that was weakened here, and upstreams exist that compare tags as text. So it goes back as the
    strong one; as both, when the upstream sends weak tags of its own or nothing is known yet. `If-Match` never matches a weak
    tag (RFC 9110 13.1.1): this gives it back the meaning that it has without compression.
    """
    if tags.weak and not tags.strong:
        return value
    template = rb"W/\1, \1" if tags.weak or not tags.strong else rb"\1"
    return _ANY_TAG.sub(lambda match: match.expand(template) if match[1] else match[0], value)


def knows_as_weak(condition: bytes | None, tag: bytes, *, unknown: bool) -> bool:
    """Whether a client that sent this `If-None-Match` holds the weakened form of `tag`; `unknown` when it does not show."""
    if condition is not None:
        held = entity_tags(condition)
        if b"W/" + tag in held:
            return True
        if tag in held:
            return False
    return unknown


def forbidden(settings: CompressionSettings, fields: Fields, choice: Choice, status: int, length: int, exempt: str = "") -> str:
    """Why this response is not compressed for this client, or nothing. `length` -1: unknown; `exempt`: the request's reason."""
    if status in _UNCODED_STATUSES:
        return STATUS
    reason = fields.reason
    if reason and (reason != TYPE or choice.plain):
        return reason
    if exempt:
        return exempt
    if choice.coding < 0:
        return NOT_ACCEPTED
    if 0 <= length < settings.min_size and (choice.plain or not length):
        return SIZE
    return ""
