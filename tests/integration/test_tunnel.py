"""WebSocket: raw bytes both ways after a 101 that answers what was asked (RFC 6455, RFC 9110 7.8)."""

from __future__ import annotations

import base64
import hashlib

import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import GET, OK, Behaviour, Client, Gateway, Peer, answers, at_once, eventually, proxy, time_passes

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The answer to KEY, from RFC 6455 1.3."""
UPGRADE = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n" % KEY
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n%b\r\n"
MASKED_HELLO = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"
HELLO = b"\x81\x05Hello"


def switches(accept: bytes = ACCEPT, fields: bytes = b"", early: bytes = b"") -> Behaviour:
    """Agrees to the upgrade, sends `early` in the same breath and echoes everything from then on."""

    async def behave(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCH % (accept, fields) + early)
        while data := await peer.reader.read(65536):
            await peer.send(data)
        await peer.send(b"bye")

    return behave


async def upgraded(running: Gateway) -> Client:
    """A client whose upgrade was agreed to."""
    client = await running.client()
    await client.send(UPGRADE)
    assert (await client.head()).status == 101
    return client


async def test_frames_pass_as_bytes_both_ways(upstream: StartUpstream, gateway: StartGateway) -> None:
    """No frame is looked at, so none is changed (RFC 6455 5); the handshake's fields pass too (4.1, 4.2.2)."""
    origin = await upstream(switches(fields=b"Sec-WebSocket-Protocol: chat\r\n"))
    running = await gateway(proxy(origin.url))
    client = await running.client()
    await client.send(UPGRADE)
    head = await client.head()

    assert head.start == b"HTTP/1.1 101 Switching Protocols"
    assert (head.value(b"upgrade"), head.value(b"connection")) == (b"websocket", b"Upgrade")
    assert (head.value(b"sec-websocket-accept"), head.value(b"sec-websocket-protocol")) == (ACCEPT, b"chat")
    got = origin.requests[0]
    assert (got.value(b"upgrade"), got.value(b"connection"), got.value(b"sec-websocket-key")) == (b"websocket", b"Upgrade", KEY)
    for data in (MASKED_HELLO, b"\x88\x82\x00\x00\x00\x00\x03\xe8", bytes(range(256)) * 1000):
        await client.send(data)
        assert await client.read(len(data)) == data


async def test_bytes_behind_either_head_are_not_lost(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Frames that come in one packet with the 101, or before the 101, are the tunnel's first."""
    origin = await upstream(switches(early=HELLO))
    client = await (await gateway(proxy(origin.url))).client()
    await client.send(UPGRADE + MASKED_HELLO)
    assert (await client.head()).status == 101

    assert await client.read(len(HELLO + MASKED_HELLO)) == HELLO + MASKED_HELLO


async def test_the_client_may_end_its_direction_first(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A FIN goes through to the upstream, whose last bytes still come back."""
    origin = await upstream(switches())
    running = await gateway(proxy(origin.url))
    client = await upgraded(running)
    await client.send(MASKED_HELLO)
    client.half_close()

    assert await client.closed() == MASKED_HELLO + b"bye"
    await eventually(lambda: not running.busy())
    entry = running.log.entries[0]
    assert (entry["status"], entry["failure"], entry["bytes_out"]) == (101, None, len(MASKED_HELLO) + 3)


async def test_an_upstream_that_closes_closes_the_client(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The tunnel is over when the upstream is gone, after its last bytes."""

    async def leaves(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCH % (ACCEPT, b"") + b"\x88\x02\x03\xe8")

    origin = await upstream(leaves)
    running = await gateway(proxy(origin.url))
    client = await upgraded(running)

    assert await client.closed() == b"\x88\x02\x03\xe8"


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_closes_the_upstream(upstream: StartUpstream, gateway: StartGateway, how: str) -> None:
    """A tunnel whose client is gone holds nothing (threat: resource leaks)."""
    origin = await upstream(switches())
    running = await gateway(proxy(origin.url))
    client = await upgraded(running)
    assert running.metrics.tunnels == 1
    getattr(client, how)()

    await eventually(lambda: not origin.peers and not running.busy())


async def test_a_tunnel_has_back_pressure(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A client that does not read pauses the upstream, and the bytes in between are bounded (threat: unlimited frames)."""

    async def pours(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCH % (ACCEPT, b""))
        await peer.pour(64 << 20)

    origin = await upstream(pours)
    running = await gateway(proxy(origin.url))
    client = await running.client(limit=1024)
    await client.send(UPGRADE)
    await client.head()
    await eventually(lambda: any(connection.write_paused for connection in running.client_connections()))
    (connection,) = running.client_connections()
    assert connection.exchange is not None and connection.exchange.attempt is not None
    towards = connection.exchange.attempt.connection
    assert towards is not None
    # From now on nothing comes in until the client reads.
    await at_once(lambda: towards.reading_paused)

    assert connection.transport.get_write_buffer_size() < 512 * 1024
    client.reset()


@pytest.mark.parametrize(
    "answer",
    [
        SWITCH % (b"AAAAAAAAAAAAAAAAAAAAAAAAAAA=", b""),
        (SWITCH % (ACCEPT, b"")).replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        (SWITCH % (ACCEPT, b"")).replace(b"Connection: Upgrade\r\n", b""),
        (SWITCH % (ACCEPT, b"")).replace(b"Sec-WebSocket-Accept: %b\r\n" % ACCEPT, b""),
    ],
    ids=["accept", "protocol", "connection", "no-accept"],
)
async def test_nothing_is_tunnelled_without_a_valid_101(upstream: StartUpstream, gateway: StartGateway, answer: bytes) -> None:
    """A switch to something else, or without the right Sec-WebSocket-Accept, is 502 (RFC 6455 4.1, RFC 9110 7.8)."""
    origin = await upstream(answers(answer))
    client = await (await gateway(proxy(origin.url))).client()
    response = await client.ask(UPGRADE)

    assert (response.status, response.code) == (502, "http_upgrade_failed")


async def test_a_refused_upgrade_is_an_ordinary_response(upstream: StartUpstream, gateway: StartGateway) -> None:
    """An upstream that does not switch answers, and the connection serves the next request (RFC 9110 7.8)."""
    origin = await upstream(answers(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", OK))
    running = await gateway(proxy(origin.url))
    client = await running.client()
    refused = await client.ask(UPGRADE)
    after = await client.ask(GET)

    assert (refused.status, refused.body, after.body) == (403, b"no", b"OK")
    assert running.metrics.tunnels == 0


@pytest.mark.parametrize(
    "request_",
    [
        UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        UPGRADE.replace(b"keep-alive, Upgrade", b"keep-alive"),
        UPGRADE.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        UPGRADE.replace(b"GET", b"POST"),
    ],
    ids=["http10", "not-nominated", "h2c", "POST"],
)
async def test_only_a_proper_upgrade_is_forwarded_as_one(
    upstream: StartUpstream, gateway: StartGateway, request_: bytes
) -> None:
    """Upgrade counts with `Connection: upgrade` in a GET of HTTP/1.1, to a listed protocol (RFC 9110 7.8; threat: h2c)."""
    origin = await upstream(answers(OK))
    response = await (await gateway(proxy(origin.url))).ask(request_)

    assert response.status == 200
    assert (origin.requests[0].value(b"upgrade"), origin.requests[0].value(b"connection")) == (None, None)


async def test_upgrades_can_be_turned_off(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`upgrades: off` makes the request an ordinary one."""
    origin = await upstream(answers(OK))
    response = await (await gateway(proxy(origin.url, route="upgrades: off"))).ask(UPGRADE)

    assert response.status == 200
    assert origin.requests[0].value(b"upgrade") is None


async def test_the_number_of_tunnels_is_limited(upstream: StartUpstream, gateway: StartGateway) -> None:
    """One too many is 503 with a code of its own, and the connection stays usable."""
    origin = await upstream(switches())
    running = await gateway(proxy(origin.url, server="limits: {tunnels: 1}"))
    await upgraded(running)
    client = await running.client()
    response = await client.ask(UPGRADE)

    assert (response.status, response.code) == (503, "tunnel_limit_reached")
    assert running.route.rejections == {"tunnel_limit_reached": 1}


async def test_an_idle_tunnel_is_closed(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Silence for longer than `timeout.idle` ends a tunnel, traffic either way keeps it."""
    origin = await upstream(switches())
    running = await gateway(proxy(origin.url, route="timeout: {idle: 1500ms}"))
    client = await upgraded(running)
    for _ in range(4):
        await time_passes(0.5)
        await client.send(b"x")
        assert await client.read(1) == b"x"

    assert await client.closed() == b""
    await eventually(lambda: not running.busy())
    assert running.log.entries[0]["failure"] == "connection_read_timeout"


async def test_the_deadline_does_not_end_a_tunnel(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The time budget ends with the 101: a tunnel lives as long as something moves."""
    origin = await upstream(switches())
    running = await gateway(proxy(origin.url, route="timeout: 150ms"))
    client = await upgraded(running)
    await time_passes(0.4)
    await client.send(b"x")

    assert await client.read(1) == b"x"


def test_the_accept_value_is_rfc_6455s() -> None:
    """Our sample is right: SHA-1 of key and GUID (RFC 6455 4.2.2)."""
    digest = hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()

    assert base64.b64encode(digest) == ACCEPT


# -- other protocols -----------------------------------------------------------------------------------------------------

SPDY = b"%b /exec HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: %b\r\n%b\r\n"
OTHERS = "upgrades: [websocket, tcp, SPDY/3.1]"


def agrees(upgrade: bytes = b"") -> Behaviour:
    """Reads the request with its body, switches to what was asked for or to `upgrade`, and echoes."""

    async def behave(peer: Peer) -> None:
        request = await peer.request()
        asked = upgrade or request.value(b"upgrade") or b"nothing"
        await peer.send(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % asked)
        while data := await peer.reader.read(65536):
            await peer.send(data)

    return behave


@pytest.mark.parametrize("method", [b"GET", b"POST", b"OPTIONS"])
@pytest.mark.parametrize("protocol", [b"tcp", b"SPDY/3.1", b"spdy/3.1"])
async def test_any_listed_protocol_is_tunnelled(
    upstream: StartUpstream, gateway: StartGateway, protocol: bytes, method: bytes
) -> None:
    """Names are compared without regard to case and go on as spelt (RFC 9110 7.8), with any method but for WebSocket."""
    origin = await upstream(agrees())
    running = await gateway(proxy(origin.url, route=OTHERS))
    client = await running.client()
    await client.send(SPDY % (method, protocol, b"Content-Length: 0\r\n") + b"\x00early")
    head = await client.head()

    assert (head.status, head.value(b"upgrade"), head.value(b"connection")) == (101, protocol, b"Upgrade")
    assert (origin.requests[0].value(b"upgrade"), origin.requests[0].value(b"connection")) == (protocol, b"Upgrade")
    assert await client.read(6) == b"\x00early"
    await client.send(bytes(range(256)))
    assert await client.read(256) == bytes(range(256))


@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"], ids=["length", "chunked"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "in-pieces"])
async def test_the_request_may_have_a_body(upstream: StartUpstream, gateway: StartGateway, framing: bytes, whole: bool) -> None:
    """`docker exec` posts JSON with its upgrade: the body is a body, and the protocol begins behind it (RFC 9110 7.8)."""
    origin = await upstream(agrees())
    client = await (await gateway(proxy(origin.url, route=OTHERS))).client()
    body = b"5\r\n{...}\r\n0\r\n\r\n" if b"chunked" in framing else b"{...}"
    wire = SPDY % (b"POST", b"tcp", framing) + body + b"first"
    for part in (wire,) if whole else (wire[:-8], wire[-8:-6], wire[-6:]):
        await client.send(part)
        await time_passes(0.01)

    assert (await client.head()).status == 101
    assert await client.read(5) == b"first"
    assert origin.requests[0].body == b"{...}"


@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"], ids=["length", "chunked"])
async def test_an_upstream_may_agree_early(upstream: StartUpstream, gateway: StartGateway, framing: bytes) -> None:
    """A 101 before the request is complete is passed on behind it: no byte of either is lost or taken for the other."""

    async def agrees_early(peer: Peer) -> None:
        request = await peer.head()
        await peer.send(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nhello")
        await peer.send(b" there")
        await peer.body(request)
        while data := await peer.reader.read(65536):
            await peer.send(data)

    origin = await upstream(agrees_early)
    running = await gateway(proxy(origin.url, route=OTHERS))
    client = await running.client()
    body = b"5\r\n{...}\r\n0\r\n\r\n" if b"chunked" in framing else b"{...}"
    await client.send(SPDY % (b"POST", b"tcp", framing) + body[:4])
    await eventually(lambda: any(one.exchange and one.exchange.attempt for one in running.client_connections()))
    attempt = next(one.exchange.attempt for one in running.client_connections() if one.exchange)
    assert attempt is not None
    await eventually(lambda: attempt.connection is not None and attempt.connection.response is not None)
    assert running.metrics.tunnels == 0
    await client.send(body[4:] + b"first")

    assert (await client.head()).status == 101
    assert sorted([await client.read(11), await client.read(5)]) == [b"first", b"hello there"]
    assert origin.requests[0].body == b"{...}"


@pytest.mark.parametrize(
    "asked,goes_on",
    [
        (b"h2c, tcp", b"tcp"),
        (b"h2c", None),
        (b"tcp/2", None),
        (b"SPDY", None),
        (b"Tcp ,, SPDY/3.1", b"Tcp, SPDY/3.1"),
        (b"h2c\r\nUpgrade: tcp", b"tcp"),
        (b"websocket, tcp", b"tcp"),
        (b"", None),
    ],
)
async def test_only_listed_protocols_are_asked_for(
    upstream: StartUpstream, gateway: StartGateway, asked: bytes, goes_on: bytes | None
) -> None:
    """Of a list those that the route allows go on, in the client's order; of a POST no WebSocket (threat: h2c smuggling)."""
    origin = await upstream(answers(OK))
    response = await (await gateway(proxy(origin.url, route=OTHERS))).ask(SPDY % (b"POST", asked, b"Content-Length: 0\r\n"))

    assert response.status == 200
    assert origin.requests[0].value(b"upgrade") == goes_on
    assert origin.requests[0].value(b"connection") == (b"Upgrade" if goes_on else None)


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"SPDY/3.1", b"tcp, h2c"])
async def test_what_was_not_asked_for_is_not_tunnelled(upstream: StartUpstream, gateway: StartGateway, upgrade: bytes) -> None:
    """An upstream may switch to what the client asked for and to nothing else, listed or not (RFC 9110 7.8)."""
    origin = await upstream(agrees(upgrade))
    running = await gateway(proxy(origin.url, route=OTHERS))
    response = await running.ask(SPDY % (b"POST", b"tcp", b"Content-Length: 0\r\n"))

    assert (response.status, response.code) == (502, "http_upgrade_failed")
    assert running.metrics.tunnels == 0


@pytest.mark.parametrize("status", [b"200 OK", b"403 No", b"426 Upgrade Required"])
async def test_nothing_is_tunnelled_before_101(upstream: StartUpstream, gateway: StartGateway, status: bytes) -> None:
    """Bytes behind a request that is not switched are the next request, under policies as any (threat: smuggling)."""
    origin = await upstream(answers(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\nno" % status, OK))
    running = await gateway(proxy(origin.url, route=OTHERS, path="/exec"))
    client = await running.client()
    await client.send(SPDY % (b"POST", b"tcp", b"Content-Length: 0\r\n") + b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n")

    assert (await client.response()).body == b"no"
    assert (await client.response()).status == 404
    assert len(origin.requests) == 1


async def test_an_upstream_that_agrees_early_and_leaves(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Without a connection there is nothing to switch to: 502, and the request is not sent again."""

    async def agrees_and_resets(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        await peer.upstream.gate.acquire()
        peer.reset()

    origin = await upstream(agrees_and_resets)
    running = await gateway(proxy(origin.url, route=OTHERS))
    client = await running.client()
    await client.send(SPDY % (b"POST", b"tcp", b"Content-Length: 500000\r\n"))
    await eventually(lambda: origin.requests)
    origin.gate.release()
    await eventually(lambda: not origin.peers)
    await client.send(b"x" * 500_000)
    response = await client.response()

    assert response.status == 502
    assert len(origin.requests) == 1
