"""Closing waits for what the peer was sent, and never for a peer that has it all: over TLS no `close_notify` is waited for."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest

from tests.certificates import Certificates
from tests.conftest import StartGateway, StartUpstream
from tests.support import GET, OK, PATIENCE, Gateway, answers, eventually, pours, proxy, time_passes

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with the openssl command")

LAST = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


class Mute:
    """One end of a TLS connection that never says `close_notify` and keeps its socket open, whatever the other end does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext, name: str) -> None:
        self.reader = reader
        self.writer = writer
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_side=not name, server_hostname=name or None)
        self.told = False
        """The other end has said `close_notify`."""
        self.ended = False
        """The other end has closed its socket."""

    async def _step(self, source: Callable[[], bytes | None]) -> bytes:
        while True:
            try:
                found = source()
            except ssl.SSLWantReadError:
                self._flush()
                data = await self.reader.read(65536)
                if not data:
                    self.ended = True
                    return b""
                self._in.write(data)
            else:
                self._flush()
                self.told = self.told or found == b""
                return found or b""

    def _flush(self) -> None:
        if self._out.pending:
            self.writer.write(self._out.read())

    async def handshake(self) -> None:
        """Do it."""
        async with asyncio.timeout(PATIENCE):
            await self._step(self.tls.do_handshake)

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.tls.write(data)
        self._flush()

    async def read_until(self, end: bytes) -> bytes:
        """What comes up to these bytes."""
        found = b""
        async with asyncio.timeout(PATIENCE):
            while not found.endswith(end):
                data = await self._step(lambda: self.tls.read(65536))
                assert data, found[-100:]
                found += data
        return found

    async def read_all(self) -> bytes:
        """What comes until the other end has said that it is all, and then until it has closed its socket."""
        found = b""
        async with asyncio.timeout(PATIENCE):
            while data := await self._step(lambda: self.tls.read(65536)):
                found += data
            while await self.reader.read(65536):
                pass
        self.ended = True
        return found


def https(certificates: Certificates) -> str:
    """A listener with TLS."""
    return f'{{address: "127.0.0.1:0", tls: {{certificate: "{certificates["good.crt"]}", key: "{certificates["good.key"]}"}}}}'


async def mute_client(running: Gateway, certificates: Certificates, limit: int = 65536) -> Mute:
    """A client of the gateway."""
    reader, writer = await asyncio.open_connection(*running.address, limit=limit)
    client = Mute(reader, writer, certificates.client(), "localhost")
    await client.handshake()
    return client


Cause = Callable[[Gateway, Mute], Awaitable[None]]


async def _drain(running: Gateway, client: Mute) -> None:
    client.send(GET)
    await client.read_until(b"OK")
    running.plane.drain()


async def _connection_close(running: Gateway, client: Mute) -> None:
    client.send(LAST)
    await client.read_until(b"OK")


async def _refusal(running: Gateway, client: Mute) -> None:
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    await client.read_until(b"}")


async def _silence(running: Gateway, client: Mute) -> None:
    client.send(GET)
    await client.read_until(b"OK")
    # `keep_alive` is over.
    await time_passes(0.3)


CAUSES: dict[str, tuple[str, Cause]] = {
    "drain": ("", _drain),
    "connection-close": ("", _connection_close),
    "requests-per-connection": ("limits: {requests_per_connection: 1}", _connection_close),
    "keep-alive": ("timeouts: {keep_alive: 300ms}", _silence),
    "header": ("timeouts: {header: 300ms}", lambda *_: time_passes(0.3)),
}


@pytest.mark.parametrize("server,cause", CAUSES.values(), ids=CAUSES)
async def test_a_client_that_has_its_answer_is_not_waited_for(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates, server: str, cause: Cause
) -> None:
    """Whatever ends the connection, it is gone here at once, the client is told, and its socket is closed."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, listen=https(certificates), server=server))
    client = await mute_client(running, certificates)
    await cause(running, client)
    await eventually(lambda: not running.plane.connections, PATIENCE / 2)

    assert await client.read_all() == b""
    assert (client.told, client.ended) == (True, True)
    client.writer.close()


@pytest.mark.parametrize("tls", [True, False], ids=["https", "http"])
async def test_a_shutdown_does_not_wait_for_who_has_all(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates, tls: bool
) -> None:
    """Clients that have their answers and leave their sockets open cost a shutdown nothing of its `drain`."""
    origin = await upstream(answers(OK))
    listen = https(certificates) if tls else "127.0.0.1:0"
    running = await gateway(proxy(origin.url, listen=listen, server="timeouts: {drain: 60s}"))
    writers = []
    for wire in (GET, LAST, GET, LAST):
        if tls:
            client = await mute_client(running, certificates)
            client.send(wire)
            await client.read_until(b"OK")
            writers.append(client.writer)
        else:
            reader, writer = await asyncio.open_connection(*running.address)
            writer.write(wire)
            await reader.readuntil(b"OK")
            writers.append(writer)
    running.app.signalled()
    async with asyncio.timeout(PATIENCE):
        await running.app.run_until_stopped()

    assert not running.plane.connections
    for writer in writers:
        writer.close()


@pytest.mark.parametrize("size", [100, 100_000, 8 << 20])
async def test_a_slow_client_still_gets_all_of_its_answer(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates, size: int
) -> None:
    """Not to wait for the client's word is not to cut it off: every byte and our own `close_notify` arrive before the FIN."""
    origin = await upstream(pours(size))
    running = await gateway(proxy(origin.url, listen=https(certificates)))
    client = await mute_client(running, certificates, limit=1024)
    client.send(LAST)
    # The gateway is done long before the client reads.
    await time_passes(0.5)
    got = await client.read_all()

    assert len(got.partition(b"\r\n\r\n")[2]) == size
    client.writer.close()

    assert client.told
    await eventually(lambda: not running.plane.connections)
    client.writer.close()


async def test_a_reload_lets_go_of_idle_clients_of_a_listener(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates, tmp_path: Path
) -> None:
    """Where a listener goes, so do the idle connections that it let in: at once, and told so."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, listen=https(certificates)))
    client = await mute_client(running, certificates)
    client.send(GET)
    await client.read_until(b"OK")
    (tmp_path / "gateway-1.yaml").write_text(proxy(origin.url, listen="127.0.0.2:0"), encoding="utf-8")
    assert (await running.app.reloader.reload("test")).ok
    await eventually(lambda: not running.plane.connections, PATIENCE / 2)

    assert await client.read_all() == b""
    assert client.told
    client.writer.close()


class MuteUpstream:
    """A TLS server that answers each request and never says `close_notify` nor closes."""

    def __init__(self, certificates: Certificates, answer: bytes) -> None:
        self._context = certificates.server("good")
        self._answer = answer
        self.peers: list[Mute] = []
        self.url = ""
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for peer in self.peers:
            peer.writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Mute(reader, writer, self._context, "")
        self.peers.append(peer)
        await peer.handshake()
        while (data := await peer._step(lambda: peer.tls.read(65536))) or (not peer.told and not peer.ended):
            if data.endswith(b"\r\n\r\n"):
                peer.send(self._answer)
        while not peer.ended:
            peer.ended = not await reader.read(65536)


def mute_proxy(url: str, certificates: Certificates, *, upstream: str = "", **config: str) -> str:
    """A configuration whose upstream is a mute one."""
    return proxy(url, upstream=f'tls: {{ca: "{certificates["ca.crt"]}"}}, {upstream}', **config)


@pytest.mark.parametrize("upstream_", ["keep_alive: {idle: 300ms}", "keep_alive: {max_idle: 0}"], ids=["idle", "surplus"])
async def test_an_idle_upstream_connection_is_let_go(gateway: StartGateway, certificates: Certificates, upstream_: str) -> None:
    """One idle for too long, or one too many, is no more of ours as soon as it is closed: it counts to no limit."""
    async with MuteUpstream(certificates, OK) as origin:
        running = await gateway(mute_proxy(origin.url, certificates, upstream=upstream_))
        assert (await running.get()).status == 200
        await eventually(lambda: running.pools()["open"] == 0, PATIENCE / 2)

        await eventually(lambda: origin.peers[0].ended)
        assert origin.peers[0].told


async def test_a_reload_lets_go_of_the_connections_of_an_upstream(
    gateway: StartGateway, certificates: Certificates, tmp_path: Path
) -> None:
    """The idle connections of an endpoint that is not used any more are closed, and its server is not waited for."""
    async with MuteUpstream(certificates, OK) as origin:
        running = await gateway(mute_proxy(origin.url, certificates))
        assert (await running.get()).status == 200
        pool = running.plane.snapshot.upstreams[0].group.endpoints[0].pool
        (tmp_path / "gateway-1.yaml").write_text(proxy("http://127.0.0.1:1"), encoding="utf-8")
        await running.app.reloader.reload("test")

        await eventually(lambda: pool.counts()["open"] == 0, PATIENCE / 2)
        await eventually(lambda: origin.peers[0].ended)


async def test_a_tunnel_ends_on_both_sides(gateway: StartGateway, certificates: Certificates) -> None:
    """When one end of a tunnel leaves, the other is closed, and not waited for."""
    switch = b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    async with MuteUpstream(certificates, switch) as origin:
        running = await gateway(mute_proxy(origin.url, certificates, route="upgrades: [tcp]", listen=https(certificates)))
        client = await running.client(tls=certificates.client())
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        assert (await client.head()).status == 101
        client.close()

        await eventually(lambda: not running.busy() and running.pools()["open"] == 0, PATIENCE / 2)
        await eventually(lambda: origin.peers[0].ended)


async def test_a_refused_client_is_let_go_after_a_while(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates
) -> None:
    """What is unread is read for a moment, so that the answer is not lost to a reset (RFC 9112 9.6), and then it is over."""
    running = await gateway(proxy("http://127.0.0.1:1", listen=https(certificates)))
    client = await mute_client(running, certificates)
    await _refusal(running, client)
    await eventually(lambda: not running.plane.connections)

    assert await client.read_all() == b""
    assert client.told
    client.writer.close()


@contextmanager
def no_files_left() -> Iterator[None]:
    """This process may open no more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_closing_opens_no_file(upstream: StartUpstream, gateway: StartGateway, certificates: Certificates) -> None:
    """Where there are none left, connections that close must not stay for half a minute: closing is what helps."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, listen=https(certificates)))
    client = await mute_client(running, certificates)
    client.send(GET)
    await client.read_until(b"OK")
    with no_files_left():
        client.send(LAST)
        await client.read_until(b"OK")
        await client.read_all()

    client.writer.close()

    assert client.told
    await eventually(lambda: not running.plane.connections)


@pytest.mark.parametrize("told", [True, False], ids=["close-notify", "fin"])
async def test_who_has_left_is_no_line_of_the_log(
    gateway: StartGateway, certificates: Certificates, caplog: pytest.LogCaptureFixture, told: bool
) -> None:
    """A client may send requests ahead and leave: the loops would log each answer that nobody takes."""
    running = await gateway(f"""
version: 1
server: {{listen: [{https(certificates)}], overload: {{default: off, sheddable: off}}}}
access_log: "off"
routes: [{{name: all, match: {{}}, respond: {{body: OK}}}}]
""")
    client = await mute_client(running, certificates)
    client.send(GET)
    await client.read_until(b"OK")
    client.send(200 * GET)
    if told:
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.unwrap()
        client._flush()
    client.writer.write_eof()
    await eventually(lambda: not running.plane.connections)
    client.writer.close()

    assert caplog.messages == []
