"""Answers of the admin listener in JSON, and who may change something through it: whoever brings the token."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final, TypeAlias

import orjson
from aiohttp import web

_OPTIONS: Final = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS


Token: TypeAlias = Callable[[], str | None]
"""Asked each time, so that a reload changes it."""


def json_answer(value: object, status: int = 200) -> web.Response:
    """The value as an indented document; sets become sorted lists, bytes text."""
    return web.Response(status=status, body=orjson.dumps(value, _plain, _OPTIONS), content_type="application/json")


def check_token(request: web.Request, token: str | None) -> None:
    """Raises an HTTP answer unless the request may change something. None: `admin.token_file` is not set. An empty file proves
    nothing: whoever brings no token would have the right one."""
    if token is None or not token.strip():
        why = "is not set" if token is None else "is empty"
        raise web.HTTPForbidden(text=f"`admin.token_file` {why}: nothing can be changed here.\n")
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode("utf-8")):
        raise web.HTTPUnauthorized(text="The token is missing or wrong.\n", headers={"WWW-Authenticate": "Bearer"})


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
