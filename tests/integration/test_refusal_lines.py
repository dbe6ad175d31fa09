"""What the access log says of requests that are refused before a route takes them: what was asked, and why."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.proxy.access_log import line
from gateway.proxy.access_log.line import ECS, FLAT, OTEL
from tests.conftest import StartGateway, StartUpstream
from tests.support import Gateway, eventually, proxy

FIELDS = ["ts", "request_id", "client_ip", "method", "scheme", "path", "status", "failure", "detail", "flags", "config"]


async def refused(gateway: StartGateway, *parts: bytes, log: str = "", **config: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The line of the only request that was sent, and the problem that answered it."""
    running = await gateway(with_log("http://127.0.0.1:1", log=log, **config))
    client = await running.client()
    for part in parts:
        client.writer.write(part)
    response = await client.response()
    client.half_close()
    await client.closed()
    await eventually(lambda: running.log.entries)
    (entry,) = running.log.entries
    problem = orjson.loads(response.body)
    id_ = (response.value(b"x-request-id") or b"").decode()
    assert id_ and problem["request_id"] == entry.get("request_id", id_) == id_
    assert response.status == problem["status"]
    return entry, problem


def with_log(url: str, *, log: str = "", **config: str) -> str:
    """A configuration with an access log."""
    return proxy(url, **config).replace('access_log: "off"', f"access_log: {{{log}}}")


H = b"Host: a\r\n"
REFUSALS: dict[str, tuple[bytes, int, str | None, str | None, str]] = {
    "blank-before-colon": (b"GET /shop/cart HTTP/1.1\r\n" + H + b"X-Legacy : 1\r\n\r\n", 400, "GET", "/shop/cart", "colon"),
    "folded": (b"GET /f?secret HTTP/1.1\r\n" + H + b"X: 1\r\n 2\r\n\r\n", 400, "GET", "/f", "folded"),
    "no-colon": (b"PUT /f HTTP/1.1\r\n" + H + b"nothing\r\n\r\n", 400, "PUT", "/f", "no colon"),
    "control": (b"PUT /f HTTP/1.1\r\n" + H + b"X: a\x00b\r\n\r\n", 400, "PUT", "/f", "control character"),
    "field-name": (b"PUT /f HTTP/1.1\r\n" + H + b"X\xe9: a\r\n\r\n", 400, "PUT", "/f", "name of a field"),
    "host": (b"GET /shop/cart HTTP/1.1\r\nHost: a_b c\r\n\r\n", 400, "GET", "/shop/cart", "Host"),
    "no-host": (b"GET /x HTTP/1.1\r\nA: b\r\n\r\n", 400, "GET", "/x", "Host"),
    "two-hosts": (b"GET /x HTTP/1.1\r\n" + H + H + b"\r\n", 400, "GET", "/x", "Host"),
    "lengths": (b"POST /x HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "POST", "/x", "Length"),
    "both": (b"PUT / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "PUT", "/", "beside"),
    "line": (b"GET /a b?q=secret HTTP/1.1\r\n" + H + b"\r\n", 400, "GET", "/a b", "request line"),
    "bare-lf": (b"GET /a HTTP/1.1\nHost: a\n\n", 400, "GET", "/a", "CRLF"),
    "fragment": (b"GET /a#access_token=secret HTTP/1.1\r\n" + H + b"\r\n", 400, "GET", "/a", "fragment"),
    "credentials": (b"GET http://u:secret@a/b?c HTTP/1.1\r\n" + H + b"\r\n", 400, "GET", "http://***@a/b", "authority"),
    "dots": (b"GET /a/../b HTTP/1.1\r\n" + H + b"\r\n", 400, "GET", "/a/../b", "dot segment"),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03secret\r\n", 400, None, None, "not an HTTP/1 request"),
    "body-left-over": (b'{"user": "/secret HTTP/1.1"}\r\n\r\n', 400, None, None, "request line"),
    "form-left-over": (b"password=secret&a=/b HTTP/1.1\r\n\r\n", 400, None, None, "request line"),
    "lower-case": (b"get /x/y?secret", 408, "get", "/x/y", "timeouts.header"),
    "word": (b"secret", 408, None, None, "timeouts.header"),
    "field-left-over": (b"Authorization: Bearer secret\r\n\r\n", 400, None, None, "request line"),
    "nothing": (b"GE", 408, "GE", None, "timeouts.header"),
    "no-target": (b"GET ", 408, "GET", None, "timeouts.header"),
    "half": (b"GET /half/way?secret", 408, "GET", "/half/way", "timeouts.header"),
    "long-target": (b"GET /" + b"a" * 20_000, 414, "GET", "/" + "a" * (line.LONGEST_TARGET - 1), "limits.target"),
    "long-target-whole": (
        b"GET /" + b"a" * 8300 + b"?b HTTP/1.1\r\n" + H + b"\r\n", 414, "GET", "/" + "a" * (line.LONGEST_TARGET - 1), "target",
    ),
    "expectation": (b"PUT /x HTTP/1.1\r\n" + H + b"Expect: 200-ok\r\n\r\n", 417, "PUT", "/x", "expectation"),
    "not-ours": (b"GET https://a/x?secret HTTP/1.1\r\n" + H + b"\r\n", 421, "GET", "https://a/x", "scheme"),
    "many-fields": (b"GET /m HTTP/1.1\r\n" + H + b"X: y\r\n" * 200 + b"\r\n", 431, "GET", "/m", "header_count"),
    "large-fields": (b"GET /m HTTP/1.1\r\n" + H + b"X: " + b"y" * 90_000, 431, "GET", "/m", "limits.headers"),
    "long-method": (b"M" * 70_000, 501, "M" * line.LONGEST_METHOD, None, "method"),
    "connect": (b"CONNECT a:443 HTTP/1.1\r\n" + H + b"\r\n", 501, "CONNECT", "a:443", "method"),
    "coding": (b"POST /x HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "POST", "/x", "coding"),
    "http2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "PRI", "*", "version"),
    "not-found": (b"GET /other HTTP/1.1\r\n" + H + b"\r\n", 404, "GET", "/other", "No route"),
    "trace": (b"TRACE /x HTTP/1.1\r\n" + H + b"\r\n", 405, "TRACE", "/x", "TRACE"),
}  # fmt: skip


@pytest.mark.parametrize("log", ["", "format: otel", "format: ecs"], ids=["flat", "otel", "ecs"])
@pytest.mark.parametrize("wire,status,method,path,why", REFUSALS.values(), ids=REFUSALS)
async def test_every_refusal_says_what_was_asked_and_why(
    gateway: StartGateway, log: str, wire: bytes, status: int, method: str | None, path: str | None, why: str
) -> None:
    """Method and path stand in the line, in every format, with the reason that the client is told; no query, no credentials."""
    path_of_route = "/only" if status == 404 else "/**"
    entry, problem = await refused(gateway, wire, log=log, server="timeouts: {header: 200ms}", path=path_of_route)
    names = {"": FLAT, "format: otel": OTEL, "format: ecs": ECS}[log].names
    found = {name: entry.get(names.get(name, name)) for name in ("method", "path", "status", "failure", "detail", "flags")}

    assert (found["status"], found["method"], found["path"]) == (status, method, path)
    assert (found["failure"], found["detail"]) == (problem["code"], problem["detail"])
    assert why.lower() in str(found["detail"]).lower()
    assert "secret" not in str(entry)


async def test_a_short_line_has_its_fields_in_order(gateway: StartGateway) -> None:
    """So many, always all of them, null where nothing was read."""
    entry, _ = await refused(gateway, b"\x00\r\n\r\n")

    assert list(entry) == FIELDS
    assert (entry["method"], entry["path"], entry["client_ip"], entry["scheme"]) == (None, None, "127.0.0.1", "http")


async def test_a_refusal_behind_a_request_is_about_its_own_bytes(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Of what was pipelined the refused request is named, not the one before it."""
    running: Gateway = await gateway(with_log("http://127.0.0.1:1", route="retry: off"))
    client = await running.client()
    await client.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n\r\nPUT /second HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n")
    await client.response()
    await client.response()
    client.half_close()
    await eventually(lambda: len(running.log.entries) == 2)

    assert [entry["path"] for entry in running.log.entries] == ["/first", "/second"]


async def test_a_connection_too_many_has_asked_nothing(gateway: StartGateway) -> None:
    """It is refused before it has sent a byte, with the reason."""
    running = await gateway(with_log("http://127.0.0.1:1", server="limits: {connections: 1}"))
    await running.client()
    client = await running.client()
    response = await client.response()
    client.half_close()
    await eventually(lambda: running.log.entries)
    (entry,) = running.log.entries

    assert (response.status, entry["method"], entry["path"], entry["detail"]) == (
        503,
        None,
        None,
        "1 are open (server.limits.connections)",
    )


async def test_what_fails_behind_the_route_says_why_too(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A broken chunk has a reason of its own; a failure without one leaves the field out."""
    running = await gateway(with_log("http://127.0.0.1:1", route="retry: off"))
    await running.ask(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")
    await running.get("/x")
    await eventually(lambda: len(running.log.entries) == 2)
    broken, plain = running.log.entries

    assert (broken["path"], broken["detail"]) == ("/x", "the chunk-size line is not valid")
    assert plain["failure"] == "connection_refused" and "detail" not in plain


@given(st.binary(max_size=4096))
@example(b'GET /"\\\x00\xff\x9b\xe2\x80\xa8%s%d HTTP/1.1')
@example(b"GET /" + b"\xff" * 4096)
def test_whatever_is_received_makes_a_valid_line(received: bytes) -> None:
    """What is written of a refused request is bounded, and JSON whatever its bytes are (threat: log injection)."""
    method, target = line.asked_for(received)
    text = line.refused_template(FLAT, "hash") % (
        0, b"id", b"", b'"%b"' % line.escaped(method), b"http", b'"%b"' % line.escaped(target), 400, b'"c"', b'"d"', b"DPE",
    )  # fmt: skip
    entry = orjson.loads(text)

    assert not any(byte < 0x20 or byte == 0x7F for byte in text[:-1])
    assert len(method) <= line.LONGEST_METHOD and len(target) <= line.LONGEST_TARGET
    assert list(entry) == FIELDS
