"""Memory of a proxy: idle connections, a slow-reading client, a slow upstream."""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Final

from tests.bench import configs, load, proxies, report
from tests.bench.processes import HOST, Process, StartError, free_port, running
from tests.bench.proxies import LOAD_CORE, PROJECT, Proxy, Running
from tests.bench.rude import BLOCK, Pacer

_MIB: Final = 1024 * 1024
_SETTLE: Final = 1.5
_NO_HURRY: Final = 600.0
"""Timeouts of the proxies while transfers are slow on purpose, in seconds."""


def measure(chosen: Sequence[Proxy], *, connections: int, size_mib: int, pace_mib: int) -> dict[str, Any]:
    """All of it for every proxy; prints a table."""
    results: dict[str, dict[str, float]] = {}
    for proxy in chosen:
        try:
            results[proxy.name] = _measure_one(proxy, connections, size_mib * _MIB, pace_mib * _MIB)
        except (StartError, OSError, HTTPException) as error:
            print(f"skipped {proxy.name}: {error}", flush=True)
            continue
        print(f"measured {proxy.name}", flush=True)
    columns = ["proxy", "RSS MiB", "KiB/idle conn.", "after closing", "download +MiB", "upload CL +MiB", "chunked +MiB"]
    print("\n" + report.table(columns, _rows(results)))
    settings = {"connections": connections, "size_mib": size_mib, "pace_mib_per_second": pace_mib}
    return {"settings": settings, "proxies": results}


def _rows(results: dict[str, dict[str, float]]) -> Iterator[list[str]]:
    for name, result in results.items():
        transfers = [report.mib(result[key]) for key in ("download", "upload_length", "upload_chunked")]
        per_connection = f"{result['per_idle_connection'] / 1024:.1f}"
        yield [name, report.mib(result["warm"]), per_connection, report.mib(result["after_closing"]), *transfers]


def _measure_one(proxy: Proxy, connections: int, size: int, pace: float) -> dict[str, float]:
    """Bytes. Transfers are the growth of the peak RSS over what the warm process had."""
    with proxies.upstream() as ports, proxy.start(ports, request_timeout=_NO_HURRY) as subject:
        result = _idle(subject, connections)
        result["download"] = _growth(subject, lambda: _download(subject, size, pace))
    with _sink(pace) as port, proxy.start((port,), request_timeout=_NO_HURRY) as subject:
        _upload(subject, _MIB, chunked=False)
        result["upload_length"] = _growth(subject, lambda: _upload(subject, size, chunked=False))
        result["upload_chunked"] = _growth(subject, lambda: _upload(subject, size, chunked=True))
    return result


@contextlib.contextmanager
def _sink(pace: float) -> Iterator[int]:
    """An upstream that reads that many bytes per second."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        argv = [sys.executable, "-m", "tests.bench.rude", str(port), str(pace)]
        process = Process("sink", argv, core=LOAD_CORE, log=Path(directory) / "output.log", cwd=PROJECT)
        with running(process):
            process.wait_for_port(port)
            yield port


def _process(subject: Running) -> Process:
    if subject.process is None:
        raise StartError(f"{subject.name} is no process")
    return subject.process


def _idle(subject: Running, connections: int) -> dict[str, float]:
    """RSS with and without idle keep-alive connections that have each had one exchange."""
    process = _process(subject)
    load.wrk(subject, path="/", seconds=2, connections=64)
    time.sleep(_SETTLE)
    warm = process.rss()
    with contextlib.ExitStack() as stack:
        for _ in range(connections):
            connection = stack.enter_context(socket.create_connection((HOST, subject.port), 10))
            connection.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
            _answer(subject, connection).read()
        time.sleep(_SETTLE)
        held = process.rss()
        if process.sockets() < connections:
            raise StartError(f"{subject.name} holds {process.sockets()} sockets, not {connections} connections")
    time.sleep(_SETTLE)
    return {
        "warm": float(warm),
        "with_idle": float(held),
        "per_idle_connection": (held - warm) / connections,
        "after_closing": float(process.rss()),
    }


def _growth(subject: Running, transfer: Callable[[], None]) -> float:
    """How far the peak RSS rises over what it was before, in bytes."""
    process = _process(subject)
    time.sleep(_SETTLE)
    process.reset_peak()
    before = process.rss()
    transfer()
    return float(max(process.peak_rss() - before, 0))


def _download(subject: Running, size: int, pace: float) -> None:
    """Read the huge file, or its first `size` bytes, no faster than `pace`."""
    pacer, left = Pacer(pace), min(size, configs.HUGE_SIZE)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BLOCK)
        connection.settimeout(60)
        connection.connect((HOST, subject.port))
        connection.sendall(f"GET {configs.HUGE} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        answer = _answer(subject, connection)
        while left > 0:
            block = answer.read(min(left, BLOCK))
            if not block:
                raise StartError(f"{subject.name} cut the download {left} bytes short")
            left -= len(block)
            time.sleep(pacer.took(len(block)))


def _upload(subject: Running, size: int, *, chunked: bool) -> None:
    """Send `size` bytes as fast as they are taken; the sink must have got them all."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    block = b"u" * BLOCK
    part = b"%x\r\n%b\r\n" % (BLOCK, block) if chunked else block
    with socket.create_connection((HOST, subject.port), 60) as connection:
        connection.sendall(f"POST /upload HTTP/1.1\r\nHost: bench\r\n{framing}\r\n\r\n".encode())
        for _ in range(size // BLOCK):
            connection.sendall(part)
        if chunked:
            connection.sendall(b"0\r\n\r\n")
        received = _answer(subject, connection).read()
        if received != str(size).encode():
            raise StartError(f"{subject.name} brought {received[:100]!r} of {size} bytes to the upstream")


def _answer(subject: Running, connection: socket.socket) -> HTTPResponse:
    """The head of a 200, its body to be read."""
    answer = HTTPResponse(connection)
    answer.begin()
    if answer.status != 200:
        raise StartError(f"{subject.name} answered {answer.status}: {answer.read()[:200]!r}")
    return answer
