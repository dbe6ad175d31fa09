"""The encoding end of a body that arrives bit by bit.

Bits are gathered until the loop has looked at its sockets once more and nothing came: then they are encoded, so that a
decoder can show all of them, and sent. A slow body passes without delay, a fast one in large blocks, and one that is complete
by then as if it had come whole, with a length. Event streams are encoded as they arrive: no event waits for the next.

A block that takes long is encoded by a thread, one at a time. Until it is back the upstream is not read, so order,
back-pressure and memory are as without coding.
"""

from __future__ import annotations

from time import perf_counter

from gateway.errors import Failed, Failure
from gateway.policies.compression import EVENT_STREAM, SIZE
from gateway.ports import Encoder
from gateway.proxy.bodies.body import Body, Sink
from gateway.proxy.client import Client
from gateway.proxy.exchange import Exchange
from gateway.proxy.steps.compression import Coding, encode_whole, least
from gateway.proxy.steps.response_fields import response_lines
from gateway.proxy.wire.http1_response import ResponseHead
from gateway.snapshot import Route


class CodedSink:
    """Takes a body, encodes it, and passes it on to the client. It is the `Source` of the client too."""

    __slots__ = (
        "_ahead", "_ahead_size", "_body", "_busy", "_client", "_coder", "_eager", "_encoder", "_ended", "_exchange",
        "_finishing", "_grown", "_head", "_least", "_metrics", "_out", "_over", "_plain", "_route", "_shaped", "_skipped",
        "_ticking", "done", "opened", "sent",
    )  # fmt: skip

    def __init__(self, x: Exchange, route: Route, head: ResponseHead, shaped: bytes, coding: Coding, body: Body) -> None:
        """`shaped` are the field lines of the coded response."""
        compression = route.compression
        assert compression is not None
        self._exchange = x
        self._route = route
        self._head = head
        self._shaped = shaped
        self._coder, self._metrics = coding
        self._skipped = compression.metrics.skipped
        self._client: Client = x.client
        self._body = body
        fields = head.fields.coding
        assert fields is not None
        self._eager = fields.media_type == EVENT_STREAM
        self._plain = fields.plain
        self._least = least(x, compression) if head.length < 0 else 0
        """A body whose length turns out to be smaller is left as it is."""
        self._encoder: Encoder | None = None
        self._out: Sink | None = None
        self._ahead: list[bytes] = []
        """Arrived and not yet encoded."""
        self._ahead_size = 0
        self._busy = False
        """A thread has a block, and the encoder."""
        self._ended = False
        """The body is complete."""
        self._finishing = False
        """The block that is encoded is the last."""
        self._ticking = False
        self._grown = False
        """Something has arrived since the loop last looked."""
        self._over = False
        """Nobody waits for what is still to come."""
        self.opened = False
        """The head has been written."""
        self.done = False
        """All has been written."""
        self.sent = 0

    # -- body.Sink ---------------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        return self._busy or self._client.write_paused

    def write(self, data: bytes) -> None:
        self._ahead.append(data)
        self._ahead_size += len(data)
        if not self._busy:
            if self._eager or self._ahead_size > self._coder.inline:
                self._encode()
            else:
                self._look()

    def flush(self) -> None:
        if self.opened or self._busy:
            return
        if self._eager:
            self._open().flush()
        else:
            self._look()

    def end(self, last: bytes = b"") -> None:
        if last:
            self._ahead.append(last)
            self._ahead_size += len(last)
        self._ended = True
        if not self._busy:
            self._encode()

    # -- Source ------------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """The client cannot take more."""
        self._body.hold()

    def release(self) -> None:
        """The client can take more."""
        if not self._busy:
            self._body.release()

    # -- encoding ----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Encode when the loop has looked at its sockets once more and nothing came."""
        self._grown = True
        if not self._ticking:
            self._ticking = True
            self._client.plane.loop.call_soon(self._tick)

    def _tick(self) -> None:
        if self._grown and not self._over:
            self._grown = False
            self._client.plane.loop.call_soon(self._tick)
            return
        self._ticking = False
        if self._busy or self._over or self.done:
            return
        if self._ahead:
            self._encode()
        elif not self.opened:
            self._open().flush()

    def _encode(self) -> None:
        ahead = self._ahead
        data = ahead[0] if len(ahead) == 1 else b"".join(ahead)
        ahead.clear()
        self._ahead_size = 0
        self._finishing = self._ended
        if self._finishing and self._encoder is None and self._whole(data):
            return
        encoder = self._encoder
        if encoder is None:
            encoder = self._encoder = self._coder.encoder()
            self._metrics.responses += 1
            self._exchange.coding = self._coder.name
        self._metrics.bytes_in += len(data)
        work = encoder.finish if self._finishing else encoder.block
        if len(data) > self._coder.inline:
            self._busy = True
            self._body.hold()
            self._client.plane.threads.run(work, data, self._encoded)
            return
        started = perf_counter()
        coded = work(data)
        self._count(coded, perf_counter() - started)
        self._send(coded)

    def _whole(self, data: bytes) -> bool:
        """Send a body that was complete before anything of it was encoded, if that is quickly done."""
        if not self.opened and len(data) < self._least:
            self._skipped[SIZE] += 1
            self._shaped = self._plain
            self._send(data)
            return True
        if len(data) > self._coder.inline:
            return False
        self._send(encode_whole(self._exchange, (self._coder, self._metrics), data))
        return True

    def _count(self, coded: bytes, seconds: float) -> None:
        self._metrics.bytes_out += len(coded)
        self._metrics.seconds += seconds

    def _encoded(self, coded: bytes | None, seconds: float) -> None:
        """A thread has encoded a block; None: it failed."""
        self._busy = False
        if self._over:
            return
        if coded is None:
            self._exchange.fail(Failed(Failure.INTERNAL))
            return
        self._count(coded, seconds)
        self._send(coded)
        if not self.done and (self._ended or self._ahead):
            # What the body brought while the thread worked.
            self._encode()
        if self.done:
            self._exchange.wake()
        elif not self._busy and not self._client.write_paused:
            self._body.release()

    # -- sending -----------------------------------------------------------------------------------------------------

    def _open(self) -> Sink:
        """Begin the response; how long it will be is not known."""
        head = self._head
        lines = response_lines(self._exchange, self._route, head, self._shaped)
        self.opened = True
        self._out = self._client.open(head.status, head.reason, lines, -1)
        return self._out

    def _send(self, coded: bytes) -> None:
        self.sent += len(coded)
        self.done = self._finishing
        if self.done and not self.opened:
            head = self._head
            self.opened = True
            lines = response_lines(self._exchange, self._route, head, self._shaped)
            self._client.respond(head.status, head.reason, lines, coded, len(coded))
            return
        out = self._out or self._open()
        if self.done:
            out.end(coded)
        elif coded:
            out.write(coded)
        else:
            out.flush()

    def close(self) -> None:
        """The exchange is over, however it went: forget the encoder and what was not sent."""
        self._over = True
        self._encoder = None
        self._ahead.clear()
