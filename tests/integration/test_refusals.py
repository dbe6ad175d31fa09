"""Refusals while breakers have shut an upstream off: cheap, and yet in every way what a refusal is otherwise."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.control.compile import compile_config
from gateway.control.load import load
from gateway.policies.circuit_breaker import Forced
from gateway.proxy.upstream.pool import EndpointPool
from tests.conftest import StartGateway, StartUpstream
from tests.support import GET, OK, Client, Gateway, answers, turns

TEXT = """\
version: 1
server: {{listen: "127.0.0.1:0", {server}}}
admin: {{listen: "127.0.0.1:0"}}
upstreams:
  app: {{endpoints: ["{url}"], circuit_breaker: {{}}, {upstream}}}
  other: {{endpoints: ["{url}"]}}
routes:
  - {{name: all, match: {{path: "/**"}}, upstream: app}}
  - {{name: other, match: {{path: "/other"}}, upstream: other}}
"""
OTHER = b"GET /other HTTP/1.1\r\nHost: example.com\r\n\r\n"


async def shut(gateway: StartGateway, url: str, *, server: str = "", upstream: str = "") -> tuple[Gateway, Client]:
    """A gateway whose breaker of `app` is open, and a client."""
    running = await gateway(TEXT.format(url=url, server=server, upstream=upstream))
    now = asyncio.get_running_loop().time()
    breaker = running.plane.breakers.find("app", url)
    assert breaker is not None
    breaker.breaker.force(Forced(True, now + 3600, "me", "test"), now)
    return running, await running.client()


def request(*lines: str, method: str = "GET", version: str = "1.1", target: str = "/", body: bytes = b"") -> bytes:
    """The bytes of a request."""
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: example.com", *lines, "", ""]).encode("ascii") + body


STAYS = {
    "get": GET,
    "head": request(method="HEAD"),
    "head-with-length": request("Content-Length: 0", method="HEAD"),
    "unknown-method": request(method="PURGE"),
    "query": request(target="/users?a=1"),
    "escaped": request(target="/a%41/b;v=1"),
    "absolute": request(target="http://example.com/users"),
    "whole-body": request("Content-Length: 5", method="POST", body=b"hello"),
    "whole-chunked-body": request("Transfer-Encoding: chunked", method="POST", body=b"5\r\nhello\r\n0\r\n\r\n"),
    "expects-without-body": request("Expect: 100-continue"),
    "websocket": request("Connection: upgrade", "Upgrade: websocket"),
    "kept-1.0": request("Connection: keep-alive", version="1.0"),
    "many-fields": request(*(f"X-Field-{number}: {'v' * 50}" for number in range(60))),
}
ENDS = {
    "close": request("Connection: close"),
    "1.0": request(version="1.0"),
    "body-to-come": request("Content-Length: 5", method="POST"),
    "chunks-to-come": request("Transfer-Encoding: chunked", method="POST", body=b"5\r\nhel"),
    "expects": request("Content-Length: 5", "Expect: 100-continue", method="POST"),
}


@pytest.mark.parametrize("wire", STAYS.values(), ids=STAYS)
async def test_the_connection_stays(upstream: StartUpstream, gateway: StartGateway, wire: bytes) -> None:
    """The same request again and again is refused each time, on one connection, and what follows it is understood."""
    origin = await upstream(answers(OK))
    running, client = await shut(gateway, origin.url)
    responses = [await client.ask(wire) for _ in range(3)]
    last = await client.ask(OTHER)

    assert {response.status for response in responses} == {503}
    assert not any(response.interim for response in responses)
    if not wire.startswith(b"HEAD"):
        assert {response.code for response in responses} == {"circuit_open"}
    assert all(3000 < int(response.value(b"retry-after") or 0) <= 3600 for response in responses)
    ids = [response.value(b"x-request-id") for response in responses]
    assert len(set(ids)) == 3
    assert last.status == 200
    assert [entry["request_id"].encode() for entry in running.log.entries[:3]] == ids
    assert {(entry["failure"], entry["status"], entry["upstream"]) for entry in running.log.entries[:3]} == {
        ("circuit_open", 503, "app")
    }
    assert running.route.rejections == {"circuit_open": 3}
    assert sum(running.route.requests.values()) == 3
    assert running.route.response_bytes == sum(len(response.body) for response in responses)
    assert running.upstream.breaker.rejected == 3
    assert len(origin.requests) == 1


@pytest.mark.parametrize("wire", ENDS.values(), ids=ENDS)
async def test_the_connection_ends(upstream: StartUpstream, gateway: StartGateway, wire: bytes) -> None:
    """Who said so, or has not sent all of its request, gets the refusal and a close; a body is not asked for."""
    origin = await upstream(answers(OK))
    running, client = await shut(gateway, origin.url)
    response = await client.ask(wire)

    assert (response.status, response.code, response.interim) == (503, "circuit_open", [])
    assert response.value(b"connection") == b"close"
    assert await client.closed() == b""
    assert (running.route.rejections, running.upstream.breaker.rejected) == ({"circuit_open": 1}, 1)
    assert not origin.requests


async def test_pipelined_requests_are_refused_in_order(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Forty equal requests and others between them, in one write: as many answers, in their order (RFC 9112 9.3.2)."""
    origin = await upstream(answers(OK))
    _, client = await shut(gateway, origin.url)
    await client.send((GET * 20 + OTHER) * 2 + request(method="HEAD") + GET)
    statuses = [(await client.response()).status for _ in range(42)]

    assert statuses == ([503] * 20 + [200]) * 2
    assert (await client.response(b"HEAD")).status == 503
    assert (await client.response()).status == 503


async def test_a_request_in_pieces_is_refused_once(upstream: StartUpstream, gateway: StartGateway) -> None:
    """One byte at a time is the same request; what is like the last one at its beginning only, is another."""
    origin = await upstream(answers(OK))
    running, client = await shut(gateway, origin.url)
    for wire in (GET, GET, OTHER, GET):
        for at in range(len(wire)):
            await client.send(wire[at : at + 1])
            await turns()
        assert (await client.response()).status == (200 if wire == OTHER else 503)

    assert running.route.rejections == {"circuit_open": 3}


async def test_once_it_is_closed_the_same_request_gets_through(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What is remembered of a refused request is no reason to refuse the next one."""
    origin = await upstream(answers(OK))
    running, client = await shut(gateway, origin.url)
    assert [(await client.ask(GET)).status for _ in range(2)] == [503, 503]
    for one in running.plane.breakers:
        one.breaker.force(Forced(False, asyncio.get_running_loop().time() + 3600, "me", "test"), 0.0)

    assert [(await client.ask(GET)).status for _ in range(2)] == [200, 200]


async def test_a_reload_is_obeyed(upstream: StartUpstream, gateway: StartGateway, tmp_path: Path) -> None:
    """The same request, refused before, has another route after a reload."""
    origin = await upstream(answers(OK))
    running, client = await shut(gateway, origin.url)
    assert [(await client.ask(GET)).status for _ in range(2)] == [503, 503]
    file = tmp_path / "changed.yaml"
    text = TEXT.format(url=origin.url, server="", upstream="").replace("upstream: app", "respond: {status: 204}")
    file.write_text(text, encoding="utf-8")
    plane = running.plane
    plane.apply(compile_config(load(file), running.metrics, lambda *facts: EndpointPool(plane.loop, *facts), plane.snapshot))

    assert (await client.ask(GET)).status == 204


async def test_a_trusted_peers_words_are_believed(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Its id and its client's address stand in answer and log; without an id each refusal has its own."""
    origin = await upstream(answers(OK))
    running, client = await shut(gateway, origin.url, server="trusted_proxies: [127.0.0.1]")
    named = request("X-Request-ID: abc-1", "X-Forwarded-For: 192.0.2.7")
    assert [(await client.ask(named)).value(b"x-request-id") for _ in range(2)] == [b"abc-1"] * 2
    unnamed = [(await client.ask(request("X-Forwarded-For: 192.0.2.8"))).value(b"x-request-id") for _ in range(2)]

    assert len(set(unnamed)) == 2
    assert [entry["client_ip"] for entry in running.log.entries] == ["192.0.2.7"] * 2 + ["192.0.2.8"] * 2


async def test_requests_per_connection_are_counted(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The last one that a connection may carry says so, refused or not."""
    origin = await upstream(answers(OK))
    _, client = await shut(gateway, origin.url, server="limits: {requests_per_connection: 3}")
    connections = [(await client.ask(GET)).value(b"connection") for _ in range(3)]

    assert connections == [None, None, b"close"]
    assert await client.closed() == b""


async def test_draining_ends_the_connection(upstream: StartUpstream, gateway: StartGateway) -> None:
    """While the gateway drains, a refusal is the last answer too."""
    origin = await upstream(answers(OK))
    running, client = await shut(gateway, origin.url)
    await client.ask(GET)
    running.plane.draining = True

    assert (await client.ask(GET)).value(b"connection") == b"close"


async def test_a_fallback_is_asked_instead(upstream: StartUpstream, gateway: StartGateway) -> None:
    """With somebody to step in, nobody is refused."""
    origin = await upstream(answers(OK))
    _, client = await shut(gateway, origin.url, upstream="fallback: other")

    assert [(await client.ask(GET)).status for _ in range(3)] == [200] * 3


async def test_what_no_route_takes_is_told_so(upstream: StartUpstream, gateway: StartGateway) -> None:
    """404, 400 and the like stay what they are."""
    origin = await upstream(answers(OK))
    running, client = await shut(gateway, origin.url)

    assert (await client.ask(request(target="/a/%2e%2e/b"))).code == "path_ambiguous"
    assert (await client.ask(request(target="*", method="OPTIONS"))).code == "circuit_open"
    assert (await client.ask(request(method="TRACE"))).code == "method_not_allowed"
    assert running.route.in_flight == 0
