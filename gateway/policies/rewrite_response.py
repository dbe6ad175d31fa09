"""What an upstream says of its own addresses, as the client has to see it: `Location`, `Content-Location`, `Set-Cookie; Path`.

An upstream does not know what stands before its paths when a prefix is taken off or replaced, nor always by which scheme and
name its clients come. Nothing is touched that does not certainly lead back to where the request went.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import unquote_to_bytes

_PORTS: Final = {b"http": b"80", b"https": b"443"}

_URL: Final = re.compile(rb"(?:(https?):)?//([^/?#\\]*)([^?#]*)(.*)", re.IGNORECASE)
"""Scheme, authority, path, and the query and fragment behind it. Browsers read a backslash as a slash."""
_PATH_END: Final = re.compile(rb"[?#]")
_OTHER_HOST: Final = re.compile(rb"[\t]*/[\t]*[/\\]")
"""The beginning of a reference that browsers take for that of another host: they skip tabs."""


@dataclass(frozen=True, slots=True)
class RewriteResponseSettings:
    """Which fields are put right."""

    location: bool = True
    cookie_path: bool = True


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where one request came from, and where it went. Prefixes begin with `/` and do not end with it; or they are empty."""

    outer: bytes
    """The prefix that clients see."""
    inner: bytes
    """The prefix that the upstream sees in its place."""
    scheme: bytes
    """The client's, `http` or `https`."""
    authority: bytes
    """What the client takes the gateway for; empty when it did not say."""
    upstream_scheme: bytes
    upstream_authorities: tuple[bytes, ...]
    """What the upstream may take itself for: the `Host` that it was sent, the address of its endpoint."""


def client_path(path: bytes, addresses: Addresses) -> bytes | None:
    """The path that leads a client to the upstream's `path`, an absolute one. None: it needs no change, or there is none.

    A path that begins with the client's prefix already is one that the upstream knew (`X-Forwarded-Prefix`). Where a path
    begins with both prefixes, the longer one is meant.
    """
    outer, inner = addresses.outer, addresses.inner
    if outer == inner:
        return None
    rest = _behind(path, inner)
    if rest is None or (len(outer) > len(inner) and _behind(path, outer) is not None):
        return None
    changed = outer + rest or b"/"
    # Without its prefix `/app//host` would lead away.
    return None if _OTHER_HOST.match(changed) is not None else changed


def _behind(path: bytes, prefix: bytes) -> bytes | None:
    """What follows the segments of `prefix` in `path`, beginning with `/`, or nothing; None when it begins otherwise."""
    if not prefix:
        return path
    wanted = prefix.split(b"/")
    beginning = path.split(b"/", len(wanted))[: len(wanted)]
    if beginning != wanted and [*map(unquote_to_bytes, beginning)] != [*map(unquote_to_bytes, wanted)]:
        return None
    return path[len(b"/".join(beginning)) :]


def client_location(value: bytes, addresses: Addresses) -> bytes | None:
    """The value of `Location` or `Content-Location` for the client; None when it stays as it is."""
    if value[:1] == b"/" and value[1:2] not in (b"/", b"\\"):
        end = _PATH_END.search(value)
        path = value if end is None else value[: end.start()]
        changed = client_path(path, addresses)
        return None if changed is None else changed + value[len(path) :]
    match = _URL.fullmatch(value)
    if match is None:
        return None
    written, authority, path, rest = match.groups()
    scheme = (written or addresses.upstream_scheme).lower()
    ours = _same(authority, scheme, addresses.authority, addresses.scheme)
    theirs = any(_same(authority, scheme, one, addresses.upstream_scheme) for one in addresses.upstream_authorities)
    if not (ours or theirs) or path[:1] == b"\\":
        return None
    path = path or b"/"
    changed = client_path(path, addresses) or path
    if not addresses.authority:
        return None if _OTHER_HOST.match(changed) is not None else changed + rest
    # HTTPS is meant where it is under the client's own name, or from a service that is asked by HTTP: clients are sent there.
    if scheme == b"http" or (addresses.upstream_scheme == b"https" and not ours):
        scheme = addresses.scheme
    result = b"%b//%b%b%b" % (scheme + b":" if written else b"", addresses.authority, changed, rest)
    return None if result == value else result


def _same(one: bytes, scheme: bytes, other: bytes, other_scheme: bytes) -> bool:
    """Two authorities name the same host and port; the port of a scheme need not be written."""
    if not one or not other:
        return False
    one, other = one.lower(), other.lower()
    return one == other or one.removesuffix(b":" + _PORTS[scheme]) == other.removesuffix(b":" + _PORTS[other_scheme])


def client_cookie(value: bytes, addresses: Addresses) -> bytes | None:
    """The value of `Set-Cookie` for the client; None when it stays as it is. Attributes are read as in RFC 6265 5.2."""
    pair, *attributes = value.split(b";")
    if pair.lstrip(b" \t")[:7].lower() == b"__host-":  # browsers take such a cookie only with the path `/`
        return None
    changed = False
    for at, attribute in enumerate(attributes):
        name, _, written = attribute.partition(b"=")
        path = written.strip(b" \t")
        if name.strip(b" \t").lower() != b"path" or path[:1] != b"/":
            continue
        # `/` stands for all paths; with a final slash the prefix itself would not be among them.
        found = client_path(b"" if path == b"/" and not addresses.inner else path, addresses)
        if found is not None:
            attributes[at] = name + b"=" + found
            changed = True
    return b";".join([pair, *attributes]) if changed else None


_Rule: TypeAlias = Callable[[bytes, Addresses], bytes | None]


def client_lines(block: bytes, settings: RewriteResponseSettings, addresses: Addresses) -> bytes:
    """The field lines of a response, each with its CRLF, as the client has to see them; the others keep their bytes."""
    rules: dict[bytes, _Rule] = {}
    if settings.location:
        rules[b"location"] = rules[b"content-location"] = client_location
    if settings.cookie_path:
        rules[b"set-cookie"] = client_cookie
    lines = block.split(b"\r\n")
    for at, line in enumerate(lines):
        name, _, value = line.partition(b":")
        rule = rules.get(name.lower())
        if rule is not None and (changed := rule(value.strip(b" \t"), addresses)) is not None:
            lines[at] = name + b": " + changed
    return b"\r\n".join(lines)
