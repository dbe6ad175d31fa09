"""Which endpoint takes the next attempt: two choices on load (default) or weighted round robin.

The policy sees endpoints only as indexes with a weight and a number of exchanges in flight; it never learns addresses.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol


class Loaded(Protocol):
    """What the policy may know about an endpoint."""

    @property
    def weight(self) -> int: ...
    @property
    def in_flight(self) -> int: ...


class Algorithm(Enum):
    """The words of `load_balancing:`."""

    TWO_CHOICES = "two_choices"
    ROUND_ROBIN = "round_robin"


class Balancer(Protocol):
    """Picks the index of one of the endpoints. `chance` is uniform in [0, 1)."""

    def pick(self, endpoints: Sequence[Loaded], chance: float, avoid: int = -1) -> int: ...


class TwoChoices:
    """Draw two by weight, take the one with fewer exchanges in flight per weight (the power of two choices)."""

    __slots__ = ("_ladder", "_total")

    def __init__(self, weights: Sequence[int]) -> None:
        # Entry i stands for one unit of weight: drawing an entry draws an endpoint in proportion to its weight.
        self._ladder = tuple(index for index, weight in enumerate(weights) for _ in range(weight))
        self._total = len(self._ladder)

    def pick(self, endpoints: Sequence[Loaded], chance: float, avoid: int = -1) -> int:
        """`avoid` is the index of the endpoint that has just failed; it is taken only when it is the only one."""
        if len(endpoints) == 1:
            return 0
        total = self._total
        scaled = chance * total
        first_at = int(scaled)
        first = self._ladder[first_at]
        # The fraction left over is uniform again: one random number serves both draws.
        second = self._ladder[(first_at + 1 + int((scaled - first_at) * (total - 1))) % total]
        if first == avoid or second == avoid:
            return self._other(endpoints, first if second == avoid else second, avoid)
        a, b = endpoints[first], endpoints[second]
        return first if a.in_flight * b.weight <= b.in_flight * a.weight else second

    def _other(self, endpoints: Sequence[Loaded], drawn: int, avoid: int) -> int:
        if drawn != avoid:
            return drawn
        others = [index for index in range(len(endpoints)) if index != avoid]
        return min(others, key=lambda index: endpoints[index].in_flight / endpoints[index].weight)


class RoundRobin:
    """Smooth weighted round robin: heavier endpoints come more often, evenly spread, never in bursts."""

    __slots__ = ("_next", "_order")

    def __init__(self, weights: Sequence[int]) -> None:
        self._order = _smooth_order(weights)
        self._next = 0

    def pick(self, endpoints: Sequence[Loaded], chance: float, avoid: int = -1) -> int:
        """See `Balancer.pick`; `chance` is not used."""
        for _ in range(len(self._order)):
            index = self._order[self._next]
            self._next = (self._next + 1) % len(self._order)
            if index != avoid:
                return index
        return self._order[self._next]


def _smooth_order(weights: Sequence[int]) -> tuple[int, ...]:
    """One full cycle of nginx's smooth weighted round robin."""
    total = sum(weights)
    current = [0] * len(weights)
    order = []
    for _ in range(total):
        for index, weight in enumerate(weights):
            current[index] += weight
        best = max(range(len(weights)), key=current.__getitem__)
        current[best] -= total
        order.append(best)
    return tuple(order)


def balancer(algorithm: Algorithm, weights: Sequence[int]) -> Balancer:
    """The balancer for a group of endpoints with these weights (each 1 to 100)."""
    return TwoChoices(weights) if algorithm is Algorithm.TWO_CHOICES else RoundRobin(weights)
