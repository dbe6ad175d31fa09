"""Content coding of responses on their way out: what is asked of a request and of a response, and the encoding end of a body.

Blocks that are quickly encoded are encoded where they arrive. Larger ones go to a few threads, one block of a response at
a time: until it is back the upstream is not read, so order, back-pressure and memory are as without coding. Libraries let go
of the interpreter while they encode.
"""

from __future__ import annotations

import logging
import os
from asyncio import AbstractEventLoop
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING, Final

from gateway.errors import Failed, Failure
from gateway.policies.compression import (
    CREDENTIALS,
    EVENT_STREAM,
    NO_TRANSFORM,
    OPT_OUT,
    Breach,
    Choice,
    Fields,
    forbidden,
    knows_as_weak,
    negotiate,
    upstream_condition,
)
from gateway.proxy import heads
from gateway.proxy.body import Body
from gateway.proxy.http1 import without

if TYPE_CHECKING:
    from gateway.ports import Coder, Encoder
    from gateway.proxy.exchange import Exchange
    from gateway.proxy.http1_response import ResponseHead
    from gateway.proxy.server import DownstreamConnection
    from gateway.snapshot import Compression, Route

MOST_CHOICES: Final = 256
"""Values of `Accept-Encoding` that a route remembers."""
LONGEST_REMEMBERED: Final = 256

_CONDITIONS: Final = (b"if-none-match", b"if-match")

_log = logging.getLogger("gateway")


# -- threads -----------------------------------------------------------------------------------------------------------


class Threads:
    """A few threads that encode. Each response has at most one block with them."""

    __slots__ = ("_executor", "_loop")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._executor: ThreadPoolExecutor | None = None

    def run(self, work: Callable[[bytes], bytes], data: bytes, done: Callable[[bytes | None, float], None]) -> None:
        """Call `done` on the loop with what `work` made of `data` (None: it failed) and the seconds it took."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="coding")
        self._executor.submit(self._work, work, data, done)

    def _work(self, work: Callable[[bytes], bytes], data: bytes, done: Callable[[bytes | None, float], None]) -> None:
        started = perf_counter()
        result: bytes | None = None
        try:
            result = work(data)
        except Exception:  # noqa: BLE001 - it must cost one response, not the thread
            _log.exception("an encoder failed")
        try:
            self._loop.call_soon_threadsafe(done, result, perf_counter() - started)
        except RuntimeError:
            pass  # the loop is closed: nobody waits for it

    def stop(self) -> None:
        """What has not begun is dropped; what has is awaited by nobody."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None


# -- the request -------------------------------------------------------------------------------------------------------


def prepare(x: Exchange, compression: Compression) -> None:
    """Refuse what no coding can satisfy, if configured; give tags weakened here back to the upstream as it made them."""
    values = x.head.fields.values
    settings = compression.settings
    if settings.refuse:
        choice = choose(compression, values.get(b"accept-encoding"))
        if choice.coding < 0 and not choice.plain:
            raise Failed(Failure.NOT_ACCEPTABLE, fields=(b"Vary: Accept-Encoding",))
    if not values:
        return
    for name in _CONDITIONS:
        value = values.get(name)
        if value is not None and b'W/"' in value:
            line = b"%b: %b\r\n" % (name.title(), upstream_condition(value, compression.tags))
            x.head.kept = without(x.head.kept, {name}) + line


def choose(compression: Compression, accept: bytes | None) -> Choice:
    """The choice for an `Accept-Encoding`; clients repeat theirs, so it is remembered."""
    choice = compression.choices.get(accept)
    if choice is None:
        choice = negotiate(accept, compression.settings.codings)
        if len(compression.choices) < MOST_CHOICES and (accept is None or len(accept) <= LONGEST_REMEMBERED):
            compression.choices[accept] = choice
    return choice


def _exempt(x: Exchange, compression: Compression) -> str:
    """Why no response to this request is compressed, or nothing."""
    values = x.head.fields.values
    settings = compression.settings
    if settings.opt_out and settings.opt_out in values:
        return OPT_OUT
    if b"no-transform" in values.get(b"cache-control", b"").lower():
        return NO_TRANSFORM
    if settings.breach is Breach.CREDENTIALS and (b"cookie" in values or b"authorization" in values):
        return CREDENTIALS
    return ""


# -- the response ------------------------------------------------------------------------------------------------------


def shape(x: Exchange, route: Route, compression: Compression, head: ResponseHead, length: int) -> tuple[bytes, Coder | None]:
    """The field lines for the client, and the coder of the body; None: it goes out as it is. `length` -1: unknown."""
    fields = _read(route, compression, head)
    values = x.head.fields.values
    choice = choose(compression, values.get(b"accept-encoding"))
    reason = forbidden(
        compression.settings, fields, choice, head.status, length, exempt=_exempt(x, compression) if values else ""
    )
    if not reason:
        coder = compression.coders[choice.coding]
        return fields.coded(coder.name), coder
    skipped = compression.metrics.skipped
    skipped[reason] = skipped.get(reason, 0) + 1
    if head.status == 304 and fields.tag:
        # A 304 rarely has a type; its tag decides, as the client has it.
        would = choice.coding >= 0 and (not fields.reason or not fields.media_type)
        if knows_as_weak(values.get(b"if-none-match"), fields.tag, unknown=would):
            return fields.coded(b""), None
    return fields.plain, None


def _read(route: Route, compression: Compression, head: ResponseHead) -> Fields:
    edits = route.response_edits
    fields = head.fields.coding
    if fields is None or fields.settings is not compression.settings or fields.source is not edits:
        block = head.fields.kept if edits is None else heads.edited(head.fields.kept, edits)
        fields = head.fields.coding = Fields(block, compression.settings, edits)
        compression.tags.seen(fields.tag)
    return fields


def encode_whole(x: Exchange, compression: Compression, coder: Coder, data: bytes) -> bytes:
    """A whole body, encoded now."""
    started = perf_counter()
    coded = coder.whole(data)
    x.coding = coder.name
    metrics = compression.metrics.coding(coder.name)
    metrics.seconds += perf_counter() - started
    metrics.responses += 1
    metrics.bytes_in += len(data)
    metrics.bytes_out += len(coded)
    return coded


class WholeCoding:
    """A whole body that is large: encoded by a thread while the exchange waits."""

    __slots__ = ("_exchange", "_metrics", "content", "done")

    def __init__(self, x: Exchange, compression: Compression, coder: Coder, data: bytes) -> None:
        self.content: bytes | None = None
        """None: the encoder failed."""
        self.done = False
        self._exchange = x
        x.coding = coder.name
        self._metrics = compression.metrics.coding(coder.name)
        self._metrics.responses += 1
        self._metrics.bytes_in += len(data)
        x.client_connection.plane.threads.run(coder.encoder().finish, data, self._coded)

    def _coded(self, content: bytes | None, seconds: float) -> None:
        self.content = content
        self.done = True
        self._metrics.seconds += seconds
        if content is not None:
            self._metrics.bytes_out += len(content)
        self._exchange.wake()


class CodedOutlet:
    """The encoding end of a body: see `body.Outlet`. It is also the `Source` of the client connection.

    What arrives in small pieces is gathered until nothing more is immediately there; then it is encoded and sent, so that a
    slow body and an event stream pass without delay and a fast one in large blocks.
    """

    __slots__ = (
        "_ahead",
        "_ahead_size",
        "_body",
        "_busy",
        "_chunked",
        "_client",
        "_coder",
        "_eager",
        "_encoder",
        "_ended",
        "_exchange",
        "_finishing",
        "_grown",
        "_head",
        "_metrics",
        "_ticking",
        "done",
        "sent",
    )

    def __init__(
        self,
        x: Exchange,
        compression: Compression,
        body: Body,
        message: bytes,
        coder: Coder,
        head: ResponseHead,
        *,
        chunked: bool,
    ) -> None:
        """`message` is the head for the client, `head` the upstream's."""
        self._exchange = x
        self._client: DownstreamConnection = x.client_connection
        self._body = body
        self._head = message
        self._coder = coder
        self._encoder: Encoder | None = coder.encoder()
        x.coding = coder.name
        self._metrics = compression.metrics.coding(coder.name)
        self._metrics.responses += 1
        self._chunked = chunked
        fields = head.fields.coding
        self._eager = fields is not None and fields.media_type == EVENT_STREAM
        """Encode what arrives as it arrives: an event is never put together with the next."""
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
        self.done = False
        """All has been written to the client."""
        self.sent = 0

    # -- body.Outlet -------------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """It is to be given no more for now."""
        return self._busy or self._client.write_paused

    def write(self, data: bytes) -> None:
        """Take body bytes (not empty)."""
        self._metrics.bytes_in += len(data)
        self._ahead.append(data)
        self._ahead_size += len(data)
        self._grown = True
        if self._busy:
            return
        if self._eager or self._ahead_size > self._coder.inline:
            self._encode()
        elif not self._ticking:
            self._ticking = True
            self._client.plane.loop.call_soon(self._tick)

    def flush_head(self) -> None:
        """Send the head now, unless body bytes are about to go with it."""
        if self._head and not self._ahead and not self._busy and not self._ended:
            self._client.transport.write(self._head)
            self._head = b""

    def end(self) -> None:
        """The body is complete."""
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

    def _tick(self) -> None:
        """Encode when one look of the loop at its sockets has brought nothing more."""
        if self._grown:
            self._grown = False
            self._client.plane.loop.call_soon(self._tick)
            return
        self._ticking = False
        if self._ahead and not self._busy:
            self._encode()

    def _encode(self) -> None:
        encoder = self._encoder
        if encoder is None:
            return
        ahead = self._ahead
        data = ahead[0] if len(ahead) == 1 else b"".join(ahead)
        ahead.clear()
        self._ahead_size = 0
        self._finishing = self._ended
        work = encoder.finish if self._ended else encoder.block
        if len(data) > self._coder.inline:
            self._busy = True
            self._body.hold()
            self._client.plane.threads.run(work, data, self._coded_elsewhere)
            return
        started = perf_counter()
        coded = work(data)
        self._metrics.seconds += perf_counter() - started
        self._send(coded)

    def _coded_elsewhere(self, coded: bytes | None, seconds: float) -> None:
        """A thread has encoded a block."""
        self._metrics.seconds += seconds
        self._busy = False
        if self._encoder is None:
            return
        if coded is None:
            self._exchange.fail(Failed(Failure.INTERNAL))
            return
        self._send(coded)
        if not self.done and (self._ended or self._ahead):
            # What the body brought while the thread worked.
            self._encode()
        if self.done:
            self._exchange.wake()
        elif not self._busy and not self._client.write_paused:
            self._body.release()

    def _send(self, coded: bytes) -> None:
        size = len(coded)
        self.sent += size
        self._metrics.bytes_out += size
        head, self._head = self._head, b""
        self.done = self._finishing
        transport = self._client.transport
        if not self._chunked:
            transport.write(head + coded)
        elif size:
            transport.writelines((b"%b%x\r\n" % (head, size), coded, b"\r\n0\r\n\r\n" if self.done else b"\r\n"))
        elif head:
            transport.write(head)

    def close(self) -> int:
        """The exchange is over, however it went: forget the encoder and what was not sent. Returns the bytes sent."""
        self._encoder = None
        self._ahead.clear()
        return self.sent
