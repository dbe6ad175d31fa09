"""Which endpoint takes the next attempt.

The policy sees endpoints only as indexes with a weight, a number of exchanges in flight, an average latency and an opaque
id; it never learns addresses. A balancer is built when the endpoints or their weights change, and then picks many times.

- `two_choices`: draw two by weight, take the one with less in flight per weight (Mitzenmacher, "The Power of Two Choices").
- `round_robin`: in turn, by weight, evenly spread (earliest deadline first).
- `least_in_flight`: the one with least in flight per weight, of all.
- `latency`: two choices on average latency times exchanges in flight, per weight (peak EWMA, as in Finagle and Linkerd).
- `consistent_hash`: the same key goes to the same endpoint, unless that has more than its share of the load by a factor
  (Mirrokni, Thorup, Zadimoghaddam: "Consistent Hashing with Bounded Loads").
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from heapq import heapify, heapreplace
from itertools import accumulate
from math import exp, inf
from typing import Final, Protocol

POINTS: Final = 160
"""Points on the ring for the lightest endpoint: its share of the keys is right within about 1 / sqrt(POINTS)."""
MOST_POINTS: Final = 32_768
"""Points of a whole ring: with many endpoints each has fewer, so that a ring is built in milliseconds."""
FAILED_SECONDS: Final = 1.0
"""A failed attempt counts as at least this slow: else an endpoint that fails fast would be preferred."""
_NEGLIGIBLE: Final = 1e-5
_UNKNOWN_SECONDS: Final = 1e6
"""Stands for the latency of an endpoint that has answered nothing yet: beyond one exchange at a time, others come first."""
_GOLDEN: Final = 0.6180339887498949


class EndpointLoad(Protocol):
    """What the policy may know about an endpoint."""

    @property
    def in_flight(self) -> int: ...
    @property
    def latency(self) -> float: ...


class Algorithm(Enum):
    """The words of `load_balancing:`."""

    TWO_CHOICES = "two_choices"
    ROUND_ROBIN = "round_robin"
    LEAST_IN_FLIGHT = "least_in_flight"
    LATENCY = "latency"
    CONSISTENT_HASH = "consistent_hash"


@dataclass(frozen=True, slots=True)
class BalancingSettings:
    """How endpoints are chosen."""

    algorithm: Algorithm = Algorithm.TWO_CHOICES
    bounded_load: float = 1.25
    """With `consistent_hash`: in flight on one endpoint, over its share of all that is in flight; infinite: unbounded."""
    decay: float = 10.0
    """With `latency`: seconds after which an observation counts 1/e."""


class Balancer(Protocol):
    """Picks the index of one of the endpoints it was built for.

    `chance` is uniform in [0, 1). `avoid` is the index of an endpoint that has just failed, or -1; it is taken only when it
    is the only one. `key` is what `consistent_hash` goes by; None: the request has none.
    """

    def pick(self, endpoints: Sequence[EndpointLoad], chance: float, avoid: int = -1, key: bytes | None = None) -> int: ...


class _Draw:
    """Draws indexes in proportion to their weights."""

    __slots__ = ("bounds", "count", "starts", "stretch", "total", "weights")

    def __init__(self, weights: Sequence[float]) -> None:
        self.count = len(weights)
        self.weights = tuple(weights)
        self.total = float(self.count)
        self.bounds: tuple[float, ...] = ()
        """Where the part of each index ends; the last never, since rounding may lead there. Empty: all are equal."""
        self.starts: tuple[float, ...] = ()
        self.stretch: tuple[float, ...] = ()
        """What makes a place in the part of an index one in the rest of the total."""
        if any(weight != self.weights[0] for weight in self.weights):
            ends = list(accumulate(self.weights))
            self.total = total = ends[-1]
            self.bounds = (*ends[:-1], inf)
            self.starts = (0.0, *ends[:-1])
            self.stretch = tuple([(total - weight) / weight for weight in self.weights])

    def one(self, chance: float) -> int:
        """An index."""
        return bisect_right(self.bounds, chance * self.total) if self.bounds else int(chance * self.count)

    def two(self, chance: float) -> tuple[int, int]:
        """Two different indexes of at least two: both from one number, since what the first draw leaves over of it is
        uniform again."""
        point = chance * self.total
        if not self.bounds:
            first = int(point)
            second = first + 1 + int((point - first) * (self.count - 1))
            return first, second if second < self.count else second - self.count
        first = bisect_right(self.bounds, point)
        start = self.starts[first]
        rest = (point - start) * self.stretch[first]
        second = bisect_right(self.bounds, rest if rest < start else rest + self.weights[first])
        if second == first:  # by rounding
            second = first - 1 if first else 1
        return first, second


class TwoChoices:
    """Draw two by weight, take the one with fewer exchanges in flight per weight."""

    __slots__ = ("_count", "_draw", "_others")

    def __init__(self, weights: Sequence[float]) -> None:
        self._draw = _Draw(weights)
        self._count = len(weights)
        self._others = self._count - 1

    def pick(self, endpoints: Sequence[EndpointLoad], chance: float, avoid: int = -1, key: bytes | None = None) -> int:
        draw = self._draw
        if draw.bounds:
            first, second = draw.two(chance)
            if first == avoid:
                return second
            if second == avoid:
                return first
            weights = draw.weights
            load = endpoints[first].in_flight * weights[second]
            return first if load <= endpoints[second].in_flight * weights[first] else second
        # The same as `_Draw.two`, without the call: this runs for nearly every request.
        others = self._others
        if not others:
            return 0
        scaled = chance * self._count
        first = int(scaled)
        second = first + 1 + int((scaled - first) * others)
        if second > others:
            second -= self._count
        if avoid >= 0:
            if first == avoid:
                return second
            if second == avoid:
                return first
        return first if endpoints[first].in_flight <= endpoints[second].in_flight else second


class LeastInFlight:
    """Fewest exchanges in flight per weight, of all; equals are drawn by weight."""

    __slots__ = ("_draw",)

    def __init__(self, weights: Sequence[float]) -> None:
        self._draw = _Draw(weights)

    def pick(self, endpoints: Sequence[EndpointLoad], chance: float, avoid: int = -1, key: bytes | None = None) -> int:
        draw = self._draw
        first = draw.one(chance)
        if first != avoid and not endpoints[first].in_flight:
            return first
        best, least = -1, 0.0
        weights = draw.weights
        # From the drawn one on, so that equals take turns.
        for index in (*range(first, draw.count), *range(first)):
            if index == avoid:
                continue
            load = endpoints[index].in_flight / weights[index]
            if best < 0 or load < least:
                best, least = index, load
        return best if best >= 0 else first


class Latency:
    """Draw two by weight, take the one where an exchange more costs less: latency × (in flight + 1) / weight."""

    __slots__ = ("_draw",)

    def __init__(self, weights: Sequence[float]) -> None:
        self._draw = _Draw(weights)

    def pick(self, endpoints: Sequence[EndpointLoad], chance: float, avoid: int = -1, key: bytes | None = None) -> int:
        draw = self._draw
        if draw.count == 1:
            return 0
        first, second = draw.two(chance)
        if first == avoid:
            return second
        if second == avoid:
            return first
        a, b = endpoints[first], endpoints[second]
        weights = draw.weights
        return first if _cost(a) * weights[second] <= _cost(b) * weights[first] else second


def _cost(endpoint: EndpointLoad) -> float:
    in_flight = endpoint.in_flight
    if not endpoint.latency:
        return _UNKNOWN_SECONDS * in_flight
    return endpoint.latency * (in_flight + 1)


def average_latency(average: float, seconds: float, elapsed: float, decay: float, *, failed: bool = False) -> float:
    """The average after one more observation, `elapsed` seconds after the last one (peak EWMA).

    It follows a rise at once and a fall slowly: one slow answer is a warning, one fast answer proves little. A failed attempt
    is averaged in as a slow one, but is no peak: a single failure among thousands must not empty an endpoint.
    """
    weight = exp(-elapsed / decay) if average else 0.0
    if failed:
        return average * weight + max(seconds, FAILED_SECONDS) * (1.0 - weight)
    return seconds if seconds > average else average * weight + seconds * (1.0 - weight)


def decayed_latency(average: float, elapsed: float, decay: float) -> float:
    """The average when nothing was observed for `elapsed` seconds: an endpoint that is avoided is tried again in time.

    0: nothing is known any more.
    """
    average *= exp(-elapsed / decay)
    return average if average > _NEGLIGIBLE else 0.0


class RoundRobin:
    """In turn: heavier endpoints come more often, evenly spread, never in bursts."""

    __slots__ = ("_count", "_draw", "_next", "_turns")

    def __init__(self, weights: Sequence[float]) -> None:
        self._draw = _Draw(weights)
        self._count = len(weights)
        self._next = -1
        self._turns: list[tuple[float, int]] = []
        """Due time and index of every endpoint, as a heap; empty with equal weights, and before the first pick."""

    def pick(self, endpoints: Sequence[EndpointLoad], chance: float, avoid: int = -1, key: bytes | None = None) -> int:
        # `chance` says where the turns begin.
        if self._draw.bounds:
            return self._due(chance, avoid)
        index = self._next
        if index < 0:
            index = int(chance * self._count)
        if index == avoid:
            index = (index + 1) % self._count
        self._next = (index + 1) % self._count
        return index

    def _due(self, chance: float, avoid: int) -> int:
        turns, weights = self._turns, self._draw.weights
        if not turns:
            # The turns of an endpoint of weight w are due at (k + phase) / w: w of them per unit of time for any phase.
            turns += [((chance + index * _GOLDEN) % 1.0 / weight, index) for index, weight in enumerate(weights)]
            heapify(turns)
        due, index = turns[0]
        heapreplace(turns, (due + 1.0 / weights[index], index))
        if index != avoid:
            return index
        # Its turn is over; the next other one takes it.
        due, index = min(turn for turn in turns if turn[1] != avoid)
        turns[turns.index((due, index))] = (due + 1.0 / weights[index], index)
        heapify(turns)
        return index


class ConsistentHash:
    """Equal keys go to one endpoint while that is there and not overloaded; else to the next on the ring.

    An endpoint's points depend on its id and weight alone, so when one comes or goes only the keys that it takes or leaves
    move. With a bound of c, an endpoint has at most ceil(c × its share of all in flight) exchanges in flight.
    """

    __slots__ = ("_bound", "_draw", "_owners", "_points", "_total", "_two")

    def __init__(self, weights: Sequence[float], ids: Sequence[bytes], bound: float, points_per_weight: float) -> None:
        self._two = TwoChoices(weights)
        self._draw = _Draw(weights)
        self._total = sum(weights)
        self._bound = bound
        ring = [
            (point, index)
            for index, (weight, name) in enumerate(zip(weights, ids, strict=True))
            for point in _points(name, max(1, round(weight * points_per_weight)))
        ]
        ring.sort()
        self._points = [point for point, _ in ring]
        self._owners = [index for _, index in ring]

    def pick(self, endpoints: Sequence[EndpointLoad], chance: float, avoid: int = -1, key: bytes | None = None) -> int:
        if key is None or len(endpoints) == 1:
            return self._two.pick(endpoints, chance, avoid)
        owners = self._owners
        at = bisect_right(self._points, int.from_bytes(blake2b(key, digest_size=8).digest(), "big"))
        index = owners[at if at < len(owners) else 0]
        if index != avoid and not endpoints[index].in_flight:
            return index
        share = self._bound * (sum([endpoint.in_flight for endpoint in endpoints]) + 1) / self._total
        weights = self._draw.weights
        for step in range(len(owners)):
            index = owners[(at + step) % len(owners)]
            # in flight + 1 <= ceil(share × weight). Of all endpoints at least one is below, since the bound is at least 1.
            if index != avoid and endpoints[index].in_flight < share * weights[index]:
                return index
        return self._two.pick(endpoints, chance, avoid)


@lru_cache(maxsize=1024)
def _points(name: bytes, count: int) -> tuple[int, ...]:
    """The first `count` points of an endpoint on the ring of 64-bit numbers: fewer are always a part of more."""
    blocks = b"".join([blake2b(b"%d\0%b" % (block, name)).digest() for block in range(-(-count // 8))])
    return tuple([int.from_bytes(blocks[at : at + 8], "big") for at in range(0, count * 8, 8)])


def sticky_value(secret: bytes, name: bytes) -> bytes:
    """The cookie that stands for the endpoint of this id: 24 hex digits that only who knows the secret can make."""
    return blake2b(name, key=secret, digest_size=12).hexdigest().encode("ascii")


def points_per_weight(weights: Sequence[float]) -> float:
    """How many points a unit of weight is worth on the ring of a group with these weights, those not available included."""
    return min(POINTS / min(weights), MOST_POINTS / sum(weights))


def balancer(
    settings: BalancingSettings, weights: Sequence[float], ids: Sequence[bytes] = (), per_weight: float = 1.0
) -> Balancer:
    """The balancer over endpoints with these weights, each above 0. `consistent_hash` also wants a stable id of each, and the
    `points_per_weight` of their group."""
    if settings.algorithm is Algorithm.CONSISTENT_HASH:
        return ConsistentHash(weights, ids, settings.bounded_load, per_weight)
    return _KINDS[settings.algorithm](weights)


_KINDS: Final[dict[Algorithm, Callable[[Sequence[float]], Balancer]]] = {
    Algorithm.TWO_CHOICES: TwoChoices,
    Algorithm.ROUND_ROBIN: RoundRobin,
    Algorithm.LEAST_IN_FLIGHT: LeastInFlight,
    Algorithm.LATENCY: Latency,
}
