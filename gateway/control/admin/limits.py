"""Rate limits at the admin listener: what there is, who is denied most, the state of a key, and its reset.

Keys are shown as digests: they may be credentials. Of those denied most the client's address is told, where it is a part of the
key. A reset changes something, so it is a POST with a token.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol

from aiohttp import web

from gateway.control.admin.answers import Token, check_token, json_answer
from gateway.control.blocks.traffic.rate_limit_compile import in_words, key_value
from gateway.control.words.keys import Part
from gateway.metrics.top_keys import DeniedKey
from gateway.policies.rate_limit import seconds_up
from gateway.ports import Answers, Check, LimitCall, LimitStore
from gateway.proxy.rate_limit_store.local import LocalStore
from gateway.proxy.steps.request_keys import key_address
from gateway.snapshot import Limit, Snapshot

PATIENCE: Final = 2.0
"""Seconds to wait for the store."""
FORGET: Final = -1
"""The cost that makes the script forget a key."""

PAGES: Final = {
    "/limits": "rate limits, their store, and the keys that are denied most",
    "/limits/key": "what is left for a key: ?route=…&limit=…&key=…; POST to /limits/reset forgets it",
}


class LimitCounts(Protocol):
    """Where rate limits are counted: a worker's data plane, or the supervisor of several workers."""

    @property
    def snapshot(self) -> Snapshot:
        """The limits there are."""

    @property
    def local_counts(self) -> LocalStore:
        """Those that are counted in process."""

    @property
    def limit_store(self) -> LimitStore:
        """Who is asked."""

    def store_up(self) -> bool | None:
        """Whether the store outside answers; None without one."""

    async def denied_most(self) -> list[DeniedKey]:
        """The keys denied most, the highest count first."""

    def forget_key(self, limit_id: bytes, digest: bytes) -> None:
        """Whatever is remembered of a key in the processes of this gateway."""


class LimitPages:
    """The handlers of these pages."""

    pages: Final = PAGES

    def __init__(self, counts: LimitCounts, token: Token) -> None:
        self._counts = counts
        self._token = token

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/limits", self._overview)
        app.router.add_get("/limits/key", self._state)
        app.router.add_post("/limits/reset", self._reset)

    async def _overview(self, request: web.Request) -> web.Response:
        counts = self._counts
        redis = counts.snapshot.redis
        return json_answer(
            {
                "store": {"url": redis.shown if redis is not None else "", "up": counts.store_up()},
                "keys_in_process": len(counts.local_counts),
                "limits": [
                    {
                        "route": route.name,
                        "limit": limit.name,
                        "rule": in_words(limit.tier.settings),
                        "algorithm": limit.tier.settings.algorithm.value,
                        "key": [str(part) for part in _parts(limit)],
                        "enforced": limit.enforce,
                        "overrides": len(limit.overrides),
                        "id": limit.id.decode("ascii"),
                    }
                    for route in counts.snapshot.routes
                    for limit in route.rate_limit or ()
                ],
                "top": [
                    {
                        "route": one.route,
                        "limit": one.limit,
                        "key": one.digest.hex(),
                        "client_ip": key_address(one.client) if one.client else None,
                        "denied": one.denied,
                        "too_high_by_at_most": one.error,
                    }
                    for one in await counts.denied_most()
                ],
            }
        )

    async def _state(self, request: web.Request) -> web.Response:
        limit, digest = self._named(request)
        return json_answer(await self._ask(limit, digest, 0))

    async def _reset(self, request: web.Request) -> web.Response:
        check_token(request, self._token())
        limit, digest = self._named(request)
        counts = self._counts
        counts.forget_key(limit.id, digest)
        return json_answer(await self._ask(limit, digest, FORGET))

    def _named(self, request: web.Request) -> tuple[Limit, bytes]:
        """The limit and the digest of the key that a query names."""
        query = request.query
        for route in self._counts.snapshot.routes:
            if route.name != query.get("route"):
                continue
            limits = {limit.name: limit for limit in route.rate_limit or ()}
            limit = limits.get(query.get("limit", "default"))
            if limit is None:
                raise web.HTTPNotFound(text=f"The route has the limits: {', '.join(limits) or 'none'}.\n")
            try:
                return limit, limit.digest.many(key_value(_parts(limit), query.get("key", "")))
            except ValueError as error:
                raise web.HTTPBadRequest(text=f"{error}\n") from None
        raise web.HTTPNotFound(text="There is no route of this name.\n")

    async def _ask(self, limit: Limit, digest: bytes, cost: int) -> dict[str, Any]:
        counts = self._counts
        tier = limit.overrides.get(digest, limit.tier)
        local = counts.limit_store is counts.local_counts
        call = LimitCall([Check(limit, tier, digest, 0 if local else cost)])
        done = asyncio.Event()
        call.wake = done.set
        counts.limit_store.ask(call)
        if not call.done:
            try:
                async with asyncio.timeout(PATIENCE):
                    await done.wait()
            except TimeoutError:
                call.abandoned = True
                raise web.HTTPServiceUnavailable(text="The store does not answer.\n") from None
        source = call.source
        if source == Answers.NONE:
            if cost == FORGET:
                raise web.HTTPServiceUnavailable(text="The store is down: nothing was forgotten there.\n")
            counts.local_counts.ask(call)
        left, reset, _ = call.verdicts[0]
        return {
            "limit": limit.name,
            "rule": in_words(tier.settings),
            "key": digest.hex(),
            "remaining": left,
            "one_more_in_seconds": seconds_up(reset),
            "counted_by": "redis" if source == Answers.REDIS else "fallback" if source == Answers.NONE else "local",
        }


def _parts(limit: Limit) -> list[Part]:
    return [Part(kind.value, name.decode("utf-8")) for kind, name in limit.key]
