"""The breaker itself: see the package's docstring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

from pybreaker import STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN, CircuitBreaker, CircuitBreakerState

from gateway.policies import NEVER
from gateway.policies.circuit_breaker.settings import BreakerSettings, BreakerState, Forced, Transition
from gateway.policies.circuit_breaker.window import RateWindow

JITTER: Final = 0.2
"""An open time is up to so much longer, by chance: gateways that opened together do not probe together."""
SHARE_AT_FIRST: Final = 0.05
"""Where the ramp begins."""

_STATES: Final = {STATE_CLOSED: BreakerState.CLOSED, STATE_HALF_OPEN: BreakerState.HALF_OPEN, STATE_OPEN: BreakerState.OPEN}


class _Failure(Exception):  # noqa: N818 - never leaves this module
    """What pybreaker is told about a call that failed or was slow."""


def _went_well() -> None:
    pass


def _went_wrong() -> NoReturn:
    raise _Failure


_NOBODYS: Final = object()
UNCOUNTED: Final = object()
"""The permit of a call that an enforced breaker would have refused: its result says nothing."""


class Breaker:
    """The breaker of one endpoint. `changed` is called when `blocked`, `guarded` or the state may have changed."""

    __slots__ = (
        "_changed", "_circuit", "_closed_at", "due", "forced", "healthy", "opened_at", "permit", "probing",
        "reason", "settings", "slow_call", "state", "trips", "window",
    )  # fmt: skip

    def __init__(self, settings: BreakerSettings, changed: Callable[[Transition | None], None]) -> None:
        self.settings = settings
        self.slow_call = settings.slow_call
        self.window = RateWindow(settings)
        self.state = BreakerState.CLOSED
        self.probing = 0
        """Probes that are not settled, of whatever generation."""
        self.trips = 0
        """Openings in a row."""
        self.opened_at = -NEVER
        self.due = NEVER
        """When time alone changes something: see `advance`."""
        self.forced: Forced | None = None
        self.reason = ""
        """Of the last transition."""
        self._closed_at = -NEVER
        self._changed = changed
        self._circuit = CircuitBreaker(
            fail_max=1, success_threshold=settings.probes, state_storage=self.window, throw_new_error_on_trip=False
        )
        self.permit: object = self._circuit.state
        """What a call gets while nothing is refused."""
        self.healthy: object = self.permit
        """The permit for whose success an increment of `window.passed` is all there is to do; nobody's while not closed."""

    # -- may a call be made? -----------------------------------------------------------------------------------------

    @property
    def blocked(self) -> bool:
        """Nothing is admitted, whoever asks."""
        if self.forced is not None:
            return self.forced.open
        if not self.settings.enforce:
            return False
        return self.state is BreakerState.OPEN or (
            self.state is BreakerState.HALF_OPEN and self.probing >= self.settings.probes
        )

    @property
    def guarded(self) -> bool:
        """Whether `admit` must be asked; otherwise `permit` is good."""
        return self.state is not BreakerState.CLOSED

    def admit(self, now: float, chance: float, in_flight: int, *, whole: bool = True) -> object | None:
        """A permit, which must be settled; None: refused.

        `in_flight` calls are on their way to the endpoint. `whole`: the request has been received; how long another one takes
        is up to its client, so of several probes one is kept for those.
        """
        if now >= self.due:
            self.advance(now)
        if self.state is BreakerState.CLOSED:
            return self.permit
        settings = self.settings
        if self.state is BreakerState.RAMPING:
            # As many as there were probes are safe anyway, so a service with little traffic notices nothing of the ramp.
            if chance < self.share(now) or in_flight < settings.probes:
                return self.permit
        elif self.state is BreakerState.HALF_OPEN and self.probing < settings.probes - (not whole and settings.probes > 1):
            self.probing += 1
            if self.probing == settings.probes:
                self._changed(None)
            return self.permit
        return None if settings.enforce or self.forced is not None else UNCOUNTED

    def share(self, now: float) -> float:
        """Which share of the calls is admitted, of those that need luck."""
        if self.state is BreakerState.RAMPING:
            return max(SHARE_AT_FIRST, min(1.0, (now - self._closed_at) / self.settings.ramp))
        return 1.0 if self.state is BreakerState.CLOSED else 0.0

    # -- what became of it -------------------------------------------------------------------------------------------

    def succeeded(self, permit: object, now: float, seconds: float, chance: float) -> None:
        """The endpoint answered, after so many seconds."""
        self._give_back(permit)
        if permit is not self.permit:
            return
        if seconds >= self.slow_call:
            self._report(now, chance, failed=False, slow=True)
        elif self.state is BreakerState.HALF_OPEN:
            self._circuit.call(_went_well)
            self._look(now, chance, f"{self.settings.probes} probes succeeded")
        else:
            self.window.turn(now)
            self.window.passed += 1

    def failed(self, permit: object, now: float, seconds: float, chance: float) -> None:
        """The endpoint did not answer, or with an error."""
        self._give_back(permit)
        if permit is self.permit:
            self._report(now, chance, failed=True, slow=seconds >= self.slow_call)

    def abandoned(self, permit: object) -> None:
        """Nobody knows: the client left, or the gateway gave up for a reason of its own."""
        self._give_back(permit)

    def _give_back(self, permit: object) -> None:
        if isinstance(permit, CircuitBreakerState) and permit.name == STATE_HALF_OPEN:
            self.probing -= 1
            if self.state is BreakerState.HALF_OPEN and self.probing == self.settings.probes - 1:
                self._changed(None)

    def _report(self, now: float, chance: float, *, failed: bool, slow: bool) -> None:
        self.window.expect(now, failed=failed, slow=slow)
        probe = self.state is BreakerState.HALF_OPEN
        try:
            self._circuit.call(_went_wrong)
        except _Failure:
            self._look(now, chance, f"a probe {'failed' if failed else 'was slow'}" if probe else "")

    # -- transitions -------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Make the change that is due, if one is: probe after the open time, end the ramp, let go of what was forced."""
        if now < self.due:
            return
        if self.forced is not None:
            self.release(now, "the time of the override is over")
        elif self.state is BreakerState.OPEN:
            self._circuit.half_open()
            self._look(now, 0.0, "time to probe")
        elif self.state is BreakerState.RAMPING:
            self._set(BreakerState.CLOSED, NEVER, "the ramp is over")

    def force(self, forced: Forced, now: float) -> None:
        """Hold the breaker open, or closed, whatever happens, until `forced.until` or `release`."""
        self.forced = forced
        self.window.armed = forced.open
        word = f"forced by {forced.by}: {forced.reason}"
        if forced.open:
            self._circuit.open()
            self._look(now, 0.0, word)
        else:
            self._circuit.close()
            self.permit = self.healthy = self._circuit.state
            self.trips = 0
            self._set(BreakerState.CLOSED, forced.until, word)

    def release(self, now: float, reason: str) -> None:
        """End what was forced. What was held open is probed first; what was held closed goes on."""
        forced, self.forced = self.forced, None
        if forced is None:
            return
        self.window.armed = True
        if forced.open:
            self._circuit.half_open()
            self._look(now, 0.0, reason)
        else:
            self._set(BreakerState.CLOSED, NEVER, reason)

    def follow(self, state: BreakerState, until: float, now: float, reason: str, trips: int) -> None:
        """Believe the breaker of another process about the same endpoint: OPEN until an instant, or closed again.

        Whoever is there already stays as he is, and so does what an operator holds.
        """
        stopped = self.state is BreakerState.OPEN
        there = stopped if state is BreakerState.OPEN else not stopped and self.state is not BreakerState.HALF_OPEN
        if self.forced is not None or there:
            return
        if state is BreakerState.OPEN:
            self._circuit.open()
            self.permit, self.healthy = self._circuit.state, _NOBODYS
            self.opened_at = now
            self.trips = trips
            self._set(state, until, reason, max(0.0, until - now))
        else:
            self._circuit.close()
            self._look(now, 0.0, reason)

    def _look(self, now: float, chance: float, reason: str) -> None:
        """Follow pybreaker after it may have changed its state."""
        permit = self._circuit.state
        if permit is self.permit:
            return
        self.permit = permit
        state = _STATES[permit.name]
        settings = self.settings
        if state is BreakerState.OPEN:
            self.healthy = _NOBODYS
            self.opened_at = now
            if self.forced is not None:
                self._set(state, self.forced.until, reason)
                return
            if now - self._closed_at > max(settings.ramp, settings.window) and self.state is not BreakerState.HALF_OPEN:
                self.trips = 0
            lasts = min(settings.open_for * 2.0 ** min(self.trips, 64), settings.max_open_for) * (1 + JITTER * chance)
            self.trips += 1
            self._set(state, now + lasts, reason or self._rates(), lasts)
        elif state is BreakerState.HALF_OPEN:
            self.healthy = _NOBODYS
            self._set(state, NEVER, reason)
        else:
            self.healthy = self.permit
            self._closed_at = now
            if settings.ramp:
                self._set(BreakerState.RAMPING, now + settings.ramp, reason, settings.ramp)
            else:
                self._set(state, NEVER, reason)

    def _rates(self) -> str:
        seen = self.window.seen
        slow = f", {seen.slow} were slow" if seen.slow else ""
        return f"{seen.failed} of {seen.calls} calls failed{slow}, in {self.settings.window:g} s"

    def _set(self, state: BreakerState, due: float, reason: str, lasts: float = 0.0) -> None:
        before, self.state = self.state, state
        self.due = due
        self.reason = reason
        self._changed(Transition(before, state, reason, lasts) if before is not state else None)
