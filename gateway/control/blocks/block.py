"""What a block is, and the facts that its functions get beside its own settings: never the whole configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.words.addresses import EndpointUrl
from gateway.control.words.inherit import Resolved
from gateway.errors import Failure
from gateway.gates import Gate
from gateway.metrics import GatewayMetrics
from gateway.policies.rate_limit import LimitSettings
from gateway.router import split_path
from gateway.snapshot import GateSettings, Route

Row: TypeAlias = tuple[str, str, str]
"""A line of `gateway explain`: name, value, place."""
Blocks: TypeAlias = Mapping[str, Resolved[Any]]
"""What holds of several blocks, by the word of the YAML."""


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """A route, as its blocks know it. `defaults` is one too, without name, path and upstream."""

    loc: Loc
    name: str = ""
    paths: tuple[str, ...] = ()
    """The patterns of `match.path`."""
    upstream: str | None = None
    serving: tuple[str, ...] = ()
    """The upstream and those that serve in its place, in order."""

    @property
    def parameters(self) -> list[str]:
        """The names of the parameters that every one of its paths has."""
        return parameters(self.paths)


@dataclass(frozen=True, slots=True)
class UpstreamFacts:
    """An upstream, as its blocks know it."""

    loc: Loc
    name: str
    urls: tuple[EndpointUrl, ...]
    host: str
    """`preserve`, `endpoint`, or the name that is sent."""
    paths: tuple[str, ...] = ()
    """The patterns of the routes that it can serve."""


@dataclass(frozen=True, slots=True)
class Making:
    """What compiling needs of the process and of the rest of the file."""

    metrics: GatewayMetrics
    config_hash: str
    workers: int
    file: Blocks
    """The blocks at the top of the file."""
    gates: Mapping[tuple[str, str], GateSettings]
    """By scope and name."""

    def gate(self, scope: str, name: str) -> Gate | None:
        """The limit on what is in flight at the server, a route or an upstream, if there is one."""
        made = self.gates.get((scope, name))
        return None if made is None else made.gate


@dataclass(frozen=True, slots=True)
class Request:
    """A request to explain, with its field names in lower case."""

    method: bytes
    headers: dict[bytes, bytes]
    facts: Mapping[str, bytes]
    """What the gateway knows of it, by the words of `request_fields`; what it does not know is left out."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What the data plane makes of a request at one rate limit."""

    values: tuple[bytes | None, ...]
    """Of the parts of its key; None: the request has no such part."""
    from_known: bool
    """It was said who asks; else a client's address is not missing but unknown."""
    digest: bytes | None
    """What it is counted under; None: it is not counted, or the client of which its key is made is not known."""
    decision: str
    """`exempt`, `skipped` or `missing_denied` (`metrics.rate_limit.DECISIONS`); empty: it is counted."""
    settings: LimitSettings
    """The numbers that hold for this key."""
    overridden: bool
    cost: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What explaining needs of the request and of the rest of the file."""

    request: Request
    positions: Positions
    file: Blocks
    """The blocks at the top of the file."""
    upstream: Blocks
    """Those of the upstream of the route; empty without one."""
    priority: Resolved[str]
    in_flight: Mapping[tuple[str, str], tuple[Any, frozenset[int]]]
    """By scope and name: a limit on what is in flight, and the ranks of the requests that pass it."""
    fallbacks: tuple[Resolved[str], ...] = ()
    """The upstreams that serve in place of the route's own."""
    counted: Mapping[str, Counted] = field(default_factory=dict)
    """By the names of the rate limits."""


F = TypeVar("F", RouteFacts, UpstreamFacts)


def _nothing(*_: Any) -> tuple[()]:
    return ()


def _no_slots(*_: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Block(Generic[F]):
    """A block of the YAML: one field of a route (or of `defaults`) or of an upstream, and all that is done with it."""

    name: str
    """The word of the YAML."""
    built_in: Any = None
    """What holds where nobody wrote it, of a block that routes inherit."""
    below: tuple[str, ...] = ()
    """Where else its fields may be written: what holds there where neither route nor `defaults` says."""
    forwards: bool = False
    """It has no effect in a route without an upstream."""
    check_written: Callable[[Any, Loc, Positions], Iterable[Problem]] = _nothing
    """What is wrong with a block as it is written in one place, although each of its fields is right."""
    check: Callable[[Resolved[Any], F, Positions], Iterable[Problem]] = _nothing
    """What is wrong with what holds, inherited values included: asked for each route, and once for `defaults`."""
    compile: Callable[[Resolved[Any], F, Making], Mapping[str, Any]] = _no_slots
    """The slots of `snapshot.Route` or `snapshot.Upstream` that it fills."""
    rows: Callable[[Resolved[Any], F, Asked], Iterable[Row]] = _nothing
    """The lines of `gateway explain`."""
    dump: Callable[[Resolved[Any]], Any] | None = None
    """How `/config` shows it, if not field by field."""
    fields_read: Callable[[Resolved[Any], F], Iterable[bytes]] = _nothing
    """Lower-case names of the request fields that it reads."""
    foresee: Callable[[Route], Iterable[Failure]] = _nothing
    """The failures that requests of a compiled route may meet because of it."""
    notes: Callable[[Resolved[Any], Positions], Iterable[str]] = _nothing
    """What an operator should know although it is not wrong."""


def slot(name: str, made: Callable[[Any], Any]) -> Callable[[Resolved[Any], Any, Making], dict[str, Any]]:
    """A compile step that fills one slot, from the settings alone."""
    return lambda found, *_: {name: made(found.value)}


def line(name: str, text: Callable[[Any], str | None]) -> Callable[[Resolved[Any], Any, Asked], list[Row]]:
    """The line of a block that has one, with the place of the block; none where there is no text."""

    def rows(found: Resolved[Any], facts: Any, asked: Asked) -> list[Row]:
        shown = text(found.value)
        return [] if shown is None else [(name, shown, found.place(asked.positions))]

    return rows


def parameters(paths: Sequence[str]) -> list[str]:
    """The names of the parameters that all these path patterns have."""
    named = [[segment[1:-1] for segment in split_path(path) if segment.startswith("{")] for path in paths]
    return [name for name in named[0] if all(name in others for others in named)] if named else []
