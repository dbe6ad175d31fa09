"""Circuit breakers at the admin listener: what they see, and an operator's word against it, with a reason and an end.

An override changes something, so it is a POST with a token, and leaves a line in the log that says who did what and why.
"""

from __future__ import annotations

import logging
from functools import partial
from time import monotonic
from typing import Final

from aiohttp import web

from gateway.control.admin.answers import Token, check_token, json_answer
from gateway.control.admin.breaker_orders import Obeys, Order, Shown, UnknownError
from gateway.control.words.units import UnitError, format_duration, parse_duration

LASTS: Final = "1h"
"""How long an override holds when nothing else is said: one that is forgotten must not hold for ever."""
LONGEST_TEXT: Final = 200

PAGES: Final = {
    "/breakers": "circuit breakers: state, counts, when they probe, overrides; POST to /breakers/open, close, release"
}

_log = logging.getLogger("gateway")


class BreakerPages:
    """The handlers of these pages. `gateway` does what they say, in all of its processes."""

    pages: Final = PAGES

    def __init__(self, gateway: Obeys, token: Token) -> None:
        self._gateway = gateway
        self._token = token

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/breakers", self._list)
        app.router.add_post("/breakers/open", partial(self._force, do="open"))
        app.router.add_post("/breakers/close", partial(self._force, do="close"))
        app.router.add_post("/breakers/release", self._release)

    async def _list(self, request: web.Request) -> web.Response:
        return json_answer({"breakers": await self._ordered(_order(request, "list"))})

    async def _force(self, request: web.Request, do: str) -> web.Response:
        check_token(request, self._token())
        reason = _text(request, "reason")
        if not reason:
            raise web.HTTPBadRequest(text="A `reason` is missing.\n")
        try:
            seconds = parse_duration(request.query.get("for", LASTS))
        except UnitError as error:
            raise web.HTTPBadRequest(text=f"`for`: {error}\n") from None
        if not seconds:
            raise web.HTTPBadRequest(text="`for` must be longer than zero.\n")
        by = _who(request)
        shown = await self._ordered(_order(request, do) | {"until": monotonic() + seconds, "by": by, "reason": reason})
        for one in shown:
            _log.warning(
                "audit: %s holds the circuit breaker of %s at %s %s for %s: %s",
                by,
                one["upstream"],
                one["endpoint"],
                "open" if do == "open" else "closed",
                format_duration(seconds),
                reason,
            )
        return json_answer({"breakers": shown})

    async def _release(self, request: web.Request) -> web.Response:
        check_token(request, self._token())
        by = _who(request)
        held = [one for one in await self._ordered(_order(request, "list")) if one["forced"] is not None]
        shown = await self._ordered(_order(request, "release") | {"by": by})
        for one in held:
            _log.warning("audit: %s releases the circuit breaker of %s at %s", by, one["upstream"], one["endpoint"])
        return json_answer({"breakers": shown})

    async def _ordered(self, order: Order) -> Shown:
        if order["upstream"] is None and order["do"] != "list":
            raise web.HTTPBadRequest(text="An `upstream` is missing.\n")
        try:
            return await self._gateway.order_breakers(order)
        except UnknownError as error:
            raise web.HTTPNotFound(text=f"{error}\n") from None


def _order(request: web.Request, do: str) -> Order:
    return {"do": do, "upstream": request.query.get("upstream"), "endpoint": request.query.get("endpoint")}


def _text(request: web.Request, name: str) -> str:
    """A value that goes into a log line: short, and in one line."""
    text = request.query.get(name, "").strip()
    if len(text) > LONGEST_TEXT or not text.isprintable():
        raise web.HTTPBadRequest(text=f"`{name}` is at most {LONGEST_TEXT} printable characters long.\n")
    return text


def _who(request: web.Request) -> str:
    """Who says so: what the request calls itself, and where it comes from. Only the token is proof of anything."""
    return f"{_text(request, 'by') or 'somebody'} ({request.remote or 'unix socket'})"
