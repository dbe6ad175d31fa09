"""1xx responses and `Expect: 100-continue` (RFC 9110 10.1.1, 15.2)."""

from __future__ import annotations

import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import GET, OK, Behaviour, Peer, answers, drips, eventually, proxy

EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\nX: 1\r\n\r\n"
EXPECTING = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"


async def continues(peer: Peer) -> None:
    """Answers the head with 100 when the gate opens, then the body with 200."""
    while True:
        request = await peer.head()
        await peer.upstream.gate.acquire()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.body(request)
        await peer.send(OK)


async def test_an_interim_response_is_forwarded_at_once(upstream: StartUpstream, gateway: StartGateway) -> None:
    """103 goes on before the final response exists, without hop-by-hop fields (RFC 9110 15.2, 7.6.1)."""
    origin = await upstream(drips(EARLY, OK))
    client = await (await gateway(proxy(origin.url))).client()
    await client.send(GET)
    origin.gate.release()
    early = await client.head()

    assert (early.start, early.lines) == (b"HTTP/1.1 103 Early Hints", [b"Link: </a.css>"])
    origin.gate.release()
    assert (await client.response()).body == b"OK"


async def test_an_interim_response_is_not_sent_to_http10(upstream: StartUpstream, gateway: StartGateway) -> None:
    """HTTP/1.0 knows no 1xx (RFC 9110 15.2)."""
    origin = await upstream(answers(EARLY + OK))
    response = await (await gateway(proxy(origin.url))).ask(b"GET / HTTP/1.0\r\n\r\n")

    assert (response.status, response.interim, response.body) == (200, [], b"OK")


async def test_a_100_that_nobody_expects_is_not_forwarded(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A 100 belongs to an expectation (RFC 9110 15.2.1)."""
    origin = await upstream(answers(b"HTTP/1.1 100 Continue\r\n\r\n" + OK))
    response = await (await gateway(proxy(origin.url))).get()

    assert (response.interim, response.body) == ([], b"OK")


async def test_a_flood_of_interim_responses_is_no_answer(upstream: StartUpstream, gateway: StartGateway) -> None:
    """More than 64 interim responses are a protocol error (threat: 1xx flood)."""
    origin = await upstream(answers(EARLY * 65 + OK))
    response = await (await gateway(proxy(origin.url))).get()

    assert (response.status, response.code) == (502, "http_protocol_error")


async def test_100_continue_is_asked_of_the_upstream(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The expectation is forwarded, the client gets the upstream's 100, and then sends its body (RFC 9110 10.1.1)."""
    origin = await upstream(continues)
    client = await (await gateway(proxy(origin.url))).client()
    await client.send(EXPECTING)
    await eventually(lambda: origin.requests)
    assert origin.requests[0].value(b"expect") == b"100-continue"
    origin.gate.release()
    assert (await client.head()).start == b"HTTP/1.1 100 Continue"
    await client.send(b"hello")

    assert (await client.response()).body == b"OK"
    assert origin.requests[0].body == b"hello"


async def test_the_client_need_not_wait_for_the_100(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A body that comes without waiting is forwarded all the same (RFC 9110 10.1.1)."""
    origin = await upstream(continues)
    client = await (await gateway(proxy(origin.url))).client()
    await client.send(EXPECTING + b"hello")
    origin.gate.release()
    response = await client.response()

    assert (response.body, origin.requests[0].body) == (b"OK", b"hello")


async def test_a_final_answer_to_an_expectation_ends_the_upload(upstream: StartUpstream, gateway: StartGateway) -> None:
    """417 or 401 instead of 100: the client gets it, and the connection, whose body never came, closes (RFC 9110 10.1.1)."""
    origin = await upstream(answers_the_head(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"))
    running = await gateway(proxy(origin.url))
    client = await running.client()
    response = await client.ask(EXPECTING)

    assert (response.status, response.value(b"connection")) == (401, b"close")
    client.half_close()
    assert await client.closed() == b""


def answers_the_head(response: bytes) -> Behaviour:
    """Answers the head and keeps the connection."""

    async def behave(peer: Peer) -> None:
        await peer.head()
        await peer.send(response)
        await peer.gone()

    return behave


async def test_the_expectation_of_http10_is_ignored(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A 100-continue expectation in HTTP/1.0 is not one (RFC 9110 10.1.1)."""
    origin = await upstream(answers(OK))
    response = await (await gateway(proxy(origin.url))).ask(EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0") + b"hello")

    assert (response.status, response.interim) == (200, [])
    assert origin.requests[0].value(b"expect") is None


@pytest.mark.parametrize("value", [b"200-maybe", b"100-continue, x"])
async def test_an_unknown_expectation_is_refused(upstream: StartUpstream, gateway: StartGateway, value: bytes) -> None:
    """417 for what we cannot promise (RFC 9110 10.1.1)."""
    origin = await upstream(answers(OK))
    response = await (await gateway(proxy(origin.url))).ask(GET[:-2] + b"Expect: %b\r\n\r\n" % value)

    assert (response.status, response.code) == (417, "expectation_failed")
    assert origin.requests == []


async def test_an_unexpected_switch_is_refused(upstream: StartUpstream, gateway: StartGateway) -> None:
    """101 to a client that asked for no upgrade is an upstream failure (RFC 9110 7.8)."""
    origin = await upstream(answers(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"))
    response = await (await gateway(proxy(origin.url))).get()

    assert (response.status, response.code) == (502, "http_upgrade_failed")
