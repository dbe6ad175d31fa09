"""What is counted of compression."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric

from gateway.metrics.families import CounterFamily


class CodingMetrics:
    """What is counted per route and coding."""

    __slots__ = ("bytes_in", "bytes_out", "responses", "seconds")

    def __init__(self) -> None:
        self.responses = 0
        self.bytes_in = 0
        """Before coding."""
        self.bytes_out = 0
        self.seconds = 0.0
        """Spent in the encoder, on the event loop or in a thread."""


class CompressionMetrics:
    """What is counted per route."""

    __slots__ = ("codings", "route", "skipped")

    def __init__(self, route: str) -> None:
        self.route = route
        self.codings: dict[bytes, CodingMetrics] = {}
        self.skipped: dict[str, int] = {}
        """Responses that were not compressed, by reason."""

    def coding(self, name: bytes) -> CodingMetrics:
        """The counters of a coding."""
        return self.codings.setdefault(name, CodingMetrics())


def compression_families(all_routes: Iterable[CompressionMetrics]) -> Iterator[Metric]:
    """What Prometheus reads of them."""
    labels = ["route", "coding"]
    responses = CounterFamily("gateway_compression_responses", "Responses compressed", labels=labels)
    taken = CounterFamily("gateway_compression_input_bytes", "Body bytes before compression", labels=labels)
    given = CounterFamily("gateway_compression_output_bytes", "Body bytes after compression", labels=labels)
    seconds = CounterFamily("gateway_compression_seconds", "Time spent in encoders", labels=labels)
    skipped = CounterFamily("gateway_compression_skipped", "Responses not compressed, by reason", labels=["route", "reason"])
    for route in list(all_routes):
        for name, coding in list(route.codings.items()):
            values = [route.route, name.decode("ascii")]
            responses.add_metric(values, coding.responses)
            taken.add_metric(values, coding.bytes_in)
            given.add_metric(values, coding.bytes_out)
            seconds.add_metric(values, coding.seconds)
        for reason, count in list(route.skipped.items()):
            skipped.add_metric([route.route, reason], count)
    return iter((responses, taken, given, seconds, skipped))
