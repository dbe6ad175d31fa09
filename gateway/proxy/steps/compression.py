"""Content coding of responses: what a request asks for, what becomes of a response's fields, and whole bodies.

What is quickly encoded is encoded where it arrives; the rest goes to a few threads (libraries let go of the interpreter while
they encode). Bodies that arrive bit by bit: `coded_stream.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Final, TypeAlias

from gateway.errors import Failed, Failure
from gateway.metrics.compression import CodingMetrics
from gateway.policies.compression import (
    CREDENTIALS,
    NO_TRANSFORM,
    OPT_OUT,
    Breach,
    Fields,
    forbidden,
    knows_as_weak,
    negotiate,
    upstream_condition,
)
from gateway.ports import Coder
from gateway.proxy.exchange import Exchange
from gateway.proxy.steps.response_fields import upstream_lines
from gateway.proxy.wire.http1_request import without
from gateway.proxy.wire.http1_response import ResponseHead
from gateway.snapshot import Compression, Route

_CONDITIONS: Final = (b"if-none-match", b"if-match")

_ONCE: Final = object()
"""The source of field lines that hold for one response."""

Coding: TypeAlias = "tuple[Coder, CodingMetrics]"


# -- the request -------------------------------------------------------------------------------------------------------


class Asked:
    """What a request says about the coding of its response, on a route that compresses."""

    __slots__ = ("choice", "compression", "conditions", "exempt")

    def __init__(self, compression: Compression, values: Mapping[bytes, bytes]) -> None:
        settings = compression.settings
        self.compression = compression
        self.choice = negotiate(values.get(b"accept-encoding"), settings.codings)
        self.exempt = ""
        """Why no response to it is compressed, or nothing."""
        if settings.opt_out and settings.opt_out in values:
            self.exempt = OPT_OUT
        elif b"no-transform" in values.get(b"cache-control", b"").lower():
            self.exempt = NO_TRANSFORM
        elif settings.breach is Breach.CREDENTIALS and (b"cookie" in values or b"authorization" in values):
            self.exempt = CREDENTIALS
        self.conditions = tuple(name for name in _CONDITIONS if b'W/"' in values.get(name, b""))
        """The conditional fields with tags that may have been weakened here."""


def _asked(x: Exchange, compression: Compression) -> Asked:
    """Clients repeat their fields, and then they are not read again."""
    fields = x.head.fields
    asked = fields.asked
    if type(asked) is not Asked or asked.compression is not compression:
        asked = fields.asked = Asked(compression, fields.values)
    return asked


def prepare(x: Exchange, compression: Compression) -> None:
    """Refuse what no coding can satisfy, if configured; give tags weakened here back to the upstream as it made them."""
    asked = _asked(x, compression)
    if asked.choice.coding < 0 and not asked.choice.plain and compression.settings.refuse:
        raise Failed(Failure.NOT_ACCEPTABLE)
    for name in asked.conditions:
        value = upstream_condition(x.head.fields.values[name], compression.tags)
        x.head.kept = without(x.head.kept, {name}) + b"%b: %b\r\n" % (name.title(), value)


# -- the response ------------------------------------------------------------------------------------------------------


def shape(x: Exchange, route: Route, compression: Compression, head: ResponseHead, length: int) -> tuple[bytes, Coding | None]:
    """The field lines for the client, and how the body is coded; None: it goes out as it is. `length` -1: unknown."""
    fields = _read(x, route, compression, head)
    asked = _asked(x, compression)
    choice = asked.choice
    reason = forbidden(compression.settings, fields, choice, head.status, length, asked.exempt)
    if not reason:
        coding = compression.coders[choice.coding]
        return fields.coded(coding[0].name), coding
    compression.metrics.skipped[reason] += 1
    if head.status == 304 and fields.tag:
        # A 304 rarely has a type; its tag decides, as the client has it.
        would = choice.coding >= 0 and (not fields.reason or not fields.media_type)
        if knows_as_weak(x.head.fields.values.get(b"if-none-match"), fields.tag, unknown=would):
            return fields.coded(b""), None
    return fields.plain, None


def least(x: Exchange, compression: Compression) -> int:
    """Bytes from which on a body for this client is worth it."""
    return compression.settings.min_size if _asked(x, compression).choice.plain else 1


def _read(x: Exchange, route: Route, compression: Compression, head: ResponseHead) -> Fields:
    """What the field lines mean. They are remembered unless the request has a say in them."""
    source: object = route.response_edits
    if route.rewrite_response is not None or (route.response_edits is not None and route.response_edits.parts):
        source = _ONCE
    fields = head.fields.coding
    if fields is None or source is _ONCE or fields.source is not source or fields.settings is not compression.settings:
        fields = head.fields.coding = Fields(upstream_lines(x, route, head), compression.settings, source)
        compression.tags.seen(fields.tag)
    return fields


def encode_whole(x: Exchange, coding: Coding, data: bytes) -> bytes:
    """A whole body, encoded now."""
    coder, metrics = coding
    started = perf_counter()
    coded = coder.whole(data)
    metrics.seconds += perf_counter() - started
    metrics.responses += 1
    metrics.bytes_in += len(data)
    metrics.bytes_out += len(coded)
    x.coding = coder.name
    return coded


class WholeCoding:
    """A whole body that is large: encoded by a thread while the exchange waits."""

    __slots__ = ("_exchange", "_metrics", "content", "done")

    def __init__(self, x: Exchange, coding: Coding, data: bytes) -> None:
        self.content: bytes | None = None
        """None: the encoder failed."""
        self.done = False
        self._exchange = x
        coder, metrics = coding
        x.coding = coder.name
        metrics.responses += 1
        metrics.bytes_in += len(data)
        self._metrics = metrics
        x.client.plane.threads.run(coder.encoder().finish, data, self._coded)

    def _coded(self, content: bytes | None, seconds: float) -> None:
        self.content = content
        self.done = True
        self._metrics.seconds += seconds
        if content is not None:
            self._metrics.bytes_out += len(content)
        self._exchange.wake()
