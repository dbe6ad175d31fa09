"""Metric families as rows, and their text: what Prometheus reads, made in slices so that no request waits for a scrape.

prometheus_client makes an object and a dict per sample: the 28 000 samples of 1 000 routes take it 280 ms of the interpreter,
which neither the event loop nor a thread beside it can spare. Here a row is a tuple, and its text one template. The families
are `Metric`s for whoever wants samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Generic, TypeAlias, TypeVar

from prometheus_client.core import Metric, Sample

from gateway.metrics.instruments import Histogram

T = TypeVar("T")

Row: TypeAlias = tuple[Sequence[str], Any]
"""Label values, and the value: a number, or of a histogram its bounds, its counts and its sum."""

ROWS_AT_ONCE: Final = 64
"""Rows of one slice of text: at most about half a millisecond."""


class Family(Metric):
    """Rows of one name. `rows` can be an iterator: then they are made while they are read, once."""

    kind = "untyped"

    def __init__(self, name: str, documentation: str, labels: Sequence[str] = (), rows: Iterable[Row] = ()) -> None:
        self.name = name
        self.documentation = documentation
        self.type = self.kind
        self.unit = ""
        self.labels = tuple(labels)
        self.rows = rows

    @property
    def samples(self) -> list[Sample]:
        """The rows as prometheus_client knows them."""
        return list(self._samples())

    @samples.setter
    def samples(self, value: list[Sample]) -> None:
        raise AttributeError("the samples of a family are its rows")

    def _samples(self) -> Iterator[Sample]:
        suffix = "_total" if self.kind == "counter" else ""
        for labels, value in self.rows:
            yield Sample(self.name + suffix, dict(zip(self.labels, labels, strict=True)), value)


class CounterFamily(Family):
    """Numbers that only grow."""

    kind = "counter"


class GaugeFamily(Family):
    """Numbers that go up and down."""

    kind = "gauge"


class HistogramFamily(Family):
    """Histograms. A row's value is `(bounds, counts, sum)`."""

    kind = "histogram"

    def _samples(self) -> Iterator[Sample]:
        for values, (bounds, counts, total) in self.rows:
            labels = dict(zip(self.labels, values, strict=True))
            running = list(accumulate(counts))
            for bound, count in zip((*map(repr, bounds), "+Inf"), running, strict=True):
                yield Sample(self.name + "_bucket", {**labels, "le": bound}, float(count))
            yield Sample(self.name + "_count", labels, float(running[-1]))
            yield Sample(self.name + "_sum", labels, total)


# -- rows --------------------------------------------------------------------------------------------------------------


def reading(histogram: Histogram) -> tuple[tuple[float, ...], list[int], float]:
    """What a histogram says now."""
    return histogram.bounds, histogram.counts.copy(), histogram.total


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows and the labels of their values: with a name, a text and a kind they are a family."""

    labels: Sequence[str]
    rows: Iterable[Row]

    def counter(self, name: str, text: str) -> Family:
        """Shown as counters."""
        return CounterFamily(name, text, self.labels, self.rows)

    def gauge(self, name: str, text: str) -> Family:
        """Shown as gauges."""
        return GaugeFamily(name, text, self.labels, self.rows)

    def histogram(self, name: str, text: str) -> Family:
        """Shown as histograms; each value is a `reading`."""
        return HistogramFamily(name, text, self.labels, self.rows)


def alone(value: object) -> Rows:
    """One row without labels."""
    return Rows((), [((), value)])


class Each(Generic[T]):
    """Things of one kind by the values of the labels that name them. Rows about them are made while they are read."""

    def __init__(self, labels: Sequence[str], things: Iterable[tuple[Sequence[str], T]]) -> None:
        self._labels = labels
        self._things = list(things)

    def one(self, value: Callable[[T], object]) -> Rows:
        """A row of each thing."""
        return Rows(self._labels, ((names, value(thing)) for names, thing in self._things))

    def many(self, labels: Sequence[str], rows: Callable[[T], Iterable[tuple[Sequence[str], float]]]) -> Rows:
        """Several rows of each thing, by more labels."""
        found = (((*names, *more), value) for names, thing in self._things for more, value in rows(thing))
        return Rows((*self._labels, *labels), found)

    def words(self, label: str, counts: Callable[[T], Mapping[str, float]], expected: Iterable[str] = ()) -> Rows:
        """What each thing counts by a word, and zeros for the words that are to be expected: a series that begins with 1 has
        no rate for its first event."""
        zeros: dict[str, float] = dict.fromkeys(expected, 0)
        return self.many([label], lambda thing: [((word,), count) for word, count in (zeros | {**counts(thing)}).items()])


# -- text --------------------------------------------------------------------------------------------------------------


def exposition(families: Iterable[Metric], *, openmetrics: bool = False) -> Iterator[str]:
    """The text of the families in slices, each of bounded work; without the end mark of OpenMetrics."""
    for family in families:
        # The text format names a counter as its samples are named, OpenMetrics as its family is.
        name = family.name + ("_total" if family.type == "counter" and not openmetrics else "")
        text = family.documentation.replace("\\", "\\\\").replace("\n", "\\n")
        if openmetrics:
            text = text.replace('"', '\\"')
        head = f"# HELP {name} {text}\n# TYPE {name} {family.type}\n"
        if isinstance(family, HistogramFamily):
            lines = _histogram_lines(family)
        elif isinstance(family, Family):
            lines = _lines(family)
        else:
            lines = _sample_lines(family)
        slice_ = [head]
        for line in lines:
            slice_.append(line)
            if len(slice_) >= ROWS_AT_ONCE:
                yield "".join(slice_)
                slice_ = []
        yield "".join(slice_)


def _lines(family: Family) -> Iterator[str]:
    name = family.name + ("_total" if family.kind == "counter" else "")
    order = sorted(range(len(family.labels)), key=family.labels.__getitem__)
    labels = family.labels
    for values, value in family.rows:
        if values:
            inner = ",".join([f'{labels[at]}="{_escaped(values[at])}"' for at in order])
            yield f"{name}{{{inner}}} {float(value)!r}\n"
        else:
            yield f"{name} {float(value)!r}\n"


def _histogram_lines(family: HistogramFamily) -> Iterator[str]:
    order = sorted(range(len(family.labels)), key=family.labels.__getitem__)
    labels = family.labels
    name = family.name
    templates: dict[tuple[float, ...], str] = {}
    for values, (bounds, counts, total) in family.rows:
        template = templates.get(bounds)
        if template is None:
            # `%` is doubled nowhere: names and bounds hold none. NUL stands for the row's labels.
            buckets = "".join(f'{name}_bucket{{le="{bound}"\0}} %d.0\n' for bound in (*map(repr, bounds), "+Inf"))
            template = templates[bounds] = buckets
        inner = ",".join([f'{labels[at]}="{_escaped(values[at])}"' for at in order])
        running = tuple(accumulate(counts))
        own = f"{{{inner}}}" if inner else ""
        yield (
            (template % running).replace("\0", f",{inner}" if inner else "")
            + f"{name}_count{own} {running[-1]}.0\n{name}_sum{own} {total!r}\n"
        )


def _sample_lines(family: Metric) -> Iterator[str]:
    for sample in family.samples:
        inner = ",".join([f'{name}="{_escaped(value)}"' for name, value in sorted(sample.labels.items())])
        yield f"{sample.name}{f'{{{inner}}}' if inner else ''} {_number(sample.value)}\n"


def _number(value: float) -> str:
    text = repr(float(value))
    return {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(text, text)


def _escaped(value: str) -> str:
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return value
