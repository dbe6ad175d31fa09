"""Several copies of one safe request at once: the first good answer wins, the other copies are cancelled.

Each copy is an `Attempt` of its own. While there are several they are `racing`: what fails on one connection concerns that
copy, and no interim response is passed on.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from gateway.endpoints import Endpoint
from gateway.errors import Failed, Failure
from gateway.policies import status_meant
from gateway.policies.hedge import SAFE, WITH_CONTENT, HedgeDelay
from gateway.proxy import time_limits
from gateway.proxy.attempts.attempt import send
from gateway.proxy.attempts.load_balancing import pick
from gateway.proxy.attempts.outcome import settle
from gateway.proxy.exchange import Attempt, Tries, suspend
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.proxy.upstream.pool import EndpointPool, Opening

HEDGED: Final = "hedge"
"""As a reason in metrics and logs."""

_CANCELLED: Final = Failed(Failure.CLIENT_CLOSED)
"""How a copy that nobody waits for any more is settled: abandoned."""


class Race:
    """The copies of one request that are still in the running."""

    __slots__ = ("_openings", "_sent_at", "_target", "_tries", "copies", "first", "x")

    def __init__(self, first: Attempt, target: bytes) -> None:
        self.x = first.x
        self.first = first
        self.copies = [first]
        self._target = target
        self._sent_at = first.dispatched_at
        self._tries = self.x.tries = self.x.tries or Tries()
        self._openings: dict[Attempt, Opening] = {}
        """Connections on their way, by the copy that waits for them."""
        first.racing = True

    def launch(self, endpoint: Endpoint, now: float) -> None:
        """Send another copy, as soon as there is a connection; it is paid for."""
        x, first = self.x, self.first
        copy = Attempt(x, first.route, first.upstream, endpoint, endpoint.permit, now)
        copy.racing = True
        self.copies.append(copy)
        x.attempts += 1
        self._tries.retries += 1
        first.upstream.metrics.retries[HEDGED] += 1
        pool = endpoint.pool
        assert isinstance(pool, EndpointPool)
        copy.connection = pool.take()
        if copy.connection is not None:
            copy.reused = True
            send(copy, self._target)
            return
        try:
            self._openings[copy] = pool.open(copy.wake)
        except Failed as failed:
            copy.failed = failed

    def outcome(self) -> Attempt | None:
        """The copy that is the answer, or the last one when all have failed. Those that are neither are dropped on the way."""
        self._send_what_is_open()
        retry = self.first.route.retry
        for copy in list(self.copies):
            last = len(self.copies) == 1
            if copy.failed is not None:
                if last:
                    return copy
                self._drop(copy, copy.failed.failure.code)
            elif copy.connection is not None and copy.connection.response is not None:
                status = copy.connection.response.status
                if last or retry is None or status_meant(status) not in retry.settings.statuses:
                    return copy
                self._drop(copy, str(status))
        return None

    def _send_what_is_open(self) -> None:
        for copy, opening in list(self._openings.items()):
            if not opening.done:
                continue
            del self._openings[copy]
            try:
                copy.connection = opening.connection()
            except Failed as failed:
                copy.failed = failed
            else:
                send(copy, self._target)

    def _drop(self, copy: Attempt, outcome: str) -> None:
        """Settle and end a copy that is not the answer."""
        x = self.x
        self.copies.remove(copy)
        spent = x.upstream_seconds
        settle(copy)
        # Copies run side by side: only the time of the one that stays counts.
        x.upstream_seconds = spent
        self._end(copy)
        self._tries.record(copy.endpoint, outcome, monotonic() - copy.began, retry=HEDGED)

    def _end(self, copy: Attempt) -> None:
        """Give up what the copy holds: a connection with the request on it, or one on its way."""
        opening = self._openings.pop(copy, None)
        if opening is not None:
            opening.abandon()
        elif copy.connection is not None:
            copy.connection.end()

    def keep(self, winner: Attempt, lost: Failed | None) -> None:
        """This copy becomes the attempt of the exchange. The others are abandoned, or share in what ended all of them."""
        for copy in list(self.copies):
            if copy is not winner:
                copy.failed = lost or _CANCELLED
                self._drop(copy, "cancelled" if lost is None else lost.failure.code)
        if lost is None and winner is not self.first and winner.failed is None:
            winner.upstream.metrics.hedges_won += 1
        if winner is not self.first:
            # The upstream was waited for all along: until then it was an earlier copy that it had not answered.
            self.x.upstream_seconds += (winner.dispatched_at or monotonic()) - self._sent_at
        winner.racing = False
        self.x.attempt = winner
        if winner.connection is None:
            # What is still connecting would go on, and send a request that nobody waits for.
            self._end(winner)


def allowed(attempt: Attempt) -> bool:
    """Whether the request is one that can be sent twice at once, to somebody else, without harm."""
    x, upstream = attempt.x, attempt.upstream
    return (
        x.head.method in SAFE
        and (x.request_body is None or (x.head.method == WITH_CONTENT and x.request_body.whole_at_hand))
        and not x.head.upgrade
        and len(upstream.group.available) > 1
        and attempt.endpoint.guard is None
        # Who is kept with an endpoint has something there that others lack.
        and (upstream.affinity is None or upstream.affinity.sticky is None)
    )


async def first_answer(first: Attempt, hedge: HedgeDelay, target: bytes) -> tuple[Attempt, UpstreamConnection]:
    """Wait for the response to the attempt that is under way, and send copies beside it in time.

    Returns the copy that the exchange goes on with, settled by nobody yet, and its connection. Raises `Failed` when all have
    failed; the exchange then goes on with the last of them.
    """
    x = first.x
    duration = first.upstream.metrics.duration
    race: Race | None = None
    winner = first
    lost: Failed | None = None
    copies = 0
    due, due_failure = x.due, x.due_failure
    try:
        while True:
            now = monotonic()
            delay = hedge.seconds(now, duration.bounds, duration.counts)
            due_at = now + delay if delay is not None and copies < hedge.settings.most else due
            if due_at < due:
                x.expect_by(due_at, None, now)
            if not await _until(race, first, due_at if due_at < due else None):
                found = race.outcome() if race is not None else first
                assert found is not None
                winner = found
                break
            # The time has come for another copy.
            now = monotonic()
            endpoint = _another(first)
            copies = copies + 1 if endpoint is not None else hedge.settings.most
            if endpoint is not None:
                race = race or Race(first, target)
                race.launch(endpoint, now)
                time_limits.attempt_began(x, first.route, now)
                due, due_failure = x.due, x.due_failure
            else:
                x.expect_by(due, due_failure, now)
    except Failed as failed:
        # The time of all is up, the client has left, or the only copy so far has failed.
        winner = race.copies[-1] if race is not None else first
        winner.failed = lost = failed
    finally:
        if race is not None:
            race.keep(winner, lost)
    if winner.failed is not None:
        raise winner.failed
    assert winner.connection is not None
    return winner, winner.connection


async def _until(race: Race | None, first: Attempt, due: float | None) -> bool:
    """Wait for an outcome, or for the time `due` (then True)."""
    while True:
        if race is None:
            assert first.connection is not None
            if first.connection.response is not None:
                return False
        elif race.outcome() is not None:
            return False
        if due is not None and monotonic() >= due:
            return True
        await suspend()


def _another(first: Attempt) -> Endpoint | None:
    """The endpoint for another copy, paid for; None when there is none, or nobody pays."""
    upstream = first.upstream
    if len(upstream.group.available) < 2:
        return None
    endpoint = pick(first.x, first.route, upstream, first.endpoint)
    if endpoint is None or endpoint is first.endpoint or endpoint.guard is not None or first.endpoint.guard is not None:
        return None
    if not upstream.retry_budget.withdraw(monotonic()):
        upstream.metrics.denials["budget"] += 1
        return None
    return endpoint
