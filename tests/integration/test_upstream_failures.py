"""What upstreams do wrong: each way has a code, a stale connection is no failure, a broken body is never shown as whole."""

from __future__ import annotations

import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import (
    GET,
    OK,
    Behaviour,
    Peer,
    Response,
    answers,
    answers_and_closes,
    closes_idle_connection,
    closes_when_reused,
    closes_without_an_answer,
    drips,
    eventually,
    lies_about_length,
    proxy,
    refusing_port,
    resets_at_once,
    resets_mid_headers,
    sends_half_a_body,
    sends_half_a_chunked_body,
)


async def test_a_refused_connection_is_502(gateway: StartGateway) -> None:
    """Nobody listens: 502 `connection_refused` (RFC 9110 15.6.3), in the log with the flag UF."""
    running = await gateway(proxy(f"http://127.0.0.1:{refusing_port()}", route="retry: 0"))
    client = await running.client()
    response = await client.ask(GET)

    assert (response.status, response.code) == (502, "connection_refused")
    assert running.log.entries[0]["flags"] == "UF"
    assert running.upstream.attempts == {"ok": 0, "connection_refused": 1}
    assert (await client.ask(GET)).status == 502


async def test_an_unknown_name_is_502(gateway: StartGateway) -> None:
    """A name that does not resolve: 502 `dns_error`."""
    response = await (await gateway(proxy("http://does-not-exist.invalid:1"))).get()

    assert (response.status, response.code) == (502, "dns_error")


@pytest.mark.parametrize(
    "behaviour,code",
    [
        (closes_without_an_answer, "connection_terminated"),
        (resets_at_once, "connection_terminated"),
        (resets_mid_headers, "connection_terminated"),
        (answers_and_closes(b"HTTP/1.1 200 OK\r\nContent-Le"), "connection_terminated"),
        (answers_and_closes(b"SSH-2.0-OpenSSH_9\r\n"), "http_protocol_error"),
        (answers_and_closes(b"HTTP/1.1 2x0 OK\r\n\r\n"), "http_protocol_error"),
        (answers_and_closes(b"HTTP/2.0 200 OK\r\n\r\n"), "http_protocol_error"),
        (answers_and_closes(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nOK"), "http_protocol_error"),
        (answers_and_closes(b"HTTP/1.1 200 OK\r\nX A: 1\r\n\r\nOK"), "http_protocol_error"),
        (answers_and_closes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "http_protocol_error"),
    ],
    ids=["closed", "reset", "mid-head-reset", "mid-head-close", "ssh", "status", "version", "lengths", "space", "chunks"],
)
async def test_no_valid_response_is_502(
    upstream: StartUpstream, gateway: StartGateway, behaviour: Behaviour, code: str
) -> None:
    """An invalid answer or none is 502, and the client's connection lives on (RFC 9110 15.6.3)."""
    origin = await upstream(behaviour)
    running = await gateway(proxy(origin.url, route="retry: 0"))
    client = await running.client()
    response = await client.ask(GET)

    assert (response.status, response.code) == (502, code)
    assert len(origin.requests) == 1
    assert (await client.ask(GET)).status == 502
    await eventually(lambda: running.pools()["open"] == 0)


@pytest.mark.parametrize(
    "behaviour,detail",
    [
        (closes_without_an_answer, "closed before any byte of a response"),
        (resets_at_once, "reset before any byte of a response"),
        (resets_mid_headers, "reset within the response head"),
        (answers_and_closes(b"HTTP/1.1 200 OK\r\nContent-Le"), "closed within the response head"),
        (answers_and_closes(b"HTTP/1.1 103 Early Hints\r\n\r\n"), "closed behind an interim response"),
        (answers_and_closes(b"SSH-2.0-OpenSSH_9\r\n"), "it answers in SSH"),
        (answers_and_closes(b"\x15\x03\x01\x00\x02\x02\x16"), "it answers in TLS: is it an `https://` endpoint?"),
        (answers_and_closes(b"220 mail ESMTP\r\n"), "it answers as a mail or FTP server does"),
        (answers_and_closes(b"<html>\r\n\r\n"), "it answers with a document and no response head"),
        (answers_and_closes(b"nonsense\r\n\r\n"), "the status line is not valid"),
        (sends_half_a_body, "5 of 10 bytes of the body have arrived"),
        (sends_half_a_chunked_body, "and no end of it"),
    ],
)
async def test_a_line_of_the_log_names_the_cause(
    upstream: StartUpstream, gateway: StartGateway, behaviour: Behaviour, detail: str
) -> None:
    """Line, endpoint and counters say that it was the upstream, and the line how it failed: nothing else has to be asked."""
    origin = await upstream(behaviour)
    running = await gateway(proxy(origin.url, route="retry: 0"))
    client = await running.client()
    await client.send(GET)
    await eventually(lambda: running.log.entries)
    (entry,) = running.log.entries
    ((endpoint,),) = (one.group.endpoints for one in running.plane.snapshot.upstreams)

    assert detail in entry["detail"]
    assert entry["upstream_addr"] == origin.url
    assert (endpoint.failed, endpoint.last_failure) == (1, entry["failure"])
    assert running.route.rejections == {entry["failure"]: 1}


async def test_a_service_that_is_slow_to_accept_is_no_overhead(gateway: StartGateway, backlog: int) -> None:
    """A connection that nobody accepts is waited for on the upstream's account, and the limit that ended it is named."""
    running = await gateway(proxy(f"http://127.0.0.1:{backlog}", route="retry: 0, timeout: {request: 200ms, connect: 200ms}"))
    response = await running.get()
    (entry,) = running.log.entries

    assert (response.status, entry["failure"]) == (504, "connection_timeout")
    assert entry["detail"] == "no connection within what was left of 0.2 s (timeout.request)"
    assert entry["upstream_ms"] == entry["connect_ms"] >= 150
    assert entry["overhead_ms"] < entry["connect_ms"]


@pytest.mark.parametrize(
    "behaviour",
    [sends_half_a_body, sends_half_a_chunked_body],
    ids=["length", "chunked"],
)
async def test_a_broken_body_is_visibly_cut(upstream: StartUpstream, gateway: StartGateway, behaviour: Behaviour) -> None:
    """An incomplete response is incomplete downstream, too: what came is passed on, the end is not (RFC 9112 8)."""
    origin = await upstream(behaviour)
    running = await gateway(proxy(origin.url))
    client = await running.client()
    await client.send(GET)
    response = await client.response()

    assert (response.status, response.complete) == (200, False)
    assert await client.closed() == b""
    entry = running.log.entries[0]
    assert (entry["status"], entry["failure"]) == (200, "http_response_incomplete")
    assert running.route.rejections == {"http_response_incomplete": 1}


async def test_bytes_before_the_break_are_delivered(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What arrived before the break reaches the client, in a framing that shows that more was due (RFC 9112 8)."""
    origin = await upstream(drips(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"zz\r\n"))
    origin.gate.release()
    client = await (await gateway(proxy(origin.url))).client()
    await client.send(GET)
    await client.head()
    assert await client.read(10) == b"5\r\nhello\r\n"
    origin.gate.release()

    assert await client.closed() == b""


async def test_a_broken_body_to_http10_is_reset(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Where only the close delimits the body, a clean close would make it whole: RST says that it is not (RFC 9112 8)."""

    async def breaks(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await peer.upstream.gate.acquire()

    origin = await upstream(breaks)
    client = await (await gateway(proxy(origin.url))).client()
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    await client.head()
    assert await client.read(5) == b"hello"
    origin.gate.release()

    with pytest.raises(ConnectionResetError):
        await client.read(1)


# -- connections that are kept -----------------------------------------------------------------------------------------


async def test_bytes_behind_a_response_are_nobodys_answer(upstream: StartUpstream, gateway: StartGateway) -> None:
    """More than was announced retires the connection: it answers no other request (RFC 9112 9.2)."""
    origin = await upstream(lies_about_length)
    running = await gateway(proxy(origin.url))
    responses = [await running.get() for _ in range(3)]

    assert [response.body for response in responses] == [b"OK"] * 3
    assert origin.connections == 3


async def test_bytes_on_an_idle_connection_retire_it(upstream: StartUpstream, gateway: StartGateway) -> None:
    """An unasked response is no response: the connection is closed, the next request gets a new one (RFC 9112 9.2)."""

    async def talks_unasked(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.upstream.gate.acquire()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        await peer.gone()

    origin = await upstream(talks_unasked)
    running = await gateway(proxy(origin.url))
    assert (await running.get()).body == b"OK"
    assert running.pools() == {"open": 1, "idle": 1}
    origin.gate.release()
    await eventually(lambda: running.pools() == {"open": 0, "idle": 0})

    assert (await running.get()).body == b"OK"
    assert origin.connections == 2


async def test_a_connection_closed_while_idle_is_forgotten(upstream: StartUpstream, gateway: StartGateway) -> None:
    """An upstream may close between requests at any time (RFC 9112 9.5); nobody notices."""
    origin = await upstream(closes_idle_connection)
    running = await gateway(proxy(origin.url))
    for _ in range(3):
        assert (await running.get()).body == b"OK"
        await eventually(lambda: running.pools()["open"] == 0)

    assert running.upstream.retries == {}


async def test_an_idle_connection_is_closed_in_time(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Idle upstream connections are closed before the upstream does it (RFC 9112 9.5)."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, upstream="keep_alive: {idle: 100ms}"))
    assert (await running.get()).body == b"OK"

    await eventually(lambda: running.pools()["open"] == 0 and not origin.peers, within=3.5)  # the default is 4 s


async def test_idle_connections_are_limited(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`keep_alive.max_idle: 0` keeps none."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, upstream="keep_alive: {max_idle: 0}"))
    for _ in range(2):
        assert (await running.get()).body == b"OK"

    await eventually(lambda: running.pools() == {"open": 0, "idle": 0})
    assert origin.connections == 2


async def stale(
    upstream: StartUpstream, gateway: StartGateway, behaviour: Behaviour, request: bytes
) -> tuple[Response, list[bytes]]:
    """The response to a request that meets a stale connection, and the methods that the upstream saw from it.

    The route retries for no other cause.
    """
    origin = await upstream(behaviour)
    running = await gateway(proxy(origin.url, route="retry: 0"))
    assert (await running.get()).body == b"OK"
    response = await running.ask(request)
    assert sum(running.upstream.retries.values()) == len(origin.requests) - 2
    return response, [seen.method for seen in origin.requests[1:]]


def sized(method: bytes, size: int) -> bytes:
    """A request with a body."""
    return b"%b / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (method, size, b"x" * size)


@pytest.mark.parametrize(
    "request_",
    [
        GET,
        GET.replace(b"GET", b"HEAD"),
        GET.replace(b"GET", b"DELETE"),
        sized(b"PUT", 1000),
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ],
    ids=["GET", "HEAD", "DELETE", "PUT", "PUT-chunked"],
)
async def test_an_idempotent_request_on_a_stale_connection_is_repeated_once(
    upstream: StartUpstream, gateway: StartGateway, request_: bytes
) -> None:
    """A kept connection that closes without a byte is no answer; a new one gets the request again (RFC 9112 9.3.1)."""
    method = request_.split(b" ")[0]
    response, seen = await stale(upstream, gateway, closes_when_reused, request_)

    assert response.status == 200
    assert seen == [method, method]


@pytest.mark.parametrize("request_", [sized(b"POST", 10), sized(b"PATCH", 0), sized(b"LOCK", 0), sized(b"get", 0)])
async def test_other_requests_are_never_repeated(upstream: StartUpstream, gateway: StartGateway, request_: bytes) -> None:
    """A proxy does not repeat what is not idempotent, or not known to be (RFC 9110 9.2.2)."""
    response, seen = await stale(upstream, gateway, closes_when_reused, request_)

    assert (response.status, response.code) == (502, "connection_terminated")
    assert len(seen) == 1


async def test_a_repeated_body_is_the_same(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The replayed body is whole and in the same framing, even when part of it came after the stale attempt began."""
    origin = await upstream(closes_when_reused)
    running = await gateway(proxy(origin.url))
    await running.get()
    client = await running.client()
    whole = sized(b"PUT", 20_000)
    await client.send(whole[:5000])
    await eventually(lambda: len(origin.requests) >= 3)
    await client.send(whole[5000:])
    response = await client.response()

    assert response.status == 200
    assert origin.requests[-1].body == b"x" * 20_000


async def test_a_large_body_is_not_repeated(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What no longer fits the replay buffer cannot be sent again: 502, once."""

    async def closes_after_much(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.head()
        await peer.reader.readexactly(500_000)

    response, seen = await stale(upstream, gateway, closes_after_much, sized(b"PUT", 600_000))

    assert (response.status, response.code) == (502, "connection_terminated")
    assert seen == [b"PUT"]


async def test_a_new_connection_that_closes_is_not_repeated(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Only a stale connection excuses silence: on a new one it is the upstream's failure."""
    origin = await upstream(closes_without_an_answer)
    response = await (await gateway(proxy(origin.url, route="retry: 0"))).get()

    assert response.status == 502
    assert len(origin.requests) == 1


async def test_a_partial_answer_is_not_repeated(upstream: StartUpstream, gateway: StartGateway) -> None:
    """One byte of a response is a response: the connection was not stale (RFC 9112 9.3.1)."""

    async def breaks_when_reused(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.send(b"H")

    response, seen = await stale(upstream, gateway, breaks_when_reused, GET)

    assert response.status == 502
    assert len(seen) == 1
