"""Step 4 of the life of a request, the load: a slot at every gate on its way, or a place in a queue, or 503.

A slot is held until the response is relayed to its last byte, since that long the upstream is busy with it; a connection that
is upgraded gives it back at the 101, for it may stay for days and has a limit of its own (`server.limits.tunnels`). `x.slots`
are the gates where the exchange holds one.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from gateway.errors import UPSTREAM, Failed, Failure
from gateway.gates import Gate
from gateway.policies.max_in_flight import RANKS, Waiter, WaiterState
from gateway.proxy.exchange import Exchange, suspend
from gateway.snapshot import Route

RETRY_AFTER: Final = (b"Retry-After: 1",)
"""Overload passes within seconds or not at all; sooner than this a client would only add to it."""

REFUSING_STATUS: Final = frozenset({429, 503, 504})
"""Answers by which an upstream says that it has too much to do."""

_WAITING: Final = WaiterState.WAITING
_RANK_OF: Final = {word.encode("ascii"): rank for rank, word in enumerate(RANKS)}


def rank_of(x: Exchange, route: Route) -> int:
    """The rank of the request: the route's, or what a trusted peer says."""
    if x.client.trusted:
        said = x.head.fields.values.get(x.snapshot.names.priority)
        if said is not None:
            return _RANK_OF.get(said.strip().lower(), route.rank)
    return route.rank


def shed(x: Exchange, rank: int) -> None:
    """Refuse: the event loop is late, and this priority is shed for it. Raises `Failed`."""
    x.client.plane.metrics.lag.shed[RANKS[rank]] += 1
    raise Failed(Failure.OVERLOADED, f"priority {RANKS[rank]}: the event loop is late (server.overload)", fields=RETRY_AFTER)


def take_slots(x: Exchange, gates: tuple[Gate, ...], rank: int) -> bool:
    """Take a slot at each gate. False: at the gate behind those in `x.slots` there is none."""
    for gate in gates:
        if gate.in_flight >= gate.room[rank]:
            x.slots = gates[: gates.index(gate)]
            return False
        gate.in_flight += 1
    x.slots = gates
    return True


async def wait_for_slots(x: Exchange, gates: tuple[Gate, ...], rank: int) -> None:
    """Go on from where there was no slot. Raises `Failed`; what was taken so far is in `x.slots`."""
    for passed in range(len(x.slots), len(gates)):
        gate = gates[passed]
        if gate.in_flight < gate.room[rank]:
            gate.in_flight += 1
        else:
            await _wait(x, gate, rank)
        x.slots = gates[: passed + 1]


async def _wait(x: Exchange, gate: Gate, rank: int) -> None:
    """Wait for a slot of one gate; it is taken when this returns."""
    client = x.client
    loop = client.plane.loop
    now = monotonic()
    due, failure = now + gate.settings.max_wait, Failure.QUEUE_TIMEOUT
    in_time = x.deadline - gate.fastest.seconds
    if in_time < due:
        due, failure = in_time, Failure.DEADLINE
        if due <= now:
            raise _refusal(gate, rank, failure)
    waiter = Waiter(rank, due, x.wake)
    placed, displaced = gate.enter(waiter, now)
    if displaced is not None:
        loop.call_soon(displaced.wake)
    if not placed:
        raise _refusal(gate, rank, Failure.QUEUE_FULL if gate.settings.queue else Failure.CONCURRENCY_LIMIT)
    x.waiter = waiter
    x.expect_by(due, failure, now)
    client.waits()
    try:
        while waiter.state is _WAITING:
            await suspend()
        if waiter.state is WaiterState.EXPIRED:
            raise _refusal(gate, rank, failure)
        if waiter.state is WaiterState.DISPLACED:
            raise _refusal(gate, rank, Failure.QUEUE_FULL)
        if client.ended and client.gone():
            raise Failed(Failure.CLIENT_CLOSED)
    except BaseException as error:
        gate.leave(waiter)
        gate.let_in(loop.call_soon, monotonic())
        if isinstance(error, Failed) and error.failure is failure and not error.fields:
            raise _refusal(gate, rank, failure) from None
        raise
    finally:
        x.waiter = None
        waited = monotonic() - now
        x.queued += waited
        gate.metrics.wait.observe(waited)


def _refusal(gate: Gate, rank: int, failure: Failure) -> Failed:
    gate.metrics.shed[failure.code, RANKS[rank]] += 1
    where = f"the {gate.metrics.scope} `{gate.metrics.name}`" if gate.metrics.name else "the gateway"
    detail = f"{where} takes {gate.limit} at a time"
    if failure is Failure.DEADLINE:
        return Failed(failure, f"{detail}, and the request cannot be answered in the time it has left")
    return Failed(failure, detail, fields=RETRY_AFTER)


def release(x: Exchange, now: float) -> None:
    """Give back every slot that the exchange holds."""
    slots, x.slots = x.slots, ()
    for gate in slots:
        gate.in_flight -= 1
        if gate.waiting:
            if x.failure is None and x.response_body is None and x.attempts:
                gate.fastest.seen(x.upstream_seconds, now)
            gate.let_in(x.client.plane.loop.call_soon, now)


def answered(x: Exchange, gate: Gate, status: int) -> None:
    """A response head has come: an adaptive limit takes notice."""
    if gate.adaptive is not None:
        gate.adaptive.seen(x.upstream_seconds, gate.in_flight, refused=status in REFUSING_STATUS)


def not_answered(x: Exchange, gate: Gate, failure: Failure) -> None:
    """The upstream has failed on the request, or used up its time."""
    if gate.adaptive is not None and x.attempts and (failure.source == UPSTREAM or failure is Failure.DEADLINE):
        gate.adaptive.seen(x.upstream_seconds, gate.in_flight, refused=True)
