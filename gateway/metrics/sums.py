"""What several workers count, as one: counters and histograms are added, gauges by what they mean.

A worker's metrics travel as plain lists: `[name, text, type, [[sample, labels, value], …]]` per family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

from prometheus_client.core import Metric

State: TypeAlias = list[list[Any]]
"""The families of one worker."""
_Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]

LEAST: Final = frozenset({"gateway_redis_up", "gateway_tls_certificate_expiry_timestamp_seconds", "gateway_upstream_healthy"})
"""Gauges of which the least counts: what is in order is so everywhere."""
MOST: Final = frozenset(
    {
        "gateway_breaker_forced",
        "gateway_breaker_state",
        "gateway_build_info",
        "gateway_config_info",
        "gateway_draining",
        "gateway_event_loop_lag_seconds",
        "gateway_rate_limit_fallback_active",
        "gateway_shedding",
        "gateway_upstream_endpoints",
        "gateway_upstream_panic",
    }
)
"""Gauges of which the most counts: trouble anywhere is trouble, and what all have is there once. All other gauges are added."""


def state_of(families: Iterable[Metric]) -> State:
    """A worker's metrics, ready to travel."""
    return [
        [family.name, family.documentation, family.type, [[one.name, one.labels, one.value] for one in family.samples]]
        for family in families
    ]


class Sums:
    """Sums of states. What is not to be seen any more is left out by `keep`."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[str, str]] = {}
        self._values: dict[str, dict[_Key, float]] = {}

    def add(self, state: State, *, gauges: bool = True) -> None:
        """One more worker. `gauges=False`: it has ended, only what it has counted still holds."""
        for name, text, kind, samples in state:
            if kind == "gauge" and not gauges:
                continue
            self._families.setdefault(name, (text, kind))
            values = self._values.setdefault(name, {})
            join = self._join(name) if kind == "gauge" else _plus
            for sample, labels, value in samples:
                key = (sample, tuple(labels.items()))
                values[key] = join(values[key], value) if key in values else value

    @staticmethod
    def _join(name: str) -> Callable[[float, float], float]:
        return min if name in LEAST else max if name in MOST else _plus

    def keep(self, wanted: Callable[[dict[str, str]], bool]) -> None:
        """Forget the samples whose labels are not wanted."""
        for name, values in self._values.items():
            self._values[name] = {key: value for key, value in values.items() if wanted(dict(key[1]))}

    def state(self) -> State:
        """The sums as a state, to be added elsewhere."""
        return [
            [name, text, kind, [[sample, dict(labels), value] for (sample, labels), value in self._values[name].items()]]
            for name, (text, kind) in self._families.items()
        ]

    def families(self) -> Iterator[Metric]:
        """What Prometheus reads of them."""
        for name, (text, kind) in self._families.items():
            family = Metric(name, text, kind)
            for (sample, labels), value in self._values[name].items():
                family.add_sample(sample, dict(labels), value)
            yield family


def _plus(one: float, other: float) -> float:
    return one + other
