"""Metrics of a gateway that serves: which series there are, when they begin, and when they end."""

from __future__ import annotations

import asyncio
import ssl
import string
import subprocess
from pathlib import Path
from random import Random
from time import strptime

import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from gateway.control.words.x509 import certificates as read_certificates
from gateway.control.words.x509 import expires
from tests.certificates import Certificates
from tests.conftest import StartGateway, StartUpstream
from tests.support import GET, OK, PATIENCE, Gateway, accepts_and_hangs, answers, eventually, proxy, resets_at_once

FAILS = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


async def scrape(gateway: Gateway) -> dict[str, float]:
    """Every series of the gateway and its value, as Prometheus would store them."""
    host, port = gateway.admin
    async with ClientSession() as session, session.get(f"http://{host}:{port}/metrics") as response:
        assert response.status == 200
        text = await response.text()
    return {
        sample.name + "{" + ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items())) + "}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("gateway_")
    }


async def test_random_hosts_paths_methods_and_keys_make_no_series(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What a client can invent is never a label (10⁶ of them: `tests.bench.observability`)."""
    origin = await upstream(answers(OK))
    limit = "rate_limit: [{name: tenant, limit: 1000000/min, key: 'header:X-Tenant'}]"
    running = await gateway(proxy(origin.url, route=limit, path="/known/**"))
    random = Random(6)
    client = await running.client()

    async def invent(count: int) -> None:
        for _ in range(count):
            word = "".join(random.choices(string.ascii_letters, k=12))
            method = random.choice(["GET", "POST", word])
            path = random.choice([f"/known/{word}", f"/{word}"])
            head = f"{method} {path}?{word} HTTP/1.1\r\nHost: {word}.example\r\nX-Tenant: {word}\r\nContent-Length: 0\r\n\r\n"
            assert (await client.ask(head.encode())).status in (200, 404)

    await invent(100)
    before = set(await scrape(running))
    await invent(400)

    assert set(await scrape(running)) == before


async def test_series_that_are_to_be_expected_are_there_from_the_start(gateway: StartGateway) -> None:
    """With the value 0, and before the first request: a series that begins with 1 has no rate for its first event."""
    running = await gateway(
        proxy(
            "http://127.0.0.1:1",
            route="rate_limit: 10/min",
            upstream="circuit_breaker: enforce, max_in_flight: 5",
        )
    )
    series = await scrape(running)

    for name in (
        'gateway_requests_total{code="200",method="GET",route="all"}',
        'gateway_requests_total{code="429",method="GET",route="all"}',
        'gateway_requests_total{code="503",method="GET",route="all"}',
        'gateway_requests_total{code="404",method="GET",route="_unmatched"}',
        'gateway_rejections_total{reason="rate_limited",route="all",source="downstream"}',
        'gateway_rejections_total{reason="circuit_open",route="all",source="gateway"}',
        'gateway_rejections_total{reason="queue_full",route="all",source="gateway"}',
        'gateway_rejections_total{reason="connection_refused",route="all",source="upstream"}',
        'gateway_request_duration_seconds_count{route="all"}',
        'gateway_upstream_attempts_total{outcome="connection_refused",upstream="app"}',
        'gateway_retried_requests_total{result="ok",upstream="app"}',
        'gateway_retry_budget_exhausted_total{upstream="app"}',
        'gateway_breaker_transitions_total{to="open",upstream="app"}',
        'gateway_breaker_state{endpoint="http://127.0.0.1:1",upstream="app"}',
        'gateway_shed_total{name="app",priority="default",reason="queue_full",scope="upstream"}',
        'gateway_rate_limit_decisions_total{decision="denied",limit="default",route="all",store="local"}',
        'gateway_config_reloads_total{result="failure"}',
        "gateway_access_log_dropped_total{}",
        "gateway_draining{}",
    ):
        assert series[name] == 0, name


async def test_a_first_event_goes_on_from_its_zero(upstream: StartUpstream, gateway: StartGateway) -> None:
    """No series stands twice, once as expected and once as counted."""
    origin = await upstream(resets_at_once)
    running = await gateway(proxy(origin.url, route="retry: off"))
    assert (await running.ask(GET)).status == 502
    series = await scrape(running)

    assert series['gateway_requests_total{code="502",method="GET",route="all"}'] == 1
    assert series['gateway_rejections_total{reason="connection_terminated",route="all",source="upstream"}'] == 1
    assert series['gateway_rejections_total{reason="deadline_exceeded",route="all",source="gateway"}'] == 0


async def test_series_of_what_is_not_configured_any_more_end_with_the_reload(
    upstream: StartUpstream, gateway: StartGateway
) -> None:
    """A route, an upstream, an endpoint, a limit: nothing of them is shown afterwards; what stays goes on."""
    origin, other = await upstream(answers(OK)), await upstream(answers(OK))
    more = 'version: 1\nadmin: {listen: "127.0.0.1:0"}\nserver: {listen: "127.0.0.1:0"}\naccess_log: "off"\n'
    text = more + (
        f'upstreams: {{stays: {{endpoints: ["{origin.url}"]}},\n'
        f'  leaves: {{endpoints: ["{other.url}"], circuit_breaker: enforce}}}}\n'
        "routes:\n"
        "  - {name: here, match: {path: /here}, upstream: stays}\n"
        "  - {name: gone, match: {path: /gone}, upstream: leaves, compression: on, max_in_flight: 5,\n"
        "     rate_limit: [{name: lost, limit: 9/h}]}\n"
    )
    running = await gateway(text)
    assert (await running.get("/here")).status == (await running.get("/gone")).status == 200
    before = await scrape(running)
    assert any("gone" in name for name in before) and any("leaves" in name for name in before)
    running.app.runtime.loaded.path.write_text(
        f'{more}upstreams: {{stays: {{endpoints: ["{origin.url}"]}}}}\n'
        "routes: [{name: here, match: {path: /here}, upstream: stays}]\n",
        encoding="utf-8",
    )
    assert (await running.app.reloader.reload("test")).ok
    after = await scrape(running)

    assert not [name for name in after if any(word in name for word in ("gone", "leaves", "lost", other.url))]
    assert after['gateway_requests_total{code="200",method="GET",route="here"}'] == 1
    assert set(after) < set(before) | {name for name in after if "config_info" in name}


async def test_a_retry_that_saved_a_request_and_one_that_did_not(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`gateway_retried_requests_total` says what retries are good for."""
    origin = await upstream(answers(FAILS, OK, FAILS, FAILS))
    running = await gateway(proxy(origin.url, route="retry: {max_retries: 1, backoff: {base: 1ms, max: 1ms}}"))
    client = await running.client()

    assert [(await client.ask(GET)).status for _ in range(2)] == [200, 503]
    series = await scrape(running)
    assert series['gateway_retried_requests_total{result="ok",upstream="app"}'] == 1
    assert series['gateway_retried_requests_total{result="failed",upstream="app"}'] == 1


async def test_a_hedge_that_won_is_counted(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The first attempt hangs, the hedge is the answer."""
    hanging, quick = await upstream(accepts_and_hangs), await upstream(answers(OK))
    text = proxy(quick.url, route="hedge: 10ms", upstream="load_balancing: round_robin")
    running = await gateway(text.replace(f'["{quick.url}"]', f'["{hanging.url}", "{quick.url}"]'))
    for _ in range(4):
        assert (await running.ask(GET)).status == 200

    assert len(hanging.requests) >= 1
    assert (await scrape(running))['gateway_hedges_won_total{upstream="app"}'] == len(hanging.requests)


async def test_load_and_connections_of_endpoints_are_shown(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What is in flight now, by endpoint, and connections by what they do."""
    origin = await upstream(accepts_and_hangs)
    running = await gateway(proxy(origin.url))
    client = await running.client()
    await client.send(GET)
    await eventually(lambda: origin.requests)
    series = await scrape(running)

    assert series[f'gateway_endpoint_in_flight{{endpoint="{origin.url}",upstream="app"}}'] == 1
    assert series['gateway_upstream_connections{state="active",upstream="app"}'] == 1
    assert series['gateway_upstream_connections{state="idle",upstream="app"}'] == 0
    assert series['gateway_requests_in_flight{route="all"}'] == 1
    assert series["gateway_connections{}"] == 1
    assert series["gateway_connections_accepted_total{}"] == 1


async def test_the_expiry_of_certificates_is_shown(gateway: StartGateway, certificates: Certificates) -> None:
    """The same moment that openssl tells."""
    path = certificates["good.crt"]
    listen = f'{{address: "127.0.0.1:0", tls: {{certificate: "{path}", key: "{certificates["good.key"]}"}}}}'
    running = await gateway(proxy("http://127.0.0.1:1", listen=listen))
    told = subprocess.run(["openssl", "x509", "-enddate", "-noout", "-in", path], capture_output=True, text=True, check=True)
    value = (await scrape(running))[f'gateway_tls_certificate_expiry_timestamp_seconds{{certificate="{path}"}}']

    assert value == ssl.cert_time_to_seconds(told.stdout.strip().removeprefix("notAfter="))
    assert strptime(told.stdout.strip(), "notAfter=%b %d %H:%M:%S %Y %Z")


def test_of_a_chain_each_certificate_is_read(certificates: Certificates, tmp_path: Path) -> None:
    """The chain ends with the first of them that expires; what is no certificate is told."""
    chain = tmp_path / "chain.pem"
    chain.write_text(certificates["good.crt"].read_text() + certificates["expired.crt"].read_text())
    found = [expires(one) for one in read_certificates(chain)]

    assert len(found) == 2 and min(found) == ssl.cert_time_to_seconds("Jan  2 00:00:00 2020 GMT")
    for hostile in (b"", b"0", b"\x30\x82", b"\x30\x03\x30\x01\x00", bytes(100)):
        with pytest.raises(ValueError, match=r"X\.509|time data"):
            expires(hostile)


async def test_requests_go_on_while_a_scrape_is_written(upstream: StartUpstream, gateway: StartGateway) -> None:
    """With hundreds of routes a scrape has many slices, and requests are answered between two of them."""
    origin = await upstream(answers(OK))
    routes = "".join(f"  - {{name: r{number}, match: {{path: /{number}}}, upstream: app}}\n" for number in range(300))
    text = proxy(origin.url)
    running = await gateway(text[: text.index("routes:")] + "routes:\n" + routes)
    client = await running.client()
    answered: list[int] = []
    scraping = asyncio.ensure_future(scrape(running))
    async with asyncio.timeout(PATIENCE):
        while not scraping.done():
            answered.append((await client.ask(b"GET /7 HTTP/1.1\r\nHost: a\r\n\r\n")).status)
    series = await scraping

    assert len(answered) > 1 and set(answered) == {200}
    assert len([name for name in series if name.startswith("gateway_request_duration_seconds_count")]) == 301


async def test_head_of_a_scrape_has_no_body(gateway: StartGateway) -> None:
    """Who only asks whether there is something gets the head alone."""
    running = await gateway(proxy("http://127.0.0.1:1"))
    host, port = running.admin
    async with ClientSession() as session, session.head(f"http://{host}:{port}/metrics") as response:
        assert response.status == 200 and await response.read() == b""
