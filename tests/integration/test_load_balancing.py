"""Load balancing on real sockets: slow endpoints, keys, cookies, backups and fallbacks."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Final

import pytest
from prometheus_client.core import Sample

from gateway.control.load import load
from gateway.control.tools.explain import explain
from gateway.endpoints import Endpoint
from tests.conftest import StartGateway, StartUpstream
from tests.support import (
    OK,
    Behaviour,
    Gateway,
    Peer,
    Response,
    Upstream,
    answers,
    closes_when_reused,
    eventually,
    refusing_port,
    resets_at_once,
    running,
    time_passes,
)

MOST: Final = 100
"""Requests after which every endpoint has had one, however the dice fall."""


def names_itself(name: str, status: bytes = b"200 OK") -> Behaviour:
    """Answers each request with its name."""
    return answers(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(name), name.encode()))


async def answers_when_told(peer: Peer) -> None:
    """Answers each request once the gate opens."""
    while True:
        await peer.request()
        await peer.upstream.gate.acquire()
        await peer.send(OK)


def several(*urls: str, upstream: str = "", more: str = "", route: str = "") -> str:
    """A configuration with one route to an upstream `app` with these endpoints, and with `more` upstreams."""
    return f"""
version: 1
server: {{name: gw, listen: ["127.0.0.1:0"], overload: {{default: off, sheddable: off}}}}
admin: {{listen: "127.0.0.1:0"}}
access_log: "off"
upstreams:
  app: {{endpoints: [{", ".join(url if url[0] == "{" else f'"{url}"' for url in urls)}], {upstream}}}
  {more}
routes: [{{name: all, match: {{path: "/**"}}, upstream: app, {route}}}]
"""


def take_out(gateway: Gateway, *urls: str, upstream: str = "app") -> None:
    """Make these endpoints unhealthy, as probes do."""
    group = next(one.group for one in gateway.app.plane.snapshot.upstreams if one.name == upstream)
    for endpoint in group.endpoints:
        if endpoint.url in urls:
            group.probed(endpoint, "down", monotonic(), up=False)


def endpoints(gateway: Gateway) -> dict[str, Endpoint]:
    """All endpoints by URL."""
    return {one.url: one for upstream in gateway.app.plane.snapshot.upstreams for one in upstream.group.endpoints}


def cookie_of(response: Response) -> str:
    """`name=value` of the one cookie that was set."""
    value = response.value(b"set-cookie")
    assert value is not None
    return value.split(b";")[0].decode()


async def answered_or_held(gateway: Gateway, *held: Upstream, lines: tuple[str, ...] = ()) -> asyncio.Future[Response]:
    """Send a GET and go on once it is answered, or is with one of the upstreams that hold theirs."""
    before = sum(len(one.requests) for one in held)
    asked = asyncio.ensure_future(gateway.get("/", *lines))
    await eventually(lambda: asked.done() or sum(len(one.requests) for one in held) > before)
    return asked


# -- load --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["two_choices", "least_in_flight", "latency"])
async def test_a_slow_endpoint_gets_less(upstream: StartUpstream, gateway: StartGateway, algorithm: str) -> None:
    """An endpoint that holds its requests gets only a few of those that the others answer at once."""
    slow, fast, faster = await upstream(answers_when_told), await upstream(answers(OK)), await upstream(answers(OK))
    it = await gateway(several(slow.url, fast.url, faster.url, upstream=f"load_balancing: {algorithm}"))
    waiting = [await answered_or_held(it, slow)]
    for _ in range(MOST):
        if slow.requests:
            break
        waiting.append(await answered_or_held(it, slow))
    assert slow.requests

    waiting += [await answered_or_held(it, slow) for _ in range(60)]

    assert len(slow.requests) <= 3
    assert min(len(fast.requests), len(faster.requests)) >= 10
    for _ in slow.requests:
        slow.gate.release()
    assert {(await asked).status for asked in waiting} == {200}


async def test_latency_remembers_who_was_slow(upstream: StartUpstream, gateway: StartGateway) -> None:
    """After a slow answer an endpoint gets nothing while another is known to be faster, although it is idle again."""
    slow, fast = await upstream(answers_when_told), await upstream(answers(OK))
    it = await gateway(several(slow.url, fast.url, upstream="load_balancing: latency"))
    asked = await answered_or_held(it, slow)
    for _ in range(MOST):
        if slow.requests:
            break
        asked = await answered_or_held(it, slow)
    assert slow.requests
    await time_passes(0.2)  # the slowness itself
    slow.gate.release()
    assert (await asked).status == 200
    for _ in range(MOST):
        if fast.requests:
            break
        assert (await it.get()).status == 200
    assert fast.requests

    for _ in range(30):
        assert (await it.get()).status == 200

    assert len(slow.requests) == 1
    assert endpoints(it)[slow.url].latency > endpoints(it)[fast.url].latency > 0


@pytest.mark.parametrize("behaviour", [resets_at_once, names_itself("no", b"429 Too Many Requests"), None])
async def test_failing_fast_is_not_being_fast(
    upstream: StartUpstream, gateway: StartGateway, behaviour: Behaviour | None
) -> None:
    """An endpoint that fails, sheds load or refuses connections at once is not preferred for its short answers."""
    fast = await upstream(answers(OK))
    url = f"http://127.0.0.1:{refusing_port()}" if behaviour is None else (await upstream(behaviour)).url
    it = await gateway(several(url, fast.url, upstream="load_balancing: latency"))

    statuses = Counter([(await it.get()).status for _ in range(40)])

    assert statuses[200] >= 38


async def test_requests_are_counted_by_endpoint(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`gateway_endpoint_requests_total` says who was asked how often."""
    first, second = await upstream(answers(OK)), await upstream(answers(OK))
    it = await gateway(several(f'{{url: "{first.url}", weight: 3}}', second.url, upstream="load_balancing: round_robin"))
    for _ in range(8):
        assert (await it.get()).status == 200

    counted = {one.labels["endpoint"]: one.value for one in _samples(it, "gateway_endpoint_requests_total")}

    assert counted == {first.url: 6, second.url: 2}
    assert (len(first.requests), len(second.requests)) == (6, 2)


def _samples(gateway: Gateway, name: str) -> list[Sample]:
    return [one for family in gateway.metrics.collect() for one in family.samples if one.name == name]


# -- keys --------------------------------------------------------------------------------------------------------------


async def test_a_key_goes_to_one_endpoint(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Requests of one tenant go to one endpoint; the tenants are spread over all; who says no tenant is balanced by load."""
    urls = [(await upstream(names_itself(name))).url for name in "abc"]
    it = await gateway(several(*urls, upstream="load_balancing: {algorithm: consistent_hash, key: header:X-Tenant}"))

    served: dict[int, set[bytes]] = {}
    for tenant in range(20):
        served[tenant] = {(await it.get("/", f"X-Tenant: t{tenant}")).body for _ in range(3)}

    assert all(len(names) == 1 for names in served.values())
    assert set.union(*served.values()) == {b"a", b"b", b"c"}
    assert len({(await it.get()).body for _ in range(30)}) > 1


async def test_when_an_endpoint_goes_only_its_keys_move(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The tenants of the other endpoints stay; those of the one that has gone are served by the others."""
    urls = {name: (await upstream(names_itself(name))).url for name in "abc"}
    text = "load_balancing: {algorithm: consistent_hash, key: [header:X-Tenant, 'path:id']}"
    config = several(*urls.values(), upstream=text).replace('path: "/**"', 'path: "/{id}"')
    it, smaller = await gateway(config), await gateway(config.replace(f'"{urls["c"]}"', ""))

    async def served(by: Gateway) -> list[bytes]:
        return [(await by.get(f"/{tenant % 5}", f"X-Tenant: t{tenant}")).body for tenant in range(24)]

    before, after = await served(it), await served(smaller)

    assert b"c" in before
    assert b"c" not in after
    assert all(new == old for old, new in zip(before, after, strict=True) if old != b"c")


async def test_a_hot_key_spills_over(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A key whose endpoint has its share by more than the bound goes to others too, however many requests it brings."""
    held = [await upstream(answers_when_told) for _ in range(3)]
    text = "load_balancing: {algorithm: consistent_hash, key: header:X-Tenant, bounded_load: 1.5}"
    it = await gateway(several(*(one.url for one in held), upstream=text))

    waiting = [await answered_or_held(it, *held, lines=("X-Tenant: hot",)) for _ in range(12)]

    # ceil(1.5 × 12 / 3) = 6
    assert max(len(one.requests) for one in held) == 6
    for one in held:
        for _ in one.requests:
            one.gate.release()
    assert {(await asked).status for asked in waiting} == {200}


# -- sticky ------------------------------------------------------------------------------------------------------------


async def test_a_cookie_keeps_a_client_with_an_endpoint(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The first response sets a cookie that shows no address; with it every request goes to the same endpoint, and no new
    cookie comes."""
    urls = [(await upstream(names_itself(name))).url for name in "abc"]
    it = await gateway(several(*urls, upstream="sticky: {cookie: route, ttl: 1h}"))

    first = await it.get()
    pair = cookie_of(first)
    again = [await it.get("/", f"Cookie: theme=dark; {pair}; x=1") for _ in range(12)]

    assert re.fullmatch(rb"route=[0-9a-f]{24}; Max-Age=3600; Path=/; HttpOnly; SameSite=Lax", first.value(b"set-cookie") or b"")
    assert {response.body for response in again} == {first.body}
    assert {response.value(b"set-cookie") for response in again} == {None}
    assert len({(await it.get()).body for _ in range(30)}) == 3


async def test_a_cookie_holds_in_every_gateway_with_the_secret(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Restarts and other gateways understand the cookie; with another secret it is a stranger's, and is replaced."""
    urls = [(await upstream(names_itself(name))).url for name in "abcd"]
    text = "sticky: {cookie: route, secret_key: one}"
    one, two = await gateway(several(*urls, upstream=text)), await gateway(several(*reversed(urls), upstream=text))
    other = await gateway(several(*urls, upstream="sticky: {cookie: route, secret_key: two}"))

    first = await one.get()
    pair = cookie_of(first)

    for _ in range(6):
        response = await two.get("/", f"Cookie: {pair}")
        assert (response.body, response.value(b"set-cookie")) == (first.body, None)
    assert cookie_of(await other.get("/", f"Cookie: {pair}")) != pair


@pytest.mark.parametrize("value", ["", "x", "0" * 24, "127.0.0.1", "a" * 4000, '"', "%00", "\xff\xfe"])
async def test_a_hostile_cookie_is_ignored(upstream: StartUpstream, gateway: StartGateway, value: str) -> None:
    """What is no cookie of ours decides nothing and breaks nothing; a new one is set."""
    it = await gateway(several((await upstream(answers(OK))).url, (await upstream(answers(OK))).url, upstream="sticky: route"))

    response = await it.get("/", f"Cookie: route={value}")

    assert response.status == 200
    assert re.fullmatch(rb"route=[0-9a-f]{24}; Path=/; HttpOnly; SameSite=Lax", response.value(b"set-cookie") or b"")


async def test_when_its_endpoint_is_gone_a_client_gets_another(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A client whose endpoint is not available is served by another one, and kept there from then on."""
    urls = {name: (await upstream(names_itself(name))).url for name in "abc"}
    it = await gateway(several(*urls.values(), upstream="sticky: route"))
    first = await it.get()
    take_out(it, urls[first.body.decode()])

    second = await it.get("/", f"Cookie: {cookie_of(first)}")
    third = await it.get("/", f"Cookie: {cookie_of(second)}")

    assert second.body != first.body
    assert (third.body, third.value(b"set-cookie")) == (second.body, None)


async def test_a_stale_connection_parts_nobody(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A request that is lost on a connection that was just being closed is sent again to the endpoint of its cookie."""
    urls = [(await upstream(closes_when_reused)).url for _ in range(3)]
    it = await gateway(several(*urls, upstream="sticky: route"))
    pair = cookie_of(await it.get())

    for _ in range(3):
        response = await it.get("/", f"Cookie: {pair}")
        assert (response.status, response.value(b"set-cookie")) == (200, None)

    assert it.upstream.retries == {"stale": 3}


async def test_no_client_is_kept_with_an_endpoint_that_fails(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A 5xx response sets no cookie."""
    it = await gateway(several((await upstream(names_itself("x", b"500 Oops"))).url, upstream="sticky: route"))

    response = await it.get()

    assert (response.status, response.value(b"set-cookie")) == (500, None)


async def test_the_cookies_of_the_upstream_stay(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Ours comes behind those of the upstream, whether the response is whole or a stream, and changes none of them."""
    whole = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=1; Path=/\r\nContent-Length: 2\r\n\r\nOK"
    chunked = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=1; Path=/\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n0\r\n\r\n"
    it = await gateway(several((await upstream(answers(whole, chunked))).url, upstream="sticky: {cookie: route, secure: true}"))

    for _ in range(2):
        values = (await it.get()).values(b"set-cookie")

        assert values[0] == b"session=1; Path=/"
        assert values[1].startswith(b"route=") and values[1].endswith(b"; Secure")
        assert len(values) == 2


# -- backups and fallbacks ---------------------------------------------------------------------------------------------


async def test_a_backup_serves_only_when_no_other_can(upstream: StartUpstream, gateway: StartGateway) -> None:
    """While a primary is available a backup gets nothing, however loaded the primary is."""
    primary, backup = await upstream(answers_when_told), await upstream(answers(OK))
    it = await gateway(several(primary.url, f'{{url: "{backup.url}", backup: true}}'))
    waiting = [asyncio.ensure_future(it.get()) for _ in range(5)]
    await eventually(lambda: len(primary.requests) == 5)
    assert backup.requests == []
    for _ in range(5):
        primary.gate.release()
    assert {(await asked).status for asked in waiting} == {200}

    take_out(it, primary.url)

    assert (await it.get()).status == 200
    assert len(backup.requests) == 1


@pytest.mark.parametrize("where", ["upstream", "route"])
async def test_a_fallback_serves_when_no_endpoint_is_available(
    upstream: StartUpstream, gateway: StartGateway, where: str
) -> None:
    """The fallback takes the requests of an upstream without available endpoints, its own fallback those of both; the access
    log and a counter tell of it. The upstream gets its requests back as soon as it can take them."""
    ours, other, last = await upstream(answers(OK)), await upstream(names_itself("other")), await upstream(names_itself("last"))
    more = f"""b: {{endpoints: ["{other.url}"], fallback: c}}
  c: {{endpoints: ["{last.url}"]}}"""
    it = await gateway(several(ours.url, more=more, **{where: "fallback: b"}))
    assert (await it.get()).body == b"OK"

    take_out(it, ours.url)
    assert (await it.get()).body == b"other"
    assert (it.log.entries[-1]["upstream"], it.log.entries[-1]["fallback_for"]) == ("b", "app")
    take_out(it, other.url, upstream="b")
    assert (await it.get()).body == b"last"
    take_out(it, last.url, upstream="c")
    # All are in panic: then it is the upstream's own turn.
    assert (await it.get()).body == b"OK"
    assert it.log.entries[-1]["upstream"] == "app"
    for one in it.app.plane.snapshot.upstreams:
        for endpoint in one.group.endpoints:
            one.group.probed(endpoint, "", monotonic(), up=True)

    assert (await it.get()).body == b"OK"
    assert "fallback_for" not in it.log.entries[-1]
    assert it.metrics.upstreams["app"].fallbacks == 2


async def test_a_route_can_do_without_the_fallback(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`fallback: off` on a route turns off that of the upstream."""
    ours, other = await upstream(answers(OK)), await upstream(names_itself("other"))
    more = f'b: {{endpoints: ["{other.url}"]}}'
    it = await gateway(several(ours.url, upstream='fallback: b, panic: "off"', more=more, route='fallback: "off"'))
    take_out(it, ours.url)

    assert (await it.get()).code == "destination_unavailable"
    assert other.requests == []


async def test_a_fallback_sets_its_own_cookie(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Whose endpoint answers, that upstream's cookie is set."""
    ours, other = await upstream(answers(OK)), await upstream(names_itself("other"))
    more = f'b: {{endpoints: ["{other.url}"], sticky: standby}}'
    it = await gateway(several(ours.url, upstream="sticky: main, fallback: b", more=more))
    take_out(it, ours.url)

    assert cookie_of(await it.get()).startswith("standby=")


async def test_explain_tells_how_endpoints_are_chosen(tmp_path: Path) -> None:
    """Algorithm, key, cookie, backups and the chain of fallbacks, each with its place."""
    path = tmp_path / "gateway.yaml"
    text = "load_balancing: {algorithm: consistent_hash, key: header:X-Tenant}, sticky: route, fallback: b"
    more = "b: {endpoints: [http://b], fallback: c}\n  c: {endpoints: [http://c]}"
    path.write_text(several("http://a", '{url: "http://z", backup: true}', upstream=text, more=more), encoding="utf-8")

    lines = [re.sub(r"  +", " ", line).strip() for line in explain(load(path), "GET", "http://x/").splitlines()]

    for wanted in (
        "endpoint 2 http://z weight 1, backup ",
        "load_balancing consistent_hash by header:x-tenant, at most 1.25 × its share ",
        "sticky cookie route, until the browser is closed, path /, SameSite lax ",
        "fallback b ",
        "fallback c ",
    ):
        assert [line for line in lines if line.startswith(wanted) and "gateway.yaml:" in line], wanted


async def test_a_reload_keeps_averages_and_cookies(upstream: StartUpstream, tmp_path: Path) -> None:
    """An unchanged upstream keeps its group; another secret makes a new one of the same endpoints."""
    url = (await upstream(answers(OK))).url
    path = tmp_path / "gateway.yaml"
    path.write_text(several(url, upstream="load_balancing: latency, sticky: route"), encoding="utf-8")
    async with running(path) as it:
        from gateway.control.compile import compile_config

        assert (await it.get()).status == 200
        before = it.app.plane.snapshot.upstreams[0].group
        same = compile_config(load(path), it.metrics, lambda *_: before.endpoints[0].pool, it.app.plane.snapshot)
        path.write_text(
            several(url, upstream="load_balancing: latency, sticky: {cookie: route, secret_key: x}"), encoding="utf-8"
        )
        other = compile_config(load(path), it.metrics, lambda *_: before.endpoints[0].pool, it.app.plane.snapshot)

        assert same.upstreams[0].group is before
        assert other.upstreams[0].group is not before
        assert other.upstreams[0].group.endpoints == before.endpoints
        assert before.endpoints[0].latency > 0
