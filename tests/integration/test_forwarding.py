"""What reaches the other side: the request as the upstream sees it, the response as the client sees it."""

from __future__ import annotations

import re

import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import GET, OK, Request, answers, echoes_requests, proxy

TRUSTED = "trusted_proxies: [127.0.0.1]"


async def forwarded(upstream: StartUpstream, gateway: StartGateway, request: bytes, **config: str) -> Request:
    """The request as the upstream receives it."""
    origin = await upstream(echoes_requests)
    response = await (await gateway(proxy(origin.url, **config))).ask(request)
    assert response.status == 200
    return origin.requests[0]


@pytest.mark.parametrize(
    "target",
    [b"/", b"/a/b;c=d?x=1&y=%20&z", b"/%7Euser/%2Fetc", b"//double//slash", b"/a%0d%0aX-Evil:%20b?%00", b"/?", b"/a?b?c/../d"],
)
async def test_the_target_is_forwarded_byte_for_byte(upstream: StartUpstream, gateway: StartGateway, target: bytes) -> None:
    """A proxy does not rewrite path and query (RFC 9110 7.7)."""
    got = await forwarded(upstream, gateway, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)

    assert got.target == target


async def test_a_target_of_raw_utf8_is_escaped(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Bytes that no URI may hold are percent-encoded rather than passed on (RFC 9112 3.2)."""
    got = await forwarded(upstream, gateway, "GET /café HTTP/1.1\r\nHost: a\r\n\r\n".encode())

    assert got.target == b"/caf%C3%A9"


async def test_fields_keep_their_bytes_order_and_duplicates(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Names, values, order and repeated lines reach the upstream as they were sent (RFC 9110 5.3)."""
    lines = [
        b"X-A: 1",
        b"x-b:  \ttwo\t ",
        b"X-A: 2",
        b"Cookie: a=b; c",
        b"Cookie: d=e",
        b"X-Bytes: \xe9\xff",
        b"!#$%&'*+.^_`|~:",
        b"X-A:",
    ]
    got = await forwarded(upstream, gateway, b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % b"\r\n".join(lines))

    assert got.lines[1 : 1 + len(lines)] == lines


async def test_response_fields_keep_their_bytes_order_and_duplicates(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Set-Cookie lines are never joined, and nothing is reordered (RFC 9110 5.3)."""
    lines = [
        b"Set-Cookie: a=1",
        b"Date: then",
        b"set-cookie:b=2",
        b"X-\xc3: no".replace(b"\xc3", b"C"),
        b"Vary:  a",
        b"Vary: b",
        b"Server: x",
    ]
    origin = await upstream(answers(b"HTTP/1.1 299 Very Odd\r\n%b\r\nContent-Length: 0\r\n\r\n" % b"\r\n".join(lines)))
    response = await (await gateway(proxy(origin.url))).get()

    assert response.start == b"HTTP/1.1 299 Very Odd"
    assert response.lines[: len(lines)] == lines


async def test_hop_by_hop_request_fields_are_removed(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Connection, what it names, and the fields of one connection stop here (RFC 9110 7.6.1)."""
    request = (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Mine ,, x-other\r\nX-Mine: 1\r\nX-Other: 2\r\n"
        b"Keep-Alive: timeout=5\r\n"
        b"Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nTE: trailers\r\nTrailer: X-T\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: x\r\nX-Kept: 3\r\n\r\n"
    )
    got = await forwarded(upstream, gateway, request)

    assert set(got.names()) & {
        b"connection", b"x-mine", b"x-other", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"trailer",
        b"upgrade", b"http2-settings",
    } == set()  # fmt: skip
    assert got.value(b"x-kept") == b"3"


async def test_hop_by_hop_response_fields_are_removed(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The same on the way back (RFC 9110 7.6.1)."""
    origin = await upstream(
        answers(
            b"HTTP/1.1 200 OK\r\nConnection: X-Mine, close\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n"
            b"Proxy-Authenticate: Basic\r\n"
            b"Proxy-Connection: close\r\nTrailer: X-T\r\nUpgrade: h2c\r\nX-Kept: 2\r\nContent-Length: 2\r\n\r\nOK"
        )
    )
    client = await (await gateway(proxy(origin.url))).client()
    response = await client.ask(GET)

    assert set(response.names()) & {
        b"connection", b"x-mine", b"keep-alive", b"proxy-authenticate", b"proxy-connection", b"trailer", b"upgrade",
    } == set()  # fmt: skip
    assert (response.value(b"x-kept"), response.body) == (b"2", b"OK")
    assert (await client.ask(GET)).status == 200


@pytest.mark.parametrize("name", [b"Host", b"Authorization", b"Cookie", b"Content-Length", b"Transfer-Encoding", b"Via"])
async def test_connection_cannot_remove_end_to_end_fields(upstream: StartUpstream, gateway: StartGateway, name: bytes) -> None:
    """A Connection that names what others rely on is refused, not obeyed (threat: hop-by-hop abuse)."""
    origin = await upstream(answers(OK))
    response = await (await gateway(proxy(origin.url))).ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: %b\r\n\r\n" % name)

    assert (response.status, response.code) == (400, "http_request_error")
    assert origin.requests == []


@pytest.mark.parametrize("name", [b"X-Forwarded-For", b"X-Request-ID", b"X-Real-IP", b"X-Request-Timeout-Ms"])
async def test_connection_cannot_remove_what_the_gateway_adds(
    upstream: StartUpstream, gateway: StartGateway, name: bytes
) -> None:
    """Ours are added after the client's hop-by-hop fields were removed (RFC 9110 7.6.1; threat: hop-by-hop abuse)."""
    request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, %b\r\n\r\n" % name
    got = await forwarded(upstream, gateway, request)

    assert got.value(b"x-forwarded-for") == b"127.0.0.1"
    assert got.value(b"x-request-id") and got.value(b"x-request-timeout-ms")


async def test_via_is_added_behind_those_received(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A gateway appends itself to Via on every inbound request (RFC 9110 7.6.3)."""
    got = await forwarded(upstream, gateway, b"GET / HTTP/1.1\r\nHost: a\r\nVia: 1.0 x, 1.1 y\r\nVia: 2 z\r\n\r\n")

    assert got.values(b"via") == [b"1.0 x, 1.1 y", b"2 z", b"1.1 gw"]


async def test_a_request_that_came_by_us_is_a_loop(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Our own name in Via means the request goes round: 502 (RFC 9110 7.3, 7.6.3)."""
    origin = await upstream(answers(OK))
    response = await (await gateway(proxy(origin.url))).get("/", "Via: 1.1 other, 1.1 gw")

    assert (response.status, response.code) == (502, "proxy_loop_detected")
    assert origin.requests == []


async def test_strangers_are_not_believed_about_the_client(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Forwarding fields of an untrusted peer are dropped, not extended (threat: X-Forwarded-For spoofing)."""
    request = (
        b"GET / HTTP/1.1\r\nHost: a.example:81\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n"
        b"X-Forwarded-Host: evil\r\n"
        b"X-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /x\r\nX-Real-IP: 6.6.6.6\r\n"
        b"Forwarded: for=6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\n\r\n"
    )
    got = await forwarded(upstream, gateway, request)

    assert [line for line in got.lines if b"orwarded" in line or b"Real" in line] == [
        b"X-Forwarded-For: 127.0.0.1",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: a.example:81",
        b"X-Forwarded-Port: 81",
    ]


async def test_a_trusted_proxy_is_believed_about_the_client(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What a trusted proxy says is kept, and this hop is appended (RFC 7239 4; X-Forwarded-For by convention)."""
    request = (
        b"GET / HTTP/1.1\r\nHost: inner\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n"
        b"X-Forwarded-Proto: https\r\n"
        b"X-Forwarded-Host: outer.example\r\nX-Forwarded-Port: 443\r\nX-Real-IP: 192.0.2.1\r\n\r\n"
    )
    got = await forwarded(upstream, gateway, request, server=TRUSTED)

    assert got.value(b"x-forwarded-for") == b"192.0.2.1, 192.0.2.2, 127.0.0.1"
    assert got.value(b"x-forwarded-proto") == b"https"
    assert got.value(b"x-forwarded-host") == b"outer.example"
    assert (got.value(b"x-forwarded-port"), got.value(b"x-real-ip")) == (b"443", b"192.0.2.1")


@pytest.mark.parametrize(
    "mode,expected",
    [
        ("forwarded", [b'Forwarded: for=127.0.0.1;host="a:1";proto=http']),
        ("off", []),
        (
            "both",
            [
                b"X-Forwarded-For: 127.0.0.1",
                b"X-Forwarded-Proto: http",
                b"X-Forwarded-Host: a:1",
                b"X-Forwarded-Port: 1",
                b'Forwarded: for=127.0.0.1;host="a:1";proto=http',
            ],
        ),
    ],
)
async def test_the_operator_chooses_the_forwarding_fields(
    upstream: StartUpstream, gateway: StartGateway, mode: str, expected: list[bytes]
) -> None:
    """`forwarded` chooses between the RFC 7239 field, the older ones, both and none."""
    got = await forwarded(upstream, gateway, b"GET / HTTP/1.1\r\nHost: a:1\r\n\r\n", server=f"forwarded: {mode}")

    assert [line for line in got.lines if b"orwarded" in line] == expected


@pytest.mark.parametrize(
    "host,given,port",
    [
        (b"a.example", b"", b"80"),
        (b"a.example:8080", b"", b"8080"),
        (b"[::1]", b"", b"80"),
        (b"[::1]:81", b"", b"81"),
        (b"a.example:", b"", b"80"),
        (b"a.example:8080", b"X-Forwarded-Proto: https\r\n", b"8080"),
        (b"a.example", b"X-Forwarded-Proto: https\r\n", b"443"),
        (b"inner:81", b"X-Forwarded-Host: outer.example\r\nX-Forwarded-Proto: https\r\n", b"443"),
        (b"inner:81", b"X-Forwarded-Port: 4443\r\n", b"4443"),
    ],
)
async def test_the_upstream_is_told_the_port_that_the_client_sees(
    upstream: StartUpstream, gateway: StartGateway, host: bytes, given: bytes, port: bytes
) -> None:
    """`X-Forwarded-Port` is that of the authority, else that of the scheme; a trusted proxy's own is kept."""
    got = await forwarded(upstream, gateway, b"GET / HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (host, given), server=TRUSTED)

    assert got.value(b"x-forwarded-port") == port


async def test_each_request_of_a_connection_tells_its_own_host(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What is remembered of the last request's authority does not reach the next one's upstream."""
    origin = await upstream(echoes_requests)
    client = await (await gateway(proxy(origin.url))).client()
    for host in (b"a:1", b"a:1", b"b:2", b"a:1"):
        await client.ask(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host)

    told = [got.values(b"x-forwarded-host") + got.values(b"x-forwarded-port") for got in origin.requests]
    assert told == [[b"a:1", b"1"], [b"a:1", b"1"], [b"b:2", b"2"], [b"a:1", b"1"]]


@pytest.mark.parametrize(
    "server,route,given,told",
    [
        ("", "strip_prefix: /shop", "", [b"/shop"]),
        ("", "strip_prefix: true", "", [b"/shop"]),
        ("", "rewrite_prefix: {from: /shop, to: /}", "", [b"/shop"]),
        ("", "rewrite_prefix: {from: /shop, to: /v2}", "", []),
        ("", "", "", []),
        ("", "strip_prefix: /shop", "X-Forwarded-Prefix: /evil\r\n", [b"/shop"]),
        (TRUSTED, "strip_prefix: /shop", "X-Forwarded-Prefix: /outer\r\n", [b"/outer/shop"]),
        (TRUSTED, "strip_prefix: /shop", "X-Forwarded-Prefix: /outer/\r\n", [b"/outer/shop"]),
        (TRUSTED, "strip_prefix: /shop", "X-Forwarded-For: 192.0.2.1\r\n", [b"/shop"]),
        (TRUSTED, "", "X-Forwarded-Prefix: /outer\r\n", [b"/outer"]),
        ("forwarded: both", "strip_prefix: /shop", "", [b"/shop"]),
        ("forwarded: forwarded", "strip_prefix: /shop", "", []),
        ("forwarded: off", "strip_prefix: /shop", "", []),
        ("", "strip_prefix: /shop, request_fields: {set: {X-Forwarded-Prefix: /mine}}", "", [b"/mine"]),
        ("", "strip_prefix: /shop, request_fields: {remove: [X-Forwarded-Prefix]}", "", []),
    ],
)
async def test_the_upstream_is_told_the_prefix_that_it_does_not_see(
    upstream: StartUpstream, gateway: StartGateway, server: str, route: str, given: str, told: list[bytes]
) -> None:
    """A stripped prefix is in `X-Forwarded-Prefix`, behind that of a trusted proxy; what `request_fields` says holds."""
    request = f"GET /shop/x HTTP/1.1\r\nHost: a\r\n{given}\r\n".encode()
    got = await forwarded(upstream, gateway, request, server=server, route=route, path="/shop/**")

    assert got.values(b"x-forwarded-prefix") == told


async def test_the_client_address_is_the_rightmost_untrusted(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What stands left of the first untrusted address was not written by anyone we trust (threat: X-Forwarded-For spoofing)."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, server="trusted_proxies: [127.0.0.1, 10.0.0.0/8]"))
    await running.get("/", "X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.1.1.1")

    assert running.log.entries[0]["client_ip"] == "192.0.2.7"


async def test_a_request_id_is_made_and_returned(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Upstream, client and access log see one id; a stranger's is replaced."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url))
    response = await running.get("/", "X-Request-ID: mine")

    made = response.value(b"x-request-id") or b""
    assert re.fullmatch(rb"[0-9a-f]{32}", made)
    assert origin.requests[0].value(b"x-request-id") == made
    assert running.log.entries[0]["request_id"] == made.decode()


@pytest.mark.parametrize("given,kept", [("abc-1.2_3", True), ("a b", False), ("x" * 129, False), ("a,b", False)])
async def test_a_trusted_request_id_is_kept_when_it_is_harmless(
    upstream: StartUpstream, gateway: StartGateway, given: str, kept: bool
) -> None:
    """An id from a trusted proxy goes on, unless it could do harm in a log or a field (threat: log injection)."""
    origin = await upstream(answers(OK))
    response = await (await gateway(proxy(origin.url, server=TRUSTED))).get("/", f"X-Request-ID: {given}")

    assert (response.value(b"x-request-id") == given.encode()) is kept
    assert origin.requests[0].value(b"x-request-id") == response.value(b"x-request-id")


async def test_a_date_is_added_where_the_upstream_sent_none(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A response without Date gets one (RFC 9110 6.6.1)."""
    origin = await upstream(answers(OK))
    response = await (await gateway(proxy(origin.url))).get()

    assert re.fullmatch(rb"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", response.value(b"date") or b"")


@pytest.mark.parametrize(
    "setting,expected", [("preserve", b"Client.Example:99"), ("endpoint", b"127.0.0.1:{}"), ("inner.example", b"inner.example")]
)
async def test_the_operator_chooses_the_host(
    upstream: StartUpstream, gateway: StartGateway, setting: str, expected: bytes
) -> None:
    """`host` sends the client's Host byte for byte, the endpoint's, or a fixed one; always first (RFC 9110 7.2)."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, upstream=f"host: {setting}"))
    await running.ask(b"GET / HTTP/1.1\r\nX-First: 1\r\nHost: Client.Example:99\r\n\r\n")

    assert origin.requests[0].lines[0] == b"Host: " + expected.replace(b"{}", b"%d" % origin.port)


async def test_absolute_form_wins_over_host(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The authority of an absolute-form target replaces Host, and origin-form is forwarded (RFC 9112 3.2.2)."""
    got = await forwarded(upstream, gateway, b"GET http://right.example:8080?q HTTP/1.1\r\nHost: wrong.example\r\n\r\n")

    assert (got.target, got.value(b"host"), got.value(b"x-forwarded-host")) == (
        b"/?q",
        b"right.example:8080",
        b"right.example:8080",
    )


async def test_options_asterisk_is_forwarded(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The last proxy sends asterisk-form on as it came (RFC 9112 3.2.4)."""
    got = await forwarded(upstream, gateway, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")

    assert (got.method, got.target) == (b"OPTIONS", b"*")


@pytest.mark.parametrize(
    "route,path,target,expected",
    [
        ("strip_prefix: /api", "/api/**", b"/api/x%2Fy?z", b"/x%2Fy?z"),
        ("strip_prefix: true", "/api/v1/**", b"/api/v1?q", b"/?q"),
        ("strip_prefix: /api", "/api/**", b"/api", b"/"),
        ("rewrite_prefix: {from: /a, to: /b/c}", "/a/**", b"/a/x//y", b"/b/c/x//y"),
        ("rewrite_prefix: {from: /a, to: /}", "/a/**", b"/a", b"/"),
        ("rewrite_prefix: {from: /, to: /v2}", "/**", b"/x", b"/v2/x"),
    ],
)
async def test_a_prefix_is_replaced_and_not_a_byte_else(
    upstream: StartUpstream, gateway: StartGateway, route: str, path: str, target: bytes, expected: bytes
) -> None:
    """`strip_prefix` and `rewrite_prefix` work on the raw bytes of the target."""
    got = await forwarded(upstream, gateway, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target, route=route, path=path)

    assert got.target == expected


async def test_a_prefix_in_other_spelling_is_not_guessed(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A path that matches only when decoded cannot have its prefix replaced: 400, not a guess (threat: path confusion)."""
    origin = await upstream(answers(OK))
    response = await (await gateway(proxy(origin.url, route="strip_prefix: /api", path="/api/**"))).get("/%61pi/x")

    assert (response.status, response.code) == (400, "path_ambiguous")
    assert origin.requests == []


async def test_the_rewritten_path_cannot_name_another_host(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What is left behind a stripped prefix is still a path: it begins with one `/` at least."""
    got = await forwarded(
        upstream, gateway, b"GET /apihttp://evil HTTP/1.1\r\nHost: a\r\n\r\n", route="rewrite_prefix: {from: /, to: /v2}"
    )

    assert got.target == b"/v2/apihttp://evil"


@pytest.mark.parametrize(
    "redirect,target,location",
    [
        ("{to: /new}", "/old?q", b"/new"),
        ("{to: 'https://b.example', keep_path: true}", "/a/%0d%0ab?q=1", b"https://b.example/a/%0d%0ab?q=1"),
        ("{to: 'https://b.example/x/', keep_path: true, keep_query: false}", "/a?q", b"https://b.example/x/a"),
        ("{to: /new, keep_query: true}", "/x?c=d", b"/new?c=d"),
    ],
)
async def test_a_route_can_redirect(gateway: StartGateway, redirect: str, target: str, location: bytes) -> None:
    """Location is built from the configured target and the request's own, still encoded, bytes."""
    running = await gateway(
        f'{{version: 1, server: {{listen: "127.0.0.1:0"}}, admin: {{listen: "off"}}, access_log: "off",'
        f' routes: [{{name: all, match: {{path: "/**"}}, redirect: {redirect}}}]}}'
    )
    response = await running.get(target)

    assert (response.status, response.value(b"location"), response.body) == (307, location, b"")


async def test_a_redirect_of_a_path_cannot_name_another_host(gateway: StartGateway) -> None:
    """`//evil.example` behind an origin-less target would be a host name in Location (threat: open redirect)."""
    running = await gateway(
        '{version: 1, server: {listen: "127.0.0.1:0"}, admin: {listen: "off"}, access_log: "off",'
        ' routes: [{name: all, match: {path: "/**"}, redirect: {to: /, keep_path: true}}]}'
    )
    response = await running.get("//evil.example/x")

    assert response.value(b"location") == b"/evil.example/x"


async def test_a_route_can_answer_by_itself(gateway: StartGateway) -> None:
    """`respond` needs no upstream; HEAD gets the same head without the body (RFC 9110 9.3.2)."""
    running = await gateway(
        '{version: 1, server: {listen: "127.0.0.1:0"}, admin: {listen: "off"}, access_log: "off", routes: [{name: all,'
        ' match: {path: "/**"}, respond: {status: 203, body: "hé", content_type: text/x, fields: {X-A: b}}}]}'
    )
    client = await running.client()
    response = await client.ask(GET)
    head = await client.ask(GET.replace(b"GET", b"HEAD"))

    assert (response.status, response.body, response.value(b"content-type")) == (203, "hé".encode(), b"text/x")
    assert (head.status, head.value(b"content-length"), head.value(b"x-a")) == (203, b"3", b"b")
    assert (await client.ask(GET)).body == "hé".encode()


async def test_field_edits_apply_in_order(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Remove, then set, then add; on the way in and on the way out."""
    edits = "{remove: [X-Gone], set: {X-Set: new}, add: {X-More: '2'}}"
    origin = await upstream(
        answers(
            b"HTTP/1.1 200 OK\r\nx-gone: 1\r\nX-SET: old\r\nX-Set: old\r\nX-More: 1\r\nX-Kept: 1\r\nContent-Length: 0\r\n\r\n"
        )
    )
    running = await gateway(proxy(origin.url, route=f"request_fields: {edits}, response_fields: {edits}"))
    response = await running.get("/", "X-GONE: 1", "x-set: old", "x-set: old", "X-More: 1", "X-Kept: 1")

    for message in (origin.requests[0], response):
        assert message.value(b"x-gone") is None
        assert message.value(b"x-set") == b"new"
        assert message.values(b"x-more") == [b"1", b"2"]
        assert message.value(b"x-kept") == b"1"


async def test_authorization_is_not_touched(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A proxy forwards Authorization as it is (RFC 9110 11.6.2), and never logs it."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url))
    await running.get("/?token=secret1", "Authorization: Bearer secret2", "Cookie: secret3")

    assert origin.requests[0].value(b"authorization") == b"Bearer secret2"
    assert "secret" not in str(running.log.entries)


@pytest.mark.parametrize("received,forwarded_as", [("5", b"4"), ("1", b"0")])
async def test_max_forwards_is_counted_down_on_options(
    upstream: StartUpstream, gateway: StartGateway, received: str, forwarded_as: bytes
) -> None:
    """Max-Forwards of OPTIONS goes on as one less (RFC 9110 7.6.2)."""
    got = await forwarded(upstream, gateway, f"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: {received}\r\n\r\n".encode())

    assert got.value(b"max-forwards") == forwarded_as


async def test_max_forwards_zero_ends_here(upstream: StartUpstream, gateway: StartGateway) -> None:
    """OPTIONS with Max-Forwards 0 is answered by the recipient (RFC 9110 7.6.2)."""
    origin = await upstream(answers(OK))
    response = await (await gateway(proxy(origin.url))).ask(b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n")

    assert response.status == 204
    assert origin.requests == []


@pytest.mark.parametrize(
    "request_line,status,code",
    [
        (b"CONNECT a:1", 501, "method_not_implemented"),
        (b"TRACE /", 405, "method_not_allowed"),
        (b"GET https://a/", 421, "misdirected_request"),
        (b"GET ftp://a/", 400, "http_request_error"),
        (b"GET /../x", 400, "path_ambiguous"),
        (b"GET /%2e%2e/x", 400, "path_ambiguous"),
    ],
)
async def test_what_is_not_for_a_gateway_is_refused(
    upstream: StartUpstream, gateway: StartGateway, request_line: bytes, status: int, code: str
) -> None:
    """CONNECT, TRACE, foreign schemes and dot segments never reach an upstream (RFC 9110 7.4, 9.3.6)."""
    origin = await upstream(answers(OK))
    response = await (await gateway(proxy(origin.url))).ask(request_line + b" HTTP/1.1\r\nHost: a\r\n\r\n")

    assert (response.status, response.code) == (status, code)
    assert origin.requests == []


async def test_an_unmatched_request_is_404_and_a_wrong_method_405(gateway: StartGateway) -> None:
    """404 where no route matches the path, 405 with Allow where one serves other methods (RFC 9110 15.5.6), 421 for a host
    that no route knows (RFC 9110 15.5.20)."""
    running = await gateway(
        '{version: 1, server: {listen: "127.0.0.1:0", name: gw}, admin: {listen: "off"}, access_log: "off",'
        " routes: [{name: all, match: {host: example.com, path: /x, methods: [GET]}, respond: 200}]}"
    )
    client = await running.client()
    missing, wrong, foreign = [
        await client.ask(request)
        for request in (GET, b"PUT /x HTTP/1.1\r\nHost: example.com\r\n\r\n", b"GET /x HTTP/1.1\r\nHost: b\r\n\r\n")
    ]

    assert (missing.status, missing.code) == (404, "destination_not_found")
    assert (wrong.status, wrong.code, wrong.value(b"allow")) == (405, "method_not_allowed", b"GET, HEAD")
    assert (foreign.status, foreign.code) == (421, "misdirected_request")


async def test_problem_bodies_hold_nothing_of_the_request(gateway: StartGateway) -> None:
    """Errors are static words and our own ids, not sniffable as HTML (RFC 9457; threat: reflection)."""
    running = await gateway(
        '{version: 1, server: {listen: "127.0.0.1:0", name: gw}, admin: {listen: "off"}, access_log: "off",'
        " routes: [{name: all, match: {path: /x}, respond: 200}]}"
    )
    response = await running.get("/<script>?<script>", "X-A: <script>")

    assert b"script" not in response.body
    assert response.value(b"x-content-type-options") == b"nosniff"
    assert response.value(b"cache-control") == b"no-store"
    assert response.value(b"proxy-status") == b"gw; error=destination_not_found"
    assert (response.value(b"x-request-id") or b"?") in response.body
