"""Metric families as rows, and their text: what Prometheus reads, made in slices so that no request waits for a scrape.

prometheus_client makes an object and a dict per sample: the 28 000 samples of 1 000 routes take it 280 ms of the interpreter,
which neither the event loop nor a thread beside it can spare. Here a row is a tuple, and its text one template. The families
are `Metric`s for whoever wants samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Final, TypeAlias

from prometheus_client.core import Metric, Sample

from gateway.metrics.instruments import Histogram

Row: TypeAlias = tuple[Sequence[str], Any]
"""Label values, and the value: a number, or of a histogram its bounds, its counts and its sum."""

ROWS_AT_ONCE: Final = 64
"""Rows of one slice of text: at most about half a millisecond."""


class Family(Metric):
    """Rows of one name. `rows` can be an iterator: then they are made while they are read, once."""

    kind = "untyped"

    def __init__(self, name: str, documentation: str, labels: Sequence[str] = (), rows: Iterable[Row] | None = None) -> None:
        self.name = name
        self.documentation = documentation
        self.type = self.kind
        self.unit = ""
        self.labels = tuple(labels)
        self._added: list[Row] = []
        self._rows = rows

    def add_metric(self, labels: Sequence[str], value: float) -> None:
        """One more row."""
        self._added.append((labels, value))

    def rows(self) -> Iterator[Row]:
        """The rows there are."""
        yield from self._added
        if self._rows is not None:
            yield from self._rows

    @property
    def samples(self) -> list[Sample]:
        """The rows as prometheus_client knows them."""
        return list(self._samples())

    @samples.setter
    def samples(self, value: list[Sample]) -> None:
        raise AttributeError("the samples of a family are its rows")

    def _samples(self) -> Iterator[Sample]:
        suffix = "_total" if self.kind == "counter" else ""
        for labels, value in self.rows():
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

    def add_histogram(self, labels: Sequence[str], histogram: Histogram) -> None:
        """One more row, as the histogram is now."""
        self._added.append((labels, reading(histogram)))

    def _samples(self) -> Iterator[Sample]:
        for values, (bounds, counts, total) in self.rows():
            labels = dict(zip(self.labels, values, strict=True))
            running = list(accumulate(counts))
            for bound, count in zip((*map(repr, bounds), "+Inf"), running, strict=True):
                yield Sample(self.name + "_bucket", {**labels, "le": bound}, float(count))
            yield Sample(self.name + "_count", labels, float(running[-1]))
            yield Sample(self.name + "_sum", labels, total)


def reading(histogram: Histogram) -> tuple[tuple[float, ...], list[int], float]:
    """What a histogram says now."""
    return histogram.bounds, histogram.counts.copy(), histogram.total


def gauge(name: str, text: str, value: float) -> GaugeFamily:
    """A gauge without labels."""
    return GaugeFamily(name, text, rows=[((), value)])


def counter(name: str, text: str, value: float) -> CounterFamily:
    """A counter without labels."""
    return CounterFamily(name, text, rows=[((), value)])


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
    for values, value in family.rows():
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
    for values, (bounds, counts, total) in family.rows():
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
