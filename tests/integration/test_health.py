"""Health of endpoints with real sockets: probes find out who is well, exchanges who is not, and traffic follows."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from gateway.control.admin.pages import LIVE
from gateway.endpoints import Endpoint
from gateway.policies.health import EndpointState
from tests.certificates import Certificates
from tests.conftest import StartGateway, StartUpstream
from tests.integration.test_reload import reloaded
from tests.support import (
    GET,
    OK,
    PATIENCE,
    Behaviour,
    Gateway,
    Peer,
    Upstream,
    accepts_and_hangs,
    answers,
    answers_and_closes,
    eventually,
    pours,
    refusing_port,
    resets_at_once,
)

OFTEN = "interval: 100ms, timeout: 500ms, fall: 2, rise: 2"
ERROR = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


def balanced(*urls: str, upstream: str = "", route: str = "retry: off", more: str = "") -> str:
    """A configuration with one route to these endpoints, and with `more` upstreams."""
    return f"""
version: 1
server: {{name: gw, listen: ["127.0.0.1:0"], overload: {{default: off, sheddable: off}}}}
admin: {{listen: "127.0.0.1:0"}}
access_log: "off"
upstreams: {{app: {{circuit_breaker: "off", endpoints: [{", ".join(f'"{url}"' for url in urls)}], {upstream}}}, {more}}}
routes: [{{name: all, match: {{}}, upstream: app, {route}}}]
"""


def probed(origin: Upstream) -> str:
    """An upstream `other` that is probed."""
    return f'other: {{endpoints: ["{origin.url}"], health: {{{OFTEN}}}}}'


def says(word: str) -> Behaviour:
    """Answers with this word."""
    return answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(word), word.encode()))


def endpoints(running: Gateway) -> tuple[Endpoint, ...]:
    """The endpoints of the upstream `app`."""
    return running.app.plane.snapshot.upstreams[0].group.endpoints


def at(running: Gateway, origin: Upstream) -> Endpoint:
    """The endpoint of this upstream."""
    return next(one for one in endpoints(running) if one.url == origin.url)


async def picked(running: Gateway, times: int = 40) -> Counter[bytes]:
    """Who answers so many requests, one after the other, by body; a failure by its status."""
    client = await running.client()
    found: Counter[bytes] = Counter()
    for _ in range(times):
        response = await client.ask(GET)
        found[response.body if response.status == 200 else b"%d" % response.status] += 1
    return found


# -- active probes -----------------------------------------------------------------------------------------------------


async def test_an_endpoint_that_fails_its_probes_gets_nothing_until_it_is_well(
    upstream: StartUpstream, gateway: StartGateway
) -> None:
    """After `fall` failures nothing goes to it; after `rise` successes it is back, with a small share at first."""
    a, b = await upstream(says("a")), await upstream(says("b"))
    running = await gateway(balanced(a.url, b.url, upstream=f"health: {{path: /healthz, {OFTEN}}}"))
    one = at(running, b)
    assert set(await picked(running)) == {b"a", b"b"}

    b.behaviour = answers(ERROR)
    await eventually(lambda: one.state is EndpointState.UNHEALTHY)
    assert one.why == "probe: status 503"
    assert await picked(running) == {b"a": 40}

    b.behaviour = says("b")
    await eventually(lambda: one.state is EndpointState.SLOW_START)
    assert one in one.group.available
    assert one.share < 1.0
    assert one.why == ""


async def sends_a_head_and_stops(peer: Peer) -> None:
    """Announces a body and does not send it."""
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
    await peer.gone()


@pytest.mark.parametrize(
    "behaviour,settings,result",
    [
        (answers(ERROR), "", "status"),
        (answers(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"), "statuses: [200-299]", "status"),
        (answers(OK), "body: fine", "body"),
        (pours(1 << 30), "body: fine", "body"),
        (sends_a_head_and_stops, "body: fine", "timeout"),
        (accepts_and_hangs, "", "timeout"),
        (resets_at_once, "", "error"),
        (answers_and_closes(b"SSH-2.0-OpenSSH_9\r\n"), "", "error"),
        (answers_and_closes(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 100_000), "", "error"),
    ],
    ids=["status", "redirect", "body", "flood", "half", "hang", "reset", "ssh", "huge-head"],
)
async def test_what_a_failed_probe_is(
    upstream: StartUpstream, gateway: StartGateway, behaviour: Behaviour, settings: str, result: str
) -> None:
    """Each way to fail a probe ends in time, is counted by its kind, and makes the endpoint unhealthy."""
    bad, good = await upstream(behaviour), await upstream(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"))
    running = await gateway(balanced(bad.url, good.url, upstream=f"health: {{{OFTEN}, {settings}}}"))

    await eventually(lambda: at(running, bad).state is EndpointState.UNHEALTHY)
    assert set(running.upstream.probes) <= {result, "ok"}
    assert at(running, good).state is EndpointState.HEALTHY


async def test_a_probe_of_nobody_is_refused(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A port that nobody listens on."""
    good, port = await upstream(answers(OK)), refusing_port()
    running = await gateway(balanced(f"http://127.0.0.1:{port}", good.url, upstream=f"health: {{{OFTEN}}}"))

    await eventually(lambda: endpoints(running)[0].state is EndpointState.UNHEALTHY)
    assert endpoints(running)[0].why == "probe: connection refused"
    assert "refused" in running.upstream.probes


@pytest.mark.parametrize(
    "settings,upstream_host,host", [("", "preserve", None), ("", "app.internal", "app.internal"), ("host: h:1", "a", "h:1")]
)
async def test_what_a_probe_looks_like(
    upstream: StartUpstream, gateway: StartGateway, settings: str, upstream_host: str, host: str | None
) -> None:
    """A GET of the path as written, with `Host` and the fields of the operator, on a connection of its own."""
    origin = await upstream(answers(OK))
    health = f"health: {{path: '/healthz?full=%20', headers: {{X-Key: secret, User-Agent: mine}}, {OFTEN}, {settings}}}"
    await gateway(balanced(origin.url, upstream=f"{health}, host: {upstream_host}"))
    await eventually(lambda: len(origin.requests) >= 2)

    probe = origin.requests[0]
    assert probe.start == b"GET /healthz?full=%20 HTTP/1.1"
    assert probe.value(b"host") == (host or origin.url.removeprefix("http://")).encode()
    assert probe.value(b"x-key") == b"secret"
    assert probe.value(b"user-agent") == b"mine"
    assert origin.connections == len(origin.requests)


async def test_probes_over_tls_verify_as_exchanges_do(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates
) -> None:
    """A certificate for another name is not accepted, the right one is."""
    good = await upstream(answers(OK), tls=certificates.server("good"))
    wrong = await upstream(answers(OK), tls=certificates.server("wrong"))
    settings = f"tls: {{ca: {certificates['ca.crt']}}}, health: {{{OFTEN}}}"
    running = await gateway(balanced(good.url, wrong.url, upstream=settings))

    await eventually(lambda: at(running, wrong).state is EndpointState.UNHEALTHY)
    await eventually(lambda: running.upstream.probes.get("ok", 0) >= 2)
    assert set(running.upstream.probes) == {"ok", "tls"}
    assert at(running, good).state is EndpointState.HEALTHY


async def test_probes_over_a_unix_socket(upstream: StartUpstream, gateway: StartGateway, tmp_path: object) -> None:
    """`unix:` endpoints are probed through their socket; one that is gone is unhealthy."""
    origin = await upstream(answers(OK), path=f"{tmp_path}/app.sock")
    running = await gateway(balanced(origin.url, f"unix:{tmp_path}/gone.sock", upstream=f"health: {{{OFTEN}}}"))

    await eventually(lambda: endpoints(running)[1].state is EndpointState.UNHEALTHY)
    await eventually(lambda: origin.requests)
    assert endpoints(running)[0].state is EndpointState.HEALTHY
    assert origin.requests[0].value(b"host") == b"localhost"


async def test_tcp_probes_only_connect(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`type: tcp` asks nothing."""
    origin = await upstream(answers(OK))
    refusing = f"http://127.0.0.1:{refusing_port()}"
    running = await gateway(balanced(origin.url, refusing, upstream=f"health: {{type: tcp, {OFTEN}}}"))

    await eventually(lambda: endpoints(running)[1].state is EndpointState.UNHEALTHY)
    await eventually(lambda: running.upstream.probes.get("ok", 0) >= 2)
    assert origin.requests == []
    assert origin.connections >= 2


async def test_no_probes_without_health(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Probes are an operator's choice."""
    origin, other = await upstream(answers(OK)), await upstream(answers(OK))
    running = await gateway(balanced(origin.url, more=probed(other)))
    # The probes of an upstream that has some come again and again meanwhile.
    await eventually(lambda: len(other.requests) >= 5)

    assert origin.connections == 0
    assert running.upstream.probes == {}


async def test_health_is_not_readiness(gateway: StartGateway) -> None:
    """With all endpoints down the gateway is still ready: it answers, and another gateway could do no better."""
    running = await gateway(balanced(f"http://127.0.0.1:{refusing_port()}", upstream=f"health: {{{OFTEN}}}"))
    await eventually(lambda: endpoints(running)[0].state is EndpointState.UNHEALTHY)
    reader, writer = await asyncio.open_connection(*running.admin)
    writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")

    assert b" 200 " in await reader.readline()
    writer.close()
    assert (await running.get()).code == "connection_refused"


# -- passive ejection --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behaviour,reason",
    [
        (answers(ERROR), "http_503"),
        (resets_at_once, "connection_terminated"),
        (answers_and_closes(b"SSH-2.0-OpenSSH_9\r\n"), "http_protocol_error"),
        (accepts_and_hangs, "http_response_timeout"),
    ],
    ids=["503", "reset", "garbage", "hang"],
)
async def test_five_failures_in_a_row_eject(
    upstream: StartUpstream, gateway: StartGateway, behaviour: Behaviour, reason: str
) -> None:
    """Whatever the failure is: clients see it five times, then no more."""
    good, bad = await upstream(says("good")), await upstream(behaviour)
    running = await gateway(balanced(good.url, bad.url, route="retry: off, timeout: {request: 4s, attempt: 400ms}"))
    found = await picked(running, 60)
    assert found[b"good"] == 55
    assert sum(found.values()) == 60
    assert at(running, bad).state is EndpointState.EJECTED
    assert running.upstream.ejections == {reason: 1}
    assert len(bad.requests) == 5


async def test_500_ejects_only_an_endpoint_that_fails_everything(upstream: StartUpstream, gateway: StartGateway) -> None:
    """500 is mostly about the request, so it takes fifty in a row; 501 is no fault of the endpoint at all."""
    bad = await upstream(answers(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"))
    other = await upstream(answers(b"HTTP/1.1 501 No\r\nContent-Length: 0\r\n\r\n"))
    running = await gateway(balanced(bad.url, other.url, upstream="load_balancing: round_robin"))
    found = await picked(running, 160)

    assert found == {b"500": 50, b"501": 110}
    assert running.upstream.ejections == {"http_500": 1}


async def test_one_success_in_between_is_enough(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Four failures, a success, four failures: not five in a row."""
    a = await upstream(answers(*[ERROR] * 4, OK, *[ERROR] * 4, OK))
    b = await upstream(answers(OK))
    running = await gateway(balanced(a.url, b.url, upstream="load_balancing: round_robin"))
    found = await picked(running)

    assert found == {b"503": 8, b"OK": 32}
    assert running.upstream.ejections == {}


async def test_a_lone_endpoint_is_never_ejected(upstream: StartUpstream, gateway: StartGateway) -> None:
    """There is nobody else: what it says goes to the client."""
    origin = await upstream(answers(ERROR))
    running = await gateway(balanced(origin.url))

    assert await picked(running, 12) == {b"503": 12}
    assert endpoints(running)[0].state is EndpointState.HEALTHY


async def test_who_fails_and_is_not_ejected_is_not_simply_healthy(
    upstream: StartUpstream, gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """`/upstreams` and one line of the log say that it fails, how, and why it goes on; a success ends that."""
    origin = await upstream(answers(*[ERROR] * 12, OK))
    running = await gateway(balanced(origin.url))
    await picked(running, 12)
    (shown,) = LIVE["upstreams"](running.plane.snapshot)[0]["endpoints"]

    assert shown["why"] == "12 failures in a row, the last: http_503; not ejected: it is the last one"
    assert (shown["requests"], shown["failed"], shown["last_failure"]["reason"]) == (12, 12, "http_503")
    assert [message for message in caplog.messages if "not ejected" in message] == [
        f"upstream app: endpoint {origin.url} fails: 5 failures in a row, the last: http_503; not ejected: it is the last one"
    ]

    assert (await running.get()).status == 200
    (shown,) = LIVE["upstreams"](running.plane.snapshot)[0]["endpoints"]
    assert (shown["why"], shown["failed"], shown["last_failure"]["reason"]) == (None, 12, "http_503")


async def test_clients_that_leave_eject_nobody(upstream: StartUpstream, gateway: StartGateway) -> None:
    """An exchange that its client abandons says nothing about the endpoint."""
    a, b = await upstream(accepts_and_hangs), await upstream(accepts_and_hangs)
    running = await gateway(balanced(a.url, b.url))
    for _ in range(24):
        a.requests.clear()
        b.requests.clear()
        client = await running.client()
        await client.send(GET)
        await eventually(lambda: a.requests or b.requests)
        client.reset()
        await eventually(lambda: not running.busy())

    assert [one.errors for one in endpoints(running)] == [0, 0]


async def test_an_ejected_endpoint_returns_and_is_ramped(upstream: StartUpstream, gateway: StartGateway) -> None:
    """When its time is over it gets traffic again, a little at first."""
    good, bad = await upstream(says("good")), await upstream(answers(*[ERROR] * 5, OK))
    running = await gateway(balanced(good.url, bad.url, upstream="ejection: {base: 300ms}"))
    await picked(running)
    assert at(running, bad).state is EndpointState.EJECTED

    await eventually(lambda: at(running, bad).state is EndpointState.SLOW_START)
    assert at(running, bad).share == pytest.approx(0.1)
    found: Counter[bytes] = Counter()
    async with asyncio.timeout(PATIENCE):
        while not found[b"OK"]:
            found += await picked(running)
    assert found[b"good"] > found[b"OK"]


async def test_retry_after_is_obeyed(upstream: StartUpstream, gateway: StartGateway) -> None:
    """An endpoint that says 503 with `Retry-After` gets nothing until then, at its first word."""
    busy = await upstream(answers(b"HTTP/1.1 503 Busy\r\nRetry-After: 20\r\nContent-Length: 0\r\n\r\n"))
    good = await upstream(says("good"))
    running = await gateway(balanced(busy.url, good.url))
    found = await picked(running)

    assert found == {b"503": 1, b"good": 39}
    assert at(running, busy).state is EndpointState.RESTING


async def test_the_operator_sees_it(upstream: StartUpstream, gateway: StartGateway, caplog: pytest.LogCaptureFixture) -> None:
    """A log line per transition, the state in `/upstreams`, numbers in `/metrics`."""
    caplog.set_level("INFO", "gateway")
    good, bad = await upstream(answers(OK)), await upstream(answers(ERROR))
    running = await gateway(balanced(good.url, bad.url, upstream="ejection: {failures: 2, statuses: [500-599]}"))
    await picked(running)
    reader, writer = await asyncio.open_connection(*running.admin)
    writer.write(b"GET /upstreams HTTP/1.0\r\n\r\n")
    shown = await reader.read()
    writer.close()
    reader, writer = await asyncio.open_connection(*running.admin)
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    metrics = (await reader.read()).decode()
    writer.close()

    why = "2 failures in a row, the last: http_503"
    assert f"upstream app: endpoint {bad.url} is ejected, was healthy: {why}" in caplog.messages
    assert b'"state": "ejected"' in shown
    assert why.encode() in shown
    assert f'gateway_upstream_healthy{{endpoint="{bad.url}",upstream="app"}} 0.0' in metrics
    assert f'gateway_upstream_healthy{{endpoint="{good.url}",upstream="app"}} 1.0' in metrics
    assert 'gateway_upstream_ejections_total{reason="http_503",upstream="app"} 1.0' in metrics
    assert 'gateway_upstream_endpoints{state="ejected",upstream="app"} 1.0' in metrics
    assert 'gateway_upstream_panic{upstream="app"} 0.0' in metrics


# -- reload ------------------------------------------------------------------------------------------------------------


async def test_what_is_known_outlives_a_reload(upstream: StartUpstream, gateway: StartGateway) -> None:
    """An ejected endpoint stays ejected when another endpoint is added; that one is ramped, after its first good probe."""
    good, bad, new = await upstream(says("good")), await upstream(answers(ERROR)), await upstream(answers(ERROR))
    health = f"health: {{{OFTEN}, statuses: [200, 503]}}"
    running = await gateway(balanced(good.url, bad.url, upstream=health))
    await picked(running)
    assert at(running, bad).state is EndpointState.EJECTED

    new.behaviour = accepts_and_hangs
    assert (await reloaded(running, balanced(good.url, bad.url, new.url, upstream=health))).ok
    assert [one.state for one in endpoints(running)] == [EndpointState.HEALTHY, EndpointState.EJECTED, EndpointState.UNHEALTHY]
    assert at(running, new).why == "not probed yet"
    new.behaviour = says("new")
    await eventually(lambda: at(running, new).state is EndpointState.SLOW_START)
    assert at(running, new).share < 1.0


async def test_a_reload_ends_probes(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Endpoints that are dropped are probed no more; without `health` what probes have said is forgotten."""
    a, b, other = await upstream(says("a")), await upstream(answers(ERROR)), await upstream(answers(OK))
    running = await gateway(balanced(a.url, b.url, upstream=f"health: {{{OFTEN}}}", more=probed(other)))
    await eventually(lambda: at(running, b).state is EndpointState.UNHEALTHY)

    assert (await reloaded(running, balanced(a.url, b.url, more=probed(other)))).ok
    await eventually(lambda: at(running, b).state is not EndpointState.UNHEALTHY)
    await eventually(lambda: not a.peers and not b.peers)
    count = a.connections + b.connections
    # Those of an upstream that has kept its `health` come again and again meanwhile.
    before = len(other.requests)
    await eventually(lambda: len(other.requests) >= before + 5)
    assert a.connections + b.connections == count
