"""The client of an exchange, as the steps know it: who asks, and where the answer goes. They know no wire format.

HTTP/1.1 (`downstream/`) is one implementation: there a client is a connection. Field lines are version-neutral: a list of
blocks that joined are complete lines, each with its CRLF, without those that frame a message.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, TypeAlias

from gateway.ports import Check
from gateway.proxy.bodies.body import Sink
from gateway.proxy.bodies.tunnel import Tunnel
from gateway.proxy.connection import Alarm, Connection, Source
from gateway.proxy.plane import DataPlane
from gateway.proxy.rate_limit_store.local import Counter
from gateway.proxy.wire.http1_request import RequestFields
from gateway.proxy.wire.http1_response import ResponseHead
from gateway.snapshot import Limit, Route, Snapshot

Matched: TypeAlias = (
    "tuple[Snapshot, RequestFields, bytes, bytes, int, Route, bytes, bytes, bytes, int, tuple[tuple[str, bytes], ...]]"
)
"""What a request matched: snapshot, fields, method, target and minor version it holds for; then the route, and of the exchange
`host_field`, `host`, `path`, `query_at` and `parameters`."""


class Client:
    """Who sent a request, and where its response goes. Abstract: what has no body here belongs to the protocol below."""

    if not TYPE_CHECKING:
        __slots__ = ()  # the attributes are in the slots of subclasses

    plane: DataPlane
    alarm: Alarm
    """The one timer of the exchange."""

    # -- who asks ------------------------------------------------------------------------------------------------------

    scheme: bytes
    """`http` or `https`: that of the connection."""
    listener: bytes
    """The address it came in by, as the configuration names it."""
    peer: IPv4Address | IPv6Address | None
    """The address at the other end; None on a Unix socket."""
    peer_node: bytes
    """The peer's address as `X-Forwarded-For` names it."""
    peer_text: bytes
    """The peer's address in the access log; empty on a Unix socket."""
    trusted: bool
    """The peer is a trusted proxy: what it says about its own client is believed."""
    forwarded_line: bytes
    """`X-Forwarded-For` and `X-Forwarded-Proto` as complete lines, for requests that bring none worth keeping."""
    told_host: bytes | None
    """The authority that `told` holds for: clients send the same one again and again. None: there was none yet."""
    told: bytes
    """All `X-Forwarded` lines that depend on nothing but the connection and the authority."""
    via_line: bytes
    limit_key: bytes | None
    """The peer as a key of rate limits; made when first needed."""
    limits_asked: tuple[tuple[Limit, ...], bytes, list[Check], list[Counter]] | None
    """The limits last asked, the host, and the checks: valid again when nothing but peer and host decides."""
    matched: Matched | None
    """The last match: clients repeat their requests, and then nothing is looked up."""

    def host_of(self, field: bytes) -> bytes | None:
        """The normalised host of a Host value; None when it is not valid."""
        raise NotImplementedError

    def came_by_us(self, via: tuple[bytes, ...]) -> bool:
        """Our own pseudonym stands in the request's `Via`: the request has come round (RFC 9110 7.3)."""
        raise NotImplementedError

    # -- is it there, does it take what it is sent -----------------------------------------------------------------------

    ended: bool
    """The client sends no more: it has left, or only finished sending."""
    write_paused: bool
    stalled_since: float
    """When the client stopped taking bytes (monotonic seconds), or NEVER."""
    reading_paused: bool
    source: Source | None
    """Who produces what is written to the client; it is held while the client takes no more."""

    def check_progress(self, now: float) -> None:
        """Move `stalled_since` when the client has taken bytes since the last look."""
        raise NotImplementedError

    def gone(self) -> bool:
        """The client has reset the exchange, whether that has been reported or not."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """Take no more of the request body for now."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """Take bytes of the request body again."""
        raise NotImplementedError

    # -- the answer ------------------------------------------------------------------------------------------------------

    def interim(self, head: ResponseHead) -> None:
        """Pass a 1xx on (RFC 9110 15.2), if this client may get it."""
        raise NotImplementedError

    def respond(self, status: int, reason: bytes, lines: list[bytes], content: bytes, length: int) -> None:
        """Send a whole response. `length` is what to say of its size: that of `content`, that of what a GET would get (HEAD,
        304), or -1 for nothing."""
        raise NotImplementedError

    def open(self, status: int, reason: bytes, lines: list[bytes], length: int) -> Sink:
        """Begin a response whose body is fed to the sink that is returned.

        The head goes out with the first bytes, or when the sink is flushed. `length` -1: not known; then the end of the
        connection may be all that shows the end of the body, and the exchange is marked so (`framed`).
        """
        raise NotImplementedError

    def switch(
        self, lines: list[bytes], head: ResponseHead, upstream: Connection, first: bytes, on_closed: Callable[[], None]
    ) -> Tunnel:
        """Pass the 101 on and join the client with `upstream`, whose `first` bytes go ahead of what follows."""
        raise NotImplementedError

    def cut(self, *, flush: bool) -> None:
        """End a response that is not complete so that it cannot be taken for a whole one; with `flush` behind what is on its
        way, because the framing shows that it is cut."""
        raise NotImplementedError

    def abort(self) -> None:
        """Drop the client at once."""
        raise NotImplementedError

    # -- the exchange ----------------------------------------------------------------------------------------------------

    def waits(self) -> None:
        """The exchange has begun to wait in a queue: one who seems to have left is asked at once."""
        raise NotImplementedError

    def exchange_over(self) -> None:
        """The exchange has ended; the next request may begin."""
        raise NotImplementedError
