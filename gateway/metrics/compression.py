"""What is counted of compression."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

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
    routes = list(all_routes)

    def counted(name: str, text: str, value: Callable[[CodingMetrics], float]) -> Metric:
        rows = (
            ((one.route, coding.decode("ascii")), value(counts))
            for one in routes
            for coding, counts in one.codings.copy().items()
        )
        return CounterFamily(name, text, ["route", "coding"], rows)

    yield counted("gateway_compression_responses", "Responses compressed", lambda coding: coding.responses)
    yield counted("gateway_compression_input_bytes", "Body bytes before compression", lambda coding: coding.bytes_in)
    yield counted("gateway_compression_output_bytes", "Body bytes after compression", lambda coding: coding.bytes_out)
    yield counted("gateway_compression_seconds", "Time spent in encoders", lambda coding: coding.seconds)
    yield CounterFamily(
        "gateway_compression_skipped",
        "Responses not compressed, by reason",
        ["route", "reason"],
        (((one.route, reason), count) for one in routes for reason, count in one.skipped.copy().items()),
    )
