"""Facts of the request in the values of `request_fields` and `response_fields`, as both sides get them."""

from __future__ import annotations

import gzip

import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import OK, answers, proxy, refusing_port

ALL = (
    "{X-Ip: '{client_ip}', X-Id: '{request_id}', X-Route: '{route}', X-Param: '/u/{path.id}/', X-Host: '{host}',"
    " X-Scheme: '{scheme}', X-Method: '{method}', X-Text: '{{host}}'}"
)


@pytest.mark.parametrize("side", ["request_fields", "response_fields"])
async def test_facts_are_told(upstream: StartUpstream, gateway: StartGateway, side: str) -> None:
    """Each fact is that of this request, on the way to the upstream as on the way to the client."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, path="/users/{id}", route=f"{side}: {{set: {ALL}}}"))
    client = await running.client()
    for number in (b"7", b"8"):
        response = await client.ask(b"GET /users/%b HTTP/1.1\r\nHost: Example.COM:80\r\nX-Ip: evil\r\n\r\n" % number)
        told = origin.requests[-1] if side == "request_fields" else response

        assert told.value(b"x-ip") == b"127.0.0.1"
        assert told.value(b"x-id") == response.value(b"x-request-id") != b""
        assert (told.value(b"x-route"), told.value(b"x-param")) == (b"all", b"/u/%b/" % number)
        assert (told.value(b"x-host"), told.value(b"x-scheme"), told.value(b"x-method")) == (b"example.com", b"http", b"GET")
        assert told.value(b"x-text") == b"{host}"


@pytest.mark.parametrize(
    "sent,told",
    [
        (b"a%0d%0aX-Evil:%201", b"a%0D%0AX-Evil:%201"),
        (b"%20a%09", b"%20a%09"),
        (b"caf%c3%a9", b"caf%C3%A9"),
        (b"50%2525", b"50%2525"),
        (b"a,b;c=%22d%22", b"a,b"),
        (b"%FF%7f", b"%FF%7F"),
    ],
)
async def test_a_path_parameter_cannot_break_out_of_its_value(
    upstream: StartUpstream, gateway: StartGateway, sent: bytes, told: bytes
) -> None:
    """Whatever a client encodes in its path: all but visible ASCII stays encoded (threat: header injection)."""
    origin = await upstream(answers(OK))
    route = "request_fields: {set: {X-Param: '{path.id}'}}, response_fields: {add: {X-Param: '{path.id}'}}"
    running = await gateway(proxy(origin.url, path="/users/{id}", route=route))
    response = await running.ask(b"GET /users/%b HTTP/1.1\r\nHost: a\r\n\r\n" % sent)

    assert origin.requests[0].values(b"x-param") == response.values(b"x-param") == [told]
    assert response.value(b"x-evil") is None


async def test_a_trusted_proxy_says_who_the_client_is(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Client address and scheme are those that a trusted proxy tells."""
    origin = await upstream(answers(OK))
    route = "request_fields: {set: {X-Told: '{client_ip} {scheme}'}}"
    running = await gateway(proxy(origin.url, route=route, server="trusted_proxies: [127.0.0.1]"))
    await running.get("/", "X-Forwarded-For: 2001:db8::1", "X-Forwarded-Proto: https")

    assert origin.requests[0].value(b"x-told") == b"2001:db8::1 https"


async def test_problems_tell_facts_of_their_own_request(gateway: StartGateway) -> None:
    """A refusal that is rendered once for many requests still tells each one its own."""
    running = await gateway(
        proxy(
            f"http://127.0.0.1:{refusing_port()}",
            path="/users/{id}",
            route="retry: off, response_fields: {set: {X-Param: '{path.id}'}}",
            upstream="circuit_breaker: {min_requests: 4, open_for: 60s}",
        )
    )
    found = {(await running.get(f"/users/{number}")).value(b"x-param") for number in range(12)}

    assert found == {b"%d" % number for number in range(12)}
    assert "circuit_open" in running.route.rejections


async def test_redirects_and_fixed_answers_tell_facts_too(gateway: StartGateway) -> None:
    """`response_fields` apply to what the gateway answers itself, as ever."""
    running = await gateway(
        "{version: 1, server: {listen: '127.0.0.1:0'}, admin: {listen: 'off'}, access_log: 'off',"
        " defaults: {response_fields: {set: {X-Told: '{method} {route}'}}},"
        " routes: [{name: away, match: {path: /away}, redirect: /}, {name: here, match: {path: /here}, respond: 404}]}"
    )

    assert (await running.get("/away")).value(b"x-told") == b"GET away"
    assert (await running.get("/here")).value(b"x-told") == b"GET here"


async def test_a_compressing_route_tells_each_request_its_own(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What is remembered of an upstream's field section holds no fact of a request."""
    body = b"x" * 3000
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3000\r\n\r\n"
    origin = await upstream(answers(head + body))
    route = "response_fields: {set: {X-Param: '{path.id}'}}, compression: {codings: [gzip]}"
    client = await (await gateway(proxy(origin.url, path="/users/{id}", route=route))).client()
    for number in (b"1", b"2"):
        request = b"GET /users/%b HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n" % number
        response = await client.ask(request)

        assert (response.value(b"x-param"), gzip.decompress(response.body)) == (number, body)


async def test_json_in_a_value_is_text(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`NEL` and the like need no escapes."""
    origin = await upstream(answers(OK))
    nel = '{"report_to":"default","max_age":31536000,"x":{"y":{"z":1}}}'
    running = await gateway(proxy(origin.url, route=f"response_fields: {{set: {{NEL: '{nel}'}}}}"))

    assert (await running.get()).value(b"nel") == nel.encode()
