"""Microseconds per request inside the process, stage by stage: `python -m tests.bench.stages`. No sockets.

The last rows are whole exchanges: the real protocols on transports that only remember what was written. What they cost and
the stages do not explain is control flow. Each figure is the best of several repetitions, in the process pinned to one core.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import getrandbits, random
from typing import Any, Final

from gateway.errors import Failed
from tests.bench import configs, report
from tests.bench.configs import Site
from tests.bench.processes import alone
from tests.bench.proxies import PROXY_CORE

Call = Callable[[], object]

SMALL: Final = b"GET /users/42?x=1 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"
BIG: Final = (
    b"GET /users/42?x=1 HTTP/1.1\r\nHost: api.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nReferer: https://www.example.com/users?page=2\r\nConnection: keep-alive\r\n"
    b"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\nAuthorization: Bearer 0123456789abcdef0123456789abcde\r\n"
    b"Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: same-origin\r\nPragma: no-cache\r\n\r\n"
)
POST: Final = (
    b"POST /users HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n"
    + b"j" * 1024
)
ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Sat, 21 Nov 2026 08:38:00 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100\r\nConnection: keep-alive\r\n\r\n" + configs.BODY.encode()
)
_VARIANTS: Final = 4096
_REHEARSALS: Final = 20_000
CHUNKS: Final = b"".join(b"2000\r\n" + b"c" * 0x2000 + b"\r\n" for _ in range(8)) + b"0\r\n\r\n"


class Transport(asyncio.Transport):
    """Remembers the size of what was written and nothing else."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 40_000), "sockname": ("127.0.0.1", 8080)})
        self.written = 0

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Count it."""
        self.written += len(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no buffer."""

    def get_write_buffer_size(self) -> int:
        """There is no buffer."""
        return 0

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""

    def is_closing(self) -> bool:
        """Never."""
        return False

    def close(self) -> None:
        """Never."""

    def abort(self) -> None:
        """Never."""


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """Never runs: it only takes the timers that connections set."""
    return asyncio.new_event_loop()


class World:
    """A compiled configuration, the shared data plane, and one connection on either side of it."""

    def __init__(self, routes: int = 5) -> None:
        from gateway.control.compile import compile_config
        from gateway.control.load import load
        from gateway.metrics import GatewayMetrics
        from gateway.proxy.downstream.http1_connection import Http1Connection
        from gateway.proxy.plane import DataPlane
        from gateway.proxy.upstream.connection import UpstreamConnection
        from gateway.proxy.upstream.pool import EndpointPool

        self.loop = _loop()
        self.metrics = GatewayMetrics("bench")
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            path = Path(directory) / "gateway.yaml"
            path.write_text(configs.gateway(Site(Path(directory), 18_080, 18_081, (18_082,), routes=routes)), "utf-8")
            loaded = load(path)
        self.snapshot = compile_config(loaded, self.metrics, lambda *facts: EndpointPool(self.loop, *facts))
        self.plane = DataPlane(self.loop, self.snapshot, self.metrics, None)
        self.route = self.snapshot.routes[-1]
        self.upstream = self.snapshot.upstreams[0]
        self.endpoint = self.upstream.group.endpoints[0]
        pool = self.endpoint.pool
        assert isinstance(pool, EndpointPool)
        self.origin = UpstreamConnection(pool)
        self.origin.connection_made(Transport())
        self.endpoint.in_flight += 1
        pool.put(self.origin)
        self.client = Http1Connection(self.plane, b"http")
        self.client.connection_made(Transport())

    def exchange(self, requests: Sequence[bytes], answers: Sequence[bytes] = (ANSWER,)) -> Call:
        """One whole exchange: the client's bytes in, the upstream's bytes in. Several are taken in turn."""
        client, origin = self.client, self.origin
        request, answer = _in_turn(requests), _in_turn(answers)

        def call() -> None:
            client.data_received(request())
            origin.data_received(answer())

        for _ in range(_REHEARSALS):
            call()
        if self.route.metrics.requests != {(requests[0].partition(b" ")[0], 200): _REHEARSALS}:
            raise RuntimeError(f"the exchanges did not all end in a 200: {self.route.metrics.requests}")
        return call


_MOVED_ON: Final = (ImportError, AttributeError, TypeError, ValueError, RuntimeError, AssertionError, Failed)
"""What a stage raises when the modules are older or newer than this file: it is skipped, and the table goes on."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A row: `make` sets up outside the clock and returns what is timed."""

    name: str
    make: Callable[[], Call]


def _in_turn(values: Sequence[bytes]) -> Callable[[], bytes]:
    """Each of the values after the other, for ever."""
    return itertools.cycle(values).__next__


def _varied(message: bytes) -> list[bytes]:
    """The same message with a field that is never twice the same while the parsers could remember it."""
    at = message.index(b"\r\n") + 2
    return [b"%btraceparent: 00-%032x-%016x-01\r\n%b" % (message[:at], n, n, message[at:]) for n in range(_VARIANTS)]


def _read_request(messages: Sequence[bytes]) -> Callable[[], Call]:
    def make() -> Call:
        reader, message, end = World().plane.reader, _in_turn(messages), messages[0].index(b"\r\n\r\n") + 4
        last = reader.read(messages[0], end).fields
        return lambda: reader.read(message(), end, 0, last)

    return make


def _read_response(messages: Sequence[bytes]) -> Callable[[], Call]:
    def make() -> Call:
        from gateway.proxy.wire.http1_response import read_response

        message, end = _in_turn(messages), messages[0].index(b"\r\n\r\n") + 4
        last = read_response(messages[0], end, b"x-request-id").fields
        return lambda: read_response(message(), end, b"x-request-id", last)

    return make


def _normalise_path(path: bytes) -> Callable[[], Call]:
    def make() -> Call:
        from gateway.router import normalise_path

        return lambda: normalise_path(path)

    return make


def _normalise_host() -> Call:
    from gateway.headers import normalise_host

    return lambda: normalise_host(b"api.example.com:8080")


def _match(routes: int) -> Callable[[], Call]:
    def make() -> Call:
        router = World(routes).snapshot.router
        path = b"/r%d/42/more" % (routes // 2)
        return lambda: router.match(b"127.0.0.1", path, b"GET", lambda _: None, dict)

    return make


def _deadline() -> Call:
    from gateway.policies.timeout import TimeoutSettings, attempt_ends, budget, remaining_ms

    settings = TimeoutSettings()

    def call() -> None:
        now = time.monotonic()
        ends = now + budget(settings, None)
        attempt_ends(settings, now, ends)
        remaining_ms(now, ends)

    return call


def _request_id() -> Call:
    return lambda: b"%032x" % getrandbits(128)


def _pick() -> Call:
    world = World()
    group = world.upstream.group
    return lambda: group.pick(random())


def _metrics() -> Call:
    from gateway.metrics import GatewayMetrics

    metrics = GatewayMetrics("bench")
    route, upstream = metrics.route("users"), metrics.upstream("users")

    def call() -> None:
        route.in_flight += 1
        upstream.duration.observe(0.004)
        upstream.attempted("ok")
        route.in_flight -= 1
        route.finished(b"GET", 200, 0.005)
        route.response_bytes += 100
        metrics.overhead.observe(0.0002)

    return call


def _upstream_head(request: bytes) -> Callable[[], Call]:
    def make() -> Call:
        from gateway.proxy.steps.request_fields import host_for, request_lines
        from gateway.proxy.wire.http1_writer import request_message

        world = World()
        world.client.data_received(request)
        exchange = world.client.exchange
        assert exchange is not None
        attempt = exchange.attempt
        assert attempt is not None
        now = exchange.started
        return lambda: request_message(exchange.head, b"/", host_for(attempt), request_lines(attempt, now))

    return make


def _client_head() -> Call:
    from gateway.proxy.steps.response_fields import response_lines
    from gateway.proxy.wire.http1_response import read_response
    from gateway.proxy.wire.http1_writer import response_message

    world = World()
    world.client.data_received(SMALL)
    exchange, head = world.client.exchange, read_response(ANSWER, ANSWER.index(b"\r\n\r\n") + 4, b"x-request-id")
    assert exchange is not None

    def call() -> None:
        lines = response_lines(exchange, world.route, head)
        lines.append(b"Content-Length: %d\r\n" % 100)
        response_message(head.status, head.reason, lines)

    return call


def _chunks() -> Call:
    from gateway.proxy.wire.framing import ChunkedDecoder

    return lambda: ChunkedDecoder().feed(CHUNKS)


def _reference() -> int:
    """The same work at the start and at the end: when the two differ, the machine was busy with something else."""
    return sum(range(1000))


STAGES: Final = (
    Stage("(reference: sum of 1000)", lambda: _reference),
    Stage("read request head, 2 lines", _read_request([SMALL])),
    Stage("read request head, browser", _read_request([BIG])),
    Stage("read request head, browser, never the same", _read_request(_varied(BIG))),
    Stage("read response head", _read_response([ANSWER])),
    Stage("read response head, never the same", _read_response(_varied(ANSWER))),
    Stage("normalise host", _normalise_host),
    Stage("normalise path, plain", _normalise_path(b"/users/42/orders")),
    Stage("normalise path, encoded", _normalise_path(b"/users/J%C3%BCrgen/orders")),
    Stage("match, 5 routes", _match(5)),
    Stage("match, 5000 routes", _match(5000)),
    Stage("deadline and attempt", _deadline),
    Stage("request id", _request_id),
    Stage("pick endpoint", _pick),
    Stage("head to upstream, 2 lines", _upstream_head(SMALL)),
    Stage("head to upstream, browser", _upstream_head(BIG)),
    Stage("head to client", _client_head),
    Stage("metrics of a request", _metrics),
    Stage("decode 64 KiB in 8 chunks", _chunks),
    Stage("WHOLE EXCHANGE, small GET", lambda: World().exchange([SMALL])),
    Stage("WHOLE EXCHANGE, browser GET", lambda: World().exchange([BIG])),
    Stage("WHOLE EXCHANGE, browser GET, never the same", lambda: World().exchange(_varied(BIG), _varied(ANSWER))),
    Stage("WHOLE EXCHANGE, POST 1 KiB", lambda: World().exchange([POST])),
    Stage("(reference again)", lambda: _reference),
)


def microseconds(call: Call, seconds: float, repetitions: int) -> float:
    """The best average over `repetitions` slices that fill `seconds` together."""
    count = 1
    while (took := _timed(call, count)) < 0.002:
        count *= 2
    per_slice = max(1, int(count * seconds / repetitions / took))
    return min(_timed(call, per_slice) for _ in range(repetitions)) / per_slice * 1e6


def _timed(call: Call, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start


def _measure(stages: Sequence[Stage], options: argparse.Namespace) -> dict[str, float]:
    found: dict[str, float] = {}
    for stage in stages:
        try:
            found[stage.name] = microseconds(stage.make(), options.seconds, options.repetitions)
        except _MOVED_ON as error:
            print(f"skipped {stage.name}: {error!r}", flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Time every stage and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.stages", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="per stage")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--only", default="", metavar="WORD", help="stages whose name holds this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: results/stages.json beside this file")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, {PROXY_CORE})
    gc.freeze()
    with alone(), contextlib.closing(_loop()):
        found = _measure([stage for stage in STAGES if options.only.lower() in stage.name.lower()], options)
    print(report.table(["stage", "µs"], ([name, f"{value:.2f}"] for name, value in found.items())))
    settings = {"seconds": options.seconds, "repetitions": options.repetitions}
    print(f"\nwritten: {report.save('stages', options.json, {'settings': settings, 'microseconds': found}).name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
