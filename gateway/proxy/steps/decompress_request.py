"""Coded request bodies that a route wants decoded: the upstream sees them plain.

The body's decoder of framing is wrapped, so limits, replay and back-pressure see decoded bytes and need not know.
"""

from __future__ import annotations

import copy
from typing import Final

from gateway.errors import Failed, Failure
from gateway.headers import list_members
from gateway.policies.decompress_request import DecompressRequestSettings, allowance
from gateway.ports import ContentDecoder
from gateway.proxy.bodies.body import Body
from gateway.proxy.bodies.coders import DECODERS, TooMuchError
from gateway.proxy.exchange import Exchange
from gateway.proxy.wire.framing import Decoder, FramingError
from gateway.proxy.wire.http1_request import without

_ACCEPT: Final = b"Accept-Encoding: " + b", ".join(name for name in DECODERS if not name.startswith(b"x-"))


_ABOUT_CODED: Final = frozenset({b"content-encoding", b"content-md5", b"digest", b"content-digest", b"repr-digest"})
"""Request fields that are about the bytes as they came (RFC 9530 2, 3)."""


class CodedDecoder:
    """A framing and the content coding inside it. See `framing.Decoder`."""

    __slots__ = ("_content", "_decoded", "_framing", "_received", "_settings", "done", "rest")

    def __init__(self, framing: Decoder, content: ContentDecoder, settings: DecompressRequestSettings) -> None:
        self._framing = framing
        self._content = content
        self._settings = settings
        self._received = 0
        self._decoded = 0
        self.done = framing.done
        self.rest = framing.rest

    def feed(self, data: bytes) -> bytes:
        """The decoded body bytes. Raises `Failed(CONTENT_TOO_LARGE)` for more than may come out."""
        found = self._framing.feed(data)
        self.rest = self._framing.rest
        decoded = self.decode(found)
        self.done = self._framing.done
        return decoded

    def decode(self, found: bytes) -> bytes:
        """The decoded form of these bytes of the body."""
        self._received += len(found)
        try:
            decoded = self._content.feed(found, allowance(self._settings, self._received, self._decoded)) if found else b""
        except TooMuchError:
            raise Failed(Failure.CONTENT_TOO_LARGE, "more comes out of the coded body than may", close=True) from None
        except ValueError:
            raise FramingError("the coded body is not valid") from None
        if self._framing.done and not self._content.complete:
            raise FramingError("the coded body breaks off")
        self._decoded += len(decoded)
        return decoded


def decompressed(x: Exchange, settings: DecompressRequestSettings) -> Body | None:
    """The body of the request, from here on plain. Raises `Failed`: 415 unknown coding, 413 bomb, 400 not valid."""
    head, body = x.head, x.request_body
    codings = [name for name in list_members(head.fields.values.get(b"content-encoding", b"")) if name != b"identity"]
    if body is None or not codings:
        return body
    make = DECODERS.get(codings[0])
    if make is None or len(codings) > 1:
        raise Failed(Failure.CODING_NOT_SUPPORTED, fields=(_ACCEPT,))
    decoder = CodedDecoder(body.decoder, make(), settings)
    try:
        body.recode(decoder, decoder.decode)
    except FramingError as error:
        raise Failed(Failure.BAD_REQUEST, str(error), close=True) from None
    # The fields of a connection are shared by its requests: these are this one's.
    fields = head.fields = copy.copy(head.fields)
    fields.length = body.received if body.done else -1
    fields.chunked = not body.done
    head.kept = without(head.kept, _ABOUT_CODED)
    return body
