"""The demo services: small, real, and with faults on request, one request at a time or for all of them (`/faults`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from random import random
from typing import Final

import orjson
from aiohttp import WSMsgType, web

_BIG_BLOCK: Final = bytes(64 * 1024)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value) + b"\n", status=status, content_type="application/json")


def _number(request: web.Request, name: str, default: int, largest: int) -> int:
    """A whole number from the query; 400 when it is none, so that a typing error is seen."""
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and int(text) <= largest):
        raise web.HTTPBadRequest(text=f"{name}: a whole number up to {largest}, please\n")
    return int(text)


# -- faults --------------------------------------------------------------------------------------------------------------


@dataclass
class Faults:
    """What is wrong with a service now. Requests for `/healthz` and `/faults` are spared."""

    errors: int = 0
    """Percent of the requests that are answered with 500."""
    unavailable: int = 0
    """Percent that are answered with 503."""
    resets: int = 0
    """Percent whose connection breaks."""
    delay: int = 0
    """Milliseconds that each answer takes longer."""
    unhealthy: int = 0
    """1: the health probe fails."""


_FAULTS: Final = web.AppKey("faults", Faults)
_LARGEST: Final = {"delay": 600_000, "unhealthy": 1}


async def _get_faults(request: web.Request) -> web.Response:
    return _json(asdict(request.app[_FAULTS]))


async def _put_faults(request: web.Request) -> web.Response:
    """Sets the faults that the query names, and leaves the others as they are."""
    faults = request.app[_FAULTS]
    known = [field.name for field in fields(faults)]
    if strange := sorted(set(request.query) - set(known)):
        raise web.HTTPBadRequest(text=f"{strange[0]}: there are {', '.join(known)}\n")
    for name in request.query:
        setattr(faults, name, _number(request, name, 0, _LARGEST.get(name, 100)))
    return _json(asdict(faults))


async def _end_faults(request: web.Request) -> web.Response:
    faults = request.app[_FAULTS]
    for field in fields(faults):
        setattr(faults, field.name, 0)
    return _json(asdict(faults))


@web.middleware
async def _with_faults(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    faults = request.app[_FAULTS]
    if request.path in {"/healthz", "/faults"}:
        return await handler(request)
    if faults.delay:
        await asyncio.sleep(faults.delay / 1000)
    dice = random() * 100
    if dice < faults.resets:
        return await _reset(request)
    dice -= faults.resets
    if dice < faults.errors + faults.unavailable:
        return _json({"error": "as asked for at /faults"}, 500 if dice < faults.errors else 503)
    return await handler(request)


async def _healthy(request: web.Request) -> web.Response:
    if request.app[_FAULTS].unhealthy:
        return web.Response(status=503, text="unhealthy, as asked for at /faults\n")
    return web.Response(text="ok\n")


def _app(max_body: int = 1024**2) -> web.Application:
    """What all services have."""
    app = web.Application(client_max_size=max_body, middlewares=[_with_faults])
    app[_FAULTS] = Faults()
    app.router.add_get("/healthz", _healthy)
    app.router.add_get("/faults", _get_faults)
    app.router.add_put("/faults", _put_faults)
    app.router.add_delete("/faults", _end_faults)
    return app


# -- users ---------------------------------------------------------------------------------------------------------------


async def _user(request: web.Request) -> web.Response:
    name = request.match_info["id"]
    return _json({"id": name, "name": f"User {name}", "service": "users"})


async def _slow(request: web.Request) -> web.Response:
    """Answers after `ms` milliseconds: tries time budgets."""
    milliseconds = _number(request, "ms", 2000, 600_000)
    await asyncio.sleep(milliseconds / 1000)
    return _json({"waited_ms": milliseconds, "service": "users"})


async def _status(request: web.Request) -> web.Response:
    """Answers with the status asked for: tries retries and circuit breakers."""
    code = int(request.match_info["code"])
    if not 200 <= code <= 599:
        raise web.HTTPBadRequest(text="a final status code is between 200 and 599\n")
    return web.Response(status=code) if code in {204, 304} else _json({"status": code, "service": "users"}, code)


async def _reset(request: web.Request) -> web.Response:
    """Breaks the connection without an answer: what a crashing service looks like from outside."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


async def _headers(request: web.Request) -> web.Response:
    """The request as it arrived here: what the gateway adds, changes and removes."""
    return _json(
        {"method": request.method, "target": request.raw_path, "headers": [list(pair) for pair in request.headers.items()]}
    )


async def _websocket(request: web.Request) -> web.WebSocketResponse:
    """Sends every message back."""
    socket = web.WebSocketResponse(heartbeat=30.0)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


def users_app() -> web.Application:
    """The service `users`."""
    app = _app()
    app.router.add_get("/users/slow", _slow)
    app.router.add_route("*", r"/users/status/{code:\d{3}}", _status)
    app.router.add_get("/users/reset", _reset)
    app.router.add_route("*", "/users/headers", _headers)
    app.router.add_get("/users/ws", _websocket)
    app.router.add_get("/users/{id}", _user)
    return app


# -- orders --------------------------------------------------------------------------------------------------------------


async def _order(request: web.Request) -> web.Response:
    name = request.match_info["id"]
    return _json({"id": name, "items": [{"sku": "tea", "quantity": 2}], "service": "orders"})


async def _new_order(request: web.Request) -> web.Response:
    """Sends the JSON back that it was sent."""
    try:
        received = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        return _json({"error": f"not JSON: {error}"}, 400)
    return _json({"received": received, "service": "orders"}, 201)


async def _stream(request: web.Request) -> web.StreamResponse:
    """Server-sent events, one a second, until `count` or until the client leaves."""
    count = _number(request, "count", 3600, 86_400)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    with suppress(ConnectionResetError):
        for number in range(1, count + 1):
            await response.write(b"id: %d\ndata: %s\n\n" % (number, orjson.dumps({"order": number})))
            await asyncio.sleep(1.0 if number < count else 0.0)
    return response


async def _big(request: web.Request) -> web.StreamResponse:
    """A download of `mib` MiB of zero bytes."""
    size = _number(request, "mib", 10, 1024) * 1024 * 1024
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)})
    await response.prepare(request)
    with suppress(ConnectionResetError):
        for _ in range(size // len(_BIG_BLOCK)):
            await response.write(_BIG_BLOCK)
    return response


def orders_app() -> web.Application:
    """The service `orders`."""
    app = _app(64 * 1024 * 1024)
    app.router.add_post("/orders", _new_order)
    app.router.add_get("/orders/stream", _stream)
    app.router.add_get("/orders/big", _big)
    app.router.add_get("/orders/{id}", _order)
    return app


APPS: Final[dict[str, Callable[[], web.Application]]] = {"users": users_app, "orders": orders_app}
