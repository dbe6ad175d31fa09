"""The upstream of the framing corpus: lenient enough to keep going, strict enough to note every departure from RFC 9112."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SCRIPTED = re.compile(rb"/r/([\w-]+)$")


@dataclass
class Record:
    """One request as the origin understood it."""

    method: bytes = b""
    target: bytes = b""
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False
    anomalies: list[str] = field(default_factory=list)

    def values(self, name: str) -> list[str]:
        """The values of a field."""
        return [value.decode("latin-1") for found, value in self.fields if found.decode("latin-1").lower() == name]


class _FramingLostError(Exception):
    pass


class Origin:
    """Records what it receives; answers `/r/ID` with the script if there is one, and everything else with 200."""

    def __init__(self, script: bytes | None = None, *, keep: bool = False) -> None:
        self.script = script
        self.keep = keep
        """Keep the connection open behind the script."""
        self.records: list[Record] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Stop listening and cut every connection."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (_FramingLostError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        block = await self._head(reader)
        if not block:
            return False
        record = parse_head(block)
        self.records.append(record)
        codings, lengths = record.values("transfer-encoding"), record.values("content-length")
        if any(value.lower() == "100-continue" for value in record.values("expect")):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if codings and "chunked" in codings[-1].lower():
            record.body = await _chunked(reader, record.anomalies)
        elif lengths and re.fullmatch("[0-9]{1,18}", lengths[0]):
            record.body = await reader.readexactly(int(lengths[0]))
        record.complete = True
        if self.script is not None and _SCRIPTED.match(record.target):
            writer.write(self.script)
            await writer.drain()
            return self.keep
        body = record.body if record.method in (b"POST", b"PUT", b"PATCH") else b"OK"
        writer.write(b"HTTP/1.1 200 X\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body))
        if record.method != b"HEAD":
            writer.write(body)
        await writer.drain()
        return "close" not in ",".join(record.values("connection")).lower()

    async def _head(self, reader: asyncio.StreamReader) -> bytes:
        """A head, ended by an empty line of either kind; empty at the end of the connection."""
        block = b""
        while True:
            line = await reader.readline()
            if not line:
                if block:
                    self.records.append(Record(anomalies=["partial head"]))
                return b""
            if not block and line in (b"\r\n", b"\n"):
                continue
            block += line
            if line in (b"\r\n", b"\n"):
                return block


def parse_head(block: bytes) -> Record:
    """The request of a head, with what is wrong with it."""
    record = Record()
    wrong = record.anomalies
    wrong += [name for name, pattern in _HEAD_ANOMALIES if pattern.search(block)]
    line, *lines = re.split(rb"\r?\n", block)
    parts = line.split(b" ")
    if len(parts) != 3:
        wrong.append("request-line is not 3 parts")
    record.method, record.target = parts[0], b" ".join(parts[1:-1]) if len(parts) > 2 else parts[-1]
    if not re.fullmatch(rb"HTTP/[0-9]\.[0-9]", parts[-1]):
        wrong.append("version")
    if not _TOKEN.fullmatch(record.method):
        wrong.append("method is not a token")
    if re.search(rb"[\x00-\x20\x7f-\xff]", record.target):
        wrong.append("target holds what no URI may hold")
    for line in lines[: lines.index(b"")]:
        name, colon, value = line.partition(b":")
        if line[:1] in b" \t":
            wrong.append("obs-fold")
        elif not colon:
            wrong.append("field line without colon")
        elif not _TOKEN.fullmatch(name):
            wrong.append("field name is not a token")
        record.fields.append((name, value.strip(b" \t")))
    hosts, codings, lengths = (record.values(name) for name in ("host", "transfer-encoding", "content-length"))
    if len(hosts) != 1:
        wrong.append(f"{len(hosts)} Host fields")
    if codings and lengths:
        wrong.append("both Transfer-Encoding and Content-Length")
    if len(codings) > 1 or (codings and codings[0].lower() != "chunked"):
        wrong.append("Transfer-Encoding is not chunked")
    if len(lengths) > 1 or (lengths and not re.fullmatch("[0-9]{1,18}", lengths[0])):
        wrong.append("Content-Length is not one number")
    return record


_HEAD_ANOMALIES = (
    ("bare LF in head", re.compile(rb"(?<!\r)\n")),
    ("bare CR in head", re.compile(rb"\r(?!\n)")),
    ("NUL in head", re.compile(rb"\0")),
)


async def _chunked(reader: asyncio.StreamReader, wrong: list[str]) -> bytes:
    body = b""
    while True:
        line = await reader.readline()
        if not line.endswith(b"\r\n"):
            wrong.append("chunk line ends in bare LF")
        size, semicolon, _ = line.rstrip(b"\r\n").partition(b";")
        if not re.fullmatch(rb"[0-9A-Fa-f]+", size):
            wrong.append("chunk-size is not a number")
            raise _FramingLostError
        if semicolon:
            wrong.append("chunk extension forwarded")
        if int(size, 16) == 0:
            break
        body += await reader.readexactly(int(size, 16))
        if await reader.readexactly(2) != b"\r\n":
            wrong.append("chunk data not followed by CRLF")
            raise _FramingLostError
    while (line := await reader.readline()) not in (b"\r\n", b"\n", b""):
        wrong.append("trailer forwarded")
    return body
