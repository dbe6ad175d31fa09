"""Compressed responses on real sockets: every coding, framing and size decodes to the same bytes, with the right fields."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Final

import brotli
import pytest
from backports import zstd

from gateway.proxy.coders import LIBRARIES
from tests.conftest import StartGateway, StartUpstream
from tests.support import Behaviour, Peer, Response, answers, proxy

DECODERS: Final[dict[bytes, Callable[[bytes], bytes]]] = {
    b"gzip": lambda data: zlib.decompress(data, 31),
    b"br": brotli.decompress,
    b"zstd": zstd.decompress,
}
JSON: Final = b"Content-Type: application/json\r\n"
ON: Final = "compression: on"


def text(size: int, seed: int = 1) -> bytes:
    """Text that compresses as JSON does."""
    chance = random.Random(seed)
    words = [b'{"id": %d, "name": "user %d"}' % (chance.randrange(10**6), chance.randrange(999)) for _ in range(size // 24 + 1)]
    return (b"[" + b", ".join(words) + b" " * size)[:size]


def decoded(response: Response) -> bytes:
    """The content of a complete response, by its Content-Encoding."""
    assert response.complete
    coding = response.value(b"content-encoding")
    return response.body if coding is None else DECODERS[coding](response.body)


def plain(body: bytes, *, lines: bytes = JSON, status: bytes = b"200 OK") -> bytes:
    """A response with a length."""
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, lines, len(body), body)


def sends(body: bytes, framing: str, seed: int = 1) -> Behaviour:
    """Answers with this body in pieces of random sizes."""
    chance = random.Random(seed)

    async def behave(peer: Peer) -> None:
        while True:
            await peer.request()
            rest = body
            if framing == "length":
                await peer.send(b"HTTP/1.1 200 OK\r\n" + JSON + b"Content-Length: %d\r\n\r\n" % len(body))
            elif framing == "chunked":
                await peer.send(b"HTTP/1.1 200 OK\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\n")
            else:
                await peer.send(b"HTTP/1.1 200 OK\r\n" + JSON + b"Connection: close\r\n\r\n")
            while rest:
                piece = rest[: chance.choice((1, 7, 500, 4096, 40_000, 200_000))]
                rest = rest[len(piece) :]
                await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
            if framing == "chunked":
                await peer.send(b"0\r\n\r\n")
            elif framing == "close":
                return

    return behave


def test_all_codings_are_there() -> None:
    """The development environment has every library: what follows tests all codings."""
    assert not any(LIBRARIES.values())


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 5000, 65_536, 300_000, 2_000_000])
async def test_every_body_decodes_to_the_same_bytes(
    upstream: StartUpstream, gateway: StartGateway, coding: str, framing: str, size: int
) -> None:
    """Whatever coding, framing, size and HTTP version: the bytes are the same, and the connection is as usable as before."""
    body = text(size)
    app = await upstream(sends(body, framing))
    gate = await gateway(proxy(app.url, route=ON))
    client = await gate.client()

    for minor in (1, 1, 0):
        response = await client.ask(b"GET / HTTP/1.%d\r\nHost: a\r\nAccept-Encoding: %b\r\n\r\n" % (minor, coding.encode()))

        assert decoded(response) == body
        assert response.values(b"vary") == [b"Accept-Encoding"]
        if size >= 1024:
            assert response.value(b"content-encoding") == coding.encode()
        if minor:
            assert len(response.values(b"content-length") + response.values(b"transfer-encoding")) == 1
    assert await client.closed() == b""


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
async def test_head_and_get_have_the_same_fields(upstream: StartUpstream, gateway: StartGateway, coding: str) -> None:
    """HEAD carries what a GET would, but for the length that nobody knows (RFC 9110 9.3.2)."""
    lines = JSON + b'ETag: "v1"\r\nAccept-Ranges: bytes\r\n'
    body = text(5000)

    async def behave(peer: Peer) -> None:
        while True:
            head = (await peer.request()).method == b"HEAD"
            await peer.send(plain(body, lines=lines)[: -len(body) if head else None])

    gate = await gateway(proxy((await upstream(behave)).url, route=ON))
    client = await gate.client()

    got = await client.ask(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: %b\r\n\r\n" % coding.encode())
    head = await client.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: %b\r\n\r\n" % coding.encode())

    assert decoded(got) == body
    for response in (got, head):
        assert response.value(b"content-encoding") == coding.encode()
        assert response.value(b"etag") == b'W/"v1"'
        assert response.value(b"vary") == b"Accept-Encoding"
        assert response.value(b"accept-ranges") is None
    assert set(got.names()) - set(head.names()) == {b"content-length"}


async def test_pipelined_requests_are_answered_in_order(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Large bodies that a thread encodes and small ones that are sent at once keep their order (RFC 9112 9.3.2)."""

    async def behave(peer: Peer) -> None:
        while True:
            size = int((await peer.request()).target[1:])
            await peer.send(plain(text(size)))

    gate = await gateway(proxy((await upstream(behave)).url, route=ON))
    client = await gate.client()
    sizes = (200_000, 10, 60_000, 2000, 1_000_000, 5)
    await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\nAccept-Encoding: br\r\n\r\n" % size for size in sizes))

    assert [decoded(await client.response()) for _ in sizes] == [text(size) for size in sizes]


async def test_nothing_is_compressed_unless_it_is_configured(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Without `compression:` a response passes as it is, without Vary."""
    gate = await gateway(proxy((await upstream(answers(plain(text(5000))))).url))

    response = await gate.get("/", "Accept-Encoding: gzip, br, zstd")

    assert response.body == text(5000)
    assert response.value(b"content-encoding") is None
    assert response.value(b"vary") is None
