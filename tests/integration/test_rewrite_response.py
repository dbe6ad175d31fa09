"""`rewrite_response`: redirects and cookies of an upstream that does not see its prefix, as the client gets them."""

from __future__ import annotations

import gzip

import pytest

from tests.certificates import Certificates
from tests.conftest import StartGateway, StartUpstream
from tests.support import OK, Gateway, Response, Upstream, answers, proxy

ON = "strip_prefix: true, rewrite_response: on"


def moved(*lines: str, status: str = "302 Found", body: str = "") -> bytes:
    """A response with these field lines."""
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", "", body]).encode("latin-1")


async def at_shop(upstream: StartUpstream, gateway: StartGateway, response: bytes, **config: str) -> tuple[Upstream, Gateway]:
    """A gateway whose route for `/shop/**` leads to an upstream that answers so."""
    origin = await upstream(answers(response))
    return origin, await gateway(proxy(origin.url, path="/shop/**", **config))


async def test_redirects_and_cookies_stay_in_the_prefix(upstream: StartUpstream, gateway: StartGateway) -> None:
    """With `on`, all that the upstream says of its paths leads back to it; the rest of the response keeps its bytes."""
    lines = ["X-A:  1", "Location: /login?next=1", "Set-Cookie: a=1; Path=/in; HttpOnly", "set-cookie:b=2; Path=/", "X-B: /"]
    _, running = await at_shop(upstream, gateway, moved(*lines), route=ON)
    response = await running.get("/shop/old")

    assert response.lines[:5] == [
        b"X-A:  1",
        b"Location: /shop/login?next=1",
        b"Set-Cookie: a=1; Path=/shop/in; HttpOnly",
        b"set-cookie: b=2; Path=/shop",
        b"X-B: /",
    ]


@pytest.mark.parametrize(
    "route,location,cookie",
    [
        ("strip_prefix: true", b"/login", b"a=1; Path=/in"),
        ("strip_prefix: true, rewrite_response: off", b"/login", b"a=1; Path=/in"),
        ("strip_prefix: true, rewrite_response: {cookie_path: false}", b"/shop/login", b"a=1; Path=/in"),
        ("strip_prefix: true, rewrite_response: {location: false}", b"/login", b"a=1; Path=/shop/in"),
        ("rewrite_prefix: {from: /shop, to: /in}, rewrite_response: on", b"/login", b"a=1; Path=/shop"),
        (
            "strip_prefix: true, rewrite_response: on, response_fields: {set: {Location: /mine}}",
            b"/mine",
            b"a=1; Path=/shop/in",
        ),
    ],
)
async def test_the_operator_chooses_what_is_put_right(
    upstream: StartUpstream, gateway: StartGateway, route: str, location: bytes, cookie: bytes
) -> None:
    """Off unless written, each field by its own switch; `response_fields` have the last word."""
    _, running = await at_shop(upstream, gateway, moved("Location: /login", "Set-Cookie: a=1; Path=/in"), route=route)
    response = await running.get("/shop/old")

    assert (response.value(b"location"), response.value(b"set-cookie")) == (location, cookie)


@pytest.mark.parametrize("host", ["preserve", "endpoint", "inner.example"])
async def test_the_upstream_s_own_urls_become_the_client_s(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates, host: str
) -> None:
    """A URL under the name that the upstream was asked for, or of its endpoint, gets the client's scheme, name and prefix."""
    listen = (
        f"{{address: '127.0.0.1:0', tls: {{certificate: '{certificates['good.crt']}', key: '{certificates['good.key']}'}}}}"
    )
    origin = await upstream(answers(OK))
    name = {"preserve": "client.example:99", "endpoint": f"127.0.0.1:{origin.port}"}.get(host, host)
    for url in (f"http://{name}/a?b#c", f"http://127.0.0.1:{origin.port}/a?b#c"):
        origin.behaviour = answers(moved(f"Location: {url}"))
        running = await gateway(proxy(origin.url, listen=listen, path="/shop/**", route=ON, upstream=f"host: {host}"))
        client = await running.client(tls=certificates.client())
        response = await client.ask(b"GET /shop/x HTTP/1.1\r\nHost: client.example:99\r\n\r\n")

        assert response.value(b"location") == b"https://client.example:99/shop/a?b#c"


async def test_a_trusted_proxy_says_what_the_client_sees(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Scheme and authority are those that a trusted proxy says; a stranger's word counts for nothing."""
    response = moved("Location: http://inner/a")
    said = ("X-Forwarded-Proto: https", "X-Forwarded-Host: outer.example")
    found = []
    for server in ("trusted_proxies: [127.0.0.1]", ""):
        origin = await upstream(answers(response))
        running = await gateway(proxy(origin.url, path="/shop/**", route=ON, upstream="host: inner", server=server))
        found.append((await running.get("/shop/x", *said)).value(b"location"))

    assert found == [b"https://outer.example/shop/a", b"http://example.com/shop/a"]


async def test_each_response_of_a_compressing_route_is_put_right(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What is remembered of an upstream's field section holds for one client's address only where a client has a say."""
    origin = await upstream(answers(moved("Content-Type: text/plain", "Content-Location: http://app/a", body="x" * 3000)))
    running = await gateway(
        proxy(origin.url, path="/shop/**", route=f"{ON}, compression: {{codings: [gzip]}}", upstream="host: app")
    )
    client = await running.client()
    found: list[Response] = [
        await client.ask(b"GET /shop/x HTTP/1.1\r\nHost: %b\r\nAccept-Encoding: gzip\r\n\r\n" % host)
        for host in (b"one", b"two")
    ]

    assert [one.value(b"content-location") for one in found] == [b"http://one/shop/a", b"http://two/shop/a"]
    assert [gzip.decompress(one.body) for one in found] == [b"x" * 3000] * 2


async def test_streams_are_put_right_too(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A response whose body follows bit by bit has the same head."""
    chunked = b"HTTP/1.1 201 Created\r\nLocation: /a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n0\r\n\r\n"
    _, running = await at_shop(upstream, gateway, chunked, route=ON)
    response = await running.get("/shop/x")

    assert (response.status, response.value(b"location"), response.body) == (201, b"/shop/a", b"OK")


async def test_answers_of_the_gateway_itself_are_left_alone(gateway: StartGateway) -> None:
    """Only upstreams are corrected: a redirect says where it leads in the operator's own words."""
    running = await gateway(
        "{version: 1, server: {listen: '127.0.0.1:0'}, admin: {listen: 'off'}, access_log: 'off',"
        " defaults: {rewrite_response: on}, routes: [{name: all, match: {path: '/shop/**'}, redirect: /login}]}"
    )

    assert (await running.get("/shop/x")).value(b"location") == b"/login"
