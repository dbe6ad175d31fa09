"""What is counted per route."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from gateway.metrics.instruments import REQUEST_BUCKETS, Histogram

KNOWN_METHODS: Final = frozenset(
    {b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT"}
    | {b"PROPFIND", b"PROPPATCH", b"MKCOL", b"COPY", b"MOVE", b"LOCK", b"UNLOCK", b"REPORT", b"QUERY"}
)
"""Methods that become a label value; any other is counted as `OTHER`."""


class RouteMetrics:
    """What is counted per route. One object lives as long as the route's name does, across reloads."""

    __slots__ = ("duration", "in_flight", "name", "rejections", "request_bytes", "requests", "response_bytes")

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests: dict[tuple[bytes, int], int] = {}
        self.duration = Histogram(REQUEST_BUCKETS)
        self.in_flight = 0
        self.request_bytes = 0
        self.response_bytes = 0
        self.rejections: dict[str, int] = {}

    def finished(self, method: bytes, status: int, seconds: float) -> None:
        """One request is over. `status` is what the client got, 499 when it had gone."""
        key = (method if method in KNOWN_METHODS else b"OTHER", status)
        requests = self.requests
        requests[key] = requests.get(key, 0) + 1
        duration = self.duration
        duration.counts[bisect_left(duration.bounds, seconds)] += 1
        duration.total += seconds

    def rejected(self, reason: str) -> None:
        """The gateway refused or failed the request; `reason` is the failure's code."""
        self.rejections[reason] = self.rejections.get(reason, 0) + 1


def route_families(all_routes: Iterable[RouteMetrics]) -> Iterator[Metric]:
    """What Prometheus reads of them."""
    requests = CounterMetricFamily("gateway_requests", "Requests by outcome", labels=["route", "method", "code"])
    duration = HistogramMetricFamily(
        "gateway_request_duration_seconds", "From the request head to the last byte of the response", labels=["route"]
    )
    in_flight = GaugeMetricFamily("gateway_requests_in_flight", "Requests being served", labels=["route"])
    received = CounterMetricFamily("gateway_request_bytes", "Request body bytes received", labels=["route"])
    sent = CounterMetricFamily("gateway_response_bytes", "Response body bytes sent", labels=["route"])
    rejections = CounterMetricFamily(
        "gateway_rejections", "Requests that the gateway refused or failed, by failure code", labels=["route", "reason"]
    )
    for route in list(all_routes):
        for (method, code), count in list(route.requests.items()):
            requests.add_metric([route.name, method.decode("ascii"), str(code)], count)
        duration.add_metric([route.name], route.duration.cumulative(), route.duration.total)
        in_flight.add_metric([route.name], route.in_flight)
        received.add_metric([route.name], route.request_bytes)
        sent.add_metric([route.name], route.response_bytes)
        for reason, count in list(route.rejections.items()):
            rejections.add_metric([route.name, reason], count)
    return iter((requests, duration, in_flight, received, sent, rejections))
