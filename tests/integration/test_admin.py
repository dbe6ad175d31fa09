"""The admin listener, over a real socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request, TCPSite

from gateway.control.admin.listener import PAGES, make_admin_app, make_admin_runner
from gateway.control.admin.pages import LIVE
from gateway.endpoints import Endpoint, EndpointGroup
from gateway.headers import Networks
from gateway.metrics import GatewayMetrics
from gateway.policies.retry import BudgetSettings, RetryBudget
from gateway.router import Match, Router
from gateway.server_settings import Listener, Names, ServerSettings
from gateway.snapshot import Redirect, Respond, Rewrite, Route, Snapshot, Upstream, UpstreamSettings

Client = TestClient[Request, Application]


class OneIdleConnection:
    """A pool that holds one connection."""

    def retire(self) -> None:
        """Nothing to close."""

    def sweep(self, now: float) -> None:
        """Nothing to close."""

    def counts(self) -> dict[str, int]:
        """As a real pool says it."""
        return {"idle": 1, "busy": 0}


def small_snapshot(metrics: GatewayMetrics) -> Snapshot:
    """One upstream with one endpoint, one route of each kind."""
    endpoint = Endpoint(
        "http://127.0.0.1:9001", host="127.0.0.1", port=9001, path="", tls=False, weight=2, authority=b"127.0.0.1:9001"
    )
    endpoint.pool = OneIdleConnection()
    endpoint.in_flight = 3
    group = EndpointGroup([endpoint])
    users = Upstream("users", group, UpstreamSettings(), None, metrics.upstream("users"), RetryBudget(BudgetSettings(), 0.0))
    routes = (
        Route("users", metrics.route("users"), upstream=users, rewrite=Rewrite(b"/v1", b"/")),
        Route("old", metrics.route("old"), redirect=Redirect(308, b"/new", keep_path=False, keep_query=True), max_body=-1),
        Route("robots", metrics.route("robots"), respond=Respond(200, b"User-agent: *\n", ())),
    )
    return Snapshot(
        server=ServerSettings((Listener("127.0.0.1", 8080),), "gateway", Networks()),
        names=Names(),
        router=Router([(Match(), routes[0])]),
        routes=routes,
        upstreams=(users,),
        unmatched=metrics.route("_unmatched"),
        config_hash="abc",
    )


class State:
    """A worker's state that the test sets by hand."""

    def __init__(self) -> None:
        self.ready = True
        self.draining = False
        self.metrics = GatewayMetrics("1.2.3", "3.11")
        self.snapshot = small_snapshot(self.metrics)
        self.effective_config: dict[str, Any] = {"version": 1, "redis": {"url": "***"}}

    async def refresh(self) -> None:
        """Nothing to fetch."""

    async def live(self, page: str) -> object:
        """As a worker says it."""
        return LIVE[page](self.snapshot)


@pytest.fixture
def state() -> State:
    """A ready worker."""
    return State()


@pytest.fixture
async def admin(state: State) -> AsyncIterator[Client]:
    """A client of an admin listener that was bound to the name `gateway.internal`."""
    async with TestClient(TestServer(make_admin_app(state, hosts=["gateway.internal", ""]))) as client:
        yield client


async def test_livez_says_ok_whatever_the_state(admin: Client, state: State) -> None:
    """Liveness depends on nothing: a draining process is not to be killed."""
    state.ready, state.draining = False, True
    response = await admin.get("/livez")

    assert (response.status, await response.text()) == (200, "ok\n")


@pytest.mark.parametrize(
    "ready,draining,status,text",
    [(True, False, 200, "ready\n"), (False, False, 503, "starting\n"), (True, True, 503, "draining\n")],
)
async def test_readyz_follows_the_state(
    admin: Client, state: State, ready: bool, draining: bool, status: int, text: str
) -> None:
    """Not ready before the start is complete and from the first moment of draining."""
    state.ready, state.draining = ready, draining
    response = await admin.get("/readyz")

    assert (response.status, await response.text()) == (status, text)


async def test_metrics_show_the_gateway_the_process_and_the_interpreter(admin: Client, state: State) -> None:
    """One scrape brings everything, in the text format by default."""
    state.metrics.route("users").finished(b"GET", 200, 0.01)
    state.metrics.upstream("users").attempted("ok")
    response = await admin.get("/metrics")
    text = await response.text()

    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'gateway_requests_total{code="200",method="GET",route="users"} 1.0' in text
    assert 'gateway_upstream_attempts_total{outcome="ok",upstream="users"} 1.0' in text
    assert 'gateway_build_info{python="3.11",version="1.2.3"} 1.0' in text
    assert "python_info{" in text
    assert "python_gc_collections_total{" in text


async def test_metrics_negotiate_openmetrics(admin: Client) -> None:
    """A scraper that prefers OpenMetrics gets it, with its end mark."""
    response = await admin.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert (await response.text()).endswith("# EOF\n")


async def test_metrics_of_a_replaced_object_are_seen(admin: Client, state: State) -> None:
    """The listener asks for the metrics at each scrape; it holds no copy."""
    state.metrics = GatewayMetrics("2.0.0", "3.11")
    response = await admin.get("/metrics")

    assert 'gateway_build_info{python="3.11",version="2.0.0"} 1.0' in await response.text()


async def test_config_is_what_the_state_gives(admin: Client) -> None:
    """The effective configuration as JSON; hiding secrets is the state's duty."""
    response = await admin.get("/config")

    assert response.content_type == "application/json"
    assert await response.json() == {"version": 1, "redis": {"url": "***"}}


async def test_routes_are_listed_in_file_order(admin: Client, state: State) -> None:
    """Each route says where it goes and what is in flight."""
    state.metrics.route("users").in_flight = 7
    state.metrics.route("users").finished(b"GET", 200, 0.01)
    routes = await (await admin.get("/routes")).json()

    assert [route["name"] for route in routes] == ["users", "old", "robots"]
    assert routes[0]["upstream"] == "users"
    assert routes[0]["rewrite"] == {"old": "/v1", "new": "/"}
    assert (routes[0]["in_flight"], routes[0]["requests"]) == (7, 1)
    assert routes[1]["redirect"]["to"] == "/new"
    assert routes[1]["max_body"] is None
    assert routes[2]["respond"] == {"status": 200}


async def test_upstreams_show_health_load_and_connections(admin: Client) -> None:
    """State, weight, in flight and the pool's counts of every endpoint."""
    upstreams = await (await admin.get("/upstreams")).json()

    assert upstreams == [
        {
            "name": "users",
            "load_balancing": "two_choices",
            "panic": False,
            "retry_budget": 10,
            "max_in_flight": None,
            "endpoints": [
                {
                    "url": "http://127.0.0.1:9001",
                    "address": None,
                    "state": "healthy",
                    "state_for": None,
                    "why": None,
                    "available": True,
                    "weight": 2,
                    "weight_now": 2.0,
                    "backup": False,
                    "requests": 0,
                    "failed": 0,
                    "failures_in_a_row": 0,
                    "last_failure": None,
                    "circuit_breaker": None,
                    "in_flight": 3,
                    "connections": {"idle": 1, "busy": 0},
                },
            ],
        }
    ]


async def test_the_index_names_every_page(admin: Client) -> None:
    """Whoever opens the port in a browser finds the way; every page named exists."""
    text = await (await admin.get("/")).text()

    for page in PAGES:
        assert page in text
        assert (await admin.get(page)).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_only_get_and_head_are_served(admin: Client, method: str) -> None:
    """A read-only listener refuses every other method, by name (RFC 9110 15.5.6)."""
    response = await admin.request(method, "/config")

    assert response.status == 405
    assert response.headers["Allow"] == "GET,HEAD"


async def test_head_is_get_without_body(admin: Client) -> None:
    """RFC 9110 9.3.2."""
    response = await admin.head("/metrics")

    assert (response.status, await response.read()) == (200, b"")


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:9900",
        "127.0.0.1:9900",
        "[::1]:9900",
        "10.1.2.3:9900",
        "gateway.internal",
        "Gateway.Internal.:9900",
    ],
)
async def test_known_names_and_addresses_are_answered(admin: Client, host: str) -> None:
    """Loopback, any address literal (probes and scrapers use the pod's) and the configured name."""
    assert (await admin.get("/routes", headers={"Host": host})).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "a b", "[::1", ""])
async def test_other_names_are_refused_on_every_page(admin: Client, host: str) -> None:
    """DNS rebinding: a name that merely resolves to this listener gets nothing (RFC 9110 15.5.20)."""
    for page in ("/config", "/livez", "/nowhere"):
        response = await admin.get(page, headers={"Host": host})
        assert response.status == 421


async def test_a_request_without_host_is_answered(admin: Client) -> None:
    """An HTTP/1.0 health check sends no Host; a browser always does."""
    response = await admin.get("/readyz", skip_auto_headers=["Host"])

    assert response.status == 200


@pytest.mark.parametrize("path,status", [("/config", 200), ("/nowhere", 404)])
async def test_every_answer_is_hardened(admin: Client, path: str, status: int) -> None:
    """No sniffing, no storing, no product name; on errors too."""
    response = await admin.get(path)

    assert response.status == status
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-store"
    assert "Server" not in response.headers


async def test_scrapes_do_not_disturb_one_another(admin: Client, state: State) -> None:
    """Concurrent scrapes are served from threads while counters change."""

    async def scrape(session: ClientSession) -> int:
        state.metrics.route("users").finished(b"GET", 200, 0.01)
        async with session.get(admin.make_url("/metrics")) as response:
            await response.read()
            return response.status

    async with ClientSession() as session:
        assert set(await asyncio.gather(*(scrape(session) for _ in range(10)))) == {200}


async def test_what_is_not_http_is_answered_but_not_logged(state: State, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever scans ports gets 400 and fills no log with tracebacks; a mistake of ours is logged with its own."""

    async def broken(page: str) -> object:
        raise ArithmeticError(page)

    state.live = broken  # type: ignore[method-assign]
    runner = make_admin_runner(state)
    await runner.setup()
    try:
        await TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        answers = []
        for line in (
            b"GET / HTTP/9.9",
            b"GET http://[::1 HTTP/1.1",
            b"GET /%s HTTP/1.1" % (b"a" * 9000),
            b"GET /routes HTTP/1.0",
        ):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(line + b"\r\nConnection: close\r\n\r\n")
            answers.append((await reader.read())[9:12])
            writer.close()
    finally:
        await runner.cleanup()

    assert answers == [b"400", b"400", b"400", b"500"]
    logged = [record.exc_info and record.exc_info[0] for record in caplog.records if record.levelno >= logging.WARNING]
    assert logged == [ArithmeticError]
