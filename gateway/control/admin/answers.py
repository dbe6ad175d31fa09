"""Answers of the admin listener in JSON."""

from __future__ import annotations

from typing import Final

import orjson
from aiohttp import web

_OPTIONS: Final = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS


def json_answer(value: object, status: int = 200) -> web.Response:
    """The value as an indented document; sets become sorted lists, bytes text."""
    return web.Response(status=status, body=orjson.dumps(value, _plain, _OPTIONS), content_type="application/json")


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
