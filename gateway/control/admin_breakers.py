"""Circuit breakers at the admin listener: what they see, and an operator's word against it, with a reason and an end.

An override changes something, so it is a POST with a token, and leaves a line in the log that says who did what and why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from time import monotonic, time
from typing import Final

import orjson
from aiohttp import web

from gateway.control.admin_token import AdminToken
from gateway.control.units import UnitError, format_duration, parse_duration
from gateway.policies.circuit_breaker import NEVER, Breaker, Forced, State
from gateway.proxy.breaking import EndpointBreaker
from gateway.proxy.plane import DataPlane

LASTS: Final = "1h"
"""How long an override holds when nothing else is said: one that is forgotten must not hold for ever."""
LONGEST_TEXT: Final = 200

PAGES: Final = {
    "/breakers": "circuit breakers: state, counts, when they probe, overrides; POST to /breakers/open, close, release",
}

_log = logging.getLogger("gateway")


class AdminBreakers:
    """The handlers. `plane` is asked per request, so a reload is seen at once."""

    pages: Final = PAGES

    def __init__(self, plane: Callable[[], DataPlane], token: AdminToken) -> None:
        self._plane = plane
        self._token = token

    def add_to(self, app: web.Application) -> None:
        """Register the pages."""
        app.router.add_get("/breakers", self._list)
        app.router.add_post("/breakers/open", self._open)
        app.router.add_post("/breakers/close", self._close)
        app.router.add_post("/breakers/release", self._release)

    async def _list(self, request: web.Request) -> web.Response:
        upstream, endpoint = request.query.get("upstream"), request.query.get("endpoint")
        return _shown(
            [
                one
                for one in self._plane().breakers
                if upstream in (None, one.upstream) and endpoint in (None, one.endpoint.label)
            ]
        )

    async def _open(self, request: web.Request) -> web.Response:
        return self._force(request, opened=True)

    async def _close(self, request: web.Request) -> web.Response:
        return self._force(request, opened=False)

    def _force(self, request: web.Request, *, opened: bool) -> web.Response:
        self._token.check(request)
        reason = _text(request, "reason")
        if not reason:
            raise web.HTTPBadRequest(text="A `reason` is missing.\n")
        try:
            seconds = parse_duration(request.query.get("for", LASTS))
        except UnitError as error:
            raise web.HTTPBadRequest(text=f"`for`: {error}\n") from None
        if not seconds:
            raise web.HTTPBadRequest(text="`for` must be longer than zero.\n")
        named = self._named(request)
        by, now = _who(request), monotonic()
        for one in named:
            _log.warning(
                "audit: %s holds the circuit breaker of %s at %s %s for %s: %s",
                by,
                one.upstream,
                one.endpoint.label,
                "open" if opened else "closed",
                format_duration(seconds),
                reason,
            )
            one.breaker.force(Forced(opened, now + seconds, by, reason), now)
        return _shown(named)

    async def _release(self, request: web.Request) -> web.Response:
        self._token.check(request)
        named = self._named(request)
        by, now = _who(request), monotonic()
        for one in named:
            if one.breaker.forced is not None:
                _log.warning("audit: %s releases the circuit breaker of %s at %s", by, one.upstream, one.endpoint.label)
                one.breaker.release(now, f"released by {by}")
        return _shown(named)

    def _named(self, request: web.Request) -> list[EndpointBreaker]:
        """The breakers that a query names: of one endpoint, or of all of an upstream."""
        plane = self._plane()
        name, label = request.query.get("upstream"), request.query.get("endpoint")
        found = [one for one in plane.breakers if one.upstream == name]
        if not found:
            if name in [upstream.name for upstream in plane.snapshot.upstreams]:
                raise web.HTTPNotFound(text="The upstream has no circuit breakers: they are off.\n")
            names = ", ".join(sorted({one.upstream for one in plane.breakers}))
            raise web.HTTPNotFound(text=f"There are circuit breakers of: {names or 'no upstream'}.\n")
        if label is None:
            return found
        named = [one for one in found if one.endpoint.label == label]
        if not named:
            labels = ", ".join(one.endpoint.label for one in found)
            raise web.HTTPNotFound(text=f"The endpoints of the upstream are: {labels}.\n")
        return named


def _text(request: web.Request, name: str) -> str:
    """A value that goes into a log line: short, and in one line."""
    text = request.query.get(name, "").strip()
    if len(text) > LONGEST_TEXT or not text.isprintable():
        raise web.HTTPBadRequest(text=f"`{name}` is at most {LONGEST_TEXT} printable characters long.\n")
    return text


def _who(request: web.Request) -> str:
    """Who says so: what the request calls itself, and where it comes from. Only the token is proof of anything."""
    return f"{_text(request, 'by') or 'somebody'} ({request.remote or 'unix socket'})"


def _shown(breakers: Sequence[EndpointBreaker]) -> web.Response:
    now, offset = monotonic(), time() - monotonic()
    body = {"breakers": [_breaker(one, now, offset) for one in breakers]}
    return web.Response(
        body=orjson.dumps(body, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE), content_type="application/json"
    )


def _breaker(one: EndpointBreaker, now: float, offset: float) -> dict[str, object]:
    breaker = one.breaker
    counts = breaker.window.counts(now)
    forced = breaker.forced
    calls = counts.calls or 1
    probes_at = breaker.due if breaker.state is State.OPEN else NEVER
    return {
        "upstream": one.upstream,
        "endpoint": one.endpoint.label,
        "mode": "enforce" if breaker.settings.enforce else "shadow",
        "state": breaker.state.value,
        "reason": breaker.reason or None,
        "admitted_share": round(breaker.share(now), 3),
        "window": {
            "seconds": breaker.settings.window,
            "calls": counts.calls,
            "failed": counts.failed,
            "failure_rate": round(counts.failed / calls, 4),
            "slow": counts.slow,
            "slow_rate": round(counts.slow / calls, 4),
        },
        "probes_out": breaker.probing,
        "openings_in_a_row": breaker.trips,
        "opened_at": _instant(breaker.opened_at, offset),
        "probes_at": _instant(probes_at, offset),
        "forced": None
        if forced is None
        else {
            "to": "open" if forced.open else "closed",
            "by": forced.by,
            "reason": forced.reason,
            "until": _instant(forced.until, offset),
        },
    }


def _instant(monotonic_at: float, offset: float) -> str | None:
    if abs(monotonic_at) == NEVER:
        return None
    return datetime.fromtimestamp(monotonic_at + offset, UTC).isoformat(timespec="seconds")


def breaker_word(breaker: Breaker | None) -> str | None:
    """For `/upstreams`: the state in a word or two."""
    if breaker is None:
        return None
    return breaker.state.value + (" (forced)" if breaker.forced is not None else "")
