"""Compressed responses on real sockets: every coding, framing and size decodes to the same bytes, with the right fields."""

from __future__ import annotations

import asyncio
import os
import random
import zlib
from collections.abc import Callable
from typing import Final

import brotli
import pytest
from backports import zstd

from gateway.proxy.bodies.coders import LIBRARIES
from tests.conftest import StartGateway, StartUpstream
from tests.support import PATIENCE, Behaviour, Client, Peer, Response, answers, drips, echoes_requests, eventually, proxy, turns

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


def pours_coded(size: int, block: Callable[[], bytes]) -> Behaviour:
    """Answers with so many bytes that may be compressed, as fast as they are taken."""

    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + JSON + b"Content-Length: %d\r\n\r\n" % size)
        while peer.sent < size:
            await peer.send(block())
            peer.sent += 65_536
        await peer.gone()

    return behave


def test_all_codings_are_there() -> None:
    """The development environment has every library: what follows tests all codings."""
    assert not any(LIBRARIES.values())


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 65_536, 1_500_000])
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


# -- fields ----------------------------------------------------------------------------------------------------------------


async def test_vary_is_on_every_response_of_the_route(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Compressed or not, also on errors, redirects and responses without content (RFC 9110 12.5.5)."""
    app = await upstream(
        answers(
            plain(b"small"),
            plain(b"x" * 5000, lines=b"Content-Type: image/png\r\nVary: Origin\r\n"),
            plain(text(5000), status=b"404 Not Found"),
            b"HTTP/1.1 204 No Content\r\n\r\n",
            plain(b"", lines=b"Location: /b\r\n", status=b"302 Found"),
        )
    )
    gate = await gateway(proxy(app.url, route=ON))

    got = [await gate.get("/", "Accept-Encoding: gzip") for _ in range(5)]

    assert [response.values(b"vary") for response in got] == [
        [b"Accept-Encoding"],
        [b"Origin, Accept-Encoding"],
        [b"Accept-Encoding"],
        [b"Accept-Encoding"],
        [b"Accept-Encoding"],
    ]
    assert [response.value(b"content-encoding") for response in got] == [None, None, b"gzip", None, None]
    assert gate.metrics.compression["all"].skipped == {"size": 1, "type": 2, "status": 1}


async def test_what_the_gateway_says_itself_varies_too(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Every response of the route has `Vary`, be it a 405, 429, 502 or a response to HEAD; those of other routes have none."""
    app = await upstream(answers(plain(text(5000))))
    limited = await gateway(proxy(app.url, route=ON + ", rate_limit: 1/min"))
    await app.stop()

    got = [await limited.get("/", "Accept-Encoding: gzip"), await limited.get("/", "Accept-Encoding: gzip")]
    got.append(await limited.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"))
    other = await (await gateway(proxy(app.url))).get("/")

    assert [response.status for response in got] == [502, 429, 429]
    assert [response.values(b"vary") for response in got] == [[b"Accept-Encoding"]] * 3
    assert (other.status, other.values(b"vary")) == (502, [])


@pytest.mark.parametrize(
    "lines, reason",
    [
        (JSON + b"Content-Encoding: x-own\r\n", "coded"),
        (JSON + b"Cache-Control: no-transform\r\n", "no_transform"),
        (JSON + b"Content-Range: bytes 0-4999/9000\r\n", "status"),
        (JSON + b"Set-Cookie: a=b\r\n", "set_cookie"),
    ],
)
async def test_what_must_not_be_touched_passes_as_it_is(
    upstream: StartUpstream, gateway: StartGateway, lines: bytes, reason: str
) -> None:
    """Coded, forbidden, partial or secret: the bytes, tag and length are the upstream's."""
    body = text(5000)
    status = b"206 Partial Content" if reason == "status" else b"200 OK"
    gate = await gateway(
        proxy((await upstream(answers(plain(body, lines=lines + b'ETag: "a"\r\n', status=status)))).url, route=ON)
    )

    response = await gate.get("/", "Accept-Encoding: gzip")

    assert response.body == body
    assert response.value(b"etag") == b'"a"'
    assert gate.metrics.compression["all"].skipped == {reason: 1}


async def test_a_client_may_want_none(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`X-No-Compression`, `Cache-Control: no-transform`, or no acceptable coding; the opt-out reaches the upstream."""
    app = await upstream(answers(plain(text(5000))))
    gate = await gateway(proxy(app.url, route=ON))

    for line in ("X-No-Compression: 1", "Cache-Control: no-transform", "X-Nothing: 1"):
        accept = "gzip;q=0" if line.startswith("X-Nothing") else "gzip"
        response = await gate.get("/", f"Accept-Encoding: {accept}", line)
        assert response.body == text(5000)

    assert gate.metrics.compression["all"].skipped == {"opt_out": 1, "no_transform": 1, "not_accepted": 1}
    assert app.requests[0].value(b"x-no-compression") == b"1"


async def test_the_switch_against_breach(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`breach: credentials` leaves responses to requests with credentials alone, and only those."""
    gate = await gateway(proxy((await upstream(answers(plain(text(5000))))).url, route="compression: {breach: credentials}"))

    for line in ("Cookie: a=b", "Authorization: Basic abc"):
        assert (await gate.get("/", "Accept-Encoding: gzip", line)).value(b"content-encoding") is None
    assert (await gate.get("/", "Accept-Encoding: gzip")).value(b"content-encoding") == b"gzip"


async def test_several_lines_are_one_list(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`Accept-Encoding` in several field lines, in any case and some of them empty, is one list (RFC 9110 5.3)."""
    gate = await gateway(proxy((await upstream(answers(plain(text(5000))))).url, route=ON))

    async def coding(*lines: str) -> bytes | None:
        response = await gate.get("/", *lines)
        assert decoded(response) == text(5000)
        return response.value(b"content-encoding")

    assert await coding("Accept-Encoding: gzip;q=0.5", "accept-encoding: br;q=0.9", "ACCEPT-ENCODING: *;q=0") == b"br"
    assert await coding("Accept-Encoding:", "Accept-Encoding: gzip") == b"gzip"
    assert await coding("Accept-Encoding: gzip, zstd", "Accept-Encoding: zstd;q=0") == b"gzip"
    assert await coding("Accept-Encoding:", "Accept-Encoding: ,") is None


async def test_406_only_when_configured(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A client that refuses everything gets the response as it is, or 406 without a request to the upstream."""
    app = await upstream(answers(plain(text(5000))))
    lenient = await gateway(proxy(app.url, route=ON))
    strict = await gateway(proxy(app.url, route="compression: {not_acceptable: 406}"))

    assert (await lenient.get("/", "Accept-Encoding: identity;q=0")).body == text(5000)
    refused = await strict.get("/", "Accept-Encoding: identity;q=0, deflate")

    assert (refused.status, refused.code) == (406, "not_acceptable")
    assert refused.value(b"vary") == b"Accept-Encoding"
    assert len(app.requests) == 1
    assert decoded(await strict.get("/", "Accept-Encoding: identity;q=0, gzip")) == text(5000)


async def test_the_upstream_is_asked_as_configured(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The client's `Accept-Encoding` is forwarded, or replaced so that nothing comes coded."""
    app = await upstream(answers(plain(text(5000))))
    gate = await gateway(proxy(app.url, route=ON))
    plain_only = await gateway(proxy(app.url, route="compression: {accept_encoding: identity}"))

    await gate.get("/", "Accept-Encoding: gzip, br")
    assert decoded(await plain_only.get("/", "Accept-Encoding: gzip, br")) == text(5000)

    assert [request.values(b"accept-encoding") for request in app.requests] == [[b"gzip, br"], [b"identity"]]


async def test_edited_fields_count(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What the operator sets in responses holds for compression too: a `no-transform`, a type, a `Vary`."""
    app = await upstream(answers(plain(text(5000), lines=b"Content-Type: application/zip\r\n")))
    typed = await gateway(proxy(app.url, route=ON + ", response_fields: {set: {Content-Type: text/plain, Vary: Origin}}"))
    fixed = await gateway(proxy(app.url, route=ON + ", response_fields: {set: {Cache-Control: no-transform}}"))

    for _ in range(2):
        response = await typed.get("/", "Accept-Encoding: gzip")
        assert decoded(response) == text(5000)
        assert response.value(b"vary") == b"Origin, Accept-Encoding"
    assert (await fixed.get("/", "Accept-Encoding: gzip")).value(b"content-encoding") is None


# -- conditional requests ----------------------------------------------------------------------------------------------------


def versioned(tag: bytes) -> Behaviour:
    """An upstream that compares tags as text: the whole field, or a member of its list."""

    async def behave(peer: Peer) -> None:
        while True:
            request = await peer.request()
            held = [one.strip() for one in (request.value(b"if-none-match") or b"").split(b",")]
            wanted = request.value(b"if-match")
            if tag in held:
                await peer.send(b"HTTP/1.1 304 Not Modified\r\nETag: %b\r\n\r\n" % tag)
            elif wanted is not None and tag not in [one.strip() for one in wanted.split(b",")]:
                await peer.send(plain(b"", status=b"412 Precondition Failed"))
            else:
                await peer.send(plain(text(5000), lines=JSON + b"ETag: %b\r\n" % tag))

    return behave


@pytest.mark.parametrize("tag", [b'"v1"', b'W/"v1"'])
@pytest.mark.parametrize("accept", ["gzip", "identity"])
async def test_what_a_client_holds_is_still_fresh(
    upstream: StartUpstream, gateway: StartGateway, tag: bytes, accept: str
) -> None:
    """The tag of a response brings a 304 with the same tag, at upstreams that compare tags as text too (RFC 9110 13.1.2)."""
    app = await upstream(versioned(tag))
    gate = await gateway(proxy(app.url, route=ON))

    first = await gate.get("/", f"Accept-Encoding: {accept}")
    held = (first.value(b"etag") or b"").decode()
    again = await gate.get("/", f"Accept-Encoding: {accept}", f"If-None-Match: {held}")

    assert again.status == 304
    assert again.value(b"etag") == first.value(b"etag")
    assert again.value(b"vary") == b"Accept-Encoding"
    assert again.value(b"content-encoding") is None
    assert app.requests[1].value(b"if-none-match") == tag


@pytest.mark.parametrize("accept, length", [("gzip", None), ("identity", b"5000")])
async def test_a_304_for_what_is_coded_here_tells_no_length(
    upstream: StartUpstream, gateway: StartGateway, accept: str, length: bytes | None
) -> None:
    """The length in a 304 is that of the 200 that the client would get (RFC 9110 8.6): of what is coded nobody knows it."""
    app = await upstream(answers(b'HTTP/1.1 304 Not Modified\r\nETag: "v1"\r\nContent-Length: 5000\r\n\r\n'))
    gate = await gateway(proxy(app.url, route=ON))

    again = await gate.get("/", f"Accept-Encoding: {accept}", "If-None-Match: *")

    assert again.status == 304
    assert again.value(b"content-length") == length


@pytest.mark.parametrize("tag", [b'"v1"', b'W/"v1"'])
async def test_a_gateway_that_knows_nothing_yet_asks_for_both(
    upstream: StartUpstream, gateway: StartGateway, tag: bytes
) -> None:
    """After a restart the first conditional request must not be a miss either."""
    gate = await gateway(proxy((await upstream(versioned(tag))).url, route=ON))

    assert (await gate.get("/", "Accept-Encoding: gzip", 'If-None-Match: "v0", W/"v1"')).status == 304


async def test_an_update_guarded_by_the_tag_goes_through(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`If-Match` with the tag that a client was given means what it means without compression (RFC 9110 13.1.1)."""
    gate = await gateway(proxy((await upstream(versioned(b'"v1"'))).url, route=ON))
    held = (await gate.get("/", "Accept-Encoding: br")).value(b"etag") or b""
    put = b"PUT / HTTP/1.1\r\nHost: a\r\nIf-Match: %b\r\nContent-Length: 0\r\n\r\n"

    assert (await gate.ask(put % held)).status == 200
    assert (await gate.ask(put % b'W/"v0"')).status == 412


async def test_if_range_is_not_translated(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A weak tag never matches an `If-Range`: what a client holds of coded bytes is not completed by plain ones."""
    app = await upstream(answers(plain(text(5000), lines=JSON + b'ETag: "v1"\r\n')))
    gate = await gateway(proxy(app.url, route=ON))

    await gate.get("/", "Accept-Encoding: gzip", 'If-Range: W/"v1"', "Range: bytes=10-")

    assert app.requests[0].value(b"if-range") == b'W/"v1"'


# -- streams -----------------------------------------------------------------------------------------------------------------

_EVENTS: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def decoder(coding: bytes) -> Callable[[bytes], bytes]:
    """Shows what can be decoded so far."""
    if coding == b"br":
        return brotli.Decompressor().process  # type: ignore[no-any-return]
    return zstd.ZstdDecompressor().decompress if coding == b"zstd" else zlib.decompressobj(31).decompress


async def chunk(client: Client) -> bytes:
    """The next chunk of a response."""
    async with asyncio.timeout(PATIENCE):
        size = int(await client.reader.readuntil(b"\r\n"), 16)
        data = await client.reader.readexactly(size)
        assert await client.reader.readexactly(2) == b"\r\n"
    return data


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd"])
@pytest.mark.parametrize("media_type", [b"text/event-stream", b"application/x-ndjson"])
async def test_every_event_arrives_before_the_next_is_sent(
    upstream: StartUpstream, gateway: StartGateway, coding: bytes, media_type: bytes
) -> None:
    """What the upstream has sent can be decoded at once, be it an event stream or any slow body; the head does not wait."""
    events = [b"data: %d\n\n" % number for number in range(5)]
    parts = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
    app = await upstream(drips(_EVENTS.replace(b"text/event-stream", media_type), *parts, b"0\r\n\r\n"))
    gate = await gateway(proxy(app.url, route=ON))
    client = await gate.client()
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: %b\r\n\r\n" % coding)
    app.gate.release()
    assert (await client.head()).value(b"content-encoding") == coding
    decode = decoder(coding)

    for event in events:
        app.gate.release()
        found = b""
        async with asyncio.timeout(PATIENCE):
            while len(found) < len(event):
                found += decode(await chunk(client))
        assert found == event
    app.gate.release()

    assert decode(await chunk(client)) == b""
    assert await client.read(5) == b"0\r\n\r\n"


async def test_a_body_in_two_pieces_is_coded_as_a_whole(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A body that does not come with its head decodes to the same bytes, and the connection goes on."""
    body = text(5000)

    async def behave(peer: Peer) -> None:
        while True:
            await peer.request()
            message = plain(body)
            await peer.send(message[:-4999])
            await peer.send(message[-4999:])

    gate = await gateway(proxy((await upstream(behave)).url, route=ON))
    client = await gate.client()

    for _ in range(3):
        response = await client.ask(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: zstd\r\n\r\n")
        assert decoded(response) == body


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd"])
async def test_a_broken_body_never_ends_cleanly(upstream: StartUpstream, gateway: StartGateway, coding: bytes) -> None:
    """When the upstream breaks off, neither the framing nor the coded body comes to its end."""

    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        await peer.upstream.gate.acquire()

    app = await upstream(behave)
    gate = await gateway(proxy(app.url, route=ON))
    client = await gate.client()
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: %b\r\n\r\n" % coding)
    head = await client.head()
    assert head.value(b"transfer-encoding") == b"chunked"
    decode = decoder(coding)
    assert decode(await chunk(client)) == b"half"
    app.gate.release()

    rest = await client.closed()

    assert not rest.endswith(b"0\r\n\r\n")
    assert gate.log.entries[-1]["failure"] == "http_response_incomplete"


@pytest.mark.parametrize("coding", [b"br", b"zstd"])
async def test_a_client_that_leaves_takes_everything_along(
    upstream: StartUpstream, gateway: StartGateway, coding: bytes
) -> None:
    """While a thread encodes and the client does not read: nothing is left of the exchange, and the upstream is freed."""
    app = await upstream(pours_coded(64 << 20, lambda: text(65_536)))
    gate = await gateway(proxy(app.url, route="compression: {levels: {br: 9, zstd: 15}}"))

    for _ in range(3):
        client = await gate.client()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: %b\r\n\r\n" % coding)
        await client.head()
        client.reset()
        await eventually(lambda: gate.busy() == [])
    await eventually(lambda: not app.peers)

    assert [entry["failure"] for entry in gate.log.entries] == ["client_closed"] * 3


async def test_a_client_that_does_not_read_stops_the_upstream(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What is encoded for a slow client is bounded: the upstream is read no faster than the client reads."""
    size = 64 << 20
    app = await upstream(pours_coded(size, lambda: os.urandom(65_536)))
    gate = await gateway(proxy(app.url, route=ON))
    client = await gate.client(limit=4096)
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: zstd\r\n\r\n")
    await client.head()
    (connection,) = gate.client_connections()
    assert connection.exchange is not None and connection.exchange.attempt is not None
    towards = connection.exchange.attempt.connection
    assert towards is not None
    # Nothing moves then until the client reads.
    await eventually(lambda: connection.write_paused and towards.reading_paused)
    await turns(100)
    assert app.peers[0].sent < size
    client.reset()
    await eventually(lambda: gate.busy() == [])


# -- requests ----------------------------------------------------------------------------------------------------------------


def post(body: bytes, coding: bytes, *, chunked: bool = False) -> bytes:
    """A request with a coded body."""
    if chunked:
        parts = b"".join(b"%x\r\n%b\r\n" % (len(body[at : at + 100]), body[at : at + 100]) for at in range(0, len(body), 100))
        framed = b"Transfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"
    else:
        framed = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: %b\r\n%b" % (coding, framed)


async def test_coded_requests_pass_untouched(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Without `decompress_request` a request's coding is between client and upstream."""
    app = await upstream(echoes_requests)
    gate = await gateway(proxy(app.url, route=ON))
    coded = zlib.compress(text(5000), 6, 31)

    assert (await gate.ask(post(coded, b"gzip"))).body == coded
    assert app.requests[0].value(b"content-encoding") == b"gzip"


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd"])
@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("size", [10, 300_000])
async def test_coded_requests_are_decoded(
    upstream: StartUpstream, gateway: StartGateway, coding: bytes, chunked: bool, size: int
) -> None:
    """With it the upstream gets the plain body, in a framing that is right, and the connection goes on."""
    encode: Callable[[bytes], bytes] = {
        b"gzip": lambda data: zlib.compress(data, 6, 31),
        b"br": lambda data: brotli.compress(data, quality=4),
        b"zstd": zstd.compress,
    }[coding]
    coded = encode(text(size))
    app = await upstream(echoes_requests)
    gate = await gateway(proxy(app.url, route="decompress_request: on"))
    client = await gate.client()

    for _ in range(2):
        response = await client.ask(post(coded, coding, chunked=chunked))
        assert response.body == text(size)

    assert all(request.value(b"content-encoding") is None for request in app.requests)
    assert (await client.ask(post(b"plain", b"identity"))).body == b"plain"


async def test_a_coded_request_that_trickles_is_decoded_as_it_comes(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What has arrived goes on at once, chunked, without the digests of the coded bytes; the client may wait for 100."""

    async def behave(peer: Peer) -> None:
        request = await peer.head()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.body(request)
        await peer.send(plain(request.body))

    app = await upstream(behave)
    gate = await gateway(proxy(app.url, route="decompress_request: on"))
    client = await gate.client()
    body = text(3000)
    coded = zlib.compress(body, 6, 31)

    await client.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: X-GZIP\r\nContent-Digest: sha-256=:abc=:\r\nExpect: 100-continue\r\n"
        b"Content-Length: %d\r\n\r\n" % len(coded)
    )
    assert (await client.head()).start == b"HTTP/1.1 100 Continue"
    for at in range(0, len(coded), 100):
        await client.send(coded[at : at + 100])
        await asyncio.sleep(0)
    response = await client.response()

    assert response.body == body
    request = app.requests[0]
    assert request.value(b"transfer-encoding") == b"chunked"
    for name in (b"content-encoding", b"content-digest", b"content-length"):
        assert request.value(name) is None


async def test_a_bomb_behind_the_first_bytes_is_refused_too(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The upstream has part of the body by then: it never sees the end of it, and the client is told 413."""
    app = await upstream(echoes_requests)
    gate = await gateway(proxy(app.url, route="decompress_request: on"))
    client = await gate.client()
    encoder = zlib.compressobj(9, zlib.DEFLATED, 31)
    first = encoder.compress(b"some text") + encoder.flush(zlib.Z_SYNC_FLUSH)
    bomb = encoder.compress(bytes(64 << 20)) + encoder.flush()

    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
    await client.send(b"%x\r\n%b\r\n" % (len(first), first))
    await eventually(lambda: app.requests)
    await client.send(b"%x\r\n%b\r\n" % (len(bomb), bomb))
    response = await client.response()

    assert (response.status, response.code) == (413, "content_too_large")
    await eventually(lambda: not app.peers)
    assert not any(request.complete for request in app.requests)
    client.reset()
    await eventually(lambda: gate.busy() == [])


@pytest.mark.parametrize(
    "body, coding, status, code",
    [
        (zlib.compress(bytes(20 << 20), 9, 31), b"gzip", 413, "content_too_large"),
        (brotli.compress(bytes(1 << 20), quality=4), b"br", 413, "content_too_large"),
        (zlib.compress(os.urandom(200_000), 1, 31), b"gzip", 413, "content_too_large"),
        (b"this is not gzip", b"gzip", 400, "http_request_error"),
        (zlib.compress(b"half", 9, 31)[:-1], b"gzip", 400, "http_request_error"),
        (b"x", b"x-own", 415, "content_coding_not_supported"),
        (b"x", b"gzip, br", 415, "content_coding_not_supported"),
    ],
    ids=["bomb", "ratio", "size", "garbage", "half", "unknown", "nested"],
)
async def test_bombs_and_garbage_are_refused(
    upstream: StartUpstream, gateway: StartGateway, body: bytes, coding: bytes, status: int, code: str
) -> None:
    """More than may come out is 413, what is not valid 400, what nobody can decode 415 (RFC 9110 15.5.16)."""
    app = await upstream(echoes_requests)
    gate = await gateway(proxy(app.url, route="decompress_request: {max_size: 128KiB}"))

    response = await gate.ask(post(body, coding))

    assert (response.status, response.code) == (status, code)
    assert response.value(b"accept-encoding") == (b"gzip, br, zstd" if status == 415 else None)
    assert not any(request.complete for request in app.requests)
