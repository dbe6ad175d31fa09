"""Who may change something through the admin listener: whoever brings the token of `admin.token_file`."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from aiohttp import web


class AdminToken:
    """Checks requests. `secret` is asked each time, so that a reload changes it; None: nothing can be changed."""

    def __init__(self, secret: Callable[[], str | None]) -> None:
        self._secret = secret

    def check(self, request: web.Request) -> None:
        """Raises an HTTP answer unless the request may change something."""
        secret = self._secret()
        if secret is None:
            raise web.HTTPForbidden(text="`admin.token_file` is not set: nothing can be changed here.\n")
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), secret.encode("utf-8")):
            raise web.HTTPUnauthorized(text="The token is missing or wrong.\n", headers={"WWW-Authenticate": "Bearer"})
