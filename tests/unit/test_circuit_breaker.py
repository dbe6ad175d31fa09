"""The circuit breaker as a decision: windows, transitions, permits, and a model of what must hold whatever happens."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.policies import NEVER
from gateway.policies.circuit_breaker import (
    UNCOUNTED,
    Breaker,
    BreakerSettings,
    BreakerState,
    Counts,
    Forced,
    RateWindow,
    Transition,
)

SETTINGS: Final = BreakerSettings(min_requests=4, open_for=5.0, max_open_for=30.0, ramp=10.0)


class Bench:
    """A breaker, a clock that the test moves, and what was told."""

    def __init__(self, settings: BreakerSettings = SETTINGS) -> None:
        self.now = 100.0
        self.told: list[Transition] = []
        self.changes = 0
        self.breaker = Breaker(settings, self._changed)

    def _changed(self, transition: Transition | None) -> None:
        self.changes += 1
        if transition is not None:
            self.told.append(transition)

    def admit(self, chance: float = 0.99, in_flight: int = 100, *, whole: bool = True) -> object | None:
        """Ask."""
        return self.breaker.admit(self.now, chance, in_flight, whole=whole)

    def good(self, times: int = 1, seconds: float = 0.0) -> None:
        """Calls that succeed."""
        for _ in range(times):
            self.breaker.succeeded(self.admitted(), self.now, seconds, 0.0)

    def bad(self, times: int = 1, chance: float = 0.0) -> None:
        """Calls that fail."""
        for _ in range(times):
            self.breaker.failed(self.admitted(), self.now, 0.0, chance)

    def admitted(self) -> object:
        """A permit that must be given."""
        permit = self.admit(chance=0.0)
        assert permit is not None
        return permit

    def after(self, seconds: float) -> Bench:
        """Let time pass."""
        self.now += seconds
        self.breaker.advance(self.now)
        return self

    @property
    def state(self) -> str:
        """The state's word."""
        return self.breaker.state.value


@pytest.fixture
def bench() -> Bench:
    """A closed breaker."""
    return Bench()


def opened(settings: BreakerSettings = SETTINGS) -> Bench:
    """A breaker that has just opened."""
    bench = Bench(settings)
    bench.bad(settings.min_requests)
    assert bench.state == "open"
    return bench


def half_open(settings: BreakerSettings = SETTINGS) -> Bench:
    """A breaker that probes."""
    bench = opened(settings).after(settings.open_for)
    assert bench.state == "half_open"
    return bench


# -- the window --------------------------------------------------------------------------------------------------------


def test_a_window_forgets_what_is_too_old() -> None:
    """A call counts for at least nine tenths of the window and at most all of it."""
    window = RateWindow(BreakerSettings(window=10.0))
    window.expect(0.0, failed=True, slow=False)
    window.increment_counter()

    assert window.counts(8.99) == Counts(1, 1, 0)
    assert window.counts(10.0) == Counts()


def test_a_long_silence_empties_a_window() -> None:
    """After more than the window nothing is left, however the buckets lie."""
    window = RateWindow(BreakerSettings(window=10.0))
    window.turn(0.0)
    window.passed += 7
    assert window.counts(0.5) == Counts(7)

    assert window.counts(1000.0) == Counts()


# -- opening -----------------------------------------------------------------------------------------------------------


def test_it_opens_at_the_failure_rate(bench: Bench) -> None:
    """Two of four are 50 %: open, with the reason in words."""
    bench.good(2)
    bench.bad(1)
    assert bench.state == "closed"
    bench.bad(1)

    assert bench.state == "open"
    assert bench.told == [Transition(BreakerState.CLOSED, BreakerState.OPEN, "2 of 4 calls failed, in 10 s", 5.0)]
    assert bench.admit() is None


def test_few_calls_decide_nothing(bench: Bench) -> None:
    """Below `min_requests` even failures alone leave it closed."""
    bench.bad(3)

    assert bench.state == "closed"


def test_a_rate_counts_not_a_row(bench: Bench) -> None:
    """Successes between failures do not reset anything: pybreaker alone would never open at 60 % failures."""
    for _ in range(2):
        bench.bad(1)
        bench.good(1)

    assert bench.breaker.window.counts(bench.now) == Counts(4, 2, 0)
    bench.bad(1)
    assert bench.state == "open"


def test_slow_calls_open_it() -> None:
    """With `slow_call`, too many slow successes open it; without they do not."""
    slow = Bench(BreakerSettings(min_requests=4, slow_call=1.0, slow_rate=0.75))
    slow.good(1)
    slow.good(2, seconds=1.0)
    assert slow.state == "closed"
    slow.good(1, seconds=1.0)
    assert slow.state == "open"
    assert slow.breaker.reason == "0 of 4 calls failed, 3 were slow, in 10 s"

    patient = Bench()
    patient.good(100, seconds=1e9)
    assert patient.state == "closed"


def test_late_results_do_not_count(bench: Bench) -> None:
    """A permit from before a transition says nothing about the time after it."""
    late = [bench.admitted() for _ in range(50)]
    bench.bad(4)
    bench.after(5.0)
    for permit in late:
        bench.breaker.succeeded(permit, bench.now, 0.0, 0.0)

    assert bench.state == "half_open"
    for permit in late:
        bench.breaker.failed(permit, bench.now, 0.0, 0.0)
    assert bench.state == "half_open"
    assert bench.breaker.probing == 0


# -- open, half open, ramp ---------------------------------------------------------------------------------------------


def test_open_times_grow_to_a_cap() -> None:
    """Each opening in a row doubles the open time, up to the cap; chance adds up to a fifth."""
    bench = opened()
    lengths = [bench.breaker.due - bench.now]
    for _ in range(4):
        bench.after(bench.breaker.due - bench.now)
        bench.bad(1)
        lengths.append(bench.breaker.due - bench.now)
    assert lengths == pytest.approx([5, 10, 20, 30, 30])

    bench.after(30.0)
    bench.bad(1, chance=1.0)
    assert bench.breaker.due - bench.now == pytest.approx(36)


def test_a_long_time_closed_is_forgiven() -> None:
    """Opening after the ramp and a window's time starts with the shortest open time again."""
    bench = half_open()
    bench.good(3)
    bench.after(10.1)
    assert bench.state == "closed"
    bench.bad(4)

    assert bench.breaker.due - bench.now == pytest.approx(5)


def test_opening_in_the_ramp_is_not_forgiven() -> None:
    """An endpoint that falls over while its load grows is given twice the time."""
    bench = half_open()
    bench.good(3)
    bench.after(3.0)
    assert bench.state == "ramping"
    bench.bad(4)

    assert bench.breaker.due - bench.now == pytest.approx(10)


def test_half_open_admits_few() -> None:
    """At most three probes are out, however many ask; each that comes back makes room for one."""
    bench = half_open()
    permits = [permit for permit in (bench.admit() for _ in range(1000)) if permit is not None]
    blocked = [bench.breaker.blocked]
    bench.breaker.abandoned(permits[0])
    blocked.append(bench.breaker.blocked)

    assert (len(permits), blocked) == (3, [True, False])
    assert bench.admit() is not None
    assert bench.admit() is None


def test_probes_of_before_still_count_as_out() -> None:
    """Probes that hang while one fails are still out when it probes again: never more than three at the endpoint."""
    bench = half_open()
    hanging = [bench.admitted(), bench.admitted()]
    bench.bad(1)
    bench.after(10.0)
    assert bench.state == "half_open"

    assert bench.admit() is not None
    assert bench.admit() is None
    for permit in hanging:
        bench.breaker.failed(permit, bench.now, 0.0, 0.0)
    assert bench.state == "half_open"
    assert bench.breaker.probing == 1


def test_one_probe_is_kept_for_complete_requests() -> None:
    """Uploads take as long as their clients like, so they never hold all the permits."""
    bench = half_open()
    assert [bench.admit(whole=False) is None for _ in range(4)] == [False, False, True, True]

    assert bench.admit() is not None


def test_abandoned_probes_give_no_verdict() -> None:
    """Clients that leave neither close it nor open it nor use its permits up."""
    bench = half_open()
    for _ in range(100):
        bench.breaker.abandoned(bench.admitted())

    assert bench.state == "half_open"
    assert bench.breaker.probing == 0


def test_abandoned_calls_do_not_open_it(bench: Bench) -> None:
    """Nor do they count while it is closed."""
    for _ in range(100):
        bench.breaker.abandoned(bench.admitted())

    assert bench.breaker.window.counts(bench.now) == Counts()


def test_the_share_grows() -> None:
    """After the probes the share grows from 5 % to all in the time of the ramp, and then nobody is asked any more."""
    bench = half_open()
    bench.good(3)
    assert bench.state == "ramping"
    assert bench.admit(chance=0.051) is None
    assert bench.admit(chance=0.049) is not None
    bench.after(5.0)
    assert bench.admit(chance=0.51) is None
    assert bench.admit(chance=0.49) is not None
    assert bench.breaker.guarded
    bench.after(5.0)

    assert bench.state == "closed"
    assert not bench.breaker.guarded


def test_a_ramp_spares_who_is_nearly_idle() -> None:
    """With fewer calls on their way than there are probes, a ramp refuses nobody."""
    bench = half_open()
    bench.good(3)

    assert bench.admit(in_flight=2) is not None
    assert bench.admit(in_flight=3) is None


def test_no_ramp() -> None:
    """`ramp: 0s`: closed means closed."""
    bench = half_open(BreakerSettings(min_requests=4, ramp=0.0))
    bench.good(3)

    assert bench.state == "closed"
    assert not bench.breaker.guarded


def test_a_slow_probe_opens_it_again() -> None:
    """Slow is what it opened for, so a slow probe is no success."""
    bench = half_open(BreakerSettings(min_requests=4, slow_call=1.0))
    bench.good(1, seconds=1.0)

    assert bench.state == "open"
    assert bench.breaker.reason == "a probe was slow"


# -- shadow and forced -------------------------------------------------------------------------------------------------


def test_a_shadow_refuses_nothing() -> None:
    """It opens, probes and closes as it would, and admits everybody; what it would have refused does not count."""
    bench = opened(BreakerSettings(min_requests=4, enforce=False))
    permits = [bench.admitted() for _ in range(10)]
    assert permits == [UNCOUNTED] * 10
    assert not bench.breaker.blocked
    for permit in permits:
        bench.breaker.succeeded(permit, bench.now, 0.0, 0.0)
    assert bench.state == "open"
    bench.after(5.0)
    bench.good(3)

    assert bench.state == "ramping"
    assert bench.admit(chance=0.9) is UNCOUNTED


def test_forced_open_stays_open(bench: Bench) -> None:
    """Time does not end it before it is over; then it is probed."""
    bench.breaker.force(Forced(open=True, until=bench.now + 60, by="ann", reason="migration"), bench.now)
    assert bench.after(59.0).admit() is None
    assert bench.breaker.blocked
    assert bench.breaker.reason == "forced by ann: migration"
    bench.after(1.0)

    assert bench.state == "half_open"
    assert bench.breaker.forced is None


def test_forced_closed_never_opens() -> None:
    """Whatever fails; and once it is released it judges again."""
    bench = opened()
    bench.breaker.force(Forced(open=False, until=NEVER, by="ann", reason="false alarm"), bench.now)
    bench.bad(1000)
    bench.after(1e6)
    assert (bench.state, bench.breaker.guarded) == ("closed", False)
    bench.breaker.release(bench.now, "released")
    bench.bad(4)

    assert bench.state == "open"


def test_a_shadow_forced_open_refuses() -> None:
    """What an operator says is done."""
    bench = Bench(BreakerSettings(enforce=False))
    bench.breaker.force(Forced(open=True, until=NEVER, by="ann", reason="x"), bench.now)

    assert bench.breaker.blocked
    assert bench.admit() is None


def test_release_of_nothing_changes_nothing(bench: Bench) -> None:
    """Only what was forced can be released."""
    bench.breaker.release(bench.now, "released")

    assert (bench.state, bench.told) == ("closed", [])


# -- whatever happens --------------------------------------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """Calls that take their time, end in any way and in any order, while time passes and operators interfere."""

    @initialize(probes=st.integers(1, 4), ramp=st.sampled_from([0.0, 10.0]), slow=st.sampled_from([NEVER, 2.0]))
    def begin(self, probes: int, ramp: float, slow: float) -> None:
        """Any settings."""
        self.bench = Bench(BreakerSettings(min_requests=4, probes=probes, ramp=ramp, slow_call=slow))
        self.out: list[tuple[object, BreakerState]] = []

    @rule(chance=st.floats(0, 0.99), in_flight=st.integers(0, 9), whole=st.booleans())
    def ask(self, chance: float, in_flight: int, whole: bool) -> None:
        """A call wants to begin."""
        permit = self.bench.admit(chance, in_flight, whole=whole)
        state = self.bench.breaker.state
        if permit is None:
            assert state is not BreakerState.CLOSED
        else:
            assert state is not BreakerState.OPEN
            self.out.append((permit, state))

    @rule(data=st.data(), outcome=st.sampled_from(["succeeded", "failed", "abandoned"]), seconds=st.sampled_from([0.0, 3.0]))
    def settle(self, data: st.DataObject, outcome: str, seconds: float) -> None:
        """Any call ends, in any way."""
        if not self.out:
            return
        permit, _ = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        breaker = self.bench.breaker
        before, stale = breaker.state, permit is not breaker.permit
        if outcome == "abandoned":
            breaker.abandoned(permit)
        else:
            getattr(breaker, outcome)(permit, self.bench.now, seconds, 0.5)
        if stale or outcome == "abandoned":
            assert breaker.state is before
        elif before is BreakerState.HALF_OPEN and (outcome == "failed" or seconds >= breaker.slow_call):
            assert breaker.state is BreakerState.OPEN

    @rule(seconds=st.sampled_from([0.01, 0.9, 1.0, 5.0, 6.0, 11.0, 400.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        breaker = self.bench.breaker
        was_open = breaker.state is BreakerState.OPEN
        self.bench.after(seconds)
        assert self.bench.now < breaker.due
        if was_open and seconds >= 400 and breaker.forced is None:
            assert breaker.state is BreakerState.HALF_OPEN

    @rule(opened=st.booleans(), lasting=st.sampled_from([3.0, NEVER]))
    def force(self, opened: bool, lasting: float) -> None:
        """An operator interferes."""
        now = self.bench.now
        self.bench.breaker.force(Forced(open=opened, until=now + lasting, by="ann", reason="x"), now)
        assert self.bench.breaker.blocked is opened

    @rule()
    def release(self) -> None:
        """And lets go."""
        self.bench.breaker.release(self.bench.now, "released")

    @invariant()
    def probes_are_bounded_and_accounted_for(self) -> None:
        """Never more probes than allowed; each one that is out is one that nobody has settled."""
        if hasattr(self, "out"):
            breaker = self.bench.breaker
            assert breaker.probing == sum(state is BreakerState.HALF_OPEN for _, state in self.out) <= breaker.settings.probes

    @invariant()
    def what_is_shown_is_what_is_done(self) -> None:
        """Unguarded means closed, blocked means that nobody is admitted, and closed or ramping alone have a healthy permit."""
        if not hasattr(self, "bench"):
            return
        breaker = self.bench.breaker
        assert breaker.guarded is (breaker.state is not BreakerState.CLOSED)
        assert (breaker.healthy is breaker.permit) is (breaker.state in (BreakerState.CLOSED, BreakerState.RAMPING))
        if breaker.forced is not None:
            assert breaker.state is (BreakerState.OPEN if breaker.forced.open else BreakerState.CLOSED)
        if breaker.blocked:
            assert breaker.admit(self.bench.now, 0.0, 0) is None

    @invariant()
    def counts_are_sane(self) -> None:
        """No part is more than the whole, and an armed closed breaker is below its rates."""
        if not hasattr(self, "bench"):
            return
        breaker = self.bench.breaker
        counts = breaker.window.counts(self.bench.now)
        assert 0 <= counts.failed <= counts.calls
        assert 0 <= counts.slow <= counts.calls

    def teardown(self) -> None:
        """When all is settled nothing is out, and time and good answers always lead back to closed."""
        if not hasattr(self, "out"):
            return
        breaker = self.bench.breaker
        for permit, _ in self.out:
            breaker.abandoned(permit)
        assert breaker.probing == 0
        breaker.release(self.bench.now, "released")
        self.bench.after(1e4)
        if breaker.state is BreakerState.HALF_OPEN:
            self.bench.good(breaker.settings.probes - breaker._circuit.success_counter)
        self.bench.after(1e4)
        assert breaker.state is BreakerState.CLOSED


Machine.TestCase.settings = hypothesis_settings(max_examples=60, stateful_step_count=60, deadline=None)
TestMachine = Machine.TestCase


# -- several processes -------------------------------------------------------------------------------------------------


def test_another_ones_opening_is_followed() -> None:
    """A breaker that hears of an open one opens until the same instant, counts from there, and probes then."""
    bench = Bench()
    bench.breaker.follow(BreakerState.OPEN, bench.now + 7.0, bench.now, "theirs", 3)

    assert (bench.state, bench.breaker.due, bench.breaker.trips) == ("open", bench.now + 7.0, 3)
    assert bench.admit() is None
    assert bench.breaker.blocked
    assert [(one.after, one.reason) for one in bench.told] == [(BreakerState.OPEN, "theirs")]
    bench.after(7.0)
    assert bench.state == "half_open"
    bench.bad()
    assert bench.breaker.due == bench.now + 30.0  # 5 s, doubled three times, at most 30


@pytest.mark.parametrize("ramp,state", [(10.0, "ramping"), (0.0, "closed")])
@pytest.mark.parametrize("passed", [0.0, 5.0])
def test_another_ones_closing_is_followed(ramp: float, state: str, passed: float) -> None:
    """Open or probing, it admits again, as if its own probes had succeeded; what its probes say then does not count."""
    bench = opened(BreakerSettings(min_requests=4, open_for=5.0, ramp=ramp)).after(passed)
    probe = bench.admit()
    bench.breaker.follow(BreakerState.RAMPING, 0.0, bench.now, "theirs", 0)
    assert bench.state == state
    if probe is not None:
        bench.breaker.failed(probe, bench.now, 0.0, 0.0)
    assert bench.state == state
    bench.good(10)
    bench.bad(10)
    assert bench.state == "open"


def test_who_is_there_already_stays_as_he_is() -> None:
    """An open breaker keeps its own time, and a closed one is not sent up the ramp again."""
    bench = opened()
    due = bench.breaker.due
    bench.breaker.follow(BreakerState.OPEN, due + 100.0, bench.now, "theirs", 5)
    assert bench.breaker.due == due
    closed = Bench()
    closed.breaker.follow(BreakerState.RAMPING, 0.0, closed.now, "theirs", 0)
    assert closed.state == "closed"
    assert closed.told == []


@pytest.mark.parametrize("held_open", [True, False])
def test_an_override_follows_nobody(held_open: bool) -> None:
    """What an operator holds stays, whatever others find out."""
    bench = Bench()
    bench.breaker.force(Forced(held_open, bench.now + 60.0, "me", "because"), bench.now)
    before = bench.state
    for state in (BreakerState.OPEN, BreakerState.RAMPING):
        bench.breaker.follow(state, bench.now + 1.0, bench.now, "theirs", 1)

    assert bench.state == before
    assert bench.breaker.due == bench.now + 60.0
