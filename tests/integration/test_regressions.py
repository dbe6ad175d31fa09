"""Bugs that a cold read of the code found, each as the rule it broke."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import (
    GET,
    OK,
    Peer,
    accepts_and_hangs,
    answers,
    at_once,
    eventually,
    proxy,
)

LOCAL = """
version: 1
server: {name: gw, listen: ["127.0.0.1:0"]}
admin: {listen: "127.0.0.1:0"}
access_log: "off"
routes: [{name: all, match: {path: "/**"}, respond: {status: 200, body: hi}}]
"""


async def closes_at_once(peer: Peer) -> None:
    """Accepts, and closes before a byte was exchanged."""


async def test_an_upstream_that_closes_at_once_takes_no_place_in_the_pool(
    upstream: StartUpstream, gateway: StartGateway
) -> None:
    """A connection that is closed before it is used counts neither as open nor as our own failure."""
    origin = await upstream(closes_at_once)
    running = await gateway(proxy(origin.url, upstream="max_connections: 4, circuit_breaker: off, retry_budget: 100%"))
    client = await running.client()
    found = {(response.status, response.code) for response in [await client.ask(GET) for _ in range(12)]}

    assert found == {(502, "connection_terminated")}
    await eventually(lambda: running.pools()["open"] == 0)


@pytest.mark.parametrize("count", [31, 32, 33, 64])
async def test_a_fin_behind_pipelined_requests_ends_the_connection(gateway: StartGateway, count: int) -> None:
    """However many requests came before it, all are answered and then the connection is closed (RFC 9112 9.3.2, 9.6)."""
    running = await gateway(LOCAL)
    client = await running.client()
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * count)
    for _ in range(count):
        assert (await client.response()).body == b"hi"
    client.half_close()

    await at_once(lambda: not running.plane.connections)


async def test_early_bytes_of_a_tunnel_do_not_stop_it(upstream: StartUpstream, gateway: StartGateway) -> None:
    """More than may be sent ahead of a response came behind the upgrade; what follows the 101 flows all the same."""
    early, later = b"e" * 100_000, b"l" * 500
    received = asyncio.Event()

    async def switches_and_reads(peer: Peer) -> None:
        await peer.head()
        await peer.send(
            b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )
        assert await peer.reader.readexactly(len(early) + len(later)) == early + later
        received.set()

    origin = await upstream(switches_and_reads)
    running = await gateway(proxy(origin.url))
    client = await running.client()
    await client.send(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + early
    )
    await client.head()
    await client.send(later)

    await eventually(received.is_set)
    client.reset()


async def test_a_body_that_is_all_there_leaves_the_client_watched(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A complete upload larger than what is held does not keep a client that leaves from being seen."""
    origin = await upstream(accepts_and_hangs)
    running = await gateway(proxy(origin.url))
    client = await running.client()
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"b" * 100_000)
    await eventually(lambda: origin.requests)
    client.reset()

    await at_once(lambda: not running.busy())


async def test_a_path_that_cannot_be_rewritten_costs_no_connection(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What is refused for its path is refused before a connection is taken for it."""
    origin = await upstream(answers(*[OK] * 3))
    running = await gateway(proxy(origin.url, path="/api/**", route="strip_prefix: /api"))
    client = await running.client()
    statuses = [
        (await client.ask(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path)).status for path in (b"/api/x", b"/%61pi/x", b"/api/y")
    ]

    assert statuses == [200, 400, 200]
    assert running.upstream.connects == 1


async def test_a_query_is_not_logged_even_when_the_target_is_refused(gateway: StartGateway) -> None:
    """Secrets in URLs stay out of the log, however early the request fails."""
    running = await gateway(LOCAL)
    client = await running.client()
    await client.ask(b"TRACE /x?secret=1 HTTP/1.1\r\nHost: a\r\n\r\n")
    await client.ask(b"GET /y?secret=1#f HTTP/1.1\r\nHost: a\r\n\r\n")

    assert [entry["path"] for entry in running.log.entries] == ["/x", "/y"]
