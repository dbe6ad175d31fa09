"""Who leaves when: early responses, half-closed clients, clients that go, and upstreams that must hear of it."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import (
    GET,
    LOOKED_FOR,
    OK,
    Peer,
    accepts_and_hangs,
    answers,
    answers_at_once,
    at_once,
    drips,
    eventually,
    pours,
    proxy,
    reads_nothing,
    time_passes,
    turns,
)

MIB = 1024 * 1024
UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
REFUSAL = b"HTTP/1.1 413 Too Much\r\nContent-Length: 4\r\n\r\nmuch"


# -- early responses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [REFUSAL, REFUSAL.replace(b"413 Too Much", b"200 Fine")], ids=["413", "200"])
async def test_a_response_stops_the_upload(upstream: StartUpstream, gateway: StartGateway, answer: bytes) -> None:
    """A final response while the client uploads is passed on at once, and no further body goes upstream (RFC 9112 9.3)."""
    origin = await upstream(answers_at_once(answer))
    running = await gateway(proxy(origin.url))
    client = await running.client()
    client.writer.write(UPLOAD % (8 * MIB) + bytes(MIB))
    response = await client.response()

    assert (response.body, response.complete, response.value(b"connection")) == (b"much", True, b"close")
    await eventually(lambda: running.pools()["open"] == 0)
    assert running.log.entries[0]["status"] == response.status


async def test_the_answer_to_an_upload_is_not_lost_in_a_reset(upstream: StartUpstream, gateway: StartGateway) -> None:
    """After an early response the connection is read on a little, so that no reset destroys it (RFC 9112 9.6)."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, route="limits: {body: 1KiB}"))
    client = await running.client()
    client.writer.write(UPLOAD % (8 * MIB))
    await eventually(lambda: running.log.entries)
    for _ in range(8):
        client.writer.write(bytes(MIB))
        await client.writer.drain()
    response = await client.response()

    assert (response.status, response.code, response.complete) == (413, "content_too_large", True)
    client.half_close()
    assert await client.closed() == b""
    assert origin.requests == []


async def test_the_next_request_does_not_reuse_what_was_cut(upstream: StartUpstream, gateway: StartGateway) -> None:
    """An upstream connection with half a request on it serves no other (RFC 9112 9.3)."""
    origin = await upstream(answers_at_once(OK))
    running = await gateway(proxy(origin.url))
    client = await running.client()
    client.writer.write(UPLOAD % MIB + b"x")
    assert (await client.response()).status == 200
    assert (await running.get()).status == 200

    assert origin.connections == 2
    assert [request.method for request in origin.requests] == [b"POST", b"GET"]


# -- half-close --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [GET, b"GET / HTTP/1.0\r\n\r\n", UPLOAD % 5 + b"hello"], ids=["1.1", "1.0", "POST"])
async def test_a_half_closed_client_gets_its_response(upstream: StartUpstream, gateway: StartGateway, request_: bytes) -> None:
    """A FIN behind the request says that no more is sent, not that nobody reads (RFC 9112 9.6)."""
    origin = await upstream(answers(OK))
    client = await (await gateway(proxy(origin.url))).client()
    await client.send(request_)
    client.half_close()

    assert (await client.response()).body == b"OK"
    assert await client.closed() == b""


async def test_a_half_closed_client_gets_a_slow_response(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The same when the upstream takes longer than the gateway's own look after the client."""
    origin = await upstream(drips(OK))
    running = await gateway(proxy(origin.url))
    client = await running.client()
    await client.send(GET)
    client.half_close()
    await time_passes(LOOKED_FOR)
    assert len(origin.peers) == 1
    origin.gate.release()
    response = await client.response()

    assert (response.status, response.body) == (200, b"OK")


async def test_a_half_closed_client_gets_all_that_it_pipelined(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Requests that came before the FIN are all answered (RFC 9112 9.3.2)."""
    origin = await upstream(answers(OK))
    client = await (await gateway(proxy(origin.url))).client()
    await client.send(GET * 5)
    client.half_close()

    assert [(await client.response()).body for _ in range(5)] == [b"OK"] * 5
    assert await client.closed() == b""


async def test_a_half_closed_client_gets_a_streamed_response(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The response may come in parts, too, when its head was not there yet at the FIN."""
    origin = await upstream(drips(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nO", b"K"))
    running = await gateway(proxy(origin.url))
    client = await running.client()
    await client.send(GET)
    client.half_close()
    await eventually(lambda: origin.requests)
    origin.gate.release()
    head = await client.head()
    assert head.status == 200
    origin.gate.release()

    assert await client.closed() == b"OK"


# -- clients that go ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_frees_its_upstream(upstream: StartUpstream, gateway: StartGateway, how: str) -> None:
    """Nobody waits for the answer any more: the upstream connection is closed within a second (threat: resource leaks)."""
    origin = await upstream(accepts_and_hangs)
    running = await gateway(proxy(origin.url))
    client = await running.client()
    await client.send(GET)
    await eventually(lambda: origin.requests)
    getattr(client, how)()
    await eventually(lambda: not origin.peers)

    assert [entry["failure"] for entry in running.log.entries] == ["client_closed"]
    assert running.log.entries[0]["status"] == 499
    assert running.upstream.attempts == {"ok": 0, "cancelled": 1}


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_its_upload_frees_its_upstream(
    upstream: StartUpstream, gateway: StartGateway, how: str
) -> None:
    """A request body that ends too early ends the upstream's request at once (RFC 9112 8)."""
    origin = await upstream(accepts_and_hangs)
    running = await gateway(proxy(origin.url))
    client = await running.client()
    await client.send(UPLOAD % 100 + b"some")
    await eventually(lambda: origin.requests)
    getattr(client, how)()

    await at_once(lambda: not origin.peers)
    assert [entry["failure"] for entry in running.log.entries] == ["client_closed"]


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_a_stream_frees_its_upstream(
    upstream: StartUpstream, gateway: StartGateway, how: str
) -> None:
    """Once a response streams, a client that goes closes its upstream at once."""
    origin = await upstream(drips(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", b"1\r\nb\r\n"))
    origin.gate.release()
    running = await gateway(proxy(origin.url))
    client = await running.client()
    await client.send(GET)
    await client.head()
    await client.read(6)
    getattr(client, how)()

    await eventually(lambda: not origin.peers or running.pools()["open"] == 0)
    assert [(entry["status"], entry["failure"]) for entry in running.log.entries] == [(200, "client_closed")]


async def test_a_client_that_leaves_a_full_stream_frees_its_upstream(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The same when the client had stopped reading before it left."""
    origin = await upstream(pours(64 * MIB))
    running = await gateway(proxy(origin.url))
    client = await running.client(limit=1024)
    await client.send(GET)
    await eventually(lambda: any(connection.write_paused for connection in running.client_connections()))
    client.reset()

    await eventually(lambda: running.pools()["open"] == 0)


async def test_a_client_that_resets_a_stalled_upload_frees_its_upstream(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The same for an upload that the upstream does not take, while the client is not read."""
    origin = await upstream(reads_nothing, limit=1024)
    running = await gateway(proxy(origin.url, route="limits: {body: 64MiB}"))
    client = await running.client()
    client.writer.write(UPLOAD % (32 * MIB) + bytes(32 * MIB))
    await eventually(lambda: origin.requests and all(connection.reading_paused for connection in running.client_connections()))
    client.reset()

    await eventually(lambda: running.pools()["open"] == 0)
    assert running.log.entries[0]["failure"] == "client_closed"


async def test_a_half_closed_client_that_leaves_later_frees_its_upstream(
    upstream: StartUpstream, gateway: StartGateway
) -> None:
    """A client that was still there at the first look may go later: it is looked after again."""
    origin = await upstream(accepts_and_hangs)
    running = await gateway(proxy(origin.url))
    client = await running.client()
    await client.send(GET)
    client.half_close()
    await eventually(lambda: origin.requests)
    await time_passes(LOOKED_FOR)
    assert running.route.in_flight == 1
    client.close()

    await eventually(lambda: not origin.peers)
    assert running.log.entries[0]["failure"] == "client_closed"


async def test_a_client_that_leaves_while_we_connect_leaves_nothing(gateway: StartGateway, backlog: int) -> None:
    """A connection attempt for a client that has gone is given up (threat: resource leaks)."""
    running = await gateway(proxy(f"http://127.0.0.1:{backlog}"))
    client = await running.client()
    await client.send(GET)
    await eventually(lambda: running.route.in_flight)
    client.reset()

    await at_once(lambda: not running.busy())


async def test_a_storm_of_leaving_clients_leaves_nothing(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Hundreds of aborted requests: gauges, connections and endpoint load are back at zero (the fixture looks)."""

    async def slow(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
            await peer.send(b"0\r\n\r\n")

    origin = await upstream(slow)
    running = await gateway(proxy(origin.url, upstream="circuit_breaker: off, ejection: off"))

    async def abort(number: int) -> None:
        client = await running.client()
        client.writer.write(GET if number % 3 else UPLOAD % 10 + b"abc")
        await turns(number % 40)
        (client.reset if number % 2 else client.close)()

    await asyncio.gather(*(abort(number) for number in range(300)))
    await eventually(lambda: not running.busy())

    assert (await running.get()).status == 200
