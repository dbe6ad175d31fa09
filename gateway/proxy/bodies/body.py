"""Message bodies in motion: one pump for both directions, with back-pressure, and the replay buffer of a request.

Bytes are handed from the connection that received them straight to the connection that sends them, in callbacks; nothing
is awaited per chunk. While the receiver cannot take more, the sender's socket is not read.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Protocol

from gateway.errors import Failed, Failure
from gateway.proxy.connection import WRITE_HIGH, Connection, Source
from gateway.proxy.wire.framing import Decoder, FramingError


class Readable(Protocol):
    """Where a body comes from: a connection, or a stream of one."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Receiver(Protocol):
    """Where a body goes to: it holds and releases its source as it fills and drains."""

    source: Source | None


class Sink(Protocol):
    """What a body is handed to."""

    @property
    def full(self) -> bool:
        """It asks not to be given more for now."""

    def write(self, data: bytes) -> None:
        """Take body bytes (not empty)."""

    def flush(self) -> None:
        """Send the head now, because no body bytes are there to go with it."""

    def end(self, last: bytes = b"") -> None:
        """Take the last bytes, if any: the body is complete."""


class Outlet:
    """A body on its way out over one connection, in the framing that this side uses."""

    __slots__ = ("_chunked", "_connection", "_head")

    def __init__(self, connection: Connection, head: bytes, *, chunked: bool) -> None:
        """`head` goes out in the same write as the first body bytes."""
        self._connection = connection
        self._head = head
        self._chunked = chunked

    @property
    def full(self) -> bool:
        return self._connection.write_paused

    def write(self, data: bytes) -> None:
        transport = self._connection.transport
        head = self._head
        if self._chunked:
            self._head = b""
            transport.writelines((b"%b%x\r\n" % (head, len(data)), data, b"\r\n"))
        elif head:
            self._head = b""
            transport.writelines((head, data))
        else:
            transport.write(data)

    def flush(self) -> None:
        if self._head:
            self._connection.transport.write(self._head)
            self._head = b""

    def end(self, last: bytes = b"") -> None:
        if not self._chunked:
            if last:
                self.write(last)
            self.flush()
        elif last:
            self._connection.transport.writelines((b"%b%x\r\n" % (self._head, len(last)), last, b"\r\n0\r\n\r\n"))
            self._head = b""
        else:
            self._connection.transport.write(self._head + b"0\r\n\r\n")
            self._head = b""


def too_large(limit: int) -> Failed:
    """A request body has more bytes than `limits.body` allows."""
    return Failed(Failure.CONTENT_TOO_LARGE, f"more than {limit} bytes (limits.body)", close=True)


class Body:
    """One body between its two connections. Held in memory only until an outlet is attached, and bounded then too."""

    __slots__ = (
        "_held", "_held_at", "_held_size", "_outlet", "_replay", "_replay_limit", "decoder", "done", "held_for", "limit",
        "on_done", "received", "source", "touched",
    )  # fmt: skip

    def __init__(self, source: Readable, decoder: Decoder, limit: int = -1) -> None:
        self.source = source
        self.decoder = decoder
        self.limit = limit
        """Largest size in bytes, or -1."""
        self.received = 0
        self.done = decoder.done
        self.touched = 0.0
        """When bytes arrived last (monotonic)."""
        self.held_for = 0.0
        """Seconds in which the source was not read: not its fault."""
        self._held_at = 0.0
        self.on_done: Callable[[], None] | None = None
        self._held: list[bytes] = []
        self._held_size = 0
        self._outlet: Sink | None = None
        self._replay: list[bytes] | None = None
        self._replay_limit = 0

    def feed(self, data: bytes) -> None:
        """Take what the source received. Raises `Failed` for broken framing and for a body over the limit."""
        try:
            found = self.decoder.feed(data)
        except FramingError as error:
            raise Failed(Failure.BAD_REQUEST, str(error), close=True) from None
        self.touched = monotonic()
        if found:
            self._take(found)
        if self.decoder.done:
            self.finish()

    def _take(self, found: bytes) -> None:
        self.received += len(found)
        if 0 <= self.limit < self.received:
            raise too_large(self.limit)
        if self._replay is not None:
            self._remember(found)
        outlet = self._outlet
        if outlet is not None:
            outlet.write(found)
            return
        self._held.append(found)
        self._held_size += len(found)
        if self._held_size > WRITE_HIGH:
            self.source.pause_reading()

    def finish(self) -> None:
        """The body is complete: its decoder says so, or its connection was closed where that is the end."""
        if self.done:
            return
        self.done = True
        if self._outlet is not None:
            self._outlet.end()
            if self.on_done is not None:
                self.on_done()

    def attach(self, outlet: Sink, receiver: Receiver) -> None:
        """From now on bytes go to `outlet`; what was held goes first. `receiver` is the connection behind it."""
        self._outlet = outlet
        receiver.source = self
        if self._held:
            outlet.write(b"".join(self._held))
            self._held.clear()
            self._held_size = 0
        if self.done:
            outlet.end()
            self.source.resume_reading()
        elif outlet.full:
            self.hold()
        elif self._held_at:
            self.release()
        else:
            self.source.resume_reading()

    def whole(self) -> bytes:
        """All of a complete body that nothing was attached to."""
        held = self._held
        return held[0] if len(held) == 1 else b"".join(held)

    def recode(self, decoder: Decoder, decode: Callable[[bytes], bytes]) -> None:
        """Read the body by `decoder` from now on, and `decode` what is held. Call before anything is attached."""
        held = decode(self.whole())
        self.decoder = decoder
        self._held = [held] if held else []
        self.received = self._held_size = len(held)
        if 0 <= self.limit < self.received:
            raise too_large(self.limit)

    # -- replay ------------------------------------------------------------------------------------------------------

    def keep_for_replay(self, limit: int) -> None:
        """Remember the bytes from the first on, up to `limit`. Call before an outlet is attached."""
        self._replay_limit = limit
        self._replay = list(self._held) if self._held_size <= limit else None

    def _remember(self, found: bytes) -> None:
        assert self._replay is not None
        if self.received > self._replay_limit:
            self._replay = None
        else:
            self._replay.append(found)

    @property
    def replayable(self) -> bool:
        """Everything received so far is still at hand."""
        return self._outlet is None or self.received == 0 or self._replay is not None

    @property
    def whole_at_hand(self) -> bool:
        """It is complete, and every byte of it has been kept: `copy` is possible."""
        return self.done and (self._replay is not None or not self.received)

    def copy(self) -> Body:
        """One more body of this content, for another connection. Only when it is `whole_at_hand`."""
        again = Body(self.source, self.decoder)
        again._held = list(self._replay or ())
        again._held_size = again.received = self.received
        return again

    def rewind(self) -> None:
        """Detach, and hold again from the first byte. Only when `replayable`."""
        self.touched = monotonic()
        if self._outlet is None:
            return
        self._outlet = None
        self._held = self._replay or []
        self._held_size = self.received
        self._replay = None

    # -- Source ------------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """The receiver cannot take more: stop reading."""
        if not self.done:
            self._held_at = monotonic()
            self.source.pause_reading()

    def release(self) -> None:
        """The receiver can take more. The sender was not slow while it was not read."""
        self.touched = now = monotonic()
        if self._held_at:
            self.held_for += now - self._held_at
            self._held_at = 0.0
        self.source.resume_reading()
