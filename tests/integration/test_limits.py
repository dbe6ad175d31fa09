"""Every limit: what is over it gets an answer and a code of its own, and costs nobody else anything."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import (
    GET,
    OK,
    accepts_and_hangs,
    answers,
    drips,
    echoes_requests,
    eventually,
    pours,
    proxy,
    reads_nothing,
    time_passes,
)

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def request(*lines: bytes, target: bytes = b"/") -> bytes:
    """A GET with these field lines."""
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, b"Host: a", *lines, b"", b""])


@pytest.mark.parametrize(
    "limits,fits,too_much,status,code",
    [
        ("headers: 2KiB", request(b"X: " + b"a" * 1900), request(b"X: " + b"a" * 2048), 431, "headers_too_large"),
        ("headers: 2KiB", request(b"X: " + b"a" * 1900), request(b"X: " + b"a" * 200_000), 431, "headers_too_large"),
        ("header_count: 10", request(*[b"X: a"] * 9), request(*[b"X: aaaaaaaaaaaaaa" * 4] * 10), 431, "headers_too_large"),
        ("header_count: 10", request(*[b"X: a"] * 9), request(*[b"X: a"] * 10), 431, "headers_too_large"),
        ("target: 1KiB", request(target=b"/" + b"a" * 1023), request(target=b"/" + b"a" * 1024), 414, "target_too_long"),
        ("target: 1KiB", request(target=b"/" + b"a" * 1023), request(target=b"/" + b"a" * 100_000), 414, "target_too_long"),
        ("headers: 32KiB", request(), b"M" * 70_000 + b" / HTTP/1.1\r\n\r\n", 501, "method_not_implemented"),
    ],
    ids=["headers", "headers-huge", "count", "count-small", "target", "target-huge", "method"],
)
async def test_a_head_over_a_limit_is_refused(
    upstream: StartUpstream, gateway: StartGateway, limits: str, fits: bytes, too_much: bytes, status: int, code: str
) -> None:
    """431 for fields, 414 for the target, 501 for an endless method (RFC 9110 5.4, RFC 9112 3); below it all is well."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, server=f"limits: {{{limits}}}"))
    assert (await running.ask(fits)).status == 200
    client = await running.client()
    client.writer.write(too_much)
    response = await client.response()

    assert (response.status, response.code, response.value(b"connection")) == (status, code, b"close")
    client.half_close()
    assert await client.closed() == b""
    assert len(origin.requests) == 1
    counted = running.metrics.protocol_errors.get(code, 0) + running.metrics.routes["_unmatched"].rejections.get(code, 0)
    assert counted == 1


async def test_a_declared_body_over_the_limit_is_refused_unread(upstream: StartUpstream, gateway: StartGateway) -> None:
    """413 by the Content-Length alone: no upstream is asked (RFC 9110 15.5.14)."""
    origin = await upstream(echoes_requests)
    running = await gateway(proxy(origin.url, route="limits: {body: 10B}"))
    assert (await running.ask(POST + b"Content-Length: 10\r\n\r\n0123456789")).body == b"0123456789"
    response = await running.ask(POST + b"Content-Length: 11\r\n\r\n")

    assert (response.status, response.code) == (413, "content_too_large")
    assert len(origin.requests) == 1
    assert running.route.rejections == {"content_too_large": 1}


@pytest.mark.parametrize(
    "pieces", [[b"b\r\n0123456789a\r\n0\r\n\r\n"], [b"a\r\n0123456789\r\n", b"1\r\na\r\n"]], ids=["whole", "in-parts"]
)
async def test_a_chunked_body_over_the_limit_is_refused(
    upstream: StartUpstream, gateway: StartGateway, pieces: list[bytes]
) -> None:
    """413 as soon as more arrives than is allowed; the upstream never sees an end (RFC 9110 15.5.14, RFC 9112 8)."""
    origin = await upstream(echoes_requests)
    running = await gateway(proxy(origin.url, route="limits: {body: 10B}"))
    assert (await running.ask(CHUNKED + b"a\r\n0123456789\r\n0\r\n\r\n")).body == b"0123456789"
    client = await running.client()
    await client.send(CHUNKED)
    await eventually(lambda: len(origin.requests) == 2)
    for piece in pieces:
        await client.send(piece)
    response = await client.response()

    assert (response.status, response.code) == (413, "content_too_large")
    assert not origin.requests[1].complete
    assert running.upstream.attempts.get("ok") == 1


async def test_a_body_limit_can_be_off(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`off` is no limit."""
    origin = await upstream(echoes_requests)
    running = await gateway(proxy(origin.url, server="limits: {body: 1B}", route="limits: {body: 'off'}"))

    assert (await running.ask(POST + b"Content-Length: 5\r\n\r\nhello")).body == b"hello"


async def test_the_number_of_connections_is_limited(upstream: StartUpstream, gateway: StartGateway) -> None:
    """One too many is told 503 and closed; those that are there are served."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, server="limits: {connections: 2}"))
    first, second = await running.client(), await running.client()
    await eventually(lambda: running.metrics.connections == 2)
    third = await running.client()
    response = await third.response()

    assert (response.status, response.code) == (503, "connection_limit_reached")
    third.close()
    await eventually(lambda: running.metrics.connections == 2)
    assert [(await client.ask(GET)).status for client in (first, second)] == [200, 200]
    second.close()
    await eventually(lambda: running.metrics.connections == 1)
    assert (await running.get()).status == 200


async def test_the_requests_of_a_connection_are_limited(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The last one is answered with `Connection: close` (RFC 9112 9.6)."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, server="limits: {requests_per_connection: 3}"))
    client = await running.client()
    await client.send(GET * 4)
    said = [(await client.response()).value(b"connection") for _ in range(3)]

    assert said == [None, None, b"close"]
    assert await client.closed() == b""
    assert len(origin.requests) == 3


async def test_the_connections_of_an_endpoint_are_limited(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A full endpoint is 503, before its own backlog is."""
    origin = await upstream(drips(OK))
    running = await gateway(proxy(origin.url, upstream="max_connections: 1"))
    client = await running.client()
    await client.send(GET)
    await eventually(lambda: origin.requests)
    response = await running.get()

    assert (response.status, response.code) == (503, "connection_limit_reached")
    origin.gate.release()
    assert (await client.response()).status == 200


async def test_the_connections_of_an_endpoint_are_limited_while_they_open(gateway: StartGateway, backlog: int) -> None:
    """Connections that are still being opened count: a burst does not go over the limit."""
    running = await gateway(
        proxy(f"http://127.0.0.1:{backlog}", upstream="max_connections: 2", route="timeout: {connect: 300ms}")
    )
    responses = await asyncio.gather(*(running.get() for _ in range(5)))

    assert sorted(response.code for response in responses) == ["connection_limit_reached"] * 3 + ["connection_timeout"] * 2


@pytest.mark.parametrize("sent", [b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\nX-A", b"\r\nGET / HTTP/1.1\r\n"])
async def test_a_slow_head_is_408(upstream: StartUpstream, gateway: StartGateway, sent: bytes) -> None:
    """A head has its time from the first byte, however it drips (RFC 9110 15.5.9; threat: slowloris)."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, server="timeouts: {header: 250ms}"))
    client = await running.client()
    await client.send(sent)

    async def drip() -> None:
        for _ in range(10_000):
            await time_passes(0.02)
            client.writer.write(b"a" if not sent.startswith(b"\r") else b"X-A: b\r\n")

    dripping = asyncio.ensure_future(drip())
    response = await client.response()
    dripping.cancel()

    assert (response.status, response.code, response.value(b"connection")) == (408, "header_timeout", b"close")
    assert running.metrics.protocol_errors == {"header_timeout": 1}
    client.half_close()


async def test_a_slow_second_head_is_408_too(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The time limit of a head holds for every request of a connection, not for keep-alive's longer one."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, server="timeouts: {header: 150ms, keep_alive: 10s}"))
    client = await running.client()
    await client.ask(GET)
    await client.send(b"GET / HT")
    response = await client.response()

    assert (response.status, response.code) == (408, "header_timeout")
    client.half_close()


async def test_a_pipelined_partial_head_has_its_time_too(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A partial head that came with the request before it is timed as well (threat: slowloris)."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, server="timeouts: {header: 150ms, keep_alive: 10s}"))
    client = await running.client()
    await client.send(GET + b"GET / HT")
    assert (await client.response()).status == 200
    response = await client.response()

    assert (response.status, response.code) == (408, "header_timeout")
    client.half_close()


async def test_a_silent_connection_is_closed(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Who connects and says nothing is closed without a word after the header time (RFC 9112 9.5)."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, server="timeouts: {header: 100ms}"))
    client = await running.client()

    assert await client.closed() == b""


async def test_an_idle_connection_is_closed(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Between requests a connection may be idle for `keep_alive` (RFC 9112 9.5)."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, server="timeouts: {keep_alive: 1s, header: 60s}"))
    client = await running.client()
    for _ in range(3):
        assert (await client.ask(GET)).status == 200
        await time_passes(0.4)

    assert await client.closed() == b""


async def test_a_body_that_stops_is_408(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Silence inside a request body ends it; progress does not (RFC 9110 15.5.9)."""
    origin = await upstream(accepts_and_hangs)
    running = await gateway(proxy(origin.url, server="timeouts: {body_idle: 1s}"))
    client = await running.client()
    await client.send(POST + b"Content-Length: 100\r\n\r\n")
    for _ in range(5):
        await time_passes(0.3)
        await client.send(b"a")
    response = await client.response()

    assert (response.status, response.code, response.value(b"connection")) == (408, "body_timeout", b"close")
    await eventually(lambda: not origin.peers)
    assert running.log.entries[0]["bytes_in"] == 5
    client.half_close()


async def test_a_client_that_stops_reading_is_cut(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A response that nobody takes is given up after `write_stall`, and its upstream with it (threat: slow read)."""
    origin = await upstream(pours(64 << 20))
    running = await gateway(proxy(origin.url, server="timeouts: {write_stall: 200ms}"))
    client = await running.client(limit=1024)
    await client.send(GET)
    await eventually(lambda: running.log.entries)

    assert running.log.entries[0]["failure"] == "connection_write_timeout"
    await eventually(lambda: not running.busy())
    assert running.route.rejections == {"connection_write_timeout": 1}


async def test_a_client_that_takes_its_last_bytes_slowly_is_not_forgotten(
    upstream: StartUpstream, gateway: StartGateway
) -> None:
    """A whole response in the buffer of a client that does not read is given up, too."""
    origin = await upstream(answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (12 << 20) + bytes(12 << 20)))
    running = await gateway(proxy(origin.url, server="timeouts: {write_stall: 200ms}"))
    client = await running.client(limit=1024)
    await client.send(GET)

    await eventually(lambda: running.log.entries)
    await eventually(lambda: not running.busy())


async def test_an_upstream_that_stops_reading_is_given_up(upstream: StartUpstream, gateway: StartGateway) -> None:
    """An upload that the upstream does not take is 504 after `write_stall`, not an endless wait."""
    origin = await upstream(reads_nothing, limit=1024)
    running = await gateway(
        proxy(origin.url, server="timeouts: {write_stall: 200ms, body_idle: 200ms}", route="limits: {body: 64MiB}")
    )
    client = await running.client()
    client.writer.write(POST + b"Content-Length: %d\r\n\r\n" % (32 << 20) + bytes(32 << 20))
    response = await client.response()

    assert (response.status, response.code) == (504, "http_response_timeout")
    client.reset()


async def test_a_response_head_over_the_limit_is_502(upstream: StartUpstream, gateway: StartGateway) -> None:
    """An upstream's head is bounded as well, whether it comes whole or never ends (RFC 9110 15.6.3)."""
    big = b"HTTP/1.1 200 OK\r\nX: " + b"a" * 3000 + b"\r\nContent-Length: 0\r\n\r\n"
    endless = b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000
    origin = await upstream(answers(big, endless))
    running = await gateway(proxy(origin.url, server="limits: {response_headers: 2KiB}"))
    responses = [await running.get() for _ in range(2)]

    assert [(response.status, response.code) for response in responses] == [(502, "http_response_header_section_size")] * 2


async def test_a_refused_upload_is_read_no_longer_than_needed(upstream: StartUpstream, gateway: StartGateway) -> None:
    """After a final answer input is thrown away for some seconds, and a client that goes on sending is then cut."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, route="limits: {body: 1B}"))
    client = await running.client()
    response = await client.ask(POST + b"Content-Length: 99999999\r\n\r\n")
    assert response.status == 413
    (connection,) = running.client_connections()

    assert connection.alarm.due - asyncio.get_running_loop().time() <= 5.5
    client.half_close()
    await eventually(lambda: not running.plane.connections)
