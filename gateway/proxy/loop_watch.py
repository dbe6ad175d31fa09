"""Ten times a second: how late is the event loop, and what follows from it; adaptive limits move then too."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

from gateway.policies.max_in_flight import RANKS
from gateway.policies.overload import Overload
from gateway.proxy.plane import DataPlane

INTERVAL: Final = 0.1


class LoopWatch:
    """The timer that measures. It runs from its making until `stop`."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._overload = Overload(plane.snapshot.server.overload)
        self._settings = plane.snapshot.server.overload
        self._handle = self._next()

    def stop(self) -> None:
        """Look no more."""
        self._handle.cancel()

    def _next(self) -> asyncio.TimerHandle:
        self._due = monotonic() + INTERVAL
        return self._plane.loop.call_later(INTERVAL, self._look)

    def _look(self) -> None:
        now = monotonic()
        self.look(now - self._due)
        self._handle = self._next()

    def look(self, lag: float) -> None:
        """The loop was late by `lag` seconds."""
        plane, overload = self._plane, self._overload
        settings = plane.snapshot.server.overload
        if settings is not self._settings:
            self._settings = settings
            overload.configure(settings)
        overload.measured(lag)
        metrics = plane.metrics.lag
        metrics.lag = overload.lag
        if overload.shed_from != plane.shed_from:
            plane.shed_from = overload.shed_from
            metrics.shedding = RANKS[overload.shed_from :]
        now = monotonic()
        for one in plane.snapshot.gates:
            gate = one.gate
            if gate.adaptive is not None and (limit := gate.adaptive.decide(now)) != gate.limit:
                gate.resize(limit)
                gate.let_in(plane.loop.call_soon, now)
