"""A group of endpoints: who is available, with what share, and what changes it."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.endpoints import Endpoint, EndpointGroup, GroupSettings, introduce
from gateway.policies.ejection import EjectionSettings
from gateway.policies.health import AvailabilitySettings, EndpointState

SETTINGS = GroupSettings(ejection=EjectionSettings(failures=3))


class Witness:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def changed(self, endpoint: Endpoint, before: EndpointState) -> None:
        """Write it down."""
        self.told.append(f"{endpoint.url} {before.value}>{endpoint.state.value}")

    def spared(self, endpoint: Endpoint) -> None:
        """Write it down."""
        self.told.append(f"{endpoint.url} is spared")

    def panic_changed(self, group: EndpointGroup) -> None:
        """Write it down."""
        self.told.append(f"panic {group.panic}")


def endpoint(name: str, *, weight: int = 1, backup: bool = False) -> Endpoint:
    """An endpoint."""
    return Endpoint(name, host=name, port=1, path="", tls=False, weight=weight, authority=b"a", backup=backup)


def group(names: str, settings: GroupSettings = SETTINGS) -> EndpointGroup:
    """A group with an endpoint per letter; capitals are backups."""
    made = EndpointGroup([endpoint(name, backup=name.isupper()) for name in names], settings)
    made.take_over(Witness())
    return made


def names(made: EndpointGroup) -> str:
    """Who is available."""
    return "".join(one.url for one in made.available)


def told(made: EndpointGroup) -> list[str]:
    """What the watcher was told."""
    assert isinstance(made.watcher, Witness)
    return made.watcher.told


def fail(made: EndpointGroup, name: str, times: int, now: float = 100.0) -> float:
    """So many failed exchanges; for how long it is ejected after the last."""
    one = next(one for one in made.endpoints if one.url == name)
    return [made.failed(one, "connection_refused", now, 0.5) for _ in range(times)][-1]


def down(made: EndpointGroup, names: str, now: float = 100.0) -> None:
    """The probes of these have come to the verdict that they are unhealthy."""
    for one in made.endpoints:
        if one.url in names:
            made.probed(one, "status 500", now, up=False)


def test_failures_in_a_row_eject() -> None:
    """The third failure in a row ejects, and not the third in all."""
    made = group("abc")
    assert fail(made, "a", 2) == 0.0
    made.endpoints[0].failures = made.endpoints[0].errors = 0
    assert fail(made, "a", 2) == 0.0
    assert names(made) == "abc"

    assert fail(made, "a", 1) == pytest.approx(30.0)
    assert names(made) == "bc"
    assert made.endpoints[0].why == "3 failures in a row, the last: connection_refused"
    assert told(made) == ["a healthy>ejected"]


def test_an_ejection_ends_by_time_and_the_way_back_is_ramped() -> None:
    """`due` says when to look; then the endpoint starts from a tenth of its weight and grows each second."""
    made = group("ab")
    fail(made, "a", 3)
    assert made.due == pytest.approx(130.0)
    shares = []
    for now in (129.0, 131.0, 136.0, 141.5):
        made.tick(now)
        shares.append(made.endpoints[0].share if "a" in names(made) else 0.0)

    assert shares == pytest.approx([0.0, 0.1, 0.55, 1.0])
    assert made.due == float("inf")
    assert [line[2:] for line in told(made)] == ["healthy>ejected", "ejected>slow_start", "slow_start>healthy"]


def test_a_share_is_a_share_of_the_picks() -> None:
    """Half-way up its ramp, an endpoint is drawn half as often as its equal."""
    made = group("ab")
    fail(made, "a", 3)
    made.tick(131.0)
    made.tick(136.0)
    for one in made.endpoints:
        one.in_flight = 0
    # As if both were always equally loaded: with nothing in flight the first that is drawn is taken.
    picked = Counter(one.url for one in (made.pick((at + 0.5) / 1000) for at in range(1000)) if one is not None)

    assert picked["a"] / picked["b"] == pytest.approx(0.55, abs=0.02)


def test_a_second_ejection_lasts_longer() -> None:
    """The second in a row lasts twice as long as the first."""
    made = group("ab")
    fail(made, "a", 3)
    made.tick(131.0)

    assert fail(made, "a", 3, 132.0) == pytest.approx(60.0)


@pytest.mark.parametrize("size,ejected", [("a", ""), ("ab", "a"), ("abc", "a"), ("abcd", "ab"), ("abcde", "ab")])
def test_half_of_the_endpoints_may_be_ejected(size: str, ejected: str) -> None:
    """Whatever fails, the share in `max_ejected` is kept, and the last endpoint stays."""
    made = group(size)
    for name in size:
        fail(made, name, 3)

    assert "".join(one.url for one in made.endpoints if one.state is EndpointState.EJECTED) == ejected
    assert names(made) == size[len(ejected) :]
    assert not made.panic


def test_without_ejection_failures_change_nothing() -> None:
    """`ejection: off`, and neither does `Retry-After`."""
    made = group("abc", GroupSettings())
    fail(made, "a", 100)
    made.rest(made.endpoints[0], 503, 10.0, 100.0)

    assert names(made) == "abc"


def test_failures_of_an_ejected_endpoint_do_not_prolong_the_ejection() -> None:
    """What was in flight when it was ejected ends badly too, and counts once."""
    made = group("abc")
    fail(made, "a", 3)
    until = made.endpoints[0].ejected_until
    fail(made, "a", 30, 101.0)

    assert made.endpoints[0].ejected_until == until


# -- panic -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "all_of_them,unhealthy,available,panic",
    [
        ("a", "a", "a", True),
        ("ab", "a", "b", False),
        ("ab", "ab", "ab", True),
        ("abc", "ab", "c", False),
        ("abc", "abc", "abc", True),
        ("abcd", "ab", "cd", False),
        ("abcd", "abc", "abcd", True),
    ],
)
def test_panic(all_of_them: str, unhealthy: str, available: str, panic: bool) -> None:
    """With less than half of the endpoints healthy (rounded down, at least one) all are used."""
    made = group(all_of_them)
    down(made, unhealthy)

    assert (names(made), made.panic) == (available, panic)
    assert all(one.share == 1.0 for one in made.available)


def test_panic_is_told_and_ends() -> None:
    """When enough are healthy again, health counts again."""
    made = group("ab")
    down(made, "ab")
    made.probed(made.endpoints[0], "", 110.0, up=True)

    assert names(made) == "a"
    assert [line for line in told(made) if "panic" in line] == ["panic True", "panic False"]


def test_without_panic_nobody_is_available() -> None:
    """`panic: off`: unhealthy means unused, to the last one."""
    made = group("ab", GroupSettings(availability=AvailabilitySettings(panic=0.0)))
    down(made, "ab")

    assert names(made) == ""
    assert made.pick(0.5) is None


def test_panic_obeys_breakers() -> None:
    """An open breaker keeps its endpoint out even when health is ignored; with all open nobody is available."""
    made = group("abcd")
    down(made, "abc")
    made.endpoints[0].breaker_open = True
    made.refresh(101.0)
    assert (names(made), made.panic) == ("bcd", True)

    for one in made.endpoints:
        one.breaker_open = True
    made.refresh(102.0)
    assert made.pick(0.5) is None


# -- backups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unhealthy,available,panic",
    [("", "abcd", False), ("ab", "cd", False), ("abc", "dXY", False), ("abcd", "XY", False), ("abcdX", "abcd", True)],
)
def test_backups_help_before_there_is_panic(unhealthy: str, available: str, panic: bool) -> None:
    """Backups take part when too few others are healthy; panic begins when that is too few still."""
    made = group("abcdXY")
    down(made, unhealthy)

    assert (names(made), made.panic) == (available, panic)


# -- rest --------------------------------------------------------------------------------------------------------------


def test_an_endpoint_that_asks_for_a_rest_gets_it() -> None:
    """503 with `Retry-After`: nothing until then, and a slow start after it."""
    made = group("ab")
    made.rest(made.endpoints[0], 503, 7.0, 100.0)
    assert (names(made), made.endpoints[0].state, made.due) == ("b", EndpointState.RESTING, 107.0)

    made.tick(108.0)
    assert (names(made), made.endpoints[0].state) == ("ab", EndpointState.SLOW_START)


def test_429_halves_the_share() -> None:
    """Mostly one client is meant by it: the endpoint stays available, with half of its weight, and is back at once."""
    made = group("ab")
    made.rest(made.endpoints[0], 429, 7.0, 100.0)
    assert (names(made), made.endpoints[0].share) == ("ab", 0.5)

    made.tick(108.0)
    assert (made.endpoints[0].share, made.endpoints[0].state) == (1.0, EndpointState.HEALTHY)


def test_no_rest_for_the_last() -> None:
    """When all ask for it, all are used as if none had; that is no panic."""
    made = group("ab")
    for one in made.endpoints:
        made.rest(one, 503, 20.0, 100.0)

    assert (names(made), made.panic) == ("ab", False)
    assert [one.share for one in made.endpoints] == [1.0, 1.0]


def test_a_rest_is_neither_prolonged_nor_without_end() -> None:
    """The first `Retry-After` counts until it is over, and for half a minute at most."""
    made = group("ab")
    made.rest(made.endpoints[0], 503, 3600.0, 100.0)
    made.rest(made.endpoints[0], 503, 3600.0, 129.0)

    assert made.endpoints[0].rest_until == 130.0


# -- newcomers ---------------------------------------------------------------------------------------------------------


def test_a_new_endpoint_is_ramped() -> None:
    """What is added to those that are there starts from a tenth, and with probes only after the first."""
    made = group("ab")
    new = endpoint("c")
    introduce([*made.endpoints, new], made.endpoints, 200.0, probed=False)
    made.replace([*made.endpoints, new], 200.0)
    assert (names(made), new.group) == ("abc", made)
    assert new.share == pytest.approx(0.1)

    probed = endpoint("d")
    introduce([*made.endpoints, probed], made.endpoints, 200.0, probed=True)
    made.replace([*made.endpoints, probed], 200.0)
    assert names(made) == "abc"
    made.probed(probed, "", 201.0, up=True)
    assert names(made) == "abcd"
    assert probed.share == pytest.approx(0.1)


def test_all_new_is_no_news() -> None:
    """When none stays, nobody waits: there is no one else to serve."""
    made = group("ab")
    new = [endpoint("c"), endpoint("d")]
    introduce(new, made.endpoints, 200.0, probed=True)
    made.replace(new, 200.0)

    assert names(made) == "cd"
    assert [one.share for one in new] == [1.0, 1.0]


# -- whatever happens --------------------------------------------------------------------------------------------------

events = st.tuples(st.sampled_from(["fail", "down", "up", "rest", "limit", "open", "close", "tick"]), st.integers(0, 4))


@given(st.integers(1, 5), st.integers(0, 2), st.lists(events, max_size=60))
def test_somebody_serves_while_a_breaker_is_closed(primaries: int, backups: int, happened: list[tuple[str, int]]) -> None:
    """Whatever happens, with panic on, someone is available unless all breakers are open; all shares are above 0."""
    made = group("abcde"[:primaries] + "XY"[:backups])
    for step, (what, index) in enumerate(happened):
        now, one = 100.0 + step, made.endpoints[index % len(made.endpoints)]
        if what == "fail":
            made.failed(one, "http_503", now, 0.5)
        elif what in ("down", "up"):
            made.probed(one, "", now, up=what == "up")
        elif what in ("rest", "limit"):
            made.rest(one, 503 if what == "rest" else 429, 3.0, now)
        elif what in ("open", "close"):
            one.breaker_open = what == "open"
            made.refresh(now)
        else:
            made.tick(now)
        closed = [other for other in made.endpoints if not other.breaker_open]
        assert bool(made.available) is bool(closed)
        assert all(other in closed and 0.0 < other.share <= 1.0 for other in made.available)
        assert made.pick(0.3) in (made.available or (None,))


def test_labels_are_unique_and_ids_follow_them() -> None:
    """Endpoints at several addresses of one name differ in label and id; without an address the URL is both."""
    made = [
        Endpoint(url, host="h", port=1, path="", tls=False, weight=1, authority=b"h", address=address)
        for url, address in product(("http://a", "http://b"), ("10.0.0.1", "10.0.0.2", ""))
    ]

    assert len({one.label for one in made}) == len({one.id for one in made}) == 6
    assert (made[0].label, made[2].label, made[2].address) == ("http://a (10.0.0.1)", "http://a", "h")
