"""The admin listener: health, metrics and the running configuration, on a listener of its own.

Only GET and HEAD, but for what says otherwise. A request whose `Host` is a name we do not know is refused: a web page that
an operator visits could otherwise reach a loopback listener through a name of its own that resolves to 127.0.0.1 (DNS
rebinding). Address literals cannot be rebound and are always accepted.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from gateway import __version__
from gateway.control.admin.answers import json_answer
from gateway.control.admin.breaker_orders import Obeys
from gateway.control.admin.breakers import BreakerPages
from gateway.control.admin.limits import LimitCounts, LimitPages
from gateway.control.admin.metrics_page import Collected, metrics_page
from gateway.control.admin.reload import ReloadPages
from gateway.control.blocks.server.server import Admin
from gateway.control.running.reload import Reloader
from gateway.headers import normalise_host, parse_address
from gateway.proxy.downstream.listeners import bind
from gateway.server_settings import Listener

PAGES: Final = {
    "/livez": "200 while the process runs",
    "/readyz": "200 while requests are taken; 503 before the start is complete and while draining",
    "/metrics": "Prometheus metrics, of all workers together",
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
    def metrics(self) -> Collected:
        """What is counted."""

    async def refresh(self) -> None:
        """Called before `metrics` are read."""

    async def live(self, page: str) -> object:
        """What a page of `control.admin.pages` says now."""

    @property
    def effective_config(self) -> dict[str, Any]:
        """The running configuration as data, defaults merged, secrets hidden."""


class Gateway(AdminState, Obeys, Protocol):
    """A gateway of one process or of several, as all pages together see it."""

    @property
    def counts(self) -> LimitCounts:
        """Where rate limits are counted."""

    @property
    def reloader(self) -> Reloader:
        """Who changes the configuration."""

    @property
    def token(self) -> str | None:
        """What proves that somebody may change something; None: nobody may."""


_log = logging.getLogger("gateway")
_admin_log = logging.getLogger("gateway.admin")

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

    async def readyz(request: web.Request) -> web.Response:
        if state.ready and not state.draining:
            return web.Response(text="ready\n")
        return web.Response(status=503, text="draining\n" if state.draining else "starting\n")

    async def counted() -> Collected:
        await state.refresh()
        return state.metrics

    async def livez(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def config(request: web.Request) -> web.Response:
        return json_answer(state.effective_config)

    async def live(request: web.Request) -> web.Response:
        return json_answer(await state.live(request.path[1:]))

    groups = list(more)
    pages = {**PAGES, **{path: text for group in groups for path, text in group.pages.items()}}

    async def index(request: web.Request) -> web.Response:
        return web.Response(text="".join(f"{path:<12} {text}\n" for path, text in pages.items()))

    app.router.add_get("/", index)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics_page(counted))
    app.router.add_get("/config", config)
    app.router.add_get("/routes", live)
    app.router.add_get("/upstreams", live)
    for group in groups:
        group.add_to(app)
    return app


def _is_ours(record: logging.LogRecord) -> bool:
    """What is not HTTP has its answer, 400. A traceback of each is nothing for operators, and port scanners send many."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_admin_log.addFilter(_is_ours)


def make_admin_runner(state: AdminState, hosts: Iterable[str] = (), more: Iterable[Pages] = ()) -> web.AppRunner:
    """The application, ready to be set up and bound: no access log, no signal handlers, a short farewell."""
    app = make_admin_app(state, hosts, more)
    return web.AppRunner(app, access_log=None, logger=_admin_log, handle_signals=False, shutdown_timeout=1.0)


def all_pages(gateway: Gateway) -> tuple[Pages, ...]:
    """The groups of pages that every gateway has beside `PAGES`."""

    def token() -> str | None:
        return gateway.token

    return LimitPages(gateway.counts, token), BreakerPages(gateway, token), ReloadPages(gateway.reloader, token)


async def serve_admin(gateway: Gateway, admin: Admin) -> web.AppRunner | None:
    """Open the admin listener; None when there is to be none. Raises StartError."""
    address = admin.listen
    if address is None:
        return None
    where = Listener(address.host, address.port, address.path, rights=admin.rights())
    runner = make_admin_runner(gateway, [where.host] if where.host else [], all_pages(gateway))
    sockets = bind(where, what="admin.listen")
    await runner.setup()
    for sock in sockets:
        await web.SockSite(runner, sock).start()
    _log.info("admin on %s", where)
    return runner


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
    response.headers["Gateway-Version"] = __version__
    response.headers.pop("Server", None)
