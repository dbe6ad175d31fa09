"""Several copies of one safe request at once: the first good answer wins, the other copies are cancelled.

While there is one copy, its connection is bound to the exchange, as without hedging. From the second on each is bound to a
`Leg`, which offers a connection as much of an exchange as it needs; at the end the winner's is bound to the exchange again.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from random import random
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from gateway.errors import Failed, Failure
from gateway.policies.hedging import SAFE
from gateway.proxy.attempts.attempt import limit_attempt
from gateway.proxy.attempts.load_balancing import steered
from gateway.proxy.attempts.outcome import settle
from gateway.proxy.attempts.retry import Tries
from gateway.proxy.exchange import Exchange, suspend
from gateway.proxy.steps.fields import upstream_head
from gateway.proxy.upstream.connection import EndpointPool

if TYPE_CHECKING:
    from gateway.endpoints import Endpoint
    from gateway.policies.hedging import HedgeDelay
    from gateway.proxy.upstream.connection import UpstreamConnection
    from gateway.proxy.wire.http1_request import RequestHead
    from gateway.proxy.wire.http1_response import ResponseHead
    from gateway.snapshot import Route, Snapshot, Upstream

_log = logging.getLogger("gateway")

HEDGED: Final = "hedge"
"""As a reason in metrics and logs."""

_CANCELLED: Final = Failed(Failure.CLIENT_CLOSED)
"""How a copy that nobody waits for any more is settled: abandoned."""


class Leg:
    """One copy of a request. It is an `Exchange` to its connection."""

    __slots__ = (
        "_coroutine",
        "_running",
        "began",
        "connection",
        "dispatched_at",
        "endpoint",
        "failed",
        "head",
        "permit",
        "request_body",
        "reused",
        "snapshot",
        "x",
    )

    def __init__(
        self,
        x: Exchange,
        endpoint: Endpoint,
        permit: object,
        began: float,
        connection: UpstreamConnection | None = None,
        *,
        reused: bool = False,
    ) -> None:
        self.x = x
        self.endpoint = endpoint
        self.permit = permit
        self.began = began
        self.connection = connection
        self.reused = reused
        self.dispatched_at = 0.0
        self.failed: Failed | None = None
        self.request_body: None = None
        self.head: RequestHead = x.head
        self.snapshot: Snapshot = x.snapshot
        self._coroutine: Coroutine[None, None, None] | None = None
        self._running = False

    # -- what a connection asks of an exchange -----------------------------------------------------------------------

    @property
    def client_connection(self) -> Leg:
        """Where interim responses go."""
        return self

    def interim(self, head: ResponseHead) -> None:
        """Not passed on: only one of the copies will be the answer."""

    def wake(self) -> None:
        """Something has happened on the connection, or it is open."""
        if self._coroutine is not None and not self._running:
            self._step(None)
        self.x.wake()

    def fail(self, failed: Failed) -> None:
        """The copy is lost."""
        self.failed = self.failed or failed
        self.x.wake()

    # -- its life ----------------------------------------------------------------------------------------------------

    def start(self, route: Route, upstream: Upstream, target: bytes) -> None:
        """Send the copy as soon as there is a connection."""
        self._coroutine = self._send(route, upstream, target)
        self._step(None)

    async def _send(self, route: Route, upstream: Upstream, target: bytes) -> None:
        pool = self.endpoint.pool
        assert isinstance(pool, EndpointPool)
        connection = pool.take()
        self.reused = connection is not None
        exchange = cast(Exchange, self)
        if connection is None:
            connection = await pool.connect(exchange)
        self.connection = connection
        now = self.dispatched_at = monotonic()
        connection.begin(exchange)
        connection.transport.write(upstream_head(self.x, route, upstream, self.endpoint, target, now))

    def _step(self, failed: Failed | None) -> None:
        assert self._coroutine is not None
        self._running = True
        try:
            if failed is None:
                self._coroutine.send(None)
            else:
                self._coroutine.throw(failed)
        except StopIteration:
            self._coroutine = None
        except Failed as raised:
            self._coroutine = None
            self.failed = self.failed or raised
        except Exception:  # noqa: BLE001 - a bug must cost one copy, not the request
            _log.exception("a hedge ended in an error of the gateway")
            self._coroutine = None
            self.failed = Failed(Failure.INTERNAL)
        finally:
            self._running = False

    def end(self) -> None:
        """Give up whatever it holds: a connection on the way, or one with the request on it."""
        if self._coroutine is not None:
            self._step(Failed(Failure.CLIENT_CLOSED))
        if self.connection is not None:
            self.connection.end()


class Race:
    """The copies of one request that are still in the running."""

    __slots__ = ("first", "legs", "route", "target", "tries", "upstream", "x")

    def __init__(self, x: Exchange, route: Route, upstream: Upstream, target: bytes, first: Leg) -> None:
        self.x = x
        self.route = route
        self.upstream = upstream
        self.target = target
        self.first = first
        self.legs = [first]
        self.tries = x.tries = x.tries or Tries()

    def launch(self, endpoint: Endpoint, now: float) -> None:
        """Send another copy; it is paid for."""
        x = self.x
        first = self.legs[0]
        if first.connection is not None and len(self.legs) == 1:
            first.dispatched_at = x.dispatched_at
            first.connection.exchange = cast(Exchange, first)
        leg = Leg(x, endpoint, endpoint.permit, now)
        self.legs.append(leg)
        x.attempts += 1
        self.tries.retries += 1
        self.upstream.metrics.retried(HEDGED)
        leg.start(self.route, self.upstream, self.target)

    def outcome(self) -> Leg | None:
        """The copy that is the answer, or the last one when all have failed. Those that are neither are dropped on the way."""
        retry = self.route.retry
        for leg in list(self.legs):
            last = len(self.legs) == 1
            if leg.failed is not None:
                if last:
                    return leg
                self.drop(leg, leg.failed, leg.failed.failure.code)
            elif leg.connection is not None and leg.connection.response is not None:
                status = leg.connection.response.status
                if last or retry is None or status not in retry.settings.statuses:
                    return leg
                self.drop(leg, None, str(status))
        return None

    def drop(self, leg: Leg, failed: Failed | None, outcome: str) -> None:
        """Settle and end a copy that is not the answer."""
        x = self.x
        self.legs.remove(leg)
        spent = x.upstream_seconds
        x.dispatched_at, x.upstream_connection = leg.dispatched_at, leg.connection
        settle(x, self.upstream, leg.endpoint, leg.permit, leg.began, failed)
        # Copies run side by side: only the time of the one that stays counts.
        x.upstream_seconds = spent
        leg.end()
        self.tries.record(leg.endpoint, outcome, monotonic() - leg.began, retry=HEDGED)

    def keep(self, winner: Leg, lost: Failed | None) -> None:
        """This copy becomes the attempt of the exchange. The others are abandoned, or share in what ended all of them."""
        for leg in list(self.legs):
            if leg is not winner:
                self.drop(leg, lost or _CANCELLED, "cancelled" if lost is None else lost.failure.code)
        x = self.x
        if lost is None and winner is not self.first and winner.failed is None:
            self.upstream.metrics.hedges_won += 1
        x.endpoint = winner.endpoint
        x.dispatched_at = winner.dispatched_at
        if winner.connection is not None:
            x.upstream_connection = winner.connection
            if winner.connection.exchange is not None:
                winner.connection.exchange = x
        else:
            # What is still connecting would go on, and send a request that nobody waits for.
            winner.end()


def may_hedge(x: Exchange, upstream: Upstream) -> bool:
    """Whether the request is one that can be sent twice at once, to somebody else, without harm."""
    return (
        x.head.method in SAFE
        and x.request_body is None
        and not x.head.upgrade
        and len(upstream.group.available) > 1
        and x.endpoint is not None
        and x.endpoint.guard is None
        # Who is kept with an endpoint has something there that others lack.
        and (upstream.steering is None or upstream.steering.sticky is None)
    )


async def first_answer(x: Exchange, route: Route, upstream: Upstream, hedge: HedgeDelay, target: bytes, leg: Leg) -> Leg:
    """Wait for the response to the copy that is under way, and send others beside it in time.

    Returns the copy that the exchange goes on with, settled by nobody yet: with a response, or `failed`.
    """
    race: Race | None = None
    winner = leg
    lost: Failed | None = None
    copies = 0
    due, due_failure = x.due, x.due_failure
    try:
        while True:
            now = monotonic()
            delay = hedge.seconds(now, upstream.metrics.duration.bounds, upstream.metrics.duration.counts)
            due_at = now + delay if delay is not None and copies < hedge.settings.most else due
            if due_at < due:
                x.limit(due_at, None, now)
            if not await _until(x, race, leg, due_at if due_at < due else None):
                found = race.outcome() if race is not None else leg
                assert found is not None
                winner = found
                return winner
            # The time has come for another copy.
            now = monotonic()
            endpoint = _another(x, route, upstream, leg)
            copies = copies + 1 if endpoint is not None else hedge.settings.most
            if endpoint is not None:
                race = race or Race(x, route, upstream, target, leg)
                race.launch(endpoint, now)
                limit_attempt(x, route, now)
                due, due_failure = x.due, x.due_failure
            else:
                x.limit(due, due_failure, now)
    except Failed as failed:
        # The time of all is up, the client has left, or the only copy so far has failed.
        winner = race.legs[-1] if race is not None else leg
        winner.failed = lost = failed
        return winner
    finally:
        if race is not None:
            race.keep(winner, lost)


async def _until(x: Exchange, race: Race | None, leg: Leg, due: float | None) -> bool:
    """Wait for an outcome, or for the time `due` (then True)."""
    while True:
        if race is None:
            assert leg.connection is not None
            if leg.connection.response is not None:
                return False
        elif race.outcome() is not None:
            return False
        if due is not None and monotonic() >= due:
            return True
        await suspend()


def _another(x: Exchange, route: Route, upstream: Upstream, leg: Leg) -> Endpoint | None:
    """The endpoint for another copy, paid for; None when there is none, or nobody pays."""
    group = upstream.group
    if len(group.available) < 2:
        return None
    steering = upstream.steering
    endpoint = group.pick(random(), leg.endpoint) if steering is None else steered(x, route, upstream, steering, leg.endpoint)
    if endpoint is None or endpoint is leg.endpoint or endpoint.guard is not None or leg.endpoint.guard is not None:
        return None
    if not upstream.retry_budget.withdraw(monotonic()):
        upstream.metrics.denied("budget")
        return None
    return endpoint
