"""The access log of a real process, whatever becomes of its standard output; and the page about it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from gateway.errors import Failure
from gateway.proxy.access_log.line import ECS, FLAT, OTEL, line_template
from tests.conftest import StartUpstream
from tests.support import STARTS_WITHIN, Client, answers, eventually, proxy, refusing_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "access-log.md").read_text(encoding="utf-8")
LARGE = b"a" * 4000
"""A path that makes lines long, so that a pipe of 64 KiB is full soon."""


@asynccontextmanager
async def logging_to(stdout: int, url: str, folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int, int]]:
    """A gateway whose access log goes there; its port and that of its admin listener."""
    port, admin = refusing_port(), refusing_port()
    text = proxy(url, listen=f"127.0.0.1:{port}").replace('access_log: "off"', 'access_log: {file: "-"}')
    config = folder / "gateway.yaml"
    config.write_text(
        text.replace('admin: {listen: "127.0.0.1:0"}', f'admin: {{listen: "127.0.0.1:{admin}"}}'), encoding="utf-8"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "run", str(config), cwd=ROOT, stdout=stdout, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(STARTS_WITHIN):
            while b"admin on" not in await process.stderr.readline():
                assert process.returncode is None
        yield process, port, admin
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def metric(admin: int, name: str) -> float:
    """The value of a series without labels."""
    client = Client(*await asyncio.open_connection("127.0.0.1", admin))
    response = await client.ask(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    client.close()
    (line,) = [line for line in response.body.decode().splitlines() if line.startswith(name + " ")]
    return float(line.rpartition(" ")[2])


async def ask(client: Client, count: int) -> set[int]:
    """So many requests with long paths; the statuses."""
    return {(await client.ask(b"GET /%b HTTP/1.1\r\nHost: example.com\r\n\r\n" % LARGE)).status for _ in range(count)}


async def test_a_blocked_standard_output_costs_lines_and_no_requests(upstream: StartUpstream, tmp_path: Path) -> None:
    """Nobody reads: every request is answered, the bounded queue overflows and says so; then the reader finds whole lines."""
    origin = await upstream(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"))
    reader, writer = os.pipe()
    try:
        async with logging_to(writer, origin.url, tmp_path) as (process, port, admin):
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            # 8 MiB wait at most: 2 000 lines of 4 KiB and some are more than that and the pipe.
            assert await ask(client, 2500) == {200}
            dropped = await metric(admin, "gateway_access_log_dropped_total")
            assert 0 < dropped < 2500
            os.close(writer)
            writer = -1
            reading = asyncio.ensure_future(asyncio.to_thread(_read_all, reader))
            async with asyncio.timeout(STARTS_WITHIN):
                while await metric(admin, "gateway_access_log_lines_total") < 2500 - dropped:
                    assert process.returncode is None
            client.close()
            process.send_signal(signal.SIGTERM)
            text = await reading
            assert await process.wait() == 0
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    lines = [orjson.loads(line) for line in text.splitlines()]

    assert len(lines) == 2500 - dropped
    assert all(line["path"] == "/" + LARGE.decode() for line in lines)


def _read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts)


async def test_a_closed_standard_output_costs_lines_and_no_requests(upstream: StartUpstream, tmp_path: Path) -> None:
    """The reader has gone for good: no signal kills the process, what cannot be written is counted."""
    origin = await upstream(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"))
    reader, writer = os.pipe()
    try:
        async with logging_to(writer, origin.url, tmp_path) as (process, port, admin):
            os.close(reader)
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            assert await ask(client, 20) == {200}
            async with asyncio.timeout(STARTS_WITHIN):
                while await metric(admin, "gateway_access_log_dropped_total") < 20:
                    assert process.returncode is None
            assert await ask(client, 1) == {200}
            client.close()
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        os.close(writer)


async def test_hostile_bytes_of_a_socket_are_one_valid_line_each(upstream: StartUpstream, tmp_path: Path) -> None:
    """Quotes, C1 controls and what is not UTF-8 in target and fields: each request is one JSON object on one line."""
    origin = await upstream(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"))
    path = tmp_path / "out"
    with path.open("wb") as out:
        async with logging_to(out.fileno(), origin.url, tmp_path) as (_, port, _):
            for agent in (b'" \\ }\x80\xff', "\x9b31m\u2028".encode(), b"\xc3\x28 {\t}"):
                client = Client(*await asyncio.open_connection("127.0.0.1", port))
                request = b'GET /"%%0a\\ HTTP/1.1\r\nHost: a\r\nUser-Agent: %b\r\nConnection: close\r\n\r\n' % agent
                assert (await client.ask(request)).status in (200, 400)
                client.close()
            await eventually(lambda: path.read_bytes().count(b"\n") == 3)
    data = path.read_bytes()

    assert all(orjson.loads(line)["status"] in (200, 400) for line in data.splitlines())
    assert not set(data.decode()) & {*map(chr, range(0x7F, 0xA0)), "\u2028", "\x1b"}


def test_the_page_names_every_field_in_every_format() -> None:
    """What a line has stands in docs/access-log.md, under the name that each format gives it."""
    fields = orjson.loads(line_template(FLAT, None, "").replace(b"%d", b"0").replace(b'"%b"', b'""').replace(b"%b}", b"}")
                          .replace(b"%b", b"0").replace(b"%.3f", b"0"))  # fmt: skip
    for field in fields:
        assert f"| `{field}` | `{OTEL.names.get(field, field)}` | `{ECS.names.get(field, field)}` |" in PAGE
    for field in OTEL.names:
        assert f"| `{field}` |" in PAGE


def test_the_page_names_every_flag_and_failure() -> None:
    """The table of flags is that of `errors.Failure`."""
    for failure in Failure:
        (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{failure.flag}` |")]
        assert f"`{failure.code}`" in row
