"""`/metrics`: what Prometheus scrapes, written in slices between which requests go on.

A scrape of 1 000 routes is 2.5 MB and takes 25 ms. On the event loop in one piece, or in a thread beside it that has the
interpreter for 5 ms at a time, requests would wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain
from typing import Final, Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from gateway.metrics.families import exposition

PIECE: Final = 64 * 1024
"""Bytes that are written at a time."""
REST_AFTER: Final = 4
"""Slices, of half a millisecond at most each."""
PAUSE: Final = 0.001
"""Seconds."""


class Collected(Protocol):
    """What is counted, by one process or by several."""

    def collect(self) -> Iterable[Metric]:
        """The collector protocol of prometheus_client."""


def metrics_page(counted: Callable[[], Awaitable[Collected]]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler: the gateway's metrics, those of the process and of the interpreter."""
    process = CollectorRegistry()
    ProcessCollector(registry=process)
    PlatformCollector(registry=process)
    GCCollector(registry=process)

    async def metrics(request: web.Request) -> web.StreamResponse:
        gateway = await counted()
        _, content_type = choose_encoder(request.headers.get("Accept", ""))
        openmetrics = content_type.startswith("application/openmetrics-text")
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        piece = bytearray()
        slices = exposition(chain(gateway.collect(), process.collect()), openmetrics=openmetrics)
        for number, text in enumerate(slices, 1):
            piece += text.encode("utf-8")
            if len(piece) >= PIECE:
                await response.write(bytes(piece))
                piece.clear()
            # A process that never rests is put behind others when it must be quick.
            await asyncio.sleep(PAUSE if number % REST_AFTER == 0 else 0)
        if openmetrics:
            piece += b"# EOF\n"
        await response.write_eof(bytes(piece))
        return response

    return metrics
