"""What several workers count, as one: counters and histograms are added, gauges by what they mean.

A worker's metrics travel as plain lists, in pieces of a few rows: `[name, text, type, labels, bounds, [[values, value], …]]`.
The value of a histogram is `[counts, sum]`, and `bounds` are its upper bounds; of others they are null.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

from prometheus_client.core import Metric

from gateway.metrics.families import ROWS_AT_ONCE, Family, HistogramFamily, Rows

Pieces: TypeAlias = list[list[Any]]
"""The pieces of one worker."""
_Rows: TypeAlias = dict[tuple[str, ...], Any]
_Head: TypeAlias = tuple[str, str, tuple[str, ...], tuple[float, ...] | None]
"""Text, type, labels and bounds of a family."""

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


def pieces(families: Iterable[Metric]) -> Iterator[list[Any]]:
    """A worker's metrics, ready to travel, in pieces of bounded work."""
    for family in families:
        assert isinstance(family, Family), family.name
        labels, rows, bounds = list(family.labels), [], None
        for values, value in family.rows:
            if isinstance(family, HistogramFamily):
                bounds, counts, total = value
                rows.append([values, [counts, total]])
            else:
                rows.append([values, value])
            if len(rows) >= ROWS_AT_ONCE:
                yield [family.name, family.documentation, family.kind, labels, bounds, rows]
                rows = []
        yield [family.name, family.documentation, family.kind, labels, bounds, rows]


def label_values(state: Pieces, *names: str) -> Iterator[tuple[str, ...]]:
    """The values that these labels have together somewhere in a state."""
    for _, _, _, labels, _, rows in state:
        if set(names) <= set(labels):
            places = [labels.index(name) for name in names]
            for values, _ in rows:
                yield tuple(values[place] for place in places)


class Sums:
    """Sums of what workers have counted. What is not to be seen any more is left out by `keep`."""

    def __init__(self) -> None:
        self._heads: dict[str, _Head] = {}
        self._rows: dict[str, _Rows] = {}

    def add(self, state: Pieces, *, gauges: bool = True) -> None:
        """One more worker, or some pieces of one. `gauges=False`: it has ended, only what it has counted still holds."""
        for name, text, kind, labels, bounds, rows in state:
            if kind == "gauge" and not gauges:
                continue
            if name not in self._heads or self._heads[name][3] is None:  # a family without rows does not know its bounds
                self._heads[name] = text, kind, tuple(labels), tuple(bounds) if bounds is not None else None
            known, join = self._rows.setdefault(name, {}), _join(name, kind)
            for values, value in rows:
                key = tuple(values)
                known[key] = join(known[key], value) if key in known else value

    def keep(self, wanted: Callable[[dict[str, str]], bool]) -> None:
        """Forget the series whose labels are not wanted."""
        for name, (_, _, labels, _) in self._heads.items():
            rows = self._rows[name]
            self._rows[name] = {key: rows[key] for key in rows if wanted(dict(zip(labels, key, strict=True)))}

    def state(self) -> Pieces:
        """The sums as a state, to be added elsewhere."""
        return [
            [name, text, kind, labels, bounds, list(self._rows[name].items())]
            for name, (text, kind, labels, bounds) in self._heads.items()
        ]

    def families(self) -> Iterator[Metric]:
        """What Prometheus reads of them."""
        for name, head in self._heads.items():
            yield _family(name, head, self._rows[name])


def _family(name: str, head: _Head, rows: _Rows) -> Family:
    text, kind, labels, bounds = head
    if kind == "histogram":
        return Rows(labels, ((key, (bounds, *value)) for key, value in rows.items())).histogram(name, text)
    found = Rows(labels, rows.items())
    return found.counter(name, text) if kind == "counter" else found.gauge(name, text)


def _join(name: str, kind: str) -> Callable[[Any, Any], Any]:
    if kind == "histogram":
        return _plus_histogram
    if kind == "counter":
        return operator.add
    return min if name in LEAST else max if name in MOST else operator.add


def _plus_histogram(one: list[Any], other: list[Any]) -> list[Any]:
    return [[left + right for left, right in zip(one[0], other[0], strict=True)], one[1] + other[1]]
