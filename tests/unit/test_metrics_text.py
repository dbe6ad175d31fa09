"""What Prometheus reads: its text, made in slices, and the page about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, PlatformCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from gateway.metrics import GatewayMetrics, ReloadMetrics, StoreMetrics
from gateway.metrics.families import ROWS_AT_ONCE, CounterFamily, GaugeFamily, exposition
from gateway.metrics.routes import KNOWN_METHODS
from gateway.metrics.sums import LEAST, MOST
from tests.docs.metrics_page import LABELS, families, reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def lived() -> GatewayMetrics:
    """Metrics in which something of everything has happened."""
    metrics = GatewayMetrics("1.2", "3.11")
    metrics.config_hash, metrics.reloads, metrics.store = "abc", ReloadMetrics(1.7e9), StoreMetrics()
    metrics.certificates["/etc/tls.crt"] = 1.9e9
    for name in ("users", 'a "quoted" \\ name', "\N{SNOWMAN}"):
        route = metrics.route(name)
        route.expect(("GET",), (200, 404), ("rate_limited",))
        route.finished(b"GET", 200, 0.3)
        route.rejections["deadline_exceeded"] += 1
        metrics.compressing(name).coding(b"br").seconds = 0.25
        metrics.limit(name, "client").counts[0] = 4
    upstream = metrics.upstream("app")
    upstream.attempted("http_5xx")
    upstream.duration.observe(0.1)
    upstream.probes["ok"] = upstream.lookups["ok"] = 1
    upstream.breaker.changed("http://a:1", "open")
    gate = metrics.gate("route", "users")
    gate.shed["queue_full", "default"] += 1
    return metrics


def gathered(metrics: GatewayMetrics) -> Any:
    """A registry of the client library that has them, and metrics that are not ours."""

    class Ours:
        def collect(self) -> Iterator[Metric]:
            yield from metrics.collect()
            foreign = CounterMetricFamily("foreign", "Not ours.", labels=["a"])
            foreign.add_metric(["b"], 2)
            yield foreign

    registry = CollectorRegistry()
    registry.register(Ours())
    PlatformCollector(registry=registry)
    return registry


def test_the_text_is_that_of_the_client_library() -> None:
    """Line by line and in its order, quotes, backslashes and foreign letters in names too; large numbers read the same."""
    registry = gathered(lived())

    def lines(text: str) -> list[tuple[str, float]]:
        split = [line.rpartition(" ") for line in text.splitlines()]
        return [(name, 0.0 if name.startswith("#") else float(number)) for name, _, number in split]

    assert lines("".join(exposition(registry.collect()))) == lines(generate_latest(registry).decode())


def test_the_openmetrics_text_is_valid_and_says_the_same() -> None:
    """Its strict parser takes it, and reads what the client library would have written."""
    registry = gathered(lived())
    ours = "".join(exposition(registry.collect(), openmetrics=True)) + "# EOF\n"
    theirs = generate_openmetrics(registry).decode()  # type: ignore[no-untyped-call]

    def samples(text: str) -> dict[Any, float]:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in read_openmetrics(text)  # type: ignore[no-untyped-call]
            for sample in family.samples
        }

    assert samples(ours) == samples(theirs)


def test_a_line_break_in_a_label_or_a_help_text_stays_on_its_line() -> None:
    """Else a name could forge a series."""
    family = GaugeFamily("x", 'two\nlines, "quoted" \\', ["a"], [(("b\nfake 1",), 1)])
    (text,) = exposition([family])

    assert text.splitlines() == ['# HELP x two\\nlines, "quoted" \\\\', "# TYPE x gauge", 'x{a="b\\nfake 1"} 1.0']
    assert [sample.labels["a"] for one in read_text(text) for sample in one.samples] == ["b\nfake 1"]


def test_a_slice_is_bounded_whatever_there_is_to_show() -> None:
    """However many series a family has, no request waits for more than some of them."""
    family = CounterFamily("x", "", ["a"], (((str(number),), number) for number in range(10_000)))
    slices = list(exposition([family]))

    assert len(slices) >= 10_000 // ROWS_AT_ONCE
    assert max(text.count("\n") for text in slices) <= ROWS_AT_ONCE + 2


def test_rows_are_read_only_when_their_slice_is_made() -> None:
    """A scrape of thousands of routes has not read them all before the first line leaves."""
    read: list[int] = []

    def rows() -> Iterator[Any]:
        for number in range(1000):
            read.append(number)
            yield (str(number),), number

    slices = exposition([CounterFamily("x", "", ["a"], rows())])
    next(slices)

    assert len(read) <= ROWS_AT_ONCE


def test_what_is_counted_while_it_is_shown_does_no_harm() -> None:
    """Requests go on between two slices: new codes, reasons, routes and upstreams."""
    metrics = lived()
    slices = exposition(metrics.collect())
    for number, _ in enumerate(slices):
        metrics.route("users").finished(b"PUT", 200 + number, 0.1)
        metrics.route(f"new {number}").rejections["rate_limited"] += 1
        metrics.upstream(f"new {number}").attempted("ok")
        metrics.upstream("app").breaker.changed(f"http://{number}", "open")
        metrics.compressing("users").skipped[f"reason {number}"] = 1

    assert len(list(read_text("".join(exposition(metrics.collect()))))) >= len(families()) - 10


@pytest.mark.parametrize("requests", [10_000])
def test_requests_make_no_series(requests: int) -> None:
    """Random methods are one label value; hosts, paths and keys are none (the whole gateway: `tests.bench.observability`)."""
    metrics = lived()

    def series() -> int:
        return sum(len(family.samples) for family in metrics.collect())

    for method in (*KNOWN_METHODS, b"OTHER"):
        metrics.route("users").finished(method, 200, 0.1)
    before = series()
    for number in range(requests):
        metrics.route("users").finished(b"M%d" % number, 200, 0.1)

    assert series() == before


def test_expected_series_begin_with_zero_and_go_on() -> None:
    """A series that begins with 1 has no rate for its first event."""
    route = GatewayMetrics("1").route("a")
    route.expect(("GET", "BREW"), (200, 503), ("rate_limited",))
    route.finished(b"GET", 200, 0.1)

    def rows() -> dict[Any, float]:
        metrics = GatewayMetrics("1")
        metrics.routes["a"] = route
        text = "".join(exposition(metrics.collect()))
        names = ("gateway_requests_total", "gateway_rejections_total")
        return {
            (sample.labels.get("method"), sample.labels.get("code"), sample.labels.get("reason")): sample.value
            for family in read_text(text)
            for sample in family.samples
            if sample.name in names
        }

    assert rows() == {("GET", "200", None): 1, ("GET", "503", None): 0, (None, None, "rate_limited"): 0}
    route.rejections["rate_limited"] += 1
    assert rows()[None, None, "rate_limited"] == 1


def test_the_page_is_what_the_code_says() -> None:
    """`make docs` has been called after the last change of a metric."""
    assert PAGE.read_text(encoding="utf-8") == reference()


def test_the_page_has_every_metric_and_every_label() -> None:
    """Each in one row of one table, with an explanation."""
    lines = reference().splitlines()
    for family in families():
        name = family.name + ("_total" if family.kind == "counter" else "")
        (row,) = [line for line in lines if line.startswith(f"| `{name}` |")]
        assert row.split(" | ")[3].rstrip(" |") == family.documentation
        for label in family.labels:
            assert LABELS[label]


def test_names_are_as_prometheus_asks_for() -> None:
    """Base units, no double suffix, and no name twice."""
    known = families()
    assert len({family.name for family in known}) == len(known)
    for family in known:
        assert family.name.startswith("gateway_") and not family.name.endswith(("_total", "_bucket", "_count", "_sum"))
        assert not family.name.endswith(("_ms", "_milliseconds", "_percent"))


def test_what_is_joined_across_workers_is_a_gauge_there_is() -> None:
    """A name in the list of gauges to be joined by the least or the most that nobody shows any more is a mistake."""
    gauges = {family.name for family in families() if family.kind == "gauge"}

    assert gauges >= LEAST | MOST
