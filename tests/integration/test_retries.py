"""Retries at work: who gets the next attempt and when, what the client sees of it, and what an upstream in trouble pays."""

from __future__ import annotations

import asyncio
import re
from email.utils import formatdate
from itertools import pairwise
from time import monotonic, time

import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import (
    GET,
    OK,
    Behaviour,
    Gateway,
    Peer,
    Upstream,
    accepts_and_hangs,
    answers,
    closes_when_reused,
    closes_without_an_answer,
    drips,
    eventually,
    proxy,
    refusing_port,
    resets_at_once,
    time_passes,
)

CALM = "circuit_breaker: off, ejection: off"
"""Nobody but the retry policy decides."""


def busy(lines: bytes = b"", status: bytes = b"503 Service Unavailable") -> bytes:
    """A refusal with these further field lines."""
    return b"HTTP/1.1 %b\r\n%bContent-Length: 4\r\n\r\nbusy" % (status, lines)


def refuses_in_turn(*responses: bytes) -> Behaviour:
    """Answers the first requests, of whatever connection, with these, and the others with 200."""
    left = list(responses)

    async def behave(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(left.pop(0) if left else OK)

    return behave


async def running(gateway: StartGateway, origin: Upstream, route: str = "", upstream: str = CALM) -> Gateway:
    """A gateway in front of it."""
    return await gateway(proxy(origin.url, route=route, upstream=upstream))


# -- when --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [b"502 Bad Gateway", b"503 Service Unavailable", b"504 Gateway Timeout"])
async def test_one_retry_is_the_default(upstream: StartUpstream, gateway: StartGateway, status: bytes) -> None:
    """Without a word about it, what a gateway in front would answer is tried once more."""
    origin = await upstream(refuses_in_turn(busy(status=status)))
    app = await running(gateway, origin)

    assert (await app.get()).status == 200
    assert app.upstream.retries == {status[:3].decode(): 1}
    assert origin.connections == 1


async def test_the_last_answer_is_the_upstreams_own(upstream: StartUpstream, gateway: StartGateway) -> None:
    """When retries are spent, the client gets what the upstream said, as it said it."""
    origin = await upstream(answers(busy(b"X-Why: deploy\r\n")))
    app = await running(gateway, origin)
    response = await app.get()

    assert (response.status, response.body, response.value(b"x-why")) == (503, b"busy", b"deploy")
    assert len(origin.requests) == 2
    assert app.upstream.denials == {"limit": 1}


async def test_off_means_never(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`off` sends nothing twice, not even what a stale connection lost."""
    origin = await upstream(closes_when_reused)
    app = await running(gateway, origin, "retry: off")
    assert (await app.get()).status == 200
    response = await app.get()

    assert (response.status, response.code) == (502, "connection_terminated")
    assert len(origin.requests) == 2
    assert app.log.entries[1]["attempt_log"][0]["no_retry"] == "off"
    assert app.upstream.denials == {}


@pytest.mark.parametrize("on,seen", [("[503]", 2), ("5xx", 2), ("[connect, 502]", 1), ("[reset]", 1)])
async def test_the_route_says_what_for(upstream: StartUpstream, gateway: StartGateway, on: str, seen: int) -> None:
    """Only listed statuses and causes lead to a retry."""
    origin = await upstream(refuses_in_turn(busy()))
    app = await running(gateway, origin, f"retry: {{on: {on}}}")

    assert (await app.get()).status == (200 if seen == 2 else 503)
    assert len(origin.requests) == seen


@pytest.mark.parametrize("on,status", [("[reset]", 502), ("[connect, 503]", 502), ("[reset, 503]", 502)])
async def test_causes_are_told_apart(upstream: StartUpstream, gateway: StartGateway, on: str, status: int) -> None:
    """A reset is retried where the list has `reset`."""
    origin = await upstream(resets_at_once)
    app = await running(gateway, origin, f"retry: {{on: {on}}}")

    assert (await app.get()).status == status
    assert len(origin.requests) == (2 if "reset" in on else 1)


async def test_invalid_answers_where_the_route_says_so(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What is no HTTP is tried again with `invalid` only."""
    origin = await upstream(refuses_in_turn(b"SSH-2.0\r\n\r\n", b"SSH-2.0\r\n\r\n"))
    assert (await (await running(gateway, origin)).get()).status == 502
    assert (await (await running(gateway, origin, "retry: {on: invalid}")).get()).status == 200


async def test_several_retries(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`max_retries` counts attempts beyond the first; a stale connection is none of them."""
    origin = await upstream(refuses_in_turn(OK, *[busy()] * 3))
    app = await running(gateway, origin, "retry: {max_retries: 3, backoff: {base: 1ms, max: 2ms}}")
    assert (await app.get()).status == 200

    assert (await app.get()).status == 200
    assert len(origin.requests) == 5
    assert app.log.entries[1]["attempts"] == 4


async def test_a_stale_connection_is_no_attempt(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The retry of the policy is still there after a stale connection has been replaced."""
    served = 0

    async def behave(peer: Peer) -> None:
        nonlocal served
        await peer.request()
        served += 1
        await peer.send(OK if served != 2 else busy())
        await peer.request()
        if served > 2:
            await peer.send(OK)

    origin = await upstream(behave)
    app = await running(gateway, origin)
    assert (await app.get()).status == 200

    assert (await app.get()).status == 200
    assert app.upstream.retries == {"stale": 1, "503": 1}


# -- how long ----------------------------------------------------------------------------------------------------------


async def test_retry_after_is_honoured(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The next attempt comes when the upstream asked for it, not before."""
    origin = await upstream(refuses_in_turn(busy(b"Retry-After: 1\r\n")))
    app = await running(gateway, origin)
    began = monotonic()

    assert (await app.get()).status == 200
    assert monotonic() - began >= 1.0


async def test_retry_after_as_a_date(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A date is honoured as well (RFC 9110 10.2.3)."""
    at = int(time()) + 2
    origin = await upstream(refuses_in_turn(busy(b"Retry-After: %b\r\n" % formatdate(at, usegmt=True).encode())))

    assert (await (await running(gateway, origin)).get()).status == 200
    assert time() >= at


@pytest.mark.parametrize("value", [b"60", b"Fri, 31 Dec 2999 23:59:59 GMT", b"9" * 30])
async def test_a_retry_that_cannot_be_in_time_is_not_begun(
    upstream: StartUpstream, gateway: StartGateway, value: bytes
) -> None:
    """Asked to wait beyond the deadline, the gateway passes the answer on at once, with its `Retry-After`."""
    origin = await upstream(answers(busy(b"Retry-After: %b\r\n" % value)))
    # To wait for the deadline would take longer than this test waits for anything.
    app = await running(gateway, origin, "timeout: 50s")
    response = await app.get()

    assert (response.status, response.body, response.value(b"retry-after")) == (503, b"busy", value)
    assert len(origin.requests) == 1
    assert app.upstream.denials == {"deadline": 1}
    assert app.log.entries[0]["attempt_log"] == [
        {
            "endpoint": origin.url,
            "outcome": "503",
            "ms": app.log.entries[0]["attempt_log"][0]["ms"],
            "no_retry": "deadline",
        }
    ]


async def test_the_second_attempt_is_told_what_is_left(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The remaining budget is computed anew for each attempt, and none is sent when it is spent."""
    origin = await upstream(refuses_in_turn(busy(b"Retry-After: 1\r\n")))
    app = await running(gateway, origin, "timeout: 3s")

    assert (await app.get()).status == 200
    first, second = [int(seen.value(b"x-request-timeout-ms") or 0) for seen in origin.requests]
    assert 0 < second <= first - 1000


async def test_nothing_is_sent_behind_the_deadline(upstream: StartUpstream, gateway: StartGateway) -> None:
    """However many retries are allowed: the request ends at its deadline, and no attempt begins after it."""
    origin = await upstream(accepts_and_hangs)
    app = await running(gateway, origin, "timeout: {request: 300ms, attempt: 50ms}, retry: {max_retries: 10, on: timeout}")
    response = await app.get()

    assert response.status == 504
    # Longer than an attempt and the back-off behind it.
    await time_passes(0.2)
    assert app.route.in_flight == 0 and not origin.peers
    seen = len(origin.requests)
    assert 1 < seen <= 10
    # An attempt that was under way when the time was up may not have reached the upstream.
    assert app.log.entries[0]["attempts"] - 1 <= seen <= app.log.entries[0]["attempts"]
    left = [int(one.value(b"x-request-timeout-ms") or 0) for one in origin.requests]
    assert left[0] <= 300 and left[-1] > 0
    assert all(later <= earlier - 50 for earlier, later in pairwise(left))


async def test_a_client_that_leaves_in_the_back_off_ends_it(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Nobody waits for a client that has gone, and the upstream sees no more of it."""
    origin = await upstream(answers(busy(b"Retry-After: 10\r\n")))
    app = await running(gateway, origin)
    client = await app.client()
    await client.send(GET)
    await eventually(lambda: app.upstream.retries)
    client.reset()

    await eventually(lambda: app.log.entries)
    assert app.log.entries[0]["failure"] == "client_closed"
    assert len(origin.requests) == 1
    assert app.busy() == []


async def test_a_dropped_answer_leaves_no_connection_behind(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A refusal whose body is still under way is cut, so that its connection serves nobody."""
    origin = await upstream(drips(b"HTTP/1.1 503 No\r\nContent-Length: 100000\r\n\r\nhalf", OK))
    for _ in range(2):
        origin.gate.release()
    app = await running(gateway, origin, "retry: {max_retries: 1}")
    client = await app.client()
    await client.send(GET)
    await eventually(lambda: origin.connections == 2)

    assert app.upstream.retries == {"503": 1}


# -- who ---------------------------------------------------------------------------------------------------------------


def two(first: str, second: str, more: str = "") -> str:
    """Two endpoints in turn."""
    return f"""
version: 1
server: {{listen: ["127.0.0.1:0"], overload: {{default: off, sheddable: off}}}}
admin: {{listen: "127.0.0.1:0"}}
access_log: "off"
upstreams: {{app: {{endpoints: ["{first}", "{second}"], load_balancing: round_robin, {CALM}}}}}
routes: [{{name: all, match: {{}}, upstream: app, {more}}}]
"""


@pytest.mark.parametrize(
    "behaviour", [resets_at_once, answers(busy()), closes_without_an_answer], ids=["reset", "503", "closed"]
)
async def test_another_endpoint_is_asked(upstream: StartUpstream, gateway: StartGateway, behaviour: Behaviour) -> None:
    """The next attempt goes to an endpoint that has not just failed."""
    failing, well = await upstream(behaviour), await upstream(answers(OK))
    app = await gateway(two(failing.url, well.url))

    assert {(await app.get()).status for _ in range(8)} == {200}
    assert len(well.requests) == 8
    assert failing.requests


@pytest.mark.parametrize("status,quick", [(b"503 Service Unavailable", True), (b"429 Too Many Requests", False)])
async def test_the_retry_after_of_an_endpoint_does_not_keep_others_from_answering(
    upstream: StartUpstream, gateway: StartGateway, status: bytes, quick: bool
) -> None:
    """503 is about the endpoint, so that another one is asked at once; 429 is about the client, who has to wait."""
    resting, well = await upstream(answers(busy(b"Retry-After: 60\r\n", status))), await upstream(answers(OK))
    app = await gateway(two(resting.url, well.url, "retry: {on: [429, 503]}"))
    found = [(await app.get()).status for _ in range(2)]

    assert resting.requests
    assert found.count(int(status[:3])) == (0 if quick else 1)


async def test_a_refused_connection_is_not_waited_for(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Nobody was there to be spared: the other endpoint is asked at once, however long the back-off is."""
    well = await upstream(answers(OK))
    late = "timeout: 1h, retry: {backoff: {base: 60s, max: 60s}}"
    app = await gateway(two(f"http://127.0.0.1:{refusing_port()}", well.url, late))

    assert {(await app.get()).status for _ in range(4)} == {200}
    assert app.upstream.retries["connect"] >= 1


# -- bodies ------------------------------------------------------------------------------------------------------------


def refuses_early_once() -> Behaviour:
    """Answers 503 after 1,000 bytes of the first request's body; reads and answers those that follow."""
    attempt = 0

    async def early_refusal(peer: Peer) -> None:
        nonlocal attempt
        attempt += 1
        if attempt == 1:
            await peer.head()
            await peer.reader.readexactly(1000)
            await peer.send(busy(b"Retry-After: 1\r\n"))
            await peer.gone()
        else:
            await peer.request()
            await peer.send(OK)

    return early_refusal


async def test_an_upload_goes_on_while_it_is_retried(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What came before the failure is sent again, what comes during the back-off and after it follows."""
    origin = await upstream(refuses_early_once())
    app = await running(gateway, origin)
    client = await app.client()
    body = bytes(index % 251 for index in range(30_000))
    await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n" + body[:1000])
    await eventually(lambda: app.upstream.retries)
    await client.send(body[1000:9000])
    await eventually(lambda: len(origin.requests) == 2)
    await client.send(body[9000:])

    assert (await client.response()).status == 200
    assert origin.requests[1].body == body


async def test_an_upload_larger_than_the_buffer_waits_in_the_back_off(upstream: StartUpstream, gateway: StartGateway) -> None:
    """During the back-off no more is read than is held anyway, and nothing is lost."""
    origin = await upstream(refuses_early_once())
    app = await running(gateway, origin)
    client = await app.client()
    body = bytes(index % 251 for index in range(3_000_000))
    await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n" + body[:1000])
    await eventually(lambda: app.upstream.retries)
    await client.send(body[1000:])

    assert (await client.response()).status == 200
    assert origin.requests[1].body == body


async def test_an_upload_that_waits_for_100_is_retried(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The expectation is sent again as long as no 100 has come, and the body after it (RFC 9110 10.1.1)."""
    attempt = 0

    async def continues(peer: Peer) -> None:
        nonlocal attempt
        attempt += 1
        request = await peer.head()
        if attempt == 1:
            peer.reset()
            return
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.body(request)
        await peer.send(OK)

    origin = await upstream(continues)
    client = await (await running(gateway, origin)).client()
    await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert (await client.head()).status == 100
    await client.send(b"hello")

    assert (await client.response()).status == 200
    assert [seen.value(b"expect") for seen in origin.requests] == [b"100-continue"] * 2
    assert origin.requests[1].body == b"hello"


async def test_a_failure_behind_the_100_is_retried_without_it(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The client has sent its body on the word of the first attempt: the second one gets it without an expectation."""
    attempt = 0

    async def breaks_after_100(peer: Peer) -> None:
        nonlocal attempt
        attempt += 1
        request = await peer.head()
        if attempt == 1:
            await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            await peer.body(request)
            peer.reset()
            return
        await peer.body(request)
        await peer.send(OK)

    origin = await upstream(breaks_after_100)
    client = await (await running(gateway, origin)).client()
    await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert (await client.head()).status == 100
    await client.send(b"hello")

    assert (await client.response()).status == 200
    assert [seen.value(b"expect") for seen in origin.requests] == [b"100-continue", None]
    assert origin.requests[1].body == b"hello"


# -- what it costs -----------------------------------------------------------------------------------------------------


async def test_an_upstream_that_fails_is_not_flooded(upstream: StartUpstream, gateway: StartGateway) -> None:
    """All requests fail: the upstream sees at most 1.2 times as many, and ten more a second."""
    origin = await upstream(answers(busy()))
    app = await running(gateway, origin, "retry: {max_retries: 3, backoff: {base: 1ms, max: 1ms}}")
    began = monotonic()

    async def client(count: int) -> None:
        connection = await app.client()
        for _ in range(count):
            assert (await connection.ask(GET)).status == 503

    await asyncio.gather(*(client(60) for _ in range(10)))

    retries = len(origin.requests) - 600
    assert 0.2 * 600 * 0.9 <= retries <= 0.2 * 600 + 10 * (monotonic() - began) + 10
    assert app.upstream.denials["budget"] + app.upstream.denials.get("limit", 0) == 600


async def test_the_budget_is_of_the_upstream(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A budget of nothing stops every retry, and the client gets the first failure unchanged."""
    origin = await upstream(answers(busy()))
    app = await running(gateway, origin, upstream=f"{CALM}, retry_budget: {{ratio: 0%, min_per_second: 0}}")

    assert (await app.get()).body == b"busy"
    assert len(origin.requests) == 1
    assert app.upstream.denials == {"budget": 1}


# -- what is told ------------------------------------------------------------------------------------------------------


async def test_every_attempt_is_in_the_log(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The access log says of each attempt where it went, how it ended and why another followed or not."""
    origin = await upstream(refuses_in_turn(busy(), busy(status=b"504 Gateway Timeout"), b"SSH\r\n\r\n"))
    app = await running(gateway, origin, "retry: {max_retries: 5, backoff: {base: 1ms}}")
    assert (await app.get()).status == 502

    entry = app.log.entries[0]
    assert (entry["attempts"], entry["retries"]) == (3, 2)
    told = [{name: value for name, value in one.items() if name != "ms"} for one in entry["attempt_log"]]
    assert told == [
        {"endpoint": origin.url, "outcome": "503", "retry": "503"},
        {"endpoint": origin.url, "outcome": "504", "retry": "504"},
        {"endpoint": origin.url, "outcome": "http_protocol_error", "no_retry": "condition"},
    ]
    assert all(one["ms"] >= 0 for one in entry["attempt_log"])


async def test_the_back_off_is_not_overhead(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What a policy ordered to wait has a field of its own, and counts neither for the gateway nor for the upstream."""
    origin = await upstream(refuses_in_turn(busy(b"Retry-After: 1\r\n")))
    app = await running(gateway, origin)
    response = await app.get("/", "X-Server-Timing: 1")
    await eventually(lambda: app.log.entries)
    (entry,) = app.log.entries

    assert entry["backoff_ms"] >= 1000
    parts = entry["upstream_ms"] + entry["queue_ms"] + entry["backoff_ms"] + entry["overhead_ms"]
    assert parts == pytest.approx(entry["duration_ms"], abs=0.005)
    assert 0 < entry["overhead_ms"] < entry["backoff_ms"]
    assert app.metrics.overhead.total * 1000 == pytest.approx(entry["overhead_ms"], abs=0.002)
    told = re.match(rb"gateway;dur=([0-9.]+), upstream;dur=([0-9.]+);", response.value(b"server-timing") or b"")
    assert told is not None and 0 < float(told[1]) <= entry["overhead_ms"] + 0.1


async def test_a_back_off_that_a_client_cuts_short_is_as_long_as_it_was(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What was waited counts, not what was meant to be."""
    origin = await upstream(answers(busy(b"Retry-After: 10\r\n")))
    app = await running(gateway, origin)
    client = await app.client()
    await client.send(GET)
    await eventually(lambda: app.upstream.retries)
    client.reset()
    await eventually(lambda: app.log.entries)
    (entry,) = app.log.entries

    assert 0 < entry["backoff_ms"] < entry["duration_ms"]


async def test_a_request_without_trouble_has_no_attempt_log(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What went well at once is one attempt and no more words."""
    app = await running(gateway, await upstream(answers(OK)))
    await app.get()

    assert "attempt_log" not in app.log.entries[0]
    assert "backoff_ms" not in app.log.entries[0]
    assert (app.log.entries[0]["attempts"], app.log.entries[0]["retries"]) == (1, 0)


async def test_server_timing_shows_the_attempts(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Who asks for `Server-Timing` sees each attempt with its time and outcome."""
    origin = await upstream(refuses_in_turn(busy()))
    response = await (await running(gateway, origin)).get("/", "X-Server-Timing: 1")
    timing = response.value(b"server-timing") or b""

    assert b'desc="2 attempt(s)"' in timing
    assert b"attempt-1;dur=" in timing and b';desc="503"' in timing
    assert b"attempt-2;dur=" in timing and b';desc="200"' in timing


async def test_a_timeout_of_one_attempt_leaves_time_for_another(upstream: StartUpstream, gateway: StartGateway) -> None:
    """An attempt that hangs is given up after `timeout.attempt`, and its connection is closed."""
    hanging, well = await upstream(accepts_and_hangs), await upstream(answers(OK))
    app = await gateway(two(hanging.url, well.url, "timeout: {attempt: 100ms}"))

    assert {(await app.get()).status for _ in range(4)} == {200}
    assert app.upstream.retries["timeout"] >= 1
    await eventually(lambda: not hanging.peers)
