"""Limits on what is in flight, on real sockets: who is admitted, who waits, who is refused, and that every slot comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.gates import Gate
from tests.conftest import StartGateway, StartUpstream
from tests.support import (
    GET,
    LOOKED_FOR,
    OK,
    Client,
    Gateway,
    Peer,
    Response,
    Upstream,
    accepts_and_hangs,
    answers,
    drips,
    eventually,
    proxy,
    refusing_port,
    sends_half_a_body,
    time_passes,
    turns,
)

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
ONE = "max_in_flight: {limit: 1, queue: {size: 2, max_wait: 4s}}"
NO_QUEUE = "max_in_flight: {limit: 1, queue: off}"


def gate(running: Gateway, at: int = 0) -> Gate:
    """The gate number `at` of the configuration."""
    return running.app.plane.snapshot.gates[at].gate


def answer(slow: Upstream, times: int) -> None:
    """Let the upstream send its next answers."""
    for _ in range(times):
        slow.gate.release()


def later(running: Gateway, target: str = "/", *lines: str) -> asyncio.Task[Response]:
    """A GET whose response is awaited later."""
    return asyncio.get_running_loop().create_task(running.get(target, *lines))


async def queued(running: Gateway, count: int, target: str = "/") -> list[asyncio.Task[Response]]:
    """So many requests that wait for a slot, come one after the other."""
    tasks = []
    for number in range(count):
        tasks.append(later(running, target.format(number)))
        before = number + 1
        await eventually(lambda before=before: gate(running).waiting == before)  # type: ignore[misc]
    return tasks


async def test_a_request_without_a_slot_waits_and_is_served(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Over the limit a request waits, and goes to the upstream as soon as another one is done."""
    slow = await upstream(drips(OK))
    running = await gateway(proxy(slow.url, upstream=ONE))
    first = later(running)
    await eventually(lambda: slow.requests)
    (second,) = await queued(running, 1)

    await time_passes(0.1)  # what it waits for its slot
    assert len(slow.requests) == 1
    answer(slow, 2)

    assert [(await first).status, (await second).status] == [200, 200]
    assert running.log.entries[0]["queue_ms"] == 0.0
    waited = running.log.entries[1]
    assert waited["queue_ms"] >= 90
    parts = waited["queue_ms"] + waited["upstream_ms"] + waited["overhead_ms"]
    assert parts == pytest.approx(waited["duration_ms"], abs=0.005)
    assert sum(gate(running).metrics.wait.counts) == 1


async def test_never_more_in_flight_than_the_limit(upstream: StartUpstream, gateway: StartGateway) -> None:
    """However many come at once, the upstream sees no more than the limit at a time, and all that fit the queue are served."""
    at_once = most = 0

    async def counts(peer: Peer) -> None:
        nonlocal at_once, most
        while True:
            await peer.request()
            at_once += 1
            most = max(most, at_once)
            await peer.upstream.gate.acquire()
            at_once -= 1
            await peer.send(OK)

    app = await upstream(counts)
    running = await gateway(proxy(app.url, upstream="max_in_flight: {limit: 5, queue: {size: 200, max_wait: 14s}}"))

    tasks = [later(running) for _ in range(200)]
    await eventually(lambda: gate(running).waiting == 195 and at_once == 5)
    for _ in tasks:
        # One by one: a slot that is free is given on before the next one is.
        app.gate.release()
        await turns()
    responses = [await task for task in tasks]

    assert [response.status for response in responses] == [200] * 200
    assert most == 5


async def test_without_a_queue_the_excess_is_refused(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`queue: off`: 503 at once, with when to come again and who refuses; nothing reaches the upstream."""
    slow = await upstream(drips(OK))
    running = await gateway(proxy(slow.url, upstream=NO_QUEUE))
    first = later(running)
    await eventually(lambda: slow.requests)

    refused = await running.get()

    assert (refused.status, refused.code) == (503, "concurrency_limit_reached")
    assert refused.value(b"retry-after") == b"1"
    assert b"the upstream `app` takes 1 at a time" in refused.body
    assert running.route.rejections == {"concurrency_limit_reached": 1}
    assert gate(running).metrics.shed == {("concurrency_limit_reached", "default"): 1}
    answer(slow, 1)
    assert (await first).status == 200
    assert len(slow.requests) == 1


async def test_a_full_queue_refuses(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Who finds the queue full is refused at once; those in it keep their places."""
    slow = await upstream(drips(OK))
    running = await gateway(proxy(slow.url, upstream=ONE))
    first = later(running)
    await eventually(lambda: slow.requests)
    waiting = await queued(running, 2)

    assert (await running.get()).code == "queue_full"

    answer(slow, 3)
    assert [(await task).status for task in (first, *waiting)] == [200, 200, 200]


async def test_nobody_waits_longer_than_max_wait(upstream: StartUpstream, gateway: StartGateway) -> None:
    """After `max_wait` without a slot: 503, never dispatched."""
    slow = await upstream(drips(OK))
    running = await gateway(proxy(slow.url, upstream="max_in_flight: {limit: 1, queue: {size: 2, max_wait: 50ms}}"))
    first = later(running)
    await eventually(lambda: slow.requests)

    late = await running.get()

    assert (late.status, late.code, late.value(b"retry-after")) == (503, "queue_timeout", b"1")
    assert running.log.entries[0]["queue_ms"] >= 50
    answer(slow, 2)
    assert (await first).status == 200
    # Who comes later gets the slot, and the one before was not in between.
    assert (await running.get("/after")).status == 200
    assert [request.target for request in slow.requests] == [b"/", b"/after"]


async def test_a_queue_counts_against_the_budget(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A request whose time budget ends in the queue is 504 and is never dispatched."""
    slow = await upstream(drips(OK))
    running = await gateway(proxy(slow.url, upstream=ONE, server="trusted_proxies: [127.0.0.1]"))
    first = later(running)
    await eventually(lambda: slow.requests)

    late = await running.get("/", "X-Request-Timeout-Ms: 50")

    assert (late.status, late.code) == (504, "deadline_exceeded")
    answer(slow, 2)
    assert (await first).status == 200
    assert (await running.get("/after")).status == 200
    assert [request.target for request in slow.requests] == [b"/", b"/after"]


async def test_who_cannot_be_answered_in_time_does_not_wait(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A request with less time left than any recent answer took is refused at once, and does not use up a slot in vain."""
    slow = await upstream(drips(OK))
    running = await gateway(proxy(slow.url, upstream=ONE, server="trusted_proxies: [127.0.0.1]"))
    first = later(running)
    await eventually(lambda: slow.requests)
    (second,) = await queued(running, 1)
    await time_passes(0.3)  # what the first answer takes
    answer(slow, 1)
    await first

    late = await running.get("/", "X-Request-Timeout-Ms: 200")

    assert late.code == "deadline_exceeded"
    assert running.log.entries[-1]["queue_ms"] == 0.0
    answer(slow, 1)
    assert (await second).status == 200


@pytest.mark.parametrize("leave", ["reset", "close"])
async def test_a_client_that_leaves_the_queue_is_never_dispatched(
    upstream: StartUpstream, gateway: StartGateway, leave: str
) -> None:
    """Whoever hangs up while waiting, by FIN or RST, leaves the queue at once: neither a place nor a slot is held for it."""
    slow = await upstream(drips(OK))
    running = await gateway(proxy(slow.url, upstream=ONE))
    first = later(running)
    await eventually(lambda: slow.requests)
    client = await running.client()
    await client.send(GET)
    await eventually(lambda: gate(running).waiting == 1)

    getattr(client, leave)()

    await eventually(lambda: gate(running).waiting == 0)
    answer(slow, 2)
    assert (await first).status == 200
    assert running.log.entries[0]["status"] == 499
    assert (await running.get("/after")).status == 200
    assert [request.target for request in slow.requests] == [b"/", b"/after"]


async def test_a_half_closed_client_keeps_its_place(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A client that has only finished sending waits on, and is served."""
    slow = await upstream(drips(OK))
    running = await gateway(proxy(slow.url, upstream=ONE))
    first = later(running)
    await eventually(lambda: slow.requests)
    client = await running.client()
    await client.send(GET)
    await eventually(lambda: gate(running).waiting == 1)
    client.half_close()
    await time_passes(LOOKED_FOR)
    assert gate(running).waiting == 1

    answer(slow, 2)

    assert (await client.response()).status == 200
    assert (await first).status == 200


async def test_a_slot_granted_to_who_has_left_goes_to_the_next(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Clients leave in the very moment in which slots become free: every slot ends up with somebody who is there."""
    slow = await upstream(drips(OK))
    running = await gateway(proxy(slow.url, upstream="max_in_flight: {limit: 1, queue: {size: 100, max_wait: 4s}}"))
    first = later(running)
    await eventually(lambda: slow.requests)
    clients: list[Client] = []
    for number in range(30):
        client = await running.client()
        await client.send(GET)
        await eventually(lambda number=number: gate(running).waiting == number + 1)  # type: ignore[misc]
        clients.append(client)

    answer(slow, 31)
    for client in clients[::2]:
        client.reset()

    assert (await first).status == 200
    assert [(await client.response()).status for client in clients[1::2]] == [200] * 15


# -- priorities --------------------------------------------------------------------------------------------------------


def three_classes(url: str, limit: str, server: str = "") -> str:
    """Routes `/critical`, `/default` and `/sheddable` to one upstream."""
    routes = ", ".join(
        f'{{name: {word}, match: {{path: "/{word}/**"}}, upstream: app, priority: {word}}}'
        for word in ("critical", "default", "sheddable")
    )
    return f"""
version: 1
server: {{name: gw, listen: ["127.0.0.1:0"], {server}}}
admin: {{listen: "127.0.0.1:0"}}
access_log: "off"
upstreams: {{app: {{endpoints: ["{url}"], max_in_flight: {limit}}}}}
routes: [{routes}]
"""


async def test_the_higher_priority_is_served_first(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Of those that wait the highest priority goes first, whoever came first."""
    slow = await upstream(drips(OK))
    running = await gateway(three_classes(slow.url, "{limit: 1, queue: {size: 9, max_wait: 4s}}"))
    tasks = [later(running, "/default/0")]
    await eventually(lambda: slow.requests)
    for number, word in enumerate(("sheddable", "default", "critical")):
        tasks.append(later(running, f"/{word}/1"))
        await eventually(lambda number=number: gate(running).waiting == number + 1)  # type: ignore[misc]

    for served in range(1, 5):
        assert len(slow.requests) == served
        answer(slow, 1)
        await eventually(lambda served=served: len(slow.requests) == min(4, served + 1))  # type: ignore[misc]

    assert [(await task).status for task in tasks] == [200] * 4
    assert [request.target for request in slow.requests[1:]] == [b"/critical/1", b"/default/1", b"/sheddable/1"]


async def test_a_higher_priority_takes_the_place_of_a_lower_one(upstream: StartUpstream, gateway: StartGateway) -> None:
    """In a full queue the lowest priority is refused in favour of a higher one that comes."""
    slow = await upstream(drips(OK))
    running = await gateway(three_classes(slow.url, "{limit: 1, queue: {size: 1, max_wait: 4s}}"))
    first = later(running, "/default/0")
    await eventually(lambda: slow.requests)
    low = later(running, "/sheddable/1")
    await eventually(lambda: gate(running).waiting == 1)

    high = later(running, "/critical/1")

    assert (await low).code == "queue_full"
    assert (await running.get("/default/2")).code == "queue_full"
    answer(slow, 2)
    assert [(await first).status, (await high).status] == [200, 200]
    assert gate(running).metrics.shed == {("queue_full", "sheddable"): 1, ("queue_full", "default"): 1}


async def test_a_share_is_kept_for_the_higher_priority(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`shares`: below the limit, yet above its share, a lower priority is refused and a higher one is not."""
    slow = await upstream(drips(OK))
    running = await gateway(three_classes(slow.url, "{limit: 2, queue: off, shares: {default: 50%, sheddable: 50%}}"))
    first = later(running, "/default/0")
    await eventually(lambda: slow.requests)

    assert (await running.get("/default/1")).code == "concurrency_limit_reached"
    high = later(running, "/critical/1")
    await eventually(lambda: len(slow.requests) == 2)
    answer(slow, 2)
    assert [(await first).status, (await high).status] == [200, 200]


async def test_without_a_higher_priority_nothing_is_kept(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Where all routes are of one priority, it may fill the limit."""
    slow = await upstream(drips(OK))
    limit = "max_in_flight: {limit: 2, queue: off, shares: {default: 50%, sheddable: 50%}}"
    running = await gateway(proxy(slow.url, upstream=limit, route="priority: sheddable"))

    tasks = [later(running), later(running)]
    await eventually(lambda: len(slow.requests) == 2)
    answer(slow, 2)

    assert [(await task).status for task in tasks] == [200, 200]


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_trusted_peer_says_the_priority(upstream: StartUpstream, gateway: StartGateway, trusted: bool) -> None:
    """`priority_field` counts from trusted peers, and from nobody else."""
    slow = await upstream(drips(OK))
    peers = "127.0.0.1" if trusted else "192.0.2.1"
    server = f"priority_field: X-Priority, trusted_proxies: [{peers}]"
    running = await gateway(three_classes(slow.url, "{limit: 1, queue: {size: 1, max_wait: 4s}}", server))
    first = later(running, "/default/0")
    await eventually(lambda: slow.requests)
    low = later(running, "/sheddable/1")
    await eventually(lambda: gate(running).waiting == 1)

    high = later(running, "/sheddable/2", "X-Priority: critical")

    assert (await (low if trusted else high)).code == "queue_full"
    answer(slow, 2)
    assert [(await task).status for task in (first, high if trusted else low)] == [200, 200]


async def test_a_late_event_loop_sheds_the_lower_priorities(upstream: StartUpstream, gateway: StartGateway) -> None:
    """While the loop is late, `sheddable` is refused first, then `default`, and `critical` never; it ends by itself."""
    app = await upstream(answers(OK))
    running = await gateway(three_classes(app.url, "off", "overload: {default: 300ms, sheddable: 50ms}"))
    watch = running.app._watch
    assert watch is not None
    answered: list[list[int]] = []
    for lag in (0.0, 0.2, 0.6):
        for _ in range(12):
            watch.look(lag)
        codes = [(await running.get(f"/{word}/1")).status for word in ("critical", "default", "sheddable")]
        answered.append(codes)

    assert answered == [[200, 200, 200], [200, 200, 503], [200, 503, 503]]
    assert running.metrics.lag.shed == {"sheddable": 2, "default": 1}
    assert running.metrics.routes["default"].rejections == {"overloaded": 1}
    await eventually(lambda: running.plane.shed_from == 3)
    assert (await running.get("/sheddable/1")).status == 200


# -- slots -------------------------------------------------------------------------------------------------------------


async def test_a_slot_is_held_to_the_last_byte(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A response that streams holds its slot until it is relayed."""
    slow = await upstream(drips(HEAD + b"ha", b"lf"))
    running = await gateway(proxy(slow.url, upstream=NO_QUEUE))
    client = await running.client()
    await client.send(GET)
    answer(slow, 1)
    assert (await client.head()).status == 200

    assert (await running.get()).code == "concurrency_limit_reached"
    answer(slow, 1)
    assert await client.read(4) == b"half"
    await eventually(lambda: gate(running).in_flight == 0)


async def test_an_upgraded_connection_holds_no_slot(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A tunnel may stay for days: it gives its slot back at the 101."""
    key = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + key + b"\r\n\r\n"

    async def switches(peer: Peer) -> None:
        request = await peer.head()
        await peer.send(switch if request.value(b"upgrade") else OK)
        await peer.gone()

    app = await upstream(switches)
    running = await gateway(proxy(app.url, upstream=NO_QUEUE))
    client = await running.client()
    await client.send(
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )

    assert (await client.head()).status == 101
    assert running.metrics.tunnels == 1
    assert (await running.get()).status == 200


@pytest.mark.parametrize("behaviour", [sends_half_a_body, accepts_and_hangs])
async def test_a_failed_request_gives_its_slot_back(upstream: StartUpstream, gateway: StartGateway, behaviour: Any) -> None:
    """However an exchange ends, its slot is free again: one after the other finds it."""
    app = await upstream(behaviour)
    running = await gateway(proxy(app.url, upstream=NO_QUEUE, route="timeout: 100ms"))

    for _ in range(3):
        response = await running.get()
        assert response.status in {200, 504} and (response.status == 504 or not response.complete)
        assert gate(running).in_flight == 0


async def test_a_dead_upstream_drains_the_queue(gateway: StartGateway) -> None:
    """When the upstream refuses connections, everybody gets its failure at once, those in the queue too."""
    url = f"http://127.0.0.1:{refusing_port()}"
    running = await gateway(
        proxy(url, upstream="circuit_breaker: off, max_in_flight: {limit: 2, queue: {size: 100, max_wait: 4s}}")
    )

    responses = await asyncio.gather(*[running.get() for _ in range(60)])

    assert {response.code for response in responses} == {"connection_refused"}
    assert gate(running).in_flight == gate(running).waiting == 0


async def test_a_request_refused_for_load_spends_no_quota(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Admission comes before the rate limit: who is refused for load is charged nothing."""
    slow = await upstream(drips(OK))
    running = await gateway(proxy(slow.url, upstream=NO_QUEUE, route="rate_limit: 2/h"))
    first = later(running)
    await eventually(lambda: slow.requests)
    for _ in range(3):
        assert (await running.get()).code == "concurrency_limit_reached"
    answer(slow, 2)

    assert (await first).status == 200
    assert (await running.get()).status == 200
    assert (await running.get()).code == "rate_limited"


async def test_who_is_denied_by_a_rate_limit_does_not_queue(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A request that its rate limit denies takes neither a place in the queue nor a slot: a flood cannot push others out."""
    slow = await upstream(drips(OK))
    running = await gateway(proxy(slow.url, upstream=ONE, route="rate_limit: 1/h"))
    first = later(running)
    await eventually(lambda: slow.requests)

    denied = await running.get()

    assert (denied.status, denied.code) == (429, "rate_limited")
    assert running.log.entries[0]["queue_ms"] == 0.0
    answer(slow, 1)
    assert (await first).status == 200


async def test_server_route_and_upstream_all_limit(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A request needs a slot at the server, at its route and at its upstream; the refusal names the one that had none."""
    slow = await upstream(drips(OK))
    text = f"""
version: 1
server: {{name: gw, listen: ["127.0.0.1:0"], max_in_flight: {{limit: 3, queue: off}}}}
admin: {{listen: "127.0.0.1:0"}}
access_log: "off"
upstreams:
  app: {{endpoints: ["{slow.url}"], max_in_flight: {{limit: 2, queue: off}}}}
  other: {{endpoints: ["{slow.url}"]}}
routes:
  - {{name: a, match: {{path: "/a"}}, upstream: app, max_in_flight: {{limit: 1, queue: off}}}}
  - {{name: b, match: {{path: "/b"}}, upstream: app}}
  - {{name: c, match: {{path: "/c"}}, upstream: other}}
"""
    running = await gateway(text)
    tasks = []
    for count, (target, refusal) in enumerate((("/a", b"the route `a` takes 1"), ("/b", b"the upstream `app` takes 2"),
                                               ("/c", b"the gateway takes 3"))):  # fmt: skip
        tasks.append(later(running, target))
        await eventually(lambda count=count: len(slow.requests) == count + 1)  # type: ignore[misc]
        assert refusal in (await running.get(target)).body
    answer(slow, 3)

    assert [(await task).status for task in tasks] == [200, 200, 200]


# -- adaptive, reload, what is shown -----------------------------------------------------------------------------------


async def test_an_adaptive_limit_follows_the_upstream(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The limit falls while the upstream says 503, and rises again when it answers."""
    calm = False

    async def is_busy(peer: Peer) -> None:
        while True:
            await peer.request()
            if calm:
                await peer.upstream.gate.acquire()
            await peer.send(OK if calm else b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    app = await upstream(is_busy)
    running = await gateway(
        proxy(app.url, upstream="max_in_flight: {limit: 50, adaptive: {min: 10, max: 60}}", route="retry: off")
    )

    for _ in range(5):
        assert (await running.get()).status == 503
    await eventually(lambda: gate(running).limit == 45)

    calm = True
    tasks = [later(running) for _ in range(30)]
    await eventually(lambda: len(app.requests) == 35)
    answer(app, 30)
    assert [(await task).status for task in tasks] == [200] * 30
    await eventually(lambda: gate(running).limit == 51)


async def reload(running: Gateway, text: str) -> None:
    """Put another configuration into the running gateway."""
    running.app.runtime.loaded.path.write_text(text, encoding="utf-8")
    assert (await running.app.reloader.reload("test")).ok


@pytest.mark.parametrize(
    "limit", ["max_in_flight: {limit: 3, queue: {size: 9, max_wait: 4s}}", ONE.replace("size: 2", "size: 1")]
)
async def test_a_reload_loses_nobody(upstream: StartUpstream, gateway: StartGateway, limit: str) -> None:
    """With a higher limit those that wait are let in, with a smaller queue they keep their places; slots are counted on."""
    slow = await upstream(drips(OK))
    running = await gateway(proxy(slow.url, upstream=ONE))
    first = later(running)
    await eventually(lambda: slow.requests)
    waiting = await queued(running, 2)
    same = gate(running)

    await reload(running, proxy(slow.url, upstream=limit))

    assert gate(running) is same
    expected = 3 if "limit: 3" in limit else 1
    await eventually(lambda: len(slow.requests) == expected)
    assert same.in_flight == expected
    answer(slow, 3)
    assert [(await task).status for task in (first, *waiting)] == [200, 200, 200]


async def test_a_limit_that_is_taken_away_keeps_nobody(upstream: StartUpstream, gateway: StartGateway) -> None:
    """After a reload without the limit new requests pass, and those that wait are served as before."""
    slow = await upstream(drips(OK))
    running = await gateway(proxy(slow.url, upstream=ONE))
    first = later(running)
    await eventually(lambda: slow.requests)
    (second,) = await queued(running, 1)
    old = gate(running)

    await reload(running, proxy(slow.url))
    third = later(running)
    await eventually(lambda: len(slow.requests) == 2)
    answer(slow, 3)

    assert [(await task).status for task in (first, second, third)] == [200, 200, 200]
    assert (old.in_flight, old.waiting) == (0, 0)


async def test_the_admin_listener_and_the_metrics_show_it(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`/upstreams`, `/routes` and `/metrics` say what is in flight, the limit, and who waits."""
    slow = await upstream(drips(OK))
    running = await gateway(proxy(slow.url, upstream=ONE, route="priority: critical, max_in_flight: 7"))
    first = later(running)
    await eventually(lambda: slow.requests)
    (second,) = await queued(running, 1)
    shown = {}
    for page in ("upstreams", "routes", "metrics"):
        reader, writer = await asyncio.open_connection(*running.admin)
        client = Client(reader, writer)
        shown[page] = (await client.ask(b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % page.encode())).body.decode()
        client.close()

    assert '"in_flight": 1,\n      "limit": 1,' in shown["upstreams"] and '"queued": 1' in shown["upstreams"]
    assert '"priority": "critical"' in shown["routes"] and '"limit": 7' in shown["routes"]
    for line in (
        'gateway_concurrency_in_flight{name="app",scope="upstream"} 1.0',
        'gateway_concurrency_in_flight{name="all",scope="route"} 2.0',
        'gateway_concurrency_limit{name="app",scope="upstream"} 1.0',
        'gateway_queue_length{name="app",scope="upstream"} 1.0',
        'gateway_queue_wait_seconds_count{name="app",scope="upstream"} 0.0',
        "gateway_event_loop_lag_seconds ",
        'gateway_shedding{priority="sheddable"} 0.0',
    ):
        assert line in shown["metrics"], line
    answer(slow, 2)
    assert [(await first).status, (await second).status] == [200, 200]
