"""A sliding window of calls, as the storage of pybreaker."""

from __future__ import annotations

from typing import Final

from pybreaker import STATE_CLOSED, CircuitMemoryStorage

from gateway.policies import NEVER
from gateway.policies.circuit_breaker.settings import BreakerSettings, Counts

BUCKETS: Final = 10
"""Parts of the window: results leave it a tenth of it at a time."""


class RateWindow(CircuitMemoryStorage):
    """pybreaker's storage as a sliding window: ten buckets of calls, failed calls and slow calls.

    `turns_at` and `passed` are the fast path: while `now < turns_at`, a call that went well is `passed += 1`.
    pybreaker reads `counter` after each failure and opens at `fail_max` = 1: here it is the number of rates that are too high.
    """

    def __init__(self, settings: BreakerSettings) -> None:
        super().__init__(STATE_CLOSED)
        self.passed = 0
        """Calls of the current bucket that went well."""
        self.turns_at = -NEVER
        """When the current bucket ends."""
        self.armed = True
        """False while an operator holds the breaker closed: it counts and never opens."""
        self.seen = Counts()
        """What was in the window when it was last judged."""
        self._settings = settings
        self._width = settings.window / BUCKETS
        self._at = 0
        self._failed_now = self._slow_now = False
        self._clear()

    def _clear(self) -> None:
        self.passed = 0
        self._calls = [0] * BUCKETS
        self._failed = [0] * BUCKETS
        self._slow = [0] * BUCKETS

    def turn(self, now: float) -> None:
        """Begin the bucket that `now` is in, if that is a new one, and forget those that are too old."""
        if now < self.turns_at:
            return
        self._calls[self._at] += self.passed
        self.passed = 0
        if now - self.turns_at >= self._settings.window:
            self._clear()
            self.turns_at = now + self._width
            return
        while self.turns_at <= now:
            self._at = (self._at + 1) % BUCKETS
            self._calls[self._at] = self._failed[self._at] = self._slow[self._at] = 0
            self.turns_at += self._width

    def counts(self, now: float) -> Counts:
        """What is in the window at `now`."""
        self.turn(now)
        return Counts(sum(self._calls) + self.passed, sum(self._failed), sum(self._slow))

    def expect(self, now: float, *, failed: bool, slow: bool) -> None:
        """What kind of call pybreaker is about to report."""
        self.turn(now)
        self._failed_now, self._slow_now = failed, slow

    # -- what pybreaker asks -----------------------------------------------------------------------------------------

    def increment_counter(self) -> None:
        """A failure."""
        self._calls[self._at] += 1
        self._failed[self._at] += self._failed_now
        self._slow[self._at] += self._slow_now

    def reset_counter(self) -> None:
        """pybreaker calls this for every success and while closing. A rate is not reset by a success."""

    @property
    def counter(self) -> int:
        """How many of the two rates are too high."""
        settings = self._settings
        seen = self.seen = Counts(sum(self._calls) + self.passed, sum(self._failed), sum(self._slow))
        if not self.armed or seen.calls < settings.min_requests:
            return 0
        slow = settings.slow_call < NEVER and seen.slow >= settings.slow_rate * seen.calls
        return (seen.failed >= settings.failure_rate * seen.calls) + slow

    @property
    def state(self) -> str:
        """pybreaker's word for the state."""
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        """Every transition begins a new window. (pybreaker calls `reset_counter` before, so it cannot be done there.)"""
        self._state = state
        self._clear()

    @property
    def opened_at(self) -> None:
        """Wall clock time has no say here: `Breaker.opened_at` is what counts."""
        return

    @opened_at.setter
    def opened_at(self, datetime: object) -> None:
        pass
