"""Reload at the admin listener: `POST /reload` does it, `GET /reload` says how the last one went."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from aiohttp import web

from gateway.control.admin.answers import Token, check_token, json_answer
from gateway.control.running.reload import Outcome, Reloader

PAGES: Final = {"/reload": "how the last reload went; POST reloads, with ?dry_run=1 it only says what would change"}


class ReloadPages:
    """The handlers of these pages."""

    pages: Final = PAGES

    def __init__(self, reloader: Reloader, token: Token) -> None:
        self._reloader = reloader
        self._token = token

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/reload", self._last)
        app.router.add_post("/reload", self._reload)

    async def _last(self, request: web.Request) -> web.Response:
        return _answer(self._reloader.last)

    async def _reload(self, request: web.Request) -> web.Response:
        check_token(request, self._token())
        dry_run = request.query.get("dry_run", "") not in ("", "0", "false")
        outcome = await self._reloader.reload("admin listener", dry_run=dry_run)
        return _answer(outcome, status=200 if outcome.ok else 422)


def _answer(outcome: Outcome, status: int = 200) -> web.Response:
    return json_answer(asdict(outcome) | {"text": outcome.text}, status)
