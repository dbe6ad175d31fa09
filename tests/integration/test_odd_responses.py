"""What an upstream says that is odd but clear goes on as the RFCs ask; what is not clear is 502 (see the framing corpus)."""

from __future__ import annotations

import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import GET, OK, answers, proxy

ODD = b"HTTP/1.1 %d Odd\r\nContent-Length: 2\r\n\r\nno"


@pytest.mark.parametrize("status", [299, 499, 599, 600, 700, 999])
async def test_any_status_of_three_digits_goes_on(upstream: StartUpstream, gateway: StartGateway, status: int) -> None:
    """Status, reason, fields and body reach the client, and the connections live on (RFC 9110 15)."""
    origin = await upstream(answers(ODD % status, OK))
    running = await gateway(proxy(origin.url, route="access_log: on"))
    client = await running.client()
    response = await client.ask(GET)
    after = await client.ask(GET)

    assert response.start == b"HTTP/1.1 %d Odd" % status
    assert (response.body, response.value(b"content-length"), after.body) == (b"no", b"2", b"OK")
    assert origin.connections == 1
    assert running.log.entries[0]["status"] == status


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
async def test_framing_does_not_depend_on_the_status(upstream: StartUpstream, gateway: StartGateway, method: bytes) -> None:
    """A status of no class has a body like any other: chunked, or none for HEAD (RFC 9112 6.3)."""
    chunks = b"" if method == b"HEAD" else b"2\r\nno\r\n0\r\n\r\n"
    origin = await upstream(answers(b"HTTP/1.1 777 X\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks, OK))
    client = await (await gateway(proxy(origin.url))).client()
    response = await client.ask(GET.replace(b"GET", method))

    assert (response.status, response.body) == (777, b"" if method == b"HEAD" else b"no")
    assert (await client.ask(GET)).status == 200


@pytest.mark.parametrize("word", ["5xx", "500"])
async def test_a_status_of_no_class_is_a_500_to_retries(upstream: StartUpstream, gateway: StartGateway, word: str) -> None:
    """A client treats it as a server error (RFC 9110 15), so a route that retries those retries it; the log says what came."""
    origin = await upstream(answers(ODD % 999, OK))
    running = await gateway(proxy(origin.url, route=f"retry: {{on: ['{word}']}}"))
    response = await running.get()

    assert response.body == b"OK"
    assert running.log.entries[0]["attempt_log"][0]["outcome"] == "999"
    assert running.upstream.retries == {"500": 1}


async def test_a_status_of_no_class_is_a_500_to_breakers_and_health(upstream: StartUpstream, gateway: StartGateway) -> None:
    """An endpoint that answers nothing else is ejected, and opens its breaker where 500 counts."""
    origin = await upstream(answers(ODD % 999))
    breaker = "circuit_breaker: {statuses: [500], min_requests: 5}, ejection: {statuses: ['500'], failures: 100}"
    running = await gateway(proxy(origin.url, upstream=breaker, route="retry: off"))
    client = await running.client()
    statuses = [(await client.ask(GET)).status for _ in range(10)]

    assert (statuses[0], statuses[-1]) == (999, 503)
    assert running.upstream.attempts["http_5xx"] == statuses.count(999)


PADDED = {
    "legacy": (b"X-Legacy : 1\r\nContent-Length: 2\r\n\r\nOK", [b"1"]),
    "tab": (b"X-Legacy\t:1\r\nContent-Length: 2\r\n\r\nOK", [b"1"]),
    "length": (b"X-Legacy: a : b\r\nContent-Length  : 2\r\n\r\nOK", [b"a : b"]),
    "chunked": (b"Transfer-Encoding : chunked\r\n\r\n2 \r\nOK\r\n0\r\nX-T : 1\r\n\r\n", []),
    "nominated": (b"X-Legacy : 1\r\nConnection : X-Legacy\r\nContent-Length : 2\r\n\r\nOK", []),
    "all": (b"X-Legacy : 1\r\nX-Legacy\t: 2\r\nDate : x\r\nContent-Length : 2\r\n\r\nOK", [b"1", b"2"]),
}


@pytest.mark.parametrize("wire,values", PADDED.values(), ids=PADDED)
async def test_a_blank_before_a_colon_is_removed(
    upstream: StartUpstream, gateway: StartGateway, wire: bytes, values: list[bytes]
) -> None:
    """The client gets the fields without it, and framing counts as it reads then (RFC 9112 5.1); so it is each time."""
    origin = await upstream(answers(b"HTTP/1.1 200 OK\r\n" + wire))
    client = await (await gateway(proxy(origin.url))).client()
    for _ in range(3):
        response = await client.ask(GET)
        assert (response.status, response.body, response.values(b"x-legacy")) == (200, b"OK", values)
        assert not any(b" " in name or b"\t" in name for name in response.names())

    assert origin.connections == 1


async def test_a_blank_before_a_colon_in_a_request_is_refused(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Only responses are mended: in a request it is 400 (RFC 9112 5.1; threat: smuggling)."""
    origin = await upstream(answers(OK))
    response = await (await gateway(proxy(origin.url))).get("/", "X-Legacy : 1")

    assert (response.status, response.code) == (400, "http_request_error")
    assert origin.requests == []
