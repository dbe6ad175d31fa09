"""Circuit breakers between real sockets: who opens one, what an open one costs and says, how it comes back."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import ClientSession

from gateway.policies.circuit_breaker import BreakerState
from gateway.proxy.upstream.circuit_breaker import EndpointBreaker
from tests.conftest import StartGateway, StartUpstream
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
    eventually,
    refusing_port,
    resets_at_once,
)

ERROR = b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n"


def breaking(*urls: str, breaker: str = "", route: str = "", upstream: str = "") -> str:
    """A gateway whose breakers open after four calls; `ejection` is off, it would be faster."""
    listed = ", ".join(f'"{url}"' for url in urls)
    return f"""\
version: 1
server: {{listen: "127.0.0.1:0", overload: {{default: off, sheddable: off}}}}
admin: {{listen: "127.0.0.1:0", token: s3cret}}

upstreams:
  app:
    endpoints: [{listed}]
    ejection: off
    circuit_breaker: {{min_requests: 4, open_for: 60s, {breaker}}}
    {upstream}
routes:
  - name: all
    match: {{path: "/**"}}
    upstream: app
    retry: off
    {route}
"""


def only(running: Gateway) -> EndpointBreaker:
    """The only breaker there is."""
    (one,) = running.plane.breakers
    return one


def state(running: Gateway) -> str:
    """Of the only breaker."""
    return only(running).breaker.state.value


async def fail(running: Gateway, times: int = 4) -> None:
    """Requests, one after the other."""
    for _ in range(times):
        await running.get()


def hurry(running: Gateway) -> None:
    """Let the open time be over, or the ramp."""
    one = only(running)
    one.breaker.due = 0.0
    one.endpoint.group.reopens_at = 0.0


def _asked(origin: Upstream, times: int) -> Callable[[], bool]:
    return lambda: len(origin.requests) == times


class Switch:
    """An upstream that answers, or does whatever else the test says."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour

    async def __call__(self, peer: Peer) -> None:
        """One request per connection, so that every one sees the switch."""
        await self.behaviour(peer)


def once(response: bytes) -> Behaviour:
    """Answers one request and closes."""

    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.send(response.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))

    return behave


@pytest.mark.parametrize(
    "behaviour",
    [answers(ERROR % 500), answers(ERROR % 503), resets_at_once, once(b"SSH-2.0-OpenSSH\r\n\r\n")],
    ids=["500", "503", "reset", "not-http"],
)
async def test_what_fails_opens_it(upstream: StartUpstream, gateway: StartGateway, behaviour: Behaviour) -> None:
    """After four failures nothing reaches the endpoint: 503 `circuit_open`, with a true Retry-After."""
    origin = await upstream(behaviour)
    running = await gateway(breaking(origin.url))
    await fail(running)
    asked = len(origin.requests)
    response = await running.get()

    assert (response.status, response.code) == (503, "circuit_open")
    assert 59 <= int(response.value(b"retry-after") or 0) <= 73
    assert len(origin.requests) == asked
    assert running.route.rejections["circuit_open"] == 1
    entry = running.log.entries[-1]
    assert (entry["failure"], entry["flags"], entry["attempts"]) == ("circuit_open", "UO", 0)


async def test_refused_connections_open_it(gateway: StartGateway) -> None:
    """Nobody listens: that is a failure like any other."""
    running = await gateway(breaking(f"http://127.0.0.1:{refusing_port()}"))
    await fail(running)

    assert (await running.get()).code == "circuit_open"


@pytest.mark.parametrize("timeout", ["{request: 100ms}", "{request: 5s, attempt: 100ms}"], ids=["deadline", "attempt"])
async def test_silence_opens_it(upstream: StartUpstream, gateway: StartGateway, timeout: str) -> None:
    """An endpoint that hangs is found by the attempt timeout, and by the deadline where that is all there is."""
    origin = await upstream(accepts_and_hangs)
    running = await gateway(breaking(origin.url, route=f"timeout: {timeout}"))
    responses = await asyncio.gather(*(running.get() for _ in range(4)))
    assert {response.status for response in responses} == {504}

    assert (await running.get()).code == "circuit_open"


async def test_a_blackhole_opens_it(gateway: StartGateway, backlog: int) -> None:
    """Connections that never come about count too."""
    running = await gateway(breaking(f"http://127.0.0.1:{backlog}", route="timeout: {request: 200ms}"))
    await asyncio.gather(*(running.get() for _ in range(4)))

    assert state(running) == "open"


@pytest.mark.parametrize("status", [400, 404, 429, 501, 505])
async def test_other_statuses_do_not(upstream: StartUpstream, gateway: StartGateway, status: int) -> None:
    """4xx are the client's business, 429 is a limit at work, 501 and 505 are answers."""
    origin = await upstream(answers(ERROR % status))
    running = await gateway(breaking(origin.url))
    await fail(running, 10)

    assert state(running) == "closed"
    counts = only(running).breaker.window.counts(asyncio.get_running_loop().time())
    assert (counts.calls, counts.failed) == (10, 0)


async def test_statuses_are_configurable(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The list replaces the list."""
    origin = await upstream(answers(ERROR % 500))
    running = await gateway(breaking(origin.url, breaker="statuses: [503]"))
    await fail(running, 10)

    assert state(running) == "closed"


async def test_clients_that_leave_do_not_open_it(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Ten clients hang up on an endpoint that takes its time: no verdict."""
    origin = await upstream(accepts_and_hangs)
    running = await gateway(breaking(origin.url))
    clients = [await running.client() for _ in range(10)]
    for client in clients:
        await client.send(GET)
    await eventually(lambda: len(origin.requests) == 10)
    for client in clients:
        client.reset()
    await eventually(lambda: not running.route.in_flight)

    assert state(running) == "closed"
    assert only(running).breaker.window.counts(asyncio.get_running_loop().time()).calls == 0


async def test_budgets_of_clients_do_not_open_it(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A trusted client's budget of a millisecond judges nobody."""
    origin = await upstream(accepts_and_hangs)
    text = breaking(origin.url).replace("server: {", "server: {trusted_proxies: [127.0.0.1], ")
    running = await gateway(text)
    responses = [await running.get("/", "X-Request-Timeout-Ms: 5") for _ in range(8)]
    assert {response.code for response in responses} == {"deadline_exceeded"}

    assert state(running) == "closed"


# -- half open -----------------------------------------------------------------------------------------------------------


async def test_three_probes_at_a_time(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Forty clients wait for an endpoint that hangs: three reach it, the others are refused at once."""
    switch = Switch(once(ERROR % 500))
    origin = await upstream(switch)
    running = await gateway(breaking(origin.url))
    await fail(running)
    switch.behaviour = accepts_and_hangs
    hurry(running)
    asked = len(origin.requests)
    clients = [await running.client() for _ in range(40)]
    for client in clients:
        await client.send(GET)
    await eventually(lambda: running.route.rejections.get("circuit_open", 0) == 37)
    assert running.upstream.breaker.rejected == 37
    assert state(running) == "half_open"
    # All forty are accounted for: nobody is left who could still reach the endpoint.
    await eventually(lambda: len(origin.requests) - asked == 3)
    assert running.route.in_flight == 3

    for client in clients:
        client.reset()
    await eventually(lambda: not running.route.in_flight)
    assert only(running).breaker.probing == 0


async def test_probers_that_leave_do_not_wedge_it(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Whoever probes and hangs up gives its permit back; later probes still close the breaker."""
    switch = Switch(once(ERROR % 500))
    origin = await upstream(switch)
    running = await gateway(breaking(origin.url))
    await fail(running)
    switch.behaviour = accepts_and_hangs
    hurry(running)
    for _ in range(4):
        asked = len(origin.requests)
        clients = [await running.client() for _ in range(3)]
        for client in clients:
            await client.send(GET)
        await eventually(_asked(origin, asked + 3))
        for client in clients:
            client.reset()
        await eventually(lambda: not running.route.in_flight)
    assert (state(running), only(running).breaker.probing) == ("half_open", 0)
    switch.behaviour = once(OK)
    assert [(await running.get()).status for _ in range(3)] == [200] * 3

    assert state(running) == "ramping"
    hurry(running)
    running.plane.tick()
    assert state(running) == "closed"


async def test_a_failed_probe_opens_it_for_longer(upstream: StartUpstream, gateway: StartGateway) -> None:
    """60 s, then 120: and the refusal says so."""
    origin = await upstream(answers(ERROR % 500))
    running = await gateway(breaking(origin.url))
    await fail(running)
    hurry(running)
    assert (await running.get()).status == 500
    response = await running.get()

    assert response.code == "circuit_open"
    assert 119 <= int(response.value(b"retry-after") or 0) <= 145


async def test_time_alone_lets_it_probe(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Nobody has to find out: when the open time is over, the next request goes through."""
    switch = Switch(once(ERROR % 500))
    origin = await upstream(switch)
    running = await gateway(breaking(origin.url).replace("60s", "100ms"))
    await fail(running)
    switch.behaviour = once(OK)
    statuses = []
    async with asyncio.timeout(PATIENCE):
        while 200 not in statuses:
            statuses.append((await running.get()).status)

    assert set(statuses) <= {200, 503}
    await eventually(lambda: state(running) == "half_open")


# -- several endpoints -------------------------------------------------------------------------------------------------


async def test_only_the_bad_endpoint_is_shut_off(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The others go on; nobody is refused."""
    bad, good = await upstream(answers(ERROR % 500)), await upstream(answers(OK))
    running = await gateway(breaking(bad.url, good.url))
    breakers = {one.endpoint.url: one.breaker for one in running.plane.breakers}
    async with asyncio.timeout(PATIENCE):
        while breakers[bad.url].state is BreakerState.CLOSED:
            await running.get()
    asked = len(bad.requests)

    assert [(await running.get()).status for _ in range(20)] == [200] * 20
    assert len(bad.requests) == asked


async def test_who_is_refused_by_a_ramp_goes_elsewhere(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A ramping endpoint that says no is no reason to refuse while another one is well."""
    back, good = await upstream(answers(OK)), await upstream(answers(OK))
    running = await gateway(breaking(back.url, good.url, breaker="probes: 1, ramp: 1h"))
    (ramping,) = (one.breaker for one in running.plane.breakers if one.endpoint.url == back.url)
    now = asyncio.get_running_loop().time()
    for _ in range(4):
        ramping.failed(ramping.permit, now, 0.0, 0.0)
    ramping.due = now
    ramping.advance(now)
    ramping.succeeded(ramping.admit(now, 0.0, 0), now, 0.0, 0.0)
    assert ramping.state is BreakerState.RAMPING
    responses = await asyncio.gather(*(running.get() for _ in range(50)))

    assert {response.status for response in responses} == {200}


async def test_refusals_come_before_rate_limits(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What an open breaker refuses is not charged."""
    origin = await upstream(answers(ERROR % 500))
    running = await gateway(breaking(origin.url, route="rate_limit: 5/min"))
    await fail(running)

    assert {(await running.get()).code for _ in range(10)} == {"circuit_open"}


# -- modes ---------------------------------------------------------------------------------------------------------------


async def test_a_shadow_tells_and_refuses_nothing(
    upstream: StartUpstream, gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """What it would have refused is counted."""
    caplog.set_level(logging.INFO, "gateway")
    origin = await upstream(answers(ERROR % 500))
    running = await gateway(breaking(origin.url, breaker="mode: shadow"))
    await fail(running, 10)

    assert len(origin.requests) == 10
    assert (running.upstream.breaker.would_reject, running.upstream.breaker.rejected) == (6, 0)
    assert state(running) == "open"
    (line,) = (record.getMessage() for record in caplog.records if "circuit breaker" in record.getMessage())
    assert line.startswith(
        f"circuit breaker of app at {origin.url} (shadow): closed → open: 4 of 4 calls failed, in 10 s, for "
    )


async def test_off_is_off(upstream: StartUpstream, gateway: StartGateway) -> None:
    """No breaker, no verdicts."""
    origin = await upstream(answers(ERROR % 500))
    running = await gateway(breaking(origin.url, breaker="mode: off"))
    await fail(running, 30)

    assert len(origin.requests) == 30
    assert list(running.plane.breakers) == []


# -- reload --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change,kept",
    [
        (lambda text: text.replace("name: all", "name: other"), "open"),
        (lambda text: text.replace("ejection: off", "max_connections: 7"), "open"),
        (lambda text: text.replace("open_for: 60s", "open_for: 50s"), "closed"),
    ],
    ids=["route", "pool", "breaker"],
)
async def test_it_survives_a_reload(
    upstream: StartUpstream, gateway: StartGateway, change: Callable[[str], str], kept: str, tmp_path: Any
) -> None:
    """An open breaker stays open unless its own settings are others now; so does the refusal of what it guards."""
    from gateway.control.compile import compile_config
    from gateway.control.load import load
    from gateway.proxy.upstream.pool import EndpointPool

    origin = await upstream(answers(ERROR % 500))
    text = breaking(origin.url)
    running = await gateway(text)
    await fail(running)
    file = tmp_path / "changed.yaml"
    file.write_text(change(text), encoding="utf-8")
    plane = running.plane
    plane.apply(compile_config(load(file), running.metrics, lambda *facts: EndpointPool(plane.loop, *facts), plane.snapshot))

    assert state(running) == kept
    assert (await running.get()).status == (503 if kept == "open" else 500)


# -- the admin listener ------------------------------------------------------------------------------------------------


async def command(running: Gateway, *arguments: str) -> tuple[int, str]:
    """`gateway breaker`, in a process of its own."""
    host, port = running.admin
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "breaker", *arguments, "--admin", f"http://{host}:{port}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def listed(running: Gateway) -> dict[str, Any]:
    """The only breaker, as `/breakers` shows it."""
    host, port = running.admin
    async with ClientSession() as session, session.get(f"http://{host}:{port}/breakers") as response:
        (one,) = orjson.loads(await response.read())["breakers"]
    return dict(one)


@pytest.fixture
def token(tmp_path: Path) -> tuple[str, str]:
    """The option that shows the right token."""
    (tmp_path / "token").write_text("s3cret\n", encoding="utf-8")
    return "--token-file", str(tmp_path / "token")


async def test_what_a_breaker_sees_is_shown(upstream: StartUpstream, gateway: StartGateway) -> None:
    """BreakerState, counts and rates; once it is open, why, and when it probes."""
    origin = await upstream(answers(OK, ERROR % 500))
    running = await gateway(breaking(origin.url))
    await fail(running, 2)
    one = await listed(running)
    assert (one["upstream"], one["endpoint"], one["state"]) == ("app", origin.url, "closed")
    assert one["window"] == {
        "seconds": 10.0, "calls": 2, "failed": 1, "failure_rate": 0.5, "slow": 0, "slow_rate": 0.0
    }  # fmt: skip
    await fail(running, 2)
    one = await listed(running)

    assert (one["state"], one["reason"]) == ("open", "3 of 4 calls failed, in 10 s")
    assert one["opened_at"] < one["probes_at"]
    code, table = await command(running, "list")
    assert code == 0
    assert table.splitlines()[1].split()[:3] == ["app", origin.url, "open"]


async def test_an_operator_forces_and_releases(
    upstream: StartUpstream, gateway: StartGateway, token: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Held open it refuses, held closed it never opens, released it probes; each leaves a line that says who and why."""
    caplog.set_level(logging.INFO, "gateway")
    origin = await upstream(answers(OK))
    running = await gateway(breaking(origin.url))
    code, table = await command(running, "open", "app", "--reason", "migration 7", "--for", "10m", *token)
    assert code == 0, table
    assert "migration 7" in table
    response = await running.get()
    assert response.code == "circuit_open"
    assert 595 <= int(response.value(b"retry-after") or 0) <= 600
    one = await listed(running)
    assert (one["state"], one["forced"]["to"], one["forced"]["reason"]) == ("open", "open", "migration 7")

    assert (await command(running, "release", "app", origin.url, *token))[0] == 0
    assert [(await running.get()).status for _ in range(3)] == [200] * 3
    assert state(running) == "ramping"
    assert (await command(running, "close", "app", "--reason", "false alarm", *token))[0] == 0
    now = asyncio.get_running_loop().time()
    for _ in range(100):
        only(running).breaker.failed(only(running).breaker.permit, now, 0.0, 0.0)
    assert (await running.get()).status == 200
    audit = [record.getMessage() for record in caplog.records if record.getMessage().startswith("audit: ")]
    assert [line.partition(") ")[2].partition(" at ")[0] for line in audit] == [
        "holds the circuit breaker of app",
        "releases the circuit breaker of app",
        "holds the circuit breaker of app",
    ]
    assert audit[0].endswith("open for 10m: migration 7")


@pytest.mark.parametrize(
    "arguments,words",
    [
        (("open", "app", "--reason", "x"), "token"),
        (("open", "app"), "needs --reason"),
        (("close",), "needs UPSTREAM"),
        (("open", "nowhere", "--reason", "x", "TOKEN"), "breakers of: app"),
        (("list", "nowhere"), "breakers of: app"),
        (("list", "app", "http://other"), "endpoints of the upstream are"),
        (("release", "nowhere", "TOKEN"), "breakers of: app"),
        (("open", "app", "http://other", "--reason", "x", "TOKEN"), "endpoints of the upstream are"),
        (("open", "app", "--reason", "x", "--for", "10", "TOKEN"), "not a duration"),
        (("open", "app", "--reason", "a\nb", "TOKEN"), "printable"),
    ],
)
async def test_what_the_command_refuses(
    upstream: StartUpstream, gateway: StartGateway, token: tuple[str, str], arguments: tuple[str, ...], words: str
) -> None:
    """Without the token, a reason or a name nothing is changed, and the answer says what is missing."""
    origin = await upstream(answers(OK))
    running = await gateway(breaking(origin.url))
    given = [part for argument in arguments for part in (token if argument == "TOKEN" else (argument,))]
    code, output = await command(running, *given)

    assert code in (1, 2)
    assert words in output
    assert only(running).breaker.forced is None


async def test_metrics_tell_of_it(upstream: StartUpstream, gateway: StartGateway) -> None:
    """BreakerState, transitions and refusals are in /metrics, and /upstreams has a word for it."""
    origin = await upstream(answers(ERROR % 500))
    running = await gateway(breaking(origin.url))
    await fail(running, 6)
    host, port = running.admin
    async with ClientSession() as session:
        async with session.get(f"http://{host}:{port}/metrics") as response:
            lines = (await response.text()).splitlines()
        async with session.get(f"http://{host}:{port}/upstreams") as response:
            (shown,) = orjson.loads(await response.read())[0]["endpoints"]

    assert f'gateway_breaker_state{{endpoint="{origin.url}",upstream="app"}} 2.0' in lines
    assert 'gateway_breaker_transitions_total{to="open",upstream="app"} 1.0' in lines
    assert 'gateway_breaker_rejections_total{mode="enforce",upstream="app"} 2.0' in lines
    assert (shown["circuit_breaker"], shown["state"]) == ("open", "breaker_open")
