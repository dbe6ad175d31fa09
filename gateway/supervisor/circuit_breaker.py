"""Circuit breakers across workers: what one finds out reaches all, and so does what an operator orders."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from gateway.control.admin.breaker_orders import Order, Shown, UnknownError, as_one, obey
from gateway.policies.circuit_breaker import BreakerState
from gateway.proxy.plane import DataPlane
from gateway.proxy.upstream.circuit_breaker import EndpointBreaker
from gateway.snapshot import Snapshot
from gateway.supervisor.agreement import Agreement
from gateway.supervisor.channel import Channel, ChannelClosedError, RefusedError
from gateway.supervisor.slot import Slot, ask_all

PATIENCE: Final = 5.0
"""Seconds that a worker may take to obey."""


class FleetBreakers:
    """The supervisor's side."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        self._agreement = Agreement()
        self._held: dict[tuple[str, str], Order] = {}
        """The overrides that hold, by upstream and endpoint."""

    def heard(self, origin: int, word: dict[str, Any]) -> None:
        """A worker has found something out."""
        word, news = self._agreement.said(origin, word)
        for slot in self._slots:
            if news or slot.index == origin:
                slot.tell("breaker", word | {"own": news and slot.index == origin})

    async def order(self, order: Order) -> Shown:
        """Have every worker obey, those that start later too. Raises UnknownError."""
        # Those that are starting obey when they have started.
        asked = [slot for slot in self._slots if slot.up or order["do"] != "list"]
        answers = await ask_all(asked, "breakers", order, within=PATIENCE)
        done = {index: answer for index, answer in answers.items() if not isinstance(answer, Exception)}
        refusals = [answer for answer in answers.values() if isinstance(answer, RefusedError)]
        if refusals and not done:
            raise UnknownError(str(refusals[0]))
        shown = as_one(done)
        for one in shown if order["do"] != "list" else ():
            key = (one["upstream"], one["endpoint"])
            if order["do"] == "release":
                self._held.pop(key, None)
            else:
                self._held[key] = order | {"upstream": key[0], "endpoint": key[1]}
        return shown

    def now(self) -> dict[str, Any]:
        """What a worker that starts must hear."""
        now = monotonic()
        self._held = {key: order for key, order in self._held.items() if order["until"] > now}
        return {"breakers": list(self._agreement.open()), "orders": list(self._held.values())}

    def changed(self, before: Snapshot, after: Snapshot) -> None:
        """Breakers with other settings are new ones: nothing is known of them, and nobody holds them."""
        settings = {upstream.name: upstream.circuit_breaker for upstream in after.upstreams}
        gone = {one.name for one in before.upstreams if settings.get(one.name) != one.circuit_breaker}
        self._agreement.forget(gone)
        self._held = {key: order for key, order in self._held.items() if key[0] not in gone}


class WorkerBreakers:
    """A worker's side."""

    def __init__(self, plane: DataPlane, channel: Channel) -> None:
        self._plane = plane
        self._channel = channel
        plane.breakers.share(self._tell)

    def _tell(self, one: EndpointBreaker) -> None:
        breaker = one.breaker
        word = {
            "upstream": one.upstream,
            "endpoint": one.endpoint.label,
            "state": breaker.state.value,
            "until": breaker.due if breaker.state is BreakerState.OPEN else 0.0,
            "reason": breaker.reason,
            "trips": breaker.trips,
            "version": one.version,
        }
        with contextlib.suppress(ChannelClosedError):
            self._channel.send("breaker", word)

    def heard(self, word: dict[str, Any]) -> None:
        """What the workers have agreed upon."""
        one = self._plane.breakers.find(word["upstream"], word["endpoint"])
        if one is not None and word.get("own") and one.version == word["base"]:
            # Our own; by now time may have gone on from there.
            one.version = word["version"]
        elif one is not None:
            one.follow(BreakerState(word["state"]), word["until"], word["reason"], word["trips"], word["version"])

    def begin(self, now: dict[str, Any]) -> None:
        """Hear what was said before this worker was."""
        for word in now["breakers"]:
            self.heard(word)
        for order in now["orders"]:
            with contextlib.suppress(UnknownError):
                obey(self._plane, order)
