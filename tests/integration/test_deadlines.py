"""Time budgets: every wait ends, and everyone says the same word about why."""

from __future__ import annotations

import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import GET, OK, accepts_and_hangs, answers, at_once, drips, echoes_requests, eventually, proxy, time_passes

TRUSTED = "trusted_proxies: [127.0.0.1]"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


async def test_a_spent_budget_is_504_everywhere_by_the_same_name(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Problem body, Proxy-Status (RFC 9209), metric and access log say `http_response_timeout`: the upstream
    had all of the budget, so it is its fault. The answer and the log name the budget; the upstream is let go."""
    origin = await upstream(accepts_and_hangs)
    running = await gateway(proxy(origin.url, route="timeout: 100ms"))
    client = await running.client()
    response = await client.ask(GET)

    assert (response.status, response.code) == (504, "http_response_timeout")
    assert (
        response.value(b"proxy-status")
        == b'gw; error=http_response_timeout; details="no response within 0.1 s (timeout.request)"'
    )
    assert running.route.rejections == {"http_response_timeout": 1}
    assert running.route.requests == {(b"GET", 504): 1}
    assert running.upstream.attempts == {"ok": 0, "http_response_timeout": 1}
    entry = running.log.entries[0]
    assert (entry["status"], entry["failure"], entry["flags"]) == (504, "http_response_timeout", "UT")
    assert entry["detail"] == "no response within 0.1 s (timeout.request)"
    assert entry["duration_ms"] >= 100
    await at_once(lambda: not origin.peers)
    assert (await client.ask(GET)).status == 504


async def test_a_slow_attempt_has_a_name_of_its_own(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`timeout.attempt` ends an attempt before the budget does: 504 `http_response_timeout`."""
    origin = await upstream(accepts_and_hangs)
    running = await gateway(proxy(origin.url, route="timeout: {request: 5s, attempt: 100ms}"))
    response = await running.get()

    assert (response.status, response.code) == (504, "http_response_timeout")


async def test_a_slow_connection_has_a_name_of_its_own(gateway: StartGateway, backlog: int) -> None:
    """An address that neither accepts nor refuses: 504 `connection_timeout` after `timeout.connect`."""
    running = await gateway(proxy(f"http://127.0.0.1:{backlog}", route="timeout: {connect: 100ms}"))
    response = await running.get()

    assert (response.status, response.code) == (504, "connection_timeout")
    assert running.log.entries[0]["detail"] == "no connection within 0.1 s (timeout.connect)"


async def test_the_budget_ends_a_slow_connection_too(gateway: StartGateway, backlog: int) -> None:
    """What is left of the budget cuts the connect timeout."""
    running = await gateway(proxy(f"http://127.0.0.1:{backlog}", route="timeout: {request: 100ms, connect: 100ms}"))
    response = await running.get("/", "X-A: b")

    assert response.status == 504
    assert response.code in ("deadline_exceeded", "connection_timeout")


async def test_the_upstream_is_told_what_is_left(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The remaining milliseconds go upstream, and a stranger's claim does not."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, route="timeout: 2s"))
    await running.get("/", "X-Request-Timeout-Ms: 5")

    assert 1900 < int(origin.requests[0].value(b"x-request-timeout-ms") or 0) <= 2000


@pytest.mark.parametrize(
    "given,least,most",
    [("500", 400, 500), ("90000", 1900, 2000), ("abc", 1900, 2000), ("-5", 1900, 2000), ("500, 500", 1900, 2000)],
)
async def test_a_trusted_client_can_only_shorten_the_budget(
    upstream: StartUpstream, gateway: StartGateway, given: str, least: int, most: int
) -> None:
    """A trusted peer's budget counts when it is a number below ours."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, server=TRUSTED, route="timeout: 2s"))
    await running.get("/", f"X-Request-Timeout-Ms: {given}")

    assert least < int(origin.requests[0].value(b"x-request-timeout-ms") or 0) <= most


@pytest.mark.parametrize("given", ["60", "0"])
async def test_a_trusted_clients_budget_is_enforced(upstream: StartUpstream, gateway: StartGateway, given: str) -> None:
    """A shortened budget ends the request when it is spent."""
    origin = await upstream(accepts_and_hangs)
    running = await gateway(proxy(origin.url, server=TRUSTED, route="timeout: 4s"))
    response = await running.get("/", f"X-Request-Timeout-Ms: {given}")

    assert (response.status, response.code) == (504, "deadline_exceeded")
    assert running.log.entries[0]["detail"] == f"no response within {int(given) / 1000:g} s (what the client gives it)"


@pytest.mark.parametrize("warm", [0, 1], ids=["new-connection", "pooled-connection"])
async def test_a_spent_budget_is_not_dispatched(upstream: StartUpstream, gateway: StartGateway, warm: int) -> None:
    """An attempt that cannot finish is not started: a trusted client with nothing left gets 504 and no upstream hears of it."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, server=TRUSTED))
    for _ in range(warm):
        assert (await running.get()).status == 200
    response = await running.get("/", "X-Request-Timeout-Ms: 0")

    assert (response.status, response.code) == (504, "deadline_exceeded")
    assert len(origin.requests) == warm


async def test_the_time_of_the_upload_is_not_charged(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The budget runs from the complete request: a slow client is not the upstream's fault."""
    origin = await upstream(echoes_requests)
    running = await gateway(proxy(origin.url, route="timeout: 1s"))
    client = await running.client()
    await client.send(POST)
    await eventually(lambda: running.route.in_flight == 1)
    for byte in b"hello":
        await time_passes(0.3)
        await client.send(bytes((byte,)))

    assert (await client.response()).body == b"hello"


async def test_the_budget_runs_once_the_upload_is_over(upstream: StartUpstream, gateway: StartGateway) -> None:
    """After the last body byte the upstream has the budget, and not longer."""
    origin = await upstream(accepts_and_hangs)
    running = await gateway(proxy(origin.url, route="timeout: 150ms"))
    client = await running.client()
    await client.send(POST)
    await eventually(lambda: running.route.in_flight == 1)
    await time_passes(0.3)
    assert running.route.in_flight == 1
    await client.send(b"hello")
    response = await client.response()

    assert (response.status, response.code) == (504, "http_response_timeout")
    assert running.log.entries[0]["duration_ms"] >= 450


async def test_an_upstream_that_never_says_continue_is_timed(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A client that waits for 100 uploads nothing, so the upstream's time counts."""
    origin = await upstream(accepts_and_hangs)
    running = await gateway(proxy(origin.url, route="timeout: 150ms"))
    response = await running.ask(POST[:-2] + b"Expect: 100-continue\r\n\r\n")

    assert (response.status, response.code) == (504, "http_response_timeout")
    assert response.value(b"connection") == b"close"


async def test_the_budget_does_not_end_a_stream(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Once the response head is there, silence counts and not the total."""
    origin = await upstream(drips(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"a", b"b", b"c", b"d"))
    running = await gateway(proxy(origin.url, route="timeout: {request: 500ms, idle: 60s}"))
    client = await running.client()
    await client.send(GET)
    origin.gate.release()
    await client.head()
    for part in b"abcd":
        await time_passes(0.2)
        origin.gate.release()
        assert await client.read(1) == bytes((part,))


async def test_an_idle_stream_is_cut(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A stream that is silent for `timeout.idle` is cut visibly (RFC 9112 8)."""
    origin = await upstream(drips(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"))
    origin.gate.release()
    running = await gateway(proxy(origin.url, route="timeout: {idle: 150ms}"))
    response = await running.get()

    assert (response.status, response.complete) == (200, False)
    await eventually(lambda: running.log.entries)
    entry = running.log.entries[0]
    assert (entry["failure"], entry["flags"]) == ("connection_read_timeout", "SI")
    assert running.route.rejections == {"connection_read_timeout": 1}


@pytest.mark.parametrize("path,shown", [("always", True), ("on_request", False), ("off", False)])
async def test_server_timing_tells_gateway_from_upstream(
    upstream: StartUpstream, gateway: StartGateway, path: str, shown: bool
) -> None:
    """`Server-Timing` shows both times and the attempts, when the route says so."""
    origin = await upstream(answers(OK))
    response = await (await gateway(proxy(origin.url, route=f"server_timing: {path}"))).get()
    value = response.value(b"server-timing") or b""

    assert (b"gateway;dur=" in value and b'desc="1 attempt(s)"' in value) is shown
