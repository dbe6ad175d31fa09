"""Load balancing: which endpoint takes the next attempt."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.load_balancing import (
    FAILED_SECONDS,
    Algorithm,
    Balancer,
    BalancingSettings,
    average_latency,
    balancer,
    decayed_latency,
    points_per_weight,
)

weights_lists = st.lists(st.integers(1, 100), min_size=1, max_size=8)
scaled_weights = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=8)
chances = st.floats(0, 1, exclude_max=True)
algorithms = st.sampled_from(Algorithm)


@dataclass
class Endpoint:
    """What a balancer may know."""

    in_flight: int = 0
    latency: float = 0.0


def idle(count: int) -> list[Endpoint]:
    """Endpoints with nothing in flight."""
    return [Endpoint() for _ in range(count)]


def policy(algorithm: Algorithm, weights: list[float], *, bound: float = 1.25, ids: list[bytes] | None = None) -> Balancer:
    """The balancer over endpoints of these weights."""
    ids = ids or [b"endpoint %d" % index for index in range(len(weights))]
    return balancer(BalancingSettings(algorithm, bound), weights, ids, points_per_weight(weights))


# -- all of them -------------------------------------------------------------------------------------------------------


@given(algorithms, scaled_weights, chances, st.integers(-1, 7), st.none() | st.binary(), st.data())
def test_every_pick_is_an_endpoint(
    algorithm: Algorithm, weights: list[float], chance: float, avoid: int, key: bytes | None, data: st.DataObject
) -> None:
    """A pick is always a valid index, and the avoided endpoint only when it is the only one, whatever the load."""
    loads = st.builds(Endpoint, st.integers(0, 50), st.floats(0, 10))
    endpoints = data.draw(st.lists(loads, min_size=len(weights), max_size=len(weights)))
    balancing = policy(algorithm, weights)

    for _ in range(3):
        picked = balancing.pick(endpoints, chance, avoid, key)

        assert 0 <= picked < len(endpoints)
        assert picked != avoid or len(endpoints) == 1


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("weights", [[1, 1, 1], [3, 1], [1.0, 0.1, 2.5, 2.5]])
def test_idle_endpoints_are_picked_by_weight(algorithm: Algorithm, weights: list[float]) -> None:
    """With nothing in flight, every algorithm gives an endpoint the share that its weight says."""
    random = Random(7)
    endpoints = idle(len(weights))
    balancing = policy(algorithm, weights, bound=math.inf)

    picked = Counter(balancing.pick(endpoints, random.random()) for _ in range(20_000))

    for index, weight in enumerate(weights):
        assert picked[index] / 20_000 == pytest.approx(weight / sum(weights), abs=0.015)


@pytest.mark.parametrize("algorithm", [kind for kind in Algorithm if kind is not Algorithm.ROUND_ROBIN])
@pytest.mark.parametrize("weights", [[1, 1, 1], [4, 2, 1]])
def test_a_slow_endpoint_gets_proportionally_less(algorithm: Algorithm, weights: list[int]) -> None:
    """Of endpoints under the same load, the one that holds each exchange ten times longer is given far fewer of them."""
    random = Random(11)
    endpoints = idle(3)
    balancing = policy(algorithm, [float(weight) for weight in weights])
    picked: Counter[int] = Counter()
    ends: list[tuple[float, int]] = []
    for step in range(6000):
        now = step * 0.001
        for end, index in [one for one in ends if one[0] <= now]:
            endpoints[index].in_flight -= 1
            ends.remove((end, index))
        index = balancing.pick(endpoints, random.random())
        seconds = 0.05 if index == 0 else 0.005
        endpoints[index].in_flight += 1
        endpoints[index].latency = seconds
        ends.append((now + seconds, index))
        picked[index] += 1

    fair = weights[0] / sum(weights)
    assert picked[0] / 6000 < fair * 0.7


# -- two choices -------------------------------------------------------------------------------------------------------


@given(chances)
def test_two_choices_of_two_takes_the_less_loaded(chance: float) -> None:
    """Of two endpoints of equal weight, the one with fewer exchanges in flight is taken, whatever the draw."""
    endpoints = [Endpoint(in_flight=5), Endpoint(in_flight=2)]

    assert policy(Algorithm.TWO_CHOICES, [1, 1]).pick(endpoints, chance) == 1


@given(chances)
def test_two_choices_counts_load_per_weight(chance: float) -> None:
    """Four exchanges on a weight of 4 are less load than two on a weight of 1."""
    endpoints = [Endpoint(in_flight=4), Endpoint(in_flight=2)]

    assert policy(Algorithm.TWO_CHOICES, [4, 1]).pick(endpoints, chance) == 0


@given(st.sampled_from([[1.0] * 4, [1.0, 2.0, 0.5, 100.0]]), chances, st.integers(0, 3))
def test_two_choices_never_takes_the_most_loaded(weights: list[float], chance: float, worst: int) -> None:
    """The two that are drawn differ, so an endpoint with more load than any other is never taken."""
    endpoints = idle(4)
    endpoints[worst].in_flight = 1

    assert policy(Algorithm.TWO_CHOICES, weights).pick(endpoints, chance) != worst


def test_two_choices_spreads_load_evenly() -> None:
    """With equal weights no endpoint gets far ahead when every exchange stays in flight."""
    random, endpoints = Random(1), idle(5)
    balancing = policy(Algorithm.TWO_CHOICES, [1] * 5)
    for _ in range(5000):
        endpoints[balancing.pick(endpoints, random.random())].in_flight += 1

    loads = [endpoint.in_flight for endpoint in endpoints]
    assert max(loads) - min(loads) <= 10


# -- round robin -------------------------------------------------------------------------------------------------------


@given(weights_lists, chances)
def test_round_robin_is_exact_over_one_cycle(weights: list[int], chance: float) -> None:
    """In one cycle every endpoint comes as often as its weight says, but for a turn that rounding moves to the next cycle."""
    balancing, endpoints = policy(Algorithm.ROUND_ROBIN, [float(weight) for weight in weights]), idle(len(weights))

    picked = Counter(balancing.pick(endpoints, chance) for _ in range(sum(weights)))

    assert all(abs(picked[index] - weight) <= 1 for index, weight in enumerate(weights))


@given(chances)
def test_round_robin_is_smooth(chance: float) -> None:
    """A heavy endpoint's turns are spread, not taken in one burst: with 4, 1, 1 at most four stand together in two cycles."""
    balancing, endpoints = policy(Algorithm.ROUND_ROBIN, [4, 1, 1]), idle(3)

    picked = [balancing.pick(endpoints, chance) for _ in range(12)]

    assert all(len(list(run)) <= (4 if index == 0 else 1) for index, run in groupby(picked))
    assert Counter(picked)[0] in (7, 8, 9)


def test_round_robin_begins_anywhere() -> None:
    """The first turn after a change is drawn, so that frequent changes favour nobody."""
    for weights in ([1.0, 1.0, 1.0], [1.0, 1.0, 1.5]):
        first = {policy(Algorithm.ROUND_ROBIN, weights).pick(idle(3), step / 100) for step in range(100)}

        assert first == {0, 1, 2}


def test_round_robin_skips_the_endpoint_that_failed() -> None:
    """A retry goes to another endpoint, even when the failed one is far heavier."""
    balancing, endpoints = policy(Algorithm.ROUND_ROBIN, [100, 1, 1]), idle(3)

    assert {balancing.pick(endpoints, 0.0, avoid=0) for _ in range(10)} == {1, 2}


# -- least in flight ---------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 20), min_size=2, max_size=8), chances)
def test_least_in_flight_takes_the_least_loaded_of_all(loads: list[int], chance: float) -> None:
    """No endpoint has fewer exchanges in flight than the one that is taken."""
    endpoints = [Endpoint(in_flight=load) for load in loads]

    picked = policy(Algorithm.LEAST_IN_FLIGHT, [1.0] * len(loads)).pick(endpoints, chance)

    assert endpoints[picked].in_flight == min(loads)


# -- latency -----------------------------------------------------------------------------------------------------------


@given(chances)
def test_latency_weighs_how_soon_an_answer_is_to_be_expected(chance: float) -> None:
    """Three exchanges of 10 ms are sooner done than one of 100 ms."""
    endpoints = [Endpoint(in_flight=0, latency=0.1), Endpoint(in_flight=2, latency=0.01)]

    assert policy(Algorithm.LATENCY, [1, 1]).pick(endpoints, chance) == 1


@given(chances)
def test_an_unknown_endpoint_gets_one_exchange_at_a_time(chance: float) -> None:
    """Nothing is known of a new endpoint: it is tried at once, and not flooded before its first answer."""
    new, known = Endpoint(), Endpoint(in_flight=9, latency=0.5)
    balancing = policy(Algorithm.LATENCY, [1, 1])

    assert balancing.pick([new, known], chance) == 0
    new.in_flight = 1
    assert balancing.pick([new, known], chance) == 1


def test_the_average_follows_a_rise_at_once_and_a_fall_slowly() -> None:
    """One slow answer counts fully; fast ones wear it off over the time of `decay`."""
    average = average_latency(0.01, 0.5, 0.001, 10.0)
    assert average == 0.5
    for _ in range(1000):
        average = average_latency(average, 0.01, 0.01, 10.0)

    assert average == pytest.approx(0.01 + 0.49 / math.e, rel=0.01)


def test_the_first_answer_is_the_average() -> None:
    """Before it nothing is known, however long ago the endpoint was made."""
    assert average_latency(0.0, 0.02, 1e9, 10.0) == 0.02
    assert average_latency(0.0, 0.02, 0.0, 10.0) == 0.02


def test_a_fast_failure_is_a_slow_answer() -> None:
    """An endpoint that fails at once is not preferred; a single failure among many is no peak."""
    once = average_latency(0.01, 0.0001, 0.01, 10.0, failed=True)
    assert 0.01 < once < 0.012
    for _ in range(10_000):
        once = average_latency(once, 0.0001, 0.01, 10.0, failed=True)

    assert once == pytest.approx(FAILED_SECONDS, rel=0.01)


def test_what_was_observed_is_forgotten_in_time() -> None:
    """An endpoint that is avoided is tried again: its average fades, and in the end nothing is known of it."""
    assert decayed_latency(0.5, 10.0, 10.0) == pytest.approx(0.5 / math.e)
    assert decayed_latency(0.5, 200.0, 10.0) == 0.0


# -- consistent hash ---------------------------------------------------------------------------------------------------

KEYS = [b"key %d" % number for number in range(4000)]


def owners(ids: list[bytes], weights: dict[bytes, float], keys: list[bytes], per_weight: float) -> list[bytes]:
    """Which endpoint each key goes to while nothing is in flight."""
    settings = BalancingSettings(Algorithm.CONSISTENT_HASH)
    balancing, endpoints = balancer(settings, [weights[name] for name in ids], ids, per_weight), idle(len(ids))
    return [ids[balancing.pick(endpoints, 0.0, key=key)] for key in keys]


def test_a_key_keeps_its_endpoint() -> None:
    """The same key goes to the same endpoint, whatever the chance, and in whatever order the endpoints are written."""
    ids = [b"a", b"b", b"c"]
    weights = dict.fromkeys(ids, 1.0)

    assert owners(ids, weights, KEYS, 160.0) == owners(ids[::-1], weights, KEYS, 160.0)
    balancing = policy(Algorithm.CONSISTENT_HASH, [1, 1, 1])
    assert len({balancing.pick(idle(3), step / 50, key=b"k") for step in range(50)}) == 1


@given(st.integers(2, 12), st.integers(0, 1000))
def test_when_an_endpoint_leaves_only_its_keys_move(count: int, seed: int) -> None:
    """Every key of another endpoint stays where it was; the keys that move are about one in n."""
    ids = [b"%d of %d" % (index, seed) for index in range(count)]
    weights = dict.fromkeys(ids, 1.0)
    gone, rest = ids[0], ids[1:]
    before = owners(ids, weights, KEYS[:800], 160.0)
    after = owners(rest, weights, KEYS[:800], 160.0)

    assert all(new == old for old, new in zip(before, after, strict=True) if old != gone)
    assert before.count(gone) <= 800 / count * 1.6


def test_a_lighter_endpoint_only_gives_keys_away() -> None:
    """When the weight of an endpoint shrinks, as in slow start, no key moves between the others."""
    ids = [b"a", b"b", b"c"]
    before = owners(ids, dict.fromkeys(ids, 1.0), KEYS, 160.0)
    after = owners(ids, {b"a": 0.2, b"b": 1.0, b"c": 1.0}, KEYS, 160.0)

    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {old for old, _ in moved} == {b"a"}
    assert after.count(b"a") < before.count(b"a") * 0.35


def test_keys_are_spread_by_weight() -> None:
    """An endpoint's share of many keys is that of its weight, within what the number of points allows."""
    ids = [b"a", b"b", b"c", b"d"]
    weights = {b"a": 4.0, b"b": 2.0, b"c": 1.0, b"d": 1.0}

    found = Counter(owners(ids, weights, KEYS, points_per_weight(list(weights.values()))))

    for name in ids:
        assert found[name] / len(KEYS) == pytest.approx(weights[name] / 8, rel=0.35)


@given(
    st.lists(st.floats(0.1, 10.0), min_size=2, max_size=6),
    st.sampled_from([1.0, 1.25, 2.0]),
    st.lists(st.sampled_from([b"hot", b"warm", b"cold"]), min_size=1, max_size=60),
)
def test_no_endpoint_exceeds_its_bound(weights: list[float], bound: float, keys: list[bytes]) -> None:
    """However hot a key, no endpoint has more in flight than ceil(bound × its share of all that is in flight)."""
    endpoints = idle(len(weights))
    balancing = policy(Algorithm.CONSISTENT_HASH, weights, bound=bound)
    for sent, key in enumerate(keys, start=1):
        index = balancing.pick(endpoints, 0.5, key=key)
        endpoints[index].in_flight += 1

        assert endpoints[index].in_flight <= math.ceil(bound * sent * weights[index] / sum(weights) + 1e-9)


def test_an_overloaded_endpoint_keeps_its_keys_up_to_the_bound() -> None:
    """Keys spill to the next endpoint only beyond the bound; without a bound they never do."""
    unbounded, endpoints = policy(Algorithm.CONSISTENT_HASH, [1, 1, 1], bound=math.inf), idle(3)
    home = unbounded.pick(endpoints, 0.0, key=b"hot")
    endpoints[home].in_flight = 100

    assert unbounded.pick(endpoints, 0.0, key=b"hot") == home
    bounded = policy(Algorithm.CONSISTENT_HASH, [1, 1, 1])
    spilled = bounded.pick(endpoints, 0.0, key=b"hot")
    assert spilled != home
    assert bounded.pick(endpoints, 0.9, key=b"hot") == spilled


def test_a_large_group_has_a_bounded_ring() -> None:
    """The number of points per weight falls with the number of endpoints, so that a ring is built in milliseconds."""
    assert points_per_weight([1, 1, 2]) == 160
    assert points_per_weight([1] * 1024) * 1024 == pytest.approx(32_768)
    assert points_per_weight([100] * 10) * 1000 == pytest.approx(1600)
