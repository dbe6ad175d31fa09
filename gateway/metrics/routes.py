"""What is counted per route."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import Metric

from gateway.errors import Failure
from gateway.metrics.families import Each, Row, reading
from gateway.metrics.instruments import REQUEST_BUCKETS, Histogram

_SOURCES: Final = {failure.code: failure.source for failure in Failure}

KNOWN_METHODS: Final = frozenset(
    {b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT"}
    | {b"PROPFIND", b"PROPPATCH", b"MKCOL", b"COPY", b"MOVE", b"LOCK", b"UNLOCK", b"REPORT", b"QUERY"}
)
"""Methods that become a label value; any other is counted as `OTHER`."""

NO_CLASS: Final = 600
"""Statuses from here on are of no class that HTTP knows. They are one label value, `5xx`, which `code=~"5.."` finds."""


@dataclass(slots=True, eq=False)
class RouteMetrics:
    """What is counted per route. One object lives as long as the route's name does, across reloads."""

    name: str
    requests: dict[tuple[bytes, int], int] = field(default_factory=dict)
    duration: Histogram = field(default_factory=lambda: Histogram(REQUEST_BUCKETS))
    in_flight: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    rejections: Counter[str] = field(default_factory=Counter)
    expected_requests: tuple[tuple[bytes, int], ...] = ()
    """Methods and codes that are shown before they are first counted."""
    expected_reasons: tuple[str, ...] = ()
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


def route_families(all_routes: Iterable[RouteMetrics]) -> Iterator[Metric]:
    """What Prometheus reads of them. There may be thousands, so the rows are made while they are read."""
    each = Each(["route"], (((one.name,), one) for one in all_routes))
    yield each.many(["method", "code"], _requests).counter("gateway_requests", "Requests by what the client got")
    yield each.one(lambda one: reading(one.duration)).histogram(
        "gateway_request_duration_seconds", "From the request head to the last byte of the response"
    )
    yield each.one(lambda one: one.in_flight).gauge("gateway_requests_in_flight", "Requests being served")
    yield each.one(lambda one: one.request_bytes).counter("gateway_request_bytes", "Request body bytes received")
    yield each.one(lambda one: one.response_bytes).counter("gateway_response_bytes", "Response body bytes sent")
    yield each.many(["reason", "source"], _rejections).counter(
        "gateway_rejections",
        "Requests that the gateway refused or failed, by failure code, and whose fault it is: downstream, gateway or upstream",
    )


def _requests(route: RouteMetrics) -> list[Row]:
    """What was counted, and zeros for what is to be expected: a series that begins with 1 has no rate for its first event."""
    found = dict.fromkeys(route.expected_requests, 0)
    for (method, code), count in route.requests.copy().items():
        key = method, min(code, NO_CLASS)
        found[key] = found.get(key, 0) + count
    return [((method.decode("ascii"), _code(code)), count) for (method, code), count in found.items()]


def _code(status: int) -> str:
    return "5xx" if status == NO_CLASS else str(status)


def _rejections(route: RouteMetrics) -> list[Row]:
    counts = dict.fromkeys(route.expected_reasons, 0) | route.rejections
    return [((reason, _SOURCES[reason]), count) for reason, count in counts.items()]
