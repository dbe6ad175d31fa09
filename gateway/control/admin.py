"""The admin listener: health, metrics and the running configuration, on a listener of its own.

Only GET and HEAD, but for what says otherwise. A request whose `Host` is a name we do not know is refused: a web page that
an operator visits could otherwise reach a loopback listener through a name of its own that resolves to 127.0.0.1 (DNS
rebinding). Address literals cannot be rebound and are always accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import asdict
from time import monotonic
from typing import Any, Final, Protocol

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gateway.control.admin_breakers import breaker_word
from gateway.endpoints import Endpoint, EndpointGroup
from gateway.headers import normalise_host, parse_address
from gateway.metrics import GatewayMetrics
from gateway.policies.concurrency import RANKS
from gateway.snapshot import Route, Snapshot

PAGES: Final = {
    "/livez": "200 while the process runs",
    "/readyz": "200 while requests are taken; 503 before the start is complete and while draining",
    "/metrics": "Prometheus metrics of this worker",
    "/config": "the effective configuration, secrets hidden",
    "/routes": "the routes in file order, with what is in flight",
    "/upstreams": "upstreams and their endpoints, with load and connections",
}


class AdminState(Protocol):
    """What the admin listener shows. Each property is read per request, so a reload is seen at once."""

    @property
    def ready(self) -> bool:
        """The configuration is loaded and the listeners are open."""

    @property
    def draining(self) -> bool:
        """Shutdown has begun."""

    @property
    def snapshot(self) -> Snapshot:
        """The running configuration, compiled."""

    @property
    def metrics(self) -> GatewayMetrics:
        """What this worker counts."""

    @property
    def effective_config(self) -> dict[str, Any]:
        """The running configuration as data, defaults merged, secrets hidden."""


_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Pages(Protocol):
    """A group of pages about one subject, in a file of its own."""

    @property
    def pages(self) -> dict[str, str]:
        """Path ▸ what the index says about it."""

    def add_to(self, app: web.Application) -> None:
        """Register the pages."""


def make_admin_app(state: AdminState, hosts: Iterable[str] = (), more: Iterable[Pages] = ()) -> web.Application:
    """The application. `hosts` are further names to answer to, such as the name that the listener is bound to."""
    app = web.Application(middlewares=[_host_check(hosts)], client_max_size=1024)
    app.on_response_prepare.append(_harden)
    registry = _registry(state)

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # 2 000 lines take 20 ms: in a thread, so that no request waits for a scrape.
        body = await asyncio.to_thread(encode, registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def readyz(request: web.Request) -> web.Response:
        if state.ready and not state.draining:
            return web.Response(text="ready\n")
        return web.Response(status=503, text="draining\n" if state.draining else "starting\n")

    groups = list(more)
    pages = {**PAGES, **{path: text for group in groups for path, text in group.pages.items()}}

    async def index(request: web.Request) -> web.Response:
        return web.Response(text="".join(f"{path:<12} {text}\n" for path, text in pages.items()))

    app.router.add_get("/", index)
    app.router.add_get("/livez", _livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/config", _shows(lambda: state.effective_config))
    app.router.add_get("/routes", _shows(lambda: [_route(route) for route in state.snapshot.routes]))
    app.router.add_get("/upstreams", _shows(lambda: list(_upstreams(state.snapshot))))
    for group in groups:
        group.add_to(app)
    return app


def make_admin_runner(state: AdminState, hosts: Iterable[str] = (), more: Iterable[Pages] = ()) -> web.AppRunner:
    """The application, ready to be set up and bound: no access log, no signal handlers, a short farewell."""
    return web.AppRunner(make_admin_app(state, hosts, more), access_log=None, handle_signals=False, shutdown_timeout=1.0)


def _host_check(hosts: Iterable[str]) -> Any:
    known = {b"localhost"} | {name for host in hosts if (name := normalise_host(host.encode()))}

    @web.middleware
    async def check(request: web.Request, handler: _Handler) -> web.StreamResponse:
        # Without the field it is no browser, so nothing can have been rebound: HTTP/1.0 health checks.
        value = request.headers.get("Host", "localhost")
        host = normalise_host(value.encode("utf-8", "surrogateescape"))
        if host not in known and (host is None or parse_address(host.decode("ascii").strip("[]")) is None):
            raise web.HTTPMisdirectedRequest(text="This host name is not served here.\n")
        return await handler(request)

    return check


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    response.headers.pop("Server", None)


async def _livez(request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _shows(value: Callable[[], object]) -> _Handler:
    async def show(request: web.Request) -> web.Response:
        body = orjson.dumps(value(), _json_value, orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
        return web.Response(body=body, content_type="application/json")

    return show


def _json_value(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)


def _route(route: Route) -> dict[str, object]:
    """What a route does, and how much of it is going on."""
    shown: dict[str, object] = {"name": route.name}
    if route.upstream is not None:
        shown["upstream"] = route.upstream.name
    if route.redirect is not None:
        shown["redirect"] = asdict(route.redirect)
    if route.respond is not None:
        shown["respond"] = {"status": route.respond.status}
    return shown | {
        "timeout": asdict(route.timeout),
        "max_body": None if route.max_body < 0 else route.max_body,
        "rewrite": None if route.rewrite is None else asdict(route.rewrite),
        "in_flight": route.metrics.in_flight,
        "priority": RANKS[route.rank],
        "max_in_flight": None if route.gate is None else route.gate.shown(),
        "requests": sum(route.metrics.requests.values()),
    }


def _upstreams(snapshot: Snapshot) -> Iterator[dict[str, object]]:
    now = monotonic()
    for upstream in snapshot.upstreams:
        yield {
            "name": upstream.name,
            "load_balancing": upstream.group.settings.balancing.algorithm.value,
            "retry_budget": upstream.retry_budget.left(now),
            "panic": upstream.group.panic,
            "endpoints": [_endpoint(endpoint, upstream.group, now) for endpoint in upstream.group.endpoints],
            "max_in_flight": None if upstream.gate is None else upstream.gate.shown(),
        }


def _endpoint(endpoint: Endpoint, group: EndpointGroup, now: float) -> dict[str, object]:
    """`state_for` in seconds; `weight_now` is what it gets of its weight at the moment."""
    return {
        "url": endpoint.url,
        "address": endpoint.address if endpoint.label != endpoint.url else None,
        "state": endpoint.state.value,
        "state_for": round(now - endpoint.since, 1) if endpoint.since else None,
        "why": endpoint.why or None,
        "available": endpoint in group.available,
        "weight": endpoint.weight,
        "backup": endpoint.backup,
        "weight_now": round(endpoint.weight * endpoint.share, 2) if endpoint in group.available else 0,
        "failures_in_a_row": endpoint.errors,
        "circuit_breaker": breaker_word(endpoint.breaker),
        "in_flight": endpoint.in_flight,
        "connections": endpoint.pool.counts(),
    }


def _registry(state: AdminState) -> CollectorRegistry:
    """The gateway's metrics, those of the process and of the interpreter."""

    class CurrentMetrics(Collector):
        def collect(self) -> Iterator[Metric]:
            return state.metrics.collect()

    registry = CollectorRegistry()
    registry.register(CurrentMetrics())
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
