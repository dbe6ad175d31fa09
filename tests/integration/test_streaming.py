"""Bodies in motion: back-pressure both ways, bounded memory, and every chunk at once."""

from __future__ import annotations

import asyncio
from time import process_time

from tests.conftest import StartGateway, StartUpstream
from tests.support import (
    GET,
    OK,
    Peer,
    drips,
    echoes_requests,
    eventually,
    pours,
    proxy,
    read_chunked,
    reads_nothing,
    turns,
)

MIB = 1024 * 1024
BOUND = 512 * 1024
"""Bytes one stream may hold in the gateway: twice the high-water mark and what one read brings (256 KiB)."""


async def test_a_slow_reader_pauses_the_upstream(upstream: StartUpstream, gateway: StartGateway) -> None:
    """While a client does not read, its upstream is not read: memory per stream is bounded (threat: slow reader)."""
    origin = await upstream(pours(64 * MIB))
    running = await gateway(proxy(origin.url))
    client = await running.client(limit=4096)
    await client.send(GET)
    await eventually(lambda: origin.peers)
    (peer,) = origin.peers
    await eventually(lambda: any(connection.write_paused for connection in running.client_connections()))
    (connection,) = running.client_connections()

    assert connection.exchange is not None
    assert connection.exchange.attempt is not None
    assert connection.exchange.attempt.connection is not None
    assert connection.exchange.attempt.connection.reading_paused
    # Nothing moves now until the client reads.
    assert connection.transport.get_write_buffer_size() <= BOUND
    await turns(100)
    assert connection.transport.get_write_buffer_size() <= BOUND
    assert peer.sent < 32 * MIB
    async with asyncio.timeout(20):
        await client.head()
        await client.reader.readexactly(64 * MIB)


async def test_a_slow_upstream_pauses_the_client(upstream: StartUpstream, gateway: StartGateway) -> None:
    """While an upstream does not read, the client is not read (threat: memory by upload)."""
    origin = await upstream(reads_nothing, limit=4096)
    running = await gateway(proxy(origin.url, route="limits: {body: 64MiB}"))
    client = await running.client()
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (48 * MIB))
    await eventually(lambda: origin.requests)
    (connection,) = running.client_connections()
    assert connection.exchange is not None
    assert connection.exchange.attempt is not None
    towards = connection.exchange.attempt.connection
    assert towards is not None
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(pour(client.writer, 48 * MIB))
        await eventually(lambda: towards.write_paused and connection.reading_paused)
        # Nothing moves now until the upstream reads.
        assert towards.transport.get_write_buffer_size() <= BOUND
        await turns(100)
        assert towards.transport.get_write_buffer_size() <= BOUND and connection.reading_paused
        assert not sending.done()
        origin.gate.release()
    response = await client.response()

    assert (response.body, len(origin.requests[0].body)) == (b"OK", 48 * MIB)


async def pour(writer: asyncio.StreamWriter, size: int) -> None:
    """Send so many bytes, as fast as they are taken."""
    for _ in range(size // 65536):
        writer.write(bytes(65536))
        await writer.drain()


async def test_a_body_before_the_connection_is_there_is_bounded(gateway: StartGateway, backlog: int) -> None:
    """While the upstream connection is still being opened, a client is read no further than a bound."""
    running = await gateway(proxy(f"http://127.0.0.1:{backlog}", route="timeout: {connect: 300ms}"))
    client = await running.client()
    client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (8 * MIB) + bytes(8 * MIB))
    await eventually(lambda: any(connection.reading_paused for connection in running.client_connections()))
    (connection,) = running.client_connections()
    assert connection.exchange is not None and connection.exchange.request_body is not None

    assert connection.exchange.request_body.received <= BOUND
    client.reset()
    await eventually(lambda: not running.busy())


async def test_every_event_goes_out_at_once(upstream: StartUpstream, gateway: StartGateway) -> None:
    """No chunk of an event stream waits for the next (threat: buffering breaks SSE)."""
    events = [b"data: %d\n\n" % number for number in range(20)]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    origin = await upstream(drips(head, *(b"%x\r\n%b\r\n" % (len(event), event) for event in events), b"0\r\n\r\n"))
    client = await (await gateway(proxy(origin.url))).client()
    await client.send(GET)
    origin.gate.release()
    assert (await client.head()).status == 200
    for event in events:
        origin.gate.release()
        assert await client.read(len(event) + 5) == b"%x\r\n%b\r\n" % (len(event), event)
    origin.gate.release()

    assert await client.read(5) == b"0\r\n\r\n"


async def test_the_head_of_a_stream_goes_out_before_its_body(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A head without body bytes is not held back for them."""
    origin = await upstream(drips(b"HTTP/1.1 200 OK\r\n\r\n"))
    client = await (await gateway(proxy(origin.url))).client()
    await client.send(GET)
    origin.gate.release()

    assert (await client.head()).value(b"transfer-encoding") == b"chunked"


async def test_an_upload_streams_while_it_arrives(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Request bytes reach the upstream before the body is complete."""

    async def answers_each_chunk(peer: Peer) -> None:
        request = await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        async for chunk in read_chunked(peer.reader, request.trailers):
            await peer.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        await peer.send(b"0\r\n\r\n")

    origin = await upstream(answers_each_chunk)
    client = await (await gateway(proxy(origin.url))).client()
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert (await client.head()).status == 200
    for _ in range(3):
        await client.send(b"3\r\nabc\r\n")
        assert await client.read(8) == b"3\r\nabc\r\n"
    await client.send(b"0\r\n\r\n")

    assert await client.read(5) == b"0\r\n\r\n"


async def test_large_bodies_arrive_whole_both_ways(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Every byte arrives, in order, under back-pressure (a slow client, an echoing upstream)."""
    body = b"".join(b"%07d\n" % number for number in range(MIB))
    origin = await upstream(echoes_requests)
    client = await (await gateway(proxy(origin.url))).client()
    client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    response = await client.response()

    assert response.body == body


async def test_many_small_chunks_cost_little(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The cost of one-byte chunks grows with their number and no faster (threat: chunk floods): processor time decides."""
    origin = await upstream(drips(OK))
    origin.gate.release()
    origin.gate.release()
    running = await gateway(proxy(origin.url))
    client = await running.client()

    async def cost(chunks: int) -> float:
        began = process_time()
        client.writer.write(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * chunks + b"0\r\n\r\n"
        )
        assert (await client.response()).body == b"OK"
        return process_time() - began

    few, many = await cost(20_000), await cost(100_000)

    assert [len(request.body) for request in origin.requests] == [20_000, 100_000]
    assert many < 3 * 5 * few
