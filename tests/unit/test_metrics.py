"""The instruments: they count what happened, with labels from closed sets."""

from __future__ import annotations

from itertools import accumulate

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as Reference
from prometheus_client.registry import Collector

from gateway.metrics import GatewayMetrics
from gateway.metrics.instruments import REQUEST_BUCKETS, Histogram
from gateway.metrics.routes import KNOWN_METHODS


def text(metrics: GatewayMetrics) -> str:
    """What Prometheus scrapes."""

    class All(Collector):
        collect = metrics.collect

    registry = CollectorRegistry()
    registry.register(All())
    return generate_latest(registry).decode()


def sample(metrics: GatewayMetrics, name: str) -> float:
    """The value of one series."""
    (line,) = [line for line in text(metrics).splitlines() if line.startswith(name + " ")]
    return float(line.rpartition(" ")[2])


@pytest.mark.parametrize("value", [0.0, 0.005, 0.0050001, 1.0, 7.5, 60.0, 61.0])
def test_a_histogram_counts_like_prometheus_client(value: float) -> None:
    """The upper bound belongs to the bucket, and what is above all bounds is in +Inf."""
    ours, registry = Histogram(REQUEST_BUCKETS), CollectorRegistry()
    reference = Reference("x", "x", buckets=REQUEST_BUCKETS, registry=registry)
    for one in (value, 0.2):
        ours.observe(one)
        reference.observe(one)
    buckets = [one.value for metric in registry.collect() for one in metric.samples if one.name == "x_bucket"]

    assert list(accumulate(ours.counts)) == buckets
    assert ours.total == value + 0.2


def test_statuses_of_no_class_are_one_label() -> None:
    """600 to 999 count as `5xx`, which error rates ask for (`code=~"5.."`): no upstream makes series with them."""
    metrics = GatewayMetrics("1")
    route = metrics.route("users")
    for status in range(600, 1000):
        route.finished(b"GET", status, 0.02)
    route.finished(b"GET", 599, 0.02)

    assert sample(metrics, 'gateway_requests_total{code="5xx",method="GET",route="users"}') == 400
    assert sample(metrics, 'gateway_requests_total{code="599",method="GET",route="users"}') == 1
    assert len([line for line in text(metrics).splitlines() if line.startswith("gateway_requests_total{")]) == 2


def test_a_request_is_counted_by_route_method_and_code() -> None:
    """RED: rate and errors by code, duration by route."""
    metrics = GatewayMetrics("1")
    route = metrics.route("users")
    route.finished(b"GET", 200, 0.02)
    route.finished(b"GET", 200, 0.02)
    route.finished(b"GET", 504, 3.0)
    route.rejections["deadline_exceeded"] += 1

    assert sample(metrics, 'gateway_requests_total{code="200",method="GET",route="users"}') == 2
    assert sample(metrics, 'gateway_requests_total{code="504",method="GET",route="users"}') == 1
    assert sample(metrics, 'gateway_rejections_total{reason="deadline_exceeded",route="users",source="gateway"}') == 1
    assert sample(metrics, 'gateway_request_duration_seconds_count{route="users"}') == 3
    assert sample(metrics, 'gateway_request_duration_seconds_bucket{le="0.025",route="users"}') == 2
    assert sample(metrics, 'gateway_request_duration_seconds_bucket{le="+Inf",route="users"}') == 3


def test_observing_by_hand_is_the_same_as_by_the_histogram() -> None:
    """`finished` does what `observe` does, without the call."""
    route, histogram = GatewayMetrics("1").route("a"), Histogram(REQUEST_BUCKETS)
    for seconds in (0.0, 0.005, 0.3, 100.0):
        route.finished(b"GET", 200, seconds)
        histogram.observe(seconds)

    assert (route.duration.counts, route.duration.total) == (histogram.counts, histogram.total)


def test_methods_do_not_become_labels_by_request() -> None:
    """Ten thousand invented methods are one series (threat: label explosion)."""
    route = GatewayMetrics("1").route("a")
    for number in range(10_000):
        route.finished(b"X%d" % number, 200, 0.1)
    for method in KNOWN_METHODS:
        route.finished(method, 200, 0.1)

    assert route.requests[b"OTHER", 200] == 10_000
    assert len(route.requests) == len(KNOWN_METHODS) + 1


def test_attempts_are_counted_by_outcome() -> None:
    """Outcomes of attempts are apart from those of requests."""
    metrics = GatewayMetrics("1")
    upstream = metrics.upstream("app")
    for outcome in ("ok", "ok", "http_5xx", "connection_refused"):
        upstream.attempted(outcome)
    upstream.connects = 4
    upstream.duration.observe(0.1)

    assert sample(metrics, 'gateway_upstream_attempts_total{outcome="ok",upstream="app"}') == 2
    assert sample(metrics, 'gateway_upstream_attempts_total{outcome="connection_refused",upstream="app"}') == 1
    assert sample(metrics, 'gateway_upstream_connects_total{upstream="app"}') == 4
    assert sample(metrics, 'gateway_upstream_duration_seconds_count{upstream="app"}') == 1


def test_retries_are_counted_by_cause_and_denials_by_reason() -> None:
    """What led to a retry, and what stopped one, are told apart; a spent budget has a series from the start."""
    metrics = GatewayMetrics("1")
    upstream = metrics.upstream("app")
    assert sample(metrics, 'gateway_retry_budget_exhausted_total{upstream="app"}') == 0
    upstream.retries["503"] += 1
    upstream.retries["503"] += 1
    upstream.denials["body"] += 1
    upstream.denials["budget"] += 1

    assert sample(metrics, 'gateway_retries_total{reason="503",upstream="app"}') == 2
    assert sample(metrics, 'gateway_retries_denied_total{reason="body",upstream="app"}') == 1
    assert sample(metrics, 'gateway_retries_denied_total{reason="budget",upstream="app"}') == 1
    assert sample(metrics, 'gateway_retry_budget_exhausted_total{upstream="app"}') == 1


def test_the_gateways_own_series_are_there_from_the_start() -> None:
    """A series that appears only with the first event cannot be alerted on."""
    metrics = GatewayMetrics("1.2", "3.11")
    metrics.config_hash = "abc"
    metrics.connections, metrics.tunnels, metrics.access_log_dropped = 3, 2, 1
    metrics.protocol_errors["header_timeout"] = 5
    metrics.overhead.observe(0.001)

    for name, value in {
        "gateway_connections": 3,
        "gateway_tunnels": 2,
        "gateway_access_log_dropped_total": 1,
        'gateway_protocol_errors_total{reason="header_timeout"}': 5,
        'gateway_config_info{hash="abc"}': 1,
        'gateway_build_info{python="3.11",version="1.2"}': 1,
        "gateway_overhead_seconds_count": 1,
    }.items():
        assert sample(metrics, name) == value


def test_counters_survive_a_reload_and_end_with_their_name() -> None:
    """By name they are the same object; what is no longer configured is forgotten, but never the unmatched."""
    metrics = GatewayMetrics("1")
    kept, unmatched = metrics.route("a"), metrics.route("_unmatched")
    metrics.route("b")
    upstream = metrics.upstream("u")
    metrics.upstream("v")
    metrics.keep_only(["a"], ["u"], [])

    assert metrics.route("a") is kept and metrics.upstream("u") is upstream
    assert set(metrics.routes) == {"a", "_unmatched"} and metrics.routes["_unmatched"] is unmatched
    assert set(metrics.upstreams) == {"u"}
