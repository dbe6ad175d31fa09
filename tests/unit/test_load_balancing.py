"""Load balancing: which endpoint takes the next attempt."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.load_balancing import Algorithm, balancer

weights_lists = st.lists(st.integers(1, 100), min_size=1, max_size=8)
chances = st.floats(0, 1, exclude_max=True)


@dataclass
class Endpoint:
    """What a balancer may know."""

    weight: int = 1
    in_flight: int = 0


def group(weights: list[int]) -> list[Endpoint]:
    """Idle endpoints of these weights."""
    return [Endpoint(weight) for weight in weights]


@given(st.sampled_from(Algorithm), weights_lists, chances, st.integers(-1, 7))
def test_every_pick_is_an_endpoint(algorithm: Algorithm, weights: list[int], chance: float, avoid: int) -> None:
    """A pick is always a valid index, and the avoided endpoint only when it is the only one."""
    endpoints = group(weights)

    picked = balancer(algorithm, weights).pick(endpoints, chance, avoid)

    assert 0 <= picked < len(endpoints)
    assert picked != avoid or len(endpoints) == 1


@given(weights_lists)
def test_round_robin_is_exact_over_one_cycle(weights: list[int]) -> None:
    """In one cycle every endpoint comes as often as its weight says."""
    policy, endpoints = balancer(Algorithm.ROUND_ROBIN, weights), group(weights)

    picked = Counter(policy.pick(endpoints, 0.0) for _ in range(sum(weights)))

    assert picked == dict(enumerate(weights))


def test_round_robin_is_smooth() -> None:
    """A heavy endpoint's turns are spread, not taken in one burst."""
    policy, endpoints = balancer(Algorithm.ROUND_ROBIN, [4, 1, 1]), group([4, 1, 1])

    assert [policy.pick(endpoints, 0.0) for _ in range(6)] == [0, 0, 1, 0, 2, 0]


def test_round_robin_skips_the_endpoint_that_failed() -> None:
    """A retry goes to another endpoint, even when the failed one is far heavier."""
    policy, endpoints = balancer(Algorithm.ROUND_ROBIN, [100, 1]), group([100, 1])

    assert {policy.pick(endpoints, 0.0, avoid=0) for _ in range(10)} == {1}


@given(chances)
def test_two_choices_of_two_takes_the_less_loaded(chance: float) -> None:
    """Of two endpoints of equal weight, the one with fewer exchanges in flight is taken, whatever the draw."""
    endpoints = [Endpoint(in_flight=5), Endpoint(in_flight=2)]

    assert balancer(Algorithm.TWO_CHOICES, [1, 1]).pick(endpoints, chance) == 1


def test_two_choices_counts_load_per_weight() -> None:
    """Four exchanges on a weight of 4 are less load than two on a weight of 1."""
    endpoints = [Endpoint(weight=4, in_flight=4), Endpoint(weight=1, in_flight=2)]
    policy = balancer(Algorithm.TWO_CHOICES, [4, 1])

    assert {policy.pick(endpoints, step / 100) for step in range(100)} == {0}


def test_two_choices_follows_the_weights_when_idle() -> None:
    """Idle endpoints are drawn in proportion to their weight."""
    endpoints = group([3, 1])
    policy = balancer(Algorithm.TWO_CHOICES, [3, 1])

    picked = Counter(policy.pick(endpoints, step / 12_000) for step in range(12_000))

    assert picked[0] / 12_000 == pytest.approx(0.75, abs=0.01)


def test_two_choices_spreads_load_evenly() -> None:
    """With equal weights no endpoint gets far ahead when every exchange stays in flight."""
    endpoints = group([1] * 5)
    policy = balancer(Algorithm.TWO_CHOICES, [1] * 5)
    state = 1
    for _ in range(5000):
        state = state * 6364136223846793005 % (1 << 64) + 1442695040888963407
        endpoints[policy.pick(endpoints, (state >> 11 & ((1 << 53) - 1)) / (1 << 53))].in_flight += 1

    loads = [endpoint.in_flight for endpoint in endpoints]
    assert max(loads) - min(loads) <= 10
