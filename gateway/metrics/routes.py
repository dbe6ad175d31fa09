"""What is counted per route."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from prometheus_client.core import Metric

from gateway.errors import Failure
from gateway.metrics.families import CounterFamily, GaugeFamily, HistogramFamily, Row, reading
from gateway.metrics.instruments import REQUEST_BUCKETS, Histogram

_SOURCES: Final = {failure.code: failure.source for failure in Failure}

KNOWN_METHODS: Final = frozenset(
    {b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT"}
    | {b"PROPFIND", b"PROPPATCH", b"MKCOL", b"COPY", b"MOVE", b"LOCK", b"UNLOCK", b"REPORT", b"QUERY"}
)
"""Methods that become a label value; any other is counted as `OTHER`."""

NO_CLASS: Final = 600
"""Statuses from here on are of no class that HTTP knows. They are one label value, `5xx`, which `code=~"5.."` finds."""


class RouteMetrics:
    """What is counted per route. One object lives as long as the route's name does, across reloads."""

    __slots__ = (
        "duration", "expected_reasons", "expected_requests", "in_flight", "name", "rejections", "request_bytes", "requests",
        "response_bytes",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests: dict[tuple[bytes, int], int] = {}
        self.duration = Histogram(REQUEST_BUCKETS)
        self.in_flight = 0
        self.request_bytes = 0
        self.response_bytes = 0
        self.rejections: dict[str, int] = {}
        self.expected_requests: tuple[tuple[bytes, int], ...] = ()
        """Methods and codes that are shown before they are first counted."""
        self.expected_reasons: tuple[str, ...] = ()
        """Reasons of rejections that are shown before they are first counted."""

    def expect(self, methods: Iterable[str], codes: Sequence[int], reasons: Iterable[str]) -> None:
        """What the configuration lets us foresee of the route."""
        known = [method.encode("ascii") for method in methods]
        self.expected_requests = tuple((method, code) for method in known if method in KNOWN_METHODS for code in codes)
        self.expected_reasons = tuple(reasons)

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
    """What Prometheus reads of them. There may be thousands, so the rows are made while they are read."""
    routes = list(all_routes)
    yield CounterFamily(
        "gateway_requests",
        "Requests by what the client got",
        ["route", "method", "code"],
        _flat(_requests(one) for one in routes),
    )
    yield HistogramFamily(
        "gateway_request_duration_seconds",
        "From the request head to the last byte of the response",
        ["route"],
        (((one.name,), reading(one.duration)) for one in routes),
    )
    yield GaugeFamily(
        "gateway_requests_in_flight", "Requests being served", ["route"], (((one.name,), one.in_flight) for one in routes)
    )
    yield CounterFamily(
        "gateway_request_bytes", "Request body bytes received", ["route"], (((one.name,), one.request_bytes) for one in routes)
    )
    yield CounterFamily(
        "gateway_response_bytes", "Response body bytes sent", ["route"], (((one.name,), one.response_bytes) for one in routes)
    )
    yield CounterFamily(
        "gateway_rejections",
        "Requests that the gateway refused or failed, by failure code, and whose fault it is: downstream, gateway or upstream",
        ["route", "reason", "source"],
        _flat(_rejections(one) for one in routes),
    )


def _flat(rows: Iterable[list[Row]]) -> Iterator[Row]:
    return chain.from_iterable(rows)


def _requests(route: RouteMetrics) -> list[Row]:
    """What was counted, and zeros for what is to be expected: a series that begins with 1 has no rate for its first event."""
    name, requests = route.name, route.requests.copy()
    found = dict.fromkeys(route.expected_requests, 0)
    for (method, code), count in requests.items():
        key = method, min(code, NO_CLASS)
        found[key] = found.get(key, 0) + count
    return [((name, method.decode("ascii"), _code(code)), count) for (method, code), count in found.items()]


def _code(status: int) -> str:
    return "5xx" if status == NO_CLASS else str(status)


def _rejections(route: RouteMetrics) -> list[Row]:
    name, rejections = route.name, route.rejections.copy()
    expected = dict.fromkeys(route.expected_reasons, 0)
    return [((name, reason, _SOURCES[reason]), count) for reason, count in (expected | rejections).items()]
