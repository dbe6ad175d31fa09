"""Flow control and the lazily moved timer, without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

from gateway.policies import NEVER
from gateway.proxy.connection import Alarm, Connection
from tests.support import PATIENCE
from tests.unit.fakes import RecordingTransport


class CountingLoop(asyncio.SelectorEventLoop):
    """A loop that counts the timers it is given."""

    timers = 0

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """Count, and do it."""
        self.timers += 1
        return super().call_later(delay, callback, *args, context=context)


class Source:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def hold(self) -> None:
        """Stop."""
        self.told.append("hold")

    def release(self) -> None:
        """Go on."""
        self.told.append("release")


def test_a_full_transport_holds_the_source_and_marks_the_time() -> None:
    """Who writes to a connection is told when it is full and when it is not; a stall has a beginning."""
    connection, source = Connection(), Source()
    connection.adopt(RecordingTransport())
    connection.source = source
    before = monotonic()
    connection.pause_writing()
    full, since = connection.write_paused, connection.stalled_since
    connection.resume_writing()

    assert (full, connection.write_paused, connection.stalled_since) == (True, False, NEVER)
    assert before <= since <= monotonic()
    assert source.told == ["hold", "release"]


def test_a_peer_that_takes_bytes_slowly_has_not_stalled() -> None:
    """Any progress since the look before moves the beginning of the stall; none does not."""
    connection, transport = Connection(), RecordingTransport()
    connection.adopt(transport)
    transport.unsent = 1000
    connection.pause_writing()
    began = connection.stalled_since
    connection.check_progress(began + 5)
    connection.check_progress(began + 6)
    assert connection.stalled_since == began + 5
    transport.unsent = 999
    connection.check_progress(began + 7)
    connection.check_progress(began + 8)

    assert connection.stalled_since == began + 7


def test_reading_is_paused_and_resumed_once() -> None:
    """Both are idempotent, though asyncio's own are not."""
    connection, transport = Connection(), RecordingTransport()
    connection.adopt(transport)
    for call in (
        connection.resume_reading,
        connection.pause_reading,
        connection.pause_reading,
        connection.resume_reading,
        connection.resume_reading,
    ):
        call()

    assert transport.calls == ["pause", "resume"]


def test_a_closing_transport_is_left_alone() -> None:
    """What is closing is neither paused nor resumed."""
    connection, transport = Connection(), RecordingTransport()
    connection.adopt(transport)
    connection.pause_reading()
    transport.closing = True
    connection.resume_reading()
    connection.pause_reading()

    assert transport.calls == ["pause"]


def rings(loop: CountingLoop, play: Callable[[Alarm], None], for_seconds: float = 0.0) -> list[float]:
    """When an alarm rings, in seconds since the start, if a test plays with it: until it has rung, or for so long."""
    rung: list[float] = []

    def ring(now: float) -> None:
        rung.append(now - begun)
        if not for_seconds:
            # Once more round: a second one that is due as well would ring now.
            loop.call_soon(loop.stop)

    begun = monotonic()
    alarm = Alarm(loop, ring)
    play(alarm)
    loop.timers -= 1
    loop.call_later(for_seconds or PATIENCE, loop.stop)
    loop.run_forever()
    alarm.cancel()
    loop.close()
    return rung


def test_an_alarm_that_is_pushed_later_keeps_its_timer() -> None:
    """Moving a deadline forward costs no timer; it rings at the last setting, once."""
    loop = CountingLoop()

    def play(alarm: Alarm) -> None:
        now = monotonic()
        for step in range(1, 50):
            alarm.set(now + 0.02 + step / 1000, now)

    (rung,) = rings(loop, play)

    assert rung >= 0.069
    assert loop.timers <= 5


def test_an_alarm_can_be_set_earlier() -> None:
    """A nearer deadline counts at once."""

    def play(alarm: Alarm) -> None:
        now = monotonic()
        alarm.set(now + 2 * PATIENCE, now)
        alarm.set(now + 0.01, now)

    (rung,) = rings(CountingLoop(), play)

    assert rung >= 0.01


def test_a_cancelled_alarm_does_not_ring() -> None:
    """It holds nothing in the loop, and can be set anew."""

    def cancelled(alarm: Alarm) -> None:
        now = monotonic()
        alarm.set(now + 0.01, now)
        alarm.cancel()

    def anew(alarm: Alarm) -> None:
        cancelled(alarm)
        now = monotonic()
        alarm.set(now + 0.02, now)

    assert rings(CountingLoop(), cancelled, 0.05) == []
    assert len(rings(CountingLoop(), anew)) == 1


def test_an_alarm_set_to_never_does_not_ring() -> None:
    """NEVER switches it off."""

    def play(alarm: Alarm) -> None:
        now = monotonic()
        alarm.set(now + 0.01, now)
        alarm.set(NEVER, now)

    assert rings(CountingLoop(), play, 0.05) == []
