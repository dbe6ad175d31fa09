"""Which route takes a request: host, path, method, fields and query to one value of type T.

Compiled once; a look-up walks one trie per host table, so its cost grows with the depth of the path, not with the number
of routes. Every route has a rank, fixed when the table is built, and the best-ranked route whose conditions hold wins:

1. higher `priority`;
2. host: exact, then wildcard (longer suffix first), then any;
3. path, segment by segment: literal, then `{parameter}`, then `**`; an exact end before `**`;
4. more field and query conditions; then a method list before none;
5. the order in the file.

Paths are matched normalised (see `normalise_path`); hosts without port, in lower case. It knows nothing of what it returns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final, Generic, TypeVar
from urllib.parse import unquote_to_bytes

T = TypeVar("T")

_LITERAL: Final = 0
_PARAMETER: Final = 1
_REST: Final = 2
_END: Final = -1

REST: Final = "**"

SCHEME: Final = b":scheme"
LISTENER: Final = b":listener"
"""Facts of a request that are matched like fields. No field has such a name (RFC 9113 8.3 names its own facts so)."""


@dataclass(frozen=True, slots=True)
class Match:
    """The conditions of one route, as written in its `match:` block."""

    host: str = ""
    """`api.example.com`, `*.example.com` (any depth of subdomains, not the domain itself), or empty for any."""
    path: str = "/**"
    """`/a/b` exact; `{name}` stands for one segment; a last segment `**` for any number of further segments."""
    methods: frozenset[bytes] = frozenset()
    """Empty: any. GET brings HEAD with it."""
    headers: tuple[tuple[bytes, re.Pattern[bytes] | None], ...] = ()
    """Lower-case field name and a pattern for the whole value; None: the field is present."""
    query: tuple[tuple[bytes, re.Pattern[bytes] | None], ...] = ()
    """Decoded parameter name and a pattern for the whole value; None: the parameter is present."""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """A match and the path parameters it bound, decoded."""

    value: T
    parameters: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class MethodNotAllowed:
    """The path is served here, the method is not; `allow` is what is."""

    allow: tuple[bytes, ...]


@dataclass(slots=True, eq=False)
class Unmatched:
    """No route: either the host is unknown (`host_known` False) or only the path."""

    host_known: bool


_NO_PATH: Final = Unmatched(host_known=True)
_NO_HOST: Final = Unmatched(host_known=False)


class AmbiguousPathError(ValueError):
    """The path may mean one thing here and another thing at the upstream, so nothing is decided on it."""


class DotSegmentError(AmbiguousPathError):
    """The path holds a dot segment and nothing else that is wrong."""


_PLAIN_PATH: Final = re.compile(rb"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9\-._~!$&'()*+,=:@]++)*/?")
_DOT_SEGMENT: Final = re.compile(rb"(?:^|/)\.{1,2}(?:/|$)")
_OVERLONG: Final = re.compile(rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80-\x9f][\x80-\xbf]|\xf0[\x80-\x8f][\x80-\xbf]{2}")
_PATH_PARAMETERS: Final = re.compile(rb";[^/]*")
_SLASHES: Final = re.compile(rb"//+")
_ENCODED_SLASH: Final = re.compile(rb"%(?:2[fF]|5[cC])|\\")


def normalise_path(path: bytes, *, encoded_slash: bool = True, double_slash: bool = True) -> bytes:
    """The path that routes are matched on: without `;parameters`, percent-decoded once, `\\` and `%2F` read as `/`, runs of
    `/` merged: what the upstream may make of it, at its most generous.

    It is never forwarded; the upstream gets the bytes the client sent. Raises `AmbiguousPathError` for dot segments (plain
    or encoded), NUL and overlong UTF-8, and for encoded or doubled slashes when they are not allowed.
    """
    if _PLAIN_PATH.fullmatch(path) is not None:
        return path
    if not encoded_slash and _ENCODED_SLASH.search(path) is not None:
        raise AmbiguousPathError("the path holds an encoded slash or a backslash")
    decoded = unquote_to_bytes(_PATH_PARAMETERS.sub(b"", path)).replace(b"\\", b"/")
    if b"\0" in decoded:
        raise AmbiguousPathError("the path holds an encoded NUL")
    if _OVERLONG.search(decoded) is not None:
        raise AmbiguousPathError("the path holds overlong UTF-8")
    if b"//" in decoded:
        if not double_slash:
            raise AmbiguousPathError("the path holds an empty segment")
        decoded = _SLASHES.sub(b"/", decoded)
    if _DOT_SEGMENT.search(decoded) is not None:
        raise DotSegmentError("the path holds a dot segment")
    return decoded


def split_path(path: str) -> tuple[str, ...]:
    """The segments of a route's path; raises ValueError, in words for the operator, when it is not a valid pattern."""
    if not path.startswith("/"):
        raise ValueError("a path starts with '/'")
    segments = tuple(path[1:].split("/"))
    names = []
    for at, segment in enumerate(segments):
        if segment == REST:
            if at != len(segments) - 1:
                raise ValueError("'**' can only be the last segment")
        elif segment.startswith("{") and segment.endswith("}"):
            name = segment[1:-1]
            if not name.isidentifier():
                raise ValueError(f"'{segment}' is not a parameter: a name of letters, digits and '_' in braces")
            if name in names:
                raise ValueError(f"the parameter '{name}' stands twice in the path")
            names.append(name)
        elif "{" in segment or "}" in segment or "*" in segment:
            raise ValueError(f"'{segment}': a parameter or '**' is a whole segment")
        elif segment in (".", "..") or (segment == "" and at != len(segments) - 1):
            raise ValueError("a path has no empty, '.' or '..' segments")
    return segments


def _path_rank(segments: Sequence[str]) -> tuple[int, ...]:
    kinds = [_REST if segment == REST else _PARAMETER if segment.startswith("{") else _LITERAL for segment in segments]
    return (*kinds, *(() if _REST in kinds else (_END,)))


def _host_rank(host: str) -> tuple[int, int]:
    if not host:
        return (2, 0)
    return (1, -len(host)) if host.startswith("*.") else (0, 0)


def rank(match: Match, order: int) -> tuple[object, ...]:
    """The sort key of a route: smaller wins. `order` is its place in the file."""
    return (
        -match.priority,
        _host_rank(match.host),
        _path_rank(split_path(match.path)),
        -(len(match.headers) + len(match.query)),
        not match.methods,
        order,
    )


class _Entry(Generic[T]):
    """One route as the trie holds it."""

    __slots__ = ("headers", "methods", "parameters", "query", "rank", "simple", "value")

    def __init__(self, match: Match, value: T, position: int) -> None:
        methods = match.methods
        self.value = value
        self.rank = position
        self.methods = methods | {b"HEAD"} if b"GET" in methods else methods
        self.headers = match.headers
        self.query = match.query
        self.parameters = tuple(
            (segment[1:-1], at) for at, segment in enumerate(split_path(match.path)) if segment.startswith("{")
        )
        self.simple = Found(value, ()) if not (methods or match.headers or match.query or self.parameters) else None


@dataclass(slots=True)
class _Node(Generic[T]):
    literals: dict[bytes, _Node[T]] = field(default_factory=dict)
    parameter: _Node[T] | None = None
    end: list[_Entry[T]] = field(default_factory=list)
    rest: list[_Entry[T]] = field(default_factory=list)


class Router(Generic[T]):
    """An immutable table of routes. Build it from `(Match, value)` pairs; look up with `match()`."""

    __slots__ = ("_any", "_exact", "_wildcards")

    def __init__(self, routes: Iterable[tuple[Match, T]]) -> None:
        listed = list(routes)
        by_rank = sorted(range(len(listed)), key=lambda index: rank(listed[index][0], index))
        self._any: _Node[T] | None = None
        self._exact: dict[bytes, _Node[T]] = {}
        self._wildcards: dict[bytes, _Node[T]] = {}
        for position, index in enumerate(by_rank):
            match, value = listed[index]
            _insert(self._root(match.host), split_path(match.path), _Entry(match, value, position))

    def _root(self, host: str) -> _Node[T]:
        if not host:
            if self._any is None:
                self._any = _Node()
            return self._any
        if host.startswith("*."):
            return self._wildcards.setdefault(host[1:].lower().encode("ascii"), _Node())
        return self._exact.setdefault(host.lower().encode("ascii"), _Node())

    def _tables(self, host: bytes) -> list[_Node[T]]:
        tables = []
        exact = self._exact.get(host)
        if exact is not None:
            tables.append(exact)
        if self._wildcards:
            dot = host.find(b".")
            while dot != -1:
                table = self._wildcards.get(host[dot:])
                if table is not None:
                    tables.append(table)
                dot = host.find(b".", dot + 1)
        if self._any is not None:
            tables.append(self._any)
        return tables

    def match(
        self,
        host: bytes,
        path: bytes,
        method: bytes,
        field_value: Callable[[bytes], bytes | None],
        query: Callable[[], Mapping[bytes, bytes]],
    ) -> Found[T] | MethodNotAllowed | Unmatched:
        """The best-ranked route. `host` is normalised (lower case, no port), `path` comes from `normalise_path`.

        `field_value` gives a request field by lower-case name; `query` the decoded query, asked for only when a route needs it.
        """
        entries: list[_Entry[T]] = []
        if self._exact or self._wildcards:
            tables = self._tables(host)
            if not tables:
                return _NO_HOST
            segments = path[1:].split(b"/")
            for table in tables:
                _collect(table, segments, 0, entries)
        elif self._any is not None:
            segments = path[1:].split(b"/")
            _collect(self._any, segments, 0, entries)
        else:
            return _NO_HOST
        if len(entries) > 1:
            entries.sort(key=_BY_RANK)
        allow: list[bytes] = []
        for entry in entries:
            if entry.simple is not None:
                return entry.simple
            if not _conditions_hold(entry, field_value, query):
                continue
            if entry.methods and method not in entry.methods:
                allow.extend(entry.methods)
                continue
            return Found(entry.value, tuple((name, segments[at]) for name, at in entry.parameters))
        if allow:
            return MethodNotAllowed(tuple(sorted(set(allow))))
        return _NO_PATH


_BY_RANK: Final = attrgetter("rank")


def _insert(node: _Node[T], segments: Sequence[str], entry: _Entry[T]) -> None:
    for segment in segments:
        if segment == REST:
            node.rest.append(entry)
            return
        if segment.startswith("{"):
            if node.parameter is None:
                node.parameter = _Node()
            node = node.parameter
        else:
            node = node.literals.setdefault(segment.encode("utf-8"), _Node())
    node.end.append(entry)


def _collect(node: _Node[T], segments: Sequence[bytes], at: int, found: list[_Entry[T]]) -> None:
    """All entries whose path pattern fits, whatever their conditions. A parameter never matches an empty segment."""
    if node.rest:
        found.extend(node.rest)
    if at == len(segments):
        found.extend(node.end)
        return
    segment = segments[at]
    child = node.literals.get(segment)
    if child is not None:
        _collect(child, segments, at + 1, found)
    if node.parameter is not None and segment:
        _collect(node.parameter, segments, at + 1, found)


def _conditions_hold(
    entry: _Entry[T], field_value: Callable[[bytes], bytes | None], query: Callable[[], Mapping[bytes, bytes]]
) -> bool:
    for name, pattern in entry.headers:
        value = field_value(name)
        if value is None or (pattern is not None and pattern.fullmatch(value) is None):
            return False
    if entry.query:
        given = query()
        for name, pattern in entry.query:
            value = given.get(name)
            if value is None or (pattern is not None and pattern.fullmatch(value) is None):
                return False
    return True
