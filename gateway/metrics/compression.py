"""What is counted of compression."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import Metric

from gateway.metrics.families import Each


@dataclass(slots=True, eq=False)
class CodingMetrics:
    """What is counted per route and coding."""

    responses: int = 0
    bytes_in: int = 0
    """Before coding."""
    bytes_out: int = 0
    seconds: float = 0.0
    """Spent in the encoder, on the event loop or in a thread."""


@dataclass(slots=True, eq=False)
class CompressionMetrics:
    """What is counted per route."""

    route: str
    codings: dict[bytes, CodingMetrics] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    """Responses that were not compressed, by reason."""

    def coding(self, name: bytes) -> CodingMetrics:
        """The counters of a coding."""
        return self.codings.setdefault(name, CodingMetrics())


def compression_families(all_routes: Iterable[CompressionMetrics]) -> Iterator[Metric]:
    """What Prometheus reads of them."""
    routes = list(all_routes)
    coded = ((one.route, name.decode("ascii"), counts) for one in routes for name, counts in one.codings.copy().items())
    each = Each(["route", "coding"], (((route, coding), counts) for route, coding, counts in coded))
    yield each.one(lambda coding: coding.responses).counter("gateway_compression_responses", "Responses compressed")
    yield each.one(lambda coding: coding.bytes_in).counter("gateway_compression_input_bytes", "Body bytes before compression")
    yield each.one(lambda coding: coding.bytes_out).counter("gateway_compression_output_bytes", "Body bytes after compression")
    yield each.one(lambda coding: coding.seconds).counter("gateway_compression_seconds", "Time spent in encoders")
    yield (
        Each(["route"], (((one.route,), one) for one in routes))
        .words("reason", lambda one: one.skipped)
        .counter("gateway_compression_skipped", "Responses not compressed, by reason")
    )
