"""Compressed bodies and events as real clients get them: curl, httpx, aiohttp and chromium, through a gateway on core 0.

Part of `tests.bench.compression`. The origin and the clients in Python run in one process, so that they share a clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import httpx

from gateway.proxy.bodies.coders import brotli, zstd
from tests.bench.limits import _wait_for, pinned
from tests.bench.processes import free_port

CODINGS: Final = ("zstd", "br", "gzip")
FRAMINGS: Final = ("length", "chunked", "close")
SIZES: Final = (0, 1, 1023, 1024, 16_384, 100_000, 1_500_000, 5 << 20, 50 << 20)
_MIN_SIZE: Final = 1024

_HTTPX_ZSTD: Final = importlib.util.find_spec("zstandard") is not None
"""Whether httpx decodes it by itself."""
_PIECES: Final = (1, 13, 700, 4096, 40_000, 200_000, 2_000_000)


def body(size: int) -> bytes:
    """Text, noise and zeros in turn."""
    chance = random.Random(size)
    blocks = [b"%d: some words, " % number * 4000 for number in range(8)] + [chance.randbytes(30_000), bytes(50_000)]
    found = bytearray()
    while len(found) < size:
        found += chance.choice(blocks)
    return bytes(found[:size])


_DIGESTS: Final[dict[int, str]] = {}


def _digest(size: int) -> str:
    if size not in _DIGESTS:
        _DIGESTS[size] = hashlib.sha256(body(size)).hexdigest()
    return _DIGESTS[size]


class Origin:
    """`/<coding>/<framing>/<size>`: a body in pieces of random sizes. `/<coding>/events/<count>`: events that say when."""

    def __init__(self) -> None:
        self.port = free_port()
        self.reported: asyncio.Queue[str] = asyncio.Queue()
        """What a page posted."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, path, _ = head.split(" ", 2)
                if method == "POST":
                    length = int(head.lower().partition("content-length:")[2].split()[0])
                    self.reported.put_nowait((await reader.readexactly(length)).decode())
                    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                elif path.startswith("/page"):
                    page = _PAGE.encode()
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(page) + page)
                elif path.count("/") != 3:
                    writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                else:
                    _, _, framing, size = path.split("/")
                    if framing == "events":
                        await _send_events(writer, int(size))
                    else:
                        await _send(writer, framing, body(int(size)))
                    if framing == "close":
                        break
                await writer.drain()
        writer.close()


async def _send(writer: asyncio.StreamWriter, framing: str, data: bytes) -> None:
    chance = random.Random()
    how = {"length": f"Content-Length: {len(data)}", "chunked": "Transfer-Encoding: chunked", "close": "Connection: close"}
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{how[framing]}\r\n\r\n".encode())
    at = 0
    while at < len(data):
        piece = data[at : at + chance.choice(_PIECES if len(data) < 1 << 21 else _PIECES[3:])]
        at += len(piece)
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
        await writer.drain()
    if framing == "chunked":
        writer.write(b"0\r\n\r\n")


async def _send_events(writer: asyncio.StreamWriter, count: int) -> None:
    chance = random.Random(1)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(count):
        await asyncio.sleep(chance.uniform(0.002, 0.03))
        filler = b"x" * chance.choice((10, 200, 2000))
        event = b"data: %.6f %b\n\n" % (time.monotonic(), filler)
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await writer.drain()
    writer.write(b"0\r\n\r\n")


@contextlib.asynccontextmanager
async def _world() -> AsyncIterator[tuple[Origin, str]]:
    """An origin, and the address of a gateway before it with a route for each coding."""
    os.sched_setaffinity(0, {1})
    origin, port = Origin(), free_port()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "gateway.yaml")
        routes = ", ".join(
            f"{{name: {coding}, match: {{path: /{coding}/**}}, upstream: u, compression: {{codings: {coding}}}}}"
            for coding in CODINGS
        )
        path.write_text(
            f"version: 1\nserver: {{listen: '127.0.0.1:{port}'}}\nadmin: {{listen: 'unix:{name}/admin.sock'}}\n"
            f"access_log: off\nupstreams: {{u: {{endpoints: ['http://127.0.0.1:{origin.port}']}}}}\n"
            f"routes: [{routes}, {{name: page, match: {{}}, upstream: u}}]\n",
            encoding="utf-8",
        )
        process = pinned(0, sys.executable, "-m", "gateway", "run", str(path))
        try:
            async with await asyncio.start_server(origin.serve, "127.0.0.1", origin.port, limit=1 << 20):
                _wait_for(port)
                yield origin, f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


# -- clients -----------------------------------------------------------------------------------------------------------

Get = Callable[[str, str], Awaitable[tuple[str, str]]]
"""Fetches a URL with an `Accept-Encoding`: the `Content-Encoding`, and the digest of the content as the client decoded it."""


async def _curl(url: str, coding: str) -> tuple[str, str]:
    command = ("curl", "-s", "-D-", "--compressed", "-H", f"Accept-Encoding: {coding}", url)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    found, _ = await process.communicate()
    head, _, content = found.partition(b"\r\n\r\n")
    if process.returncode:
        return "", f"exit code {process.returncode}"
    line = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-encoding:")), b"")
    return line.partition(b":")[2].strip().decode(), hashlib.sha256(content).hexdigest()


def _httpx(client: httpx.AsyncClient) -> Get:
    async def get(url: str, coding: str) -> tuple[str, str]:
        found = hashlib.sha256()
        async with client.stream("GET", url, headers={"Accept-Encoding": coding}) as response:
            if coding == "zstd" and "content-encoding" in response.headers and not _HTTPX_ZSTD:
                decode = _decoder(coding)
                async for piece in response.aiter_raw():
                    found.update(decode(piece))
            else:
                async for piece in response.aiter_bytes():
                    found.update(piece)
        return response.headers.get("content-encoding", ""), found.hexdigest()

    return get


def _aiohttp(client: aiohttp.ClientSession) -> Get:
    async def get(url: str, coding: str) -> tuple[str, str]:
        found = hashlib.sha256()
        async with client.get(url, headers={"Accept-Encoding": coding}) as response:
            async for piece in response.content.iter_any():
                found.update(piece)
        return response.headers.get("content-encoding", ""), found.hexdigest()

    return get


_PAGE: Final = """<!doctype html><script>
(async () => {
  for (const path of location.hash.slice(1).split(",")) {
    let said;
    try {
      const response = await fetch(path, {cache: "no-store"});
      const digest = await crypto.subtle.digest("SHA-256", await response.arrayBuffer());
      const hex = [...new Uint8Array(digest)].map(byte => byte.toString(16).padStart(2, "0")).join("");
      said = (response.headers.get("content-encoding") || "") + " " + hex;
    } catch (error) { said = " " + error; }
    await fetch("/report", {method: "POST", body: said});
  }
})();
</script>"""


@contextlib.asynccontextmanager
async def _chromium(origin: Origin, base: str, paths: list[str]) -> AsyncIterator[Get]:
    with tempfile.TemporaryDirectory() as name:
        options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={name}")
        command = (_browser() or "", *options, f"{base}/page#{','.join(paths)}")
        out = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out, start_new_session=True)

        async def get(url: str, coding: str) -> tuple[str, str]:
            async with asyncio.timeout(60):
                found, _, digest = (await origin.reported.get()).partition(" ")
            return found, digest

        try:
            yield get
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def _browser() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


async def _try(name: str, get: Get, base: str, paths: list[str]) -> int:
    """Ask for all; returns how many went wrong."""
    counts: Counter[str] = Counter()
    for path in paths:
        _, coding, framing, size = path.split("/")
        found, digest = await get(base + path, coding)
        # A small body whose end is not seen at once counts as large.
        expected = (coding,) if int(size) >= _MIN_SIZE else ("",) if framing == "length" else ("", coding)
        if digest != _digest(int(size)) or found not in expected:
            print(f"{name} {path}: WRONG: `{found}` {digest}")
            counts["wrong"] += 1
        counts[found or "as it is"] += 1
    print(f"{name:<9} {len(paths)} bodies, {dict(counts)}", flush=True)
    return counts["wrong"]


async def _clients() -> int:
    paths = [f"/{coding}/{framing}/{size}" for coding, framing, size in itertools.product(CODINGS, FRAMINGS, SIZES)]
    wrong = 0
    async with _world() as (origin, base):
        wrong += await _try("curl", _curl, base, paths)
        async with httpx.AsyncClient(timeout=60) as client:
            wrong += await _try("httpx", _httpx(client), base, paths)
        async with aiohttp.ClientSession() as session:
            wrong += await _try("aiohttp", _aiohttp(session), base, paths)
        if _browser() is not None:
            async with _chromium(origin, base, paths) as get:
                wrong += await _try("chromium", get, base, paths)
    return wrong


def clients() -> None:
    """Every coding, framing and size through every client that is there."""
    if wrong := asyncio.run(_clients()):
        sys.exit(f"{wrong} bodies are wrong")


# -- events ------------------------------------------------------------------------------------------------------------


def _decoder(coding: str) -> Callable[[bytes], bytes]:
    made: dict[str, Callable[[], Any]] = {
        "identity": lambda: bytes,
        "gzip": lambda: zlib.decompressobj(31).decompress,
        "br": lambda: brotli.Decompressor().process,
        "zstd": lambda: zstd.ZstdDecompressor().decompress,
    }
    decode: Callable[[bytes], bytes] = made[coding]()
    return decode


async def _events(count: int) -> None:
    async with _world() as (_, base):
        for coding in (*CODINGS, "identity"):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(base.rpartition(":")[2]))
            route = coding if coding in CODINGS else "gzip"
            writer.write(f"GET /{route}/events/{count} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {coding}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert (b"Content-Encoding: " + coding.encode() in head) == (coding in CODINGS), head
            decode, text, took = _decoder(coding), b"", []
            while size := int(await reader.readuntil(b"\r\n"), 16):
                text += decode((await reader.readexactly(size + 2))[:-2])
                now = time.monotonic()
                *events, text = text.split(b"\n\n")
                took += [(now - float(event.split()[1])) * 1000 for event in events]
            writer.close()
            assert len(took) == count
            took.sort()
            late = sum(one > 20 for one in took)
            print(f"{coding:<9} {count} events: p50 {took[count // 2]:.2f} ms, p99 {took[int(count * 0.99)]:.2f} ms, ", end="")
            print(f"worst {took[-1]:.2f} ms, later than 20 ms: {late}", flush=True)


def events(count: int = 500) -> None:
    """Milliseconds from the upstream's write of an event to the client's decoded copy of it."""
    asyncio.run(_events(count))
