"""Hedging: a slow answer is overtaken by a second copy elsewhere; the loser is cancelled, and nothing unsafe is sent twice."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import pytest

from gateway.policies.hedge import ENOUGH
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
    closes_without_an_answer,
    eventually,
    refusing_port,
)

GIVES_UP = "hedge: 20ms, retry: 0, timeout: {request: 300ms}"
"""A copy is due long before the request is given up."""
RARE = "hedge: 500ms"
"""Late enough that what answers at once is never hedged, on a busy machine either."""
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"


def config(*urls: str, route: str = "hedge: 20ms", upstream: str = "") -> str:
    """Endpoints that are taken in turn."""
    listed = ", ".join(f'"{url}"' for url in urls)
    return f"""
version: 1
server: {{listen: ["127.0.0.1:0"], overload: {{default: off, sheddable: off}}}}
admin: {{listen: "127.0.0.1:0"}}
access_log: "off"
upstreams: {{app: {{endpoints: [{listed}], load_balancing: round_robin, {upstream}}}}}
routes: [{{name: all, match: {{}}, upstream: app, {route}}}]
"""


async def pair(
    upstream: StartUpstream, gateway: StartGateway, one: Behaviour, other: Behaviour, route: str = "hedge: 20ms", **more: str
) -> tuple[Gateway, Upstream, Upstream]:
    """A gateway with two endpoints. `settings` are of the upstream."""
    first, second = await upstream(one), await upstream(other)
    return await gateway(config(first.url, second.url, route=route, upstream=more.get("settings", ""))), first, second


async def test_a_copy_overtakes_a_slow_answer(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The first endpoint hangs, the other answers the copy: that is the response, and the first connection is closed."""
    running, hanging, quick = await pair(upstream, gateway, accepts_and_hangs, answers(OK), route=RARE)
    responses = [await running.get() for _ in range(4)]

    assert [response.status for response in responses] == [200] * 4
    hedged = len(hanging.requests)
    assert hedged >= 1 and len(quick.requests) == 4
    assert running.upstream.retries == {"hedge": hedged}
    await eventually(lambda: not hanging.peers)
    assert running.upstream.attempts == {"ok": 4, "cancelled": hedged}
    entry = next(entry for entry in running.log.entries if entry["retries"])
    assert (entry["attempts"], entry["retries"], entry["upstream_addr"]) == (2, 1, quick.url)
    assert [(one["endpoint"], one["outcome"]) for one in entry["attempt_log"]] == [
        (hanging.url, "cancelled"),
        (quick.url, "200"),
    ]


async def test_waiting_for_a_copy_is_time_of_the_upstream(upstream: StartUpstream, gateway: StartGateway) -> None:
    """From the first copy on the upstream is waited for: the delay of a hedge is no overhead, whichever copy wins."""
    running, hanging, _ = await pair(upstream, gateway, accepts_and_hangs, answers(OK), route="hedge: 300ms")
    for _ in range(2):
        await running.get()
    await eventually(lambda: len(running.log.entries) == 2)
    entry = next(entry for entry in running.log.entries if entry["retries"])

    assert hanging.requests
    assert entry["upstream_ms"] >= 300
    assert entry["overhead_ms"] == pytest.approx(entry["duration_ms"] - entry["upstream_ms"], abs=0.003)


async def test_the_first_copy_keeps_its_time_when_others_come_and_go(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A copy that failed, and another one after it, do not hide how long the first one has been waited for."""

    async def slow(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.upstream.gate.acquire()
            await peer.send(OK)

    first = await upstream(slow)
    failing = await upstream(closes_without_an_answer)
    settings = "circuit_breaker: off, ejection: off"
    running = await gateway(config(first.url, failing.url, route="hedge: {after: 100ms, max: 2}, retry: 0", upstream=settings))
    client = await running.client()
    await client.send(GET)
    await eventually(lambda: first.requests or running.log.entries)
    if not first.requests:
        # In turn: the next one begins with the slow one.
        await client.response()
        await client.send(GET)
    await eventually(lambda: running.upstream.retries == {"hedge": 2})
    first.gate.release()

    assert (await client.response()).status == 200
    await eventually(lambda: running.log.entries and running.log.entries[-1]["retries"])
    assert running.log.entries[-1]["upstream_ms"] >= 200


@pytest.mark.parametrize("winner", [0, 1])
async def test_whichever_answers_first_wins(upstream: StartUpstream, gateway: StartGateway, winner: int) -> None:
    """The first answer counts, be it to the first copy or to the second; the other copy is cancelled."""

    async def slow(peer: Peer) -> None:
        await peer.request()
        await peer.upstream.gate.acquire()
        await peer.send(OK.replace(b"OK", b"ok"))
        await peer.gone()

    origins = [await upstream(slow), await upstream(slow)]
    running = await gateway(config(*(origin.url for origin in origins)))
    client = await running.client()
    await client.send(GET)
    await eventually(lambda: all(origin.requests for origin in origins))
    first, second = origins[winner], origins[1 - winner]
    first.gate.release()

    assert (await client.response()).body == b"ok"
    await eventually(lambda: running.pools() == {"open": 1, "idle": 1})
    assert running.upstream.attempts == {"ok": 1, "cancelled": 1}
    entry = running.log.entries[0]
    assert (entry["upstream_addr"], entry["retries"]) == (first.url, 1)
    second.gate.release()
    await eventually(lambda: not second.peers)


@pytest.mark.parametrize("behaviour", [closes_without_an_answer, answers(BUSY)], ids=["closes", "503"])
async def test_a_copy_that_fails_does_not_end_the_race(
    upstream: StartUpstream, gateway: StartGateway, behaviour: Behaviour
) -> None:
    """A bad answer to the copy is dropped while the first is still waited for."""

    async def slow(peer: Peer) -> None:
        await peer.request()
        await peer.upstream.gate.acquire()
        await peer.send(OK)
        await peer.gone()

    running, waited_for, failing = await pair(upstream, gateway, slow, behaviour, route="hedge: 20ms, retry: 0")
    client = await running.client()
    await client.send(GET)
    await eventually(lambda: waited_for.requests or running.log.entries)
    if not waited_for.requests:
        # In turn: the next one begins with the slow one.
        await client.response()
        await client.send(GET)
    await eventually(lambda: len(failing.requests) >= 1 and running.upstream.retries == {"hedge": 1})
    waited_for.gate.release()

    assert (await client.response()).status == 200


async def test_a_copy_that_finds_nobody_does_not_end_the_race(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A refused connection of the copy leaves the first one as it is."""

    async def slow(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.upstream.gate.acquire()
            await peer.send(OK)

    origin = await upstream(slow)
    running = await gateway(config(origin.url, f"http://127.0.0.1:{refusing_port()}"))
    client = await running.client()
    for expected in (1, 2):
        await client.send(GET)
        await eventually(_hedged(running, origin, expected))
        origin.gate.release()
        assert (await client.response()).status == 200


def _hedged(running: Gateway, origin: Upstream, expected: int) -> Callable[[], bool]:
    """Whether so many requests have reached it, and a copy of one was begun elsewhere."""
    return lambda: len(origin.requests) == expected and bool(running.upstream.retries)


async def test_all_copies_may_fail(upstream: StartUpstream, gateway: StartGateway) -> None:
    """When every copy is lost, the client gets a failure as without hedging."""

    async def slow_to_close(peer: Peer) -> None:
        await peer.request()
        await peer.upstream.gate.acquire()

    running, first, second = await pair(upstream, gateway, slow_to_close, slow_to_close, route="hedge: 20ms, retry: 0")
    client = await running.client()
    await client.send(GET)
    await eventually(lambda: first.requests and second.requests)
    first.gate.release()
    second.gate.release()

    response = await client.response()
    assert (response.status, response.code) == (502, "connection_terminated")


async def test_the_attempt_timeout_ends_all_copies(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The time limit of the attempt holds for all copies, from the last one on; none is left behind."""
    running, first, second = await pair(
        upstream, gateway, accepts_and_hangs, accepts_and_hangs, route="hedge: 20ms, retry: 0, timeout: {attempt: 500ms}"
    )
    response = await running.get()

    assert (response.status, response.code) == (504, "http_response_timeout")
    assert (len(first.requests), len(second.requests)) == (1, 1)
    assert running.upstream.attempts == {"ok": 0, "http_response_timeout": 2}
    await eventually(lambda: not first.peers and not second.peers)


async def test_a_client_that_leaves_ends_all_copies(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Both connections are closed at once, and nobody is blamed."""
    running, first, second = await pair(upstream, gateway, accepts_and_hangs, accepts_and_hangs)
    client = await running.client()
    await client.send(GET)
    await eventually(lambda: first.requests and second.requests)
    client.reset()

    await eventually(lambda: not first.peers and not second.peers)
    assert running.upstream.attempts == {"ok": 0, "cancelled": 2}


async def test_a_copy_that_is_still_connecting_ends_with_its_request(
    upstream: StartUpstream, gateway: StartGateway, backlog: int
) -> None:
    """When the time of a request is up, its last copy does not go on to open a connection and to send what nobody waits for."""
    hanging = await upstream(accepts_and_hangs)
    running = await gateway(
        config(hanging.url, f"http://127.0.0.1:{backlog}", route="hedge: 20ms, retry: 0, timeout: {request: 500ms}")
    )
    # They are taken in turn: one of the two requests, if not both, begins where a copy can follow.
    assert [(await running.get()).status for _ in range(2)] == [504, 504]

    assert running.upstream.retries["hedge"] >= 1
    group = running.app.plane.snapshot.upstreams[0].group
    assert [endpoint.in_flight for endpoint in group.endpoints] == [0, 0]
    await eventually(lambda: running.pools() == {"open": 0, "idle": 0} and not hanging.peers)


@pytest.mark.parametrize(
    "request_",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        b"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"query / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
    ],
    ids=["POST", "DELETE", "PUT", "GET-body", "upgrade", "query"],
)
async def test_only_what_is_safe_is_sent_twice(upstream: StartUpstream, gateway: StartGateway, request_: bytes) -> None:
    """Unsafe methods, bodies and upgrades have one copy (RFC 9110 9.2.1)."""
    running, first, second = await pair(upstream, gateway, accepts_and_hangs, accepts_and_hangs, route=GIVES_UP)

    # By the end of its time a copy would have been sent.
    assert (await running.ask(request_)).status == 504
    assert len(first.requests) + len(second.requests) == 1
    assert running.upstream.retries == {}


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_query_is_sent_twice_with_its_content(upstream: StartUpstream, gateway: StartGateway, framing: str) -> None:
    """QUERY is safe and its content is what it asks for (RFC 10008): the copy brings all of it, and can be the answer."""
    body = bytes(range(256)) * 100
    line, sent = b"Content-Length: %d" % len(body), body
    if framing == "chunked":
        line, sent = b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    wire = b"QUERY /q HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n%b" % (line, sent)
    running, hanging, quick = await pair(upstream, gateway, accepts_and_hangs, answers(OK), route=RARE)
    responses = [await running.ask(wire) for _ in range(4)]

    assert [response.status for response in responses] == [200] * 4
    assert len(hanging.requests) >= 1 and len(quick.requests) == 4
    assert {request.body for request in (*quick.requests, *hanging.requests)} == {body}
    assert running.upstream.retries == {"hedge": len(hanging.requests)}
    assert {method for method, _ in running.route.requests} == {b"QUERY"}


async def test_a_query_whose_content_is_not_kept_has_one_copy(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What is larger than `retry.replay`, or kept for nobody because nothing is retried, cannot be sent again."""
    running, first, second = await pair(upstream, gateway, accepts_and_hangs, accepts_and_hangs, route=GIVES_UP)
    large = b"QUERY / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000

    assert (await running.ask(large)).status == 504
    assert len(first.requests) + len(second.requests) == 1
    assert running.upstream.retries == {}


async def test_a_single_endpoint_is_not_asked_twice(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Without another endpoint there is no copy."""
    origin = await upstream(accepts_and_hangs)
    running = await gateway(config(origin.url, route=GIVES_UP))

    assert (await running.get()).status == 504
    assert len(origin.requests) == 1
    assert running.upstream.retries == {}


async def test_a_hedge_is_paid_from_the_retry_budget(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Without budget there is no copy, and that is counted."""
    broke = "retry_budget: {ratio: 0%, min_per_second: 0}"
    running, first, second = await pair(upstream, gateway, accepts_and_hangs, accepts_and_hangs, route=GIVES_UP, settings=broke)

    assert (await running.get()).status == 504
    assert running.upstream.denials == {"budget": 1}
    assert len(first.requests) + len(second.requests) == 1


async def test_a_percentile_is_learnt(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`p95` hedges only once enough answers have shown how long they take."""
    slow = False

    async def sometimes_hangs(peer: Peer) -> None:
        while True:
            await peer.request()
            if slow:
                await peer.upstream.gate.acquire()
            await peer.send(OK)

    running, _, _ = await pair(upstream, gateway, sometimes_hangs, answers(OK), route="hedge: p95")
    client = await running.client()
    for _ in range(ENOUGH + 10):
        assert (await client.ask(GET)).status == 200
    assert running.upstream.retries == {}
    delay, known = running.app.plane.snapshot.routes[0].hedge, running.upstream.duration
    assert delay is not None
    await eventually(lambda: delay.seconds(monotonic(), known.bounds, known.counts) is not None)
    slow = True
    for _ in range(2):
        # In turn, so one of two begins with the slow one.
        assert (await client.ask(GET)).status == 200

    assert running.upstream.retries["hedge"] >= 1


async def test_the_kept_connection_of_a_winner_is_used_again(upstream: StartUpstream, gateway: StartGateway) -> None:
    """After the race everything is as without hedging: the winner's connection goes back to the pool."""
    running, hanging, quick = await pair(upstream, gateway, accepts_and_hangs, answers(OK), route=RARE)
    for _ in range(4):
        assert (await running.get()).status == 200

    await eventually(lambda: running.pools() == {"open": 1, "idle": 1})
    assert quick.connections == 1 and hanging.requests
