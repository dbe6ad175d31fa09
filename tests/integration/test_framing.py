"""Where messages end: lengths, chunks and closes translated between both sides, pipelining, keep-alive (RFC 9112)."""

from __future__ import annotations

import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import (
    GET,
    OK,
    accepts_and_hangs,
    answers,
    answers_and_closes,
    drips,
    echoes_requests,
    eventually,
    proxy,
    turns,
)

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


async def test_a_sized_request_body_stays_sized(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Content-Length goes on as it came (RFC 9112 6.2)."""
    origin = await upstream(echoes_requests)
    response = await (await gateway(proxy(origin.url))).ask(POST + b"Content-Length: 5\r\n\r\nhello")

    assert origin.requests[0].value(b"content-length") == b"5"
    assert origin.requests[0].value(b"transfer-encoding") is None
    assert response.body == b"hello"


async def test_a_zero_length_is_forwarded(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A POST without content says so upstream too (RFC 9110 8.6)."""
    origin = await upstream(echoes_requests)
    await (await gateway(proxy(origin.url))).ask(POST + b"Content-Length: 0\r\n\r\n")

    assert origin.requests[0].value(b"content-length") == b"0"


async def test_a_chunked_request_body_stays_chunked(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Chunked is decoded and encoded anew: extensions and trailers are dropped (RFC 9112 7.1.1, RFC 9110 6.5.1)."""
    origin = await upstream(echoes_requests)
    running = await gateway(proxy(origin.url))
    response = await running.ask(
        POST + CHUNKED + b"5;a=b\r\nhello\r\n1 ; c\r\n!\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\nHost: b\r\n\r\n"
    )

    got = origin.requests[0]
    assert got.value(b"transfer-encoding") == b"chunked"
    assert got.value(b"content-length") is None
    assert (got.trailers, response.body) == ([], b"hello!")


async def test_trailers_do_not_leak_into_the_next_request(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Trailer fields are never merged into header fields, least of all the next request's (RFC 9112 7.1.2)."""
    origin = await upstream(echoes_requests)
    client = await (await gateway(proxy(origin.url))).client()
    await client.send(POST + CHUNKED + b"1\r\na\r\n0\r\nX-Leak: 1\r\n\r\n" + GET)
    await client.response()
    await client.response()

    assert [request.value(b"x-leak") for request in origin.requests] == [None, None]


async def test_a_chunked_response_is_chunked_to_the_client(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A response of unknown length is chunked for HTTP/1.1; its trailers are dropped (RFC 9112 6.3, RFC 9110 6.5.1)."""
    origin = await upstream(
        drips(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n", b"1\r\nd\r\n0\r\nX-T: 1\r\n\r\n")
    )
    client = await (await gateway(proxy(origin.url))).client()
    await client.send(GET)
    origin.gate.release()
    head = await client.head()
    origin.gate.release()

    assert (head.value(b"transfer-encoding"), head.value(b"content-length")) == (b"chunked", None)
    assert await client.read(19) == b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"


async def test_a_close_delimited_response_is_chunked_to_the_client(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The upstream's close ends the body; the client's connection lives on (RFC 9112 6.3, item 8)."""
    origin = await upstream(answers_and_closes(b"HTTP/1.1 200 OK\r\n\r\n" + b"until close"))
    client = await (await gateway(proxy(origin.url))).client()
    first, second = await client.ask(GET), await client.ask(GET)

    assert (first.body, first.complete) == (b"until close", True)
    assert first.value(b"connection") is None
    assert second.body == b"until close"


@pytest.mark.parametrize(
    "response",
    [b"HTTP/1.1 200 OK\r\n\r\nbody", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n"],
    ids=["close-delimited", "chunked"],
)
async def test_an_http10_client_gets_no_chunks(upstream: StartUpstream, gateway: StartGateway, response: bytes) -> None:
    """To HTTP/1.0 an unknown length is delimited by close, even when keep-alive was asked for (RFC 9112 6.1)."""
    origin = await upstream(answers_and_closes(response + (b"0\r\n\r\n" if b"chunked" in response else b"")))
    client = await (await gateway(proxy(origin.url))).client()
    got = await client.ask(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")

    assert got.start == b"HTTP/1.1 200 OK"
    assert got.value(b"transfer-encoding") is None
    assert got.body == b"body"


async def test_an_http10_client_gets_a_streamed_body_by_close(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A stream to HTTP/1.0 ends with the connection (RFC 9112 6.3, item 8)."""
    origin = await upstream(drips(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", b"1\r\nb\r\n0\r\n\r\n"))
    client = await (await gateway(proxy(origin.url))).client()
    await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    origin.gate.release()
    head = await client.head()
    assert head.value(b"connection") == b"close"
    assert await client.read(1) == b"a"
    origin.gate.release()

    assert await client.closed() == b"b"


async def test_an_http10_upstream_is_answered_as_http11(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Our own version is sent, and an HTTP/1.0 upstream's connection is not reused (RFC 9112 2.3, 9.3)."""
    origin = await upstream(answers(b"HTTP/1.0 200 Fine\r\nContent-Length: 2\r\n\r\nOK"))
    client = await (await gateway(proxy(origin.url))).client()
    responses = [await client.ask(GET) for _ in range(2)]

    assert [response.start for response in responses] == [b"HTTP/1.1 200 Fine"] * 2
    assert origin.connections == 2


@pytest.mark.parametrize("length", [b"Content-Length: 5\r\n", b"", b"Transfer-Encoding: chunked\r\n"])
async def test_head_has_no_body_whatever_the_fields_say(upstream: StartUpstream, gateway: StartGateway, length: bytes) -> None:
    """A response to HEAD ends at the empty line (RFC 9112 6.3, item 1), and the connections stay usable."""
    origin = await upstream(answers(b"HTTP/1.1 200 OK\r\n%b\r\n" % length, OK))
    client = await (await gateway(proxy(origin.url))).client()
    head = await client.ask(GET.replace(b"GET", b"HEAD"))
    after = await client.ask(GET)

    assert head.value(b"content-length") == (b"5" if b"5" in length else None)
    assert after.body == b"OK"
    assert origin.connections == 1


async def test_head_does_not_announce_a_length_the_upstream_did_not(upstream: StartUpstream, gateway: StartGateway) -> None:
    """HEAD may not promise another Content-Length than GET would have (RFC 9110 8.6, 9.3.2)."""
    origin = await upstream(answers(b"HTTP/1.1 200 OK\r\n\r\n"))
    response = await (await gateway(proxy(origin.url))).ask(GET.replace(b"GET", b"HEAD"))

    assert response.value(b"content-length") is None


@pytest.mark.parametrize(
    "head,length",
    [
        (b"204 No Content\r\n", None),
        (b"204 No Content\r\nContent-Length: 5\r\n", None),
        (b"304 X\r\nContent-Length: 5\r\n", b"5"),
        (b"304 X\r\n", None),
    ],
)
async def test_204_and_304_have_no_body(
    upstream: StartUpstream, gateway: StartGateway, head: bytes, length: bytes | None
) -> None:
    """204 and 304 end at the empty line; no Content-Length in a 204 (RFC 9110 8.6, RFC 9112 6.3)."""
    origin = await upstream(answers(b"HTTP/1.1 " + head + b"\r\n", OK))
    client = await (await gateway(proxy(origin.url))).client()
    first, second = await client.ask(GET), await client.ask(GET)

    assert (first.value(b"content-length"), first.value(b"transfer-encoding")) == (length, None)
    assert second.body == b"OK"


async def test_pipelined_requests_are_answered_in_order(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Responses come in the order of the requests (RFC 9112 9.3.2), bodies and all."""
    origin = await upstream(echoes_requests)
    client = await (await gateway(proxy(origin.url))).client()
    bodies = [b"%d" % number * (number % 7) for number in range(40)]
    requests = [POST + b"Content-Length: %d\r\n\r\n%b" % (len(body), body) for body in bodies[::2]]
    requests_chunked = [
        POST + CHUNKED + (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n" for body in bodies[1::2]
    ]
    await client.send(b"".join(a + b for a, b in zip(requests, requests_chunked, strict=True)))

    assert [(await client.response()).body for _ in bodies] == bodies


async def test_a_pipelined_flood_is_not_read_ahead(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What a client sends ahead of the response it waits for is bounded: then its socket is not read (RFC 9112 9.3.2)."""
    origin = await upstream(drips(OK))
    running = await gateway(proxy(origin.url))
    client = await running.client()
    client.writer.write(GET * 400_000)
    await eventually(lambda: running.plane.connections)
    (connection,) = running.client_connections()
    await eventually(lambda: connection.reading_paused)

    # Nothing more is read until the upstream answers.
    assert len(connection._buffer) < 512 * 1024
    await turns(100)
    assert connection.reading_paused and len(connection._buffer) < 512 * 1024
    client.reset()
    origin.gate.release()


async def test_a_pipelined_error_is_answered_in_its_turn(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A bad request behind a good one: the good one is answered first, then 400 and close (RFC 9112 9.3.2, 3)."""
    origin = await upstream(answers(OK))
    client = await (await gateway(proxy(origin.url))).client()
    await client.send(GET + b"GET /bad space HTTP/1.1\r\n\r\n" + GET)

    assert (await client.response()).body == b"OK"
    assert (await client.response()).status == 400
    assert await client.closed() == b""
    assert len(origin.requests) == 1


@pytest.mark.parametrize(
    "request_,says,stays_open",
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", None, True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"close", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n", b"close", False),
        (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", b"close", False),
        (b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", b"keep-alive", True),
        (b"GET / HTTP/1.9\r\nHost: a\r\n\r\n", None, True),
    ],
)
async def test_keep_alive_follows_version_and_connection(
    upstream: StartUpstream, gateway: StartGateway, request_: bytes, says: bytes | None, stays_open: bool
) -> None:
    """HTTP/1.1 persists unless `close`, HTTP/1.0 only with `keep-alive`, which is answered (RFC 9112 9.3)."""
    origin = await upstream(answers(OK))
    client = await (await gateway(proxy(origin.url))).client()
    response = await client.ask(request_)

    assert (response.value(b"connection"), response.body) == (says, b"OK")
    if stays_open:
        assert (await client.ask(GET)).body == b"OK"
    else:
        assert await client.closed() == b""


async def test_after_close_no_further_request_is_read(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What is pipelined behind `Connection: close` is not processed (RFC 9112 9.6)."""
    origin = await upstream(answers(OK))
    client = await (await gateway(proxy(origin.url))).client()
    await client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET)

    assert (await client.response()).body == b"OK"
    assert await client.closed() == b""
    assert [request.target for request in origin.requests] == [b"/1"]


@pytest.mark.parametrize("connection", [b"", b"Connection: close\r\n"])
async def test_upstream_connections_persist_unless_closed(
    upstream: StartUpstream, gateway: StartGateway, connection: bytes
) -> None:
    """One upstream connection serves many clients, until the upstream says `close` (RFC 9112 9.3)."""
    origin = await upstream(answers(OK.replace(b"Content", connection + b"Content")))
    running = await gateway(proxy(origin.url))
    for _ in range(3):
        assert (await running.get()).body == b"OK"

    assert origin.connections == (3 if connection else 1)
    assert [request.value(b"connection") for request in origin.requests] == [None] * 3


async def test_a_request_in_single_bytes_is_understood(upstream: StartUpstream, gateway: StartGateway) -> None:
    """TCP has no packets that mean anything: every split of a message is the same message."""
    origin = await upstream(echoes_requests)
    client = await (await gateway(proxy(origin.url))).client()
    for byte in b"\r\n" + POST + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n":
        await client.send(bytes((byte,)))
        await turns()

    assert (await client.response()).body == b"abc"


async def test_a_response_in_single_bytes_is_understood(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The same for responses, chunked ones too."""
    message = b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\n" + CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\n\r\n"
    origin = await upstream(drips(*(message[at : at + 1] for at in range(len(message)))))
    for _ in message:
        origin.gate.release()
    response = await (await gateway(proxy(origin.url))).get()

    assert (len(response.interim), response.body, response.complete) == (1, b"abc", True)


async def test_nothing_is_sent_upstream_before_the_head_is_whole(upstream: StartUpstream, gateway: StartGateway) -> None:
    """An incomplete request is not completed upstream (RFC 9112 8)."""
    origin = await upstream(accepts_and_hangs)
    running = await gateway(proxy(origin.url))
    client = await running.client()
    await client.send(GET[:-1])
    await eventually(lambda: running.plane.connections)
    client.close()
    await eventually(lambda: not running.plane.connections)

    assert origin.connections == 0


async def test_an_incomplete_body_is_not_completed_upstream(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A client that leaves inside its body: the upstream sees the cut, not an end (RFC 9112 8)."""
    origin = await upstream(echoes_requests)
    running = await gateway(proxy(origin.url))
    client = await running.client()
    await client.send(POST + CHUNKED + b"5\r\nhello\r\n")
    await eventually(lambda: origin.requests and origin.requests[0].body)
    client.close()
    await eventually(lambda: not origin.peers)

    assert not origin.requests[0].complete
    assert running.log.entries[0]["failure"] == "client_closed"
