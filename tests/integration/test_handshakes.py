"""TLS handshakes that fail: told, counted by reason, logged within bounds, and nobody else's trouble."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import socket
import ssl
import sys

import pytest

from gateway.proxy.downstream import handshakes
from gateway.proxy.downstream.handshakes import unraisable
from gateway.proxy.downstream.tls_server import ACCEPTED_AT_ONCE
from tests.certificates import Certificates
from tests.conftest import StartGateway
from tests.support import GET, PATIENCE, Client, Gateway, eventually

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with the openssl command")


async def secure(
    gateway: StartGateway, certificates: Certificates, more: str = "", server: str = "", names: tuple[str, ...] = ("good",)
) -> Gateway:
    """A gateway that speaks HTTPS alone, with these certificates."""
    tls = ", ".join(
        f'{{certificate: "{certificates[f"{one}.crt"]}", key: "{certificates[f"{one}.key"]}"{more}}}' for one in names
    )
    return await gateway(f"""
version: 1
server: {{listen: [{{address: "127.0.0.1:0", tls: [{tls}]}}], overload: {{default: off, sheddable: off}}{server}}}
admin: {{listen: "127.0.0.1:0"}}
access_log: "off"
routes: [{{name: all, match: {{}}, respond: {{body: OK}}}}]
""")


async def until_it_fails(client: Client, tls: ssl.SSLObject, incoming: ssl.MemoryBIO) -> None:
    """Go on with a handshake that asks for nothing but to be read."""
    for _ in range(20):
        incoming.write(await client.reader.read(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()


def counted(running: Gateway) -> dict[str, int]:
    """What failed, by reason."""
    return running.plane.metrics.protocol_errors


async def served(running: Gateway, certificates: Certificates) -> bool:
    """Somebody else gets an answer."""
    return (await (await running.client(tls=certificates.client())).ask(GET)).body == b"OK"


@pytest.mark.parametrize("request_line", [b"GET / HTTP/1.1", b"post /x HTTP/1.0", b"PRI * HTTP/2.0"])
async def test_plain_http_is_told_that_this_is_https(
    gateway: StartGateway, certificates: Certificates, caplog: pytest.LogCaptureFixture, request_line: bytes
) -> None:
    """A 400 in plain HTTP, whole, and a line of the log that says whose fault it is."""
    running = await secure(gateway, certificates)
    response = await (await running.client()).ask(request_line + b"\r\nHost: a\r\n\r\n")

    assert (response.status, response.value(b"connection")) == (400, b"close")
    assert b"https://" in response.body
    assert counted(running) == {"tls_plain_http": 1}
    assert "TLS handshake with 127.0.0.1 failed: plain HTTP at a port for HTTPS" in caplog.messages
    assert await served(running, certificates)


async def test_an_upload_in_plain_http_is_told_too(gateway: StartGateway, certificates: Certificates) -> None:
    """A reset for what is still coming would destroy the answer before anybody reads it (RFC 9112 9.6)."""
    running = await secure(gateway, certificates)
    client = await running.client()
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n")
    await eventually(lambda: counted(running))
    for _ in range(40):
        await client.send(b"x" * 100_000)
    response = await client.response()

    assert (response.status, response.value(b"connection")) == (400, b"close")
    client.close()
    await eventually(lambda: not running.app.runtime.handshakes._refused)


async def test_who_does_not_stop_sending_plain_http_is_let_go(
    gateway: StartGateway, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is read for ever (threat: slowloris)."""
    monkeypatch.setattr(handshakes, "LINGER", 0.1)
    running = await secure(gateway, certificates)
    client = await running.client()
    assert (await client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n")).status == 400
    await eventually(lambda: not running.app.runtime.handshakes._refused)


async def test_noise_is_dropped(gateway: StartGateway, certificates: Certificates) -> None:
    """What is neither TLS nor HTTP gets no answer."""
    running = await secure(gateway, certificates)
    client = await running.client()
    await client.send(b"\x00\x01\x02")

    assert await client.closed() == b""
    assert counted(running) == {"tls_error": 1}


async def test_a_client_that_does_not_trust_us_is_counted(
    gateway: StartGateway, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """The alert that the client sends says why (RFC 8446 6.2); with TLS 1.2 it comes within the handshake."""
    running = await secure(gateway, certificates)
    distrustful = ssl.create_default_context()
    distrustful.maximum_version = ssl.TLSVersion.TLSv1_2
    client, incoming, outgoing = await running.client(), ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = distrustful.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    await client.send(outgoing.read())
    with pytest.raises(ssl.SSLCertVerificationError):
        await until_it_fails(client, tls, incoming)
    await client.send(outgoing.read())
    await eventually(lambda: counted(running))

    assert counted(running) == {"tls_certificate_refused": 1}
    assert "TLS handshake with 127.0.0.1 failed: the client does not accept our certificate" in caplog.messages


async def test_a_name_that_is_not_ascii_is_one_failure_among_others(
    gateway: StartGateway,
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CPython would print a traceback for each such name, and any client can send thousands a second."""
    monkeypatch.setattr(sys, "unraisablehook", unraisable)
    running = await secure(gateway, certificates, names=("good", "wild"))
    client, outgoing = await running.client(), ssl.MemoryBIO()
    tls = certificates.client().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="odd.example")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    await client.send(outgoing.read().replace(b"odd.example", b"\xffdd.example"))
    await client.closed()
    await eventually(lambda: counted(running))

    assert counted(running) == {"tls_error": 1}
    assert "TLS handshake with 127.0.0.1 failed: the name that the client asks for is not ASCII" in caplog.messages
    assert capsys.readouterr().err == ""
    assert await served(running, certificates)


async def test_versions_that_do_not_meet_are_counted(
    gateway: StartGateway, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """The line names the setting."""
    running = await secure(gateway, certificates, more=', min_version: "1.3"')
    old = certificates.client()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await running.client(tls=old)
    await eventually(lambda: counted(running))

    assert counted(running) == {"tls_protocol_version": 1}
    assert any("tls.min_version" in message for message in caplog.messages)


@pytest.mark.parametrize(
    "sent, reason", [(b"", "tls_no_handshake"), (b"\x16\x03\x01\x02\x00\x01", "tls_closed")], ids=["nothing", "half a hello"]
)
async def test_who_leaves_is_counted(
    gateway: StartGateway, certificates: Certificates, caplog: pytest.LogCaptureFixture, sent: bytes, reason: str
) -> None:
    """A balancer that looks whether the port is open is no line of the log."""
    running = await secure(gateway, certificates)
    client = await running.client()
    await client.send(sent)
    if sent:
        await eventually(lambda: running.app.runtime.handshakes._under_way)
    client.close()
    await eventually(lambda: counted(running))

    assert counted(running) == {reason: 1}
    assert (len(caplog.messages) > 0) is bool(sent)
    assert await served(running, certificates)


@pytest.mark.parametrize(
    "sent, reason", [(b"", "header_timeout"), (b"\x16\x03\x01\x02\x00\x01", "tls_timeout")], ids=["nothing", "half a hello"]
)
async def test_who_is_slow_is_let_go(gateway: StartGateway, certificates: Certificates, sent: bytes, reason: str) -> None:
    """The first byte has the time of a request head, and so has the handshake (threat: slowloris)."""
    running = await secure(gateway, certificates, server=", timeouts: {header: 100ms}")
    client = await running.client()
    await client.send(sent)

    assert await client.closed() == b""
    await eventually(lambda: counted(running))
    assert counted(running) == {reason: 1}


async def test_the_log_is_bounded(gateway: StartGateway, certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    """One line a second at most; the next one says how many there were."""
    running = await secure(gateway, certificates)
    for _ in range(20):
        await (await running.client()).ask(GET)

    lines = [message for message in caplog.messages if "TLS handshake" in message]
    assert 1 <= len(lines) < 20
    assert counted(running) == {"tls_plain_http": 20}


async def test_those_who_wait_are_bounded(gateway: StartGateway, certificates: Certificates) -> None:
    """Connections that have not begun are no more than `connections` allows."""
    running = await secure(gateway, certificates, server=", limits: {connections: 3}")
    clients = [await running.client() for _ in range(8)]
    await eventually(lambda: counted(running))

    assert counted(running) == {"connection_limit_reached": 4}
    for client in clients:
        client.close()


async def test_a_flood_comes_in_few_by_few(gateway: StartGateway, certificates: Certificates) -> None:
    """Handshakes are most of what TLS costs: those of a flood must not be done in a row while all others wait."""
    running = await secure(gateway, certificates)
    silent = running.app.runtime.handshakes._silent
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(running.address))
        seen = [0]
        async with asyncio.timeout(PATIENCE):
            while seen[-1] < 40:
                await asyncio.sleep(0)
                seen.append(len(silent))

    assert max(after - before for before, after in itertools.pairwise(seen)) <= ACCEPTED_AT_ONCE
    await eventually(lambda: not silent)


async def test_a_shutdown_waits_for_nobody_who_is_silent(gateway: StartGateway, certificates: Certificates) -> None:
    """Whoever has not begun when the gateway goes is let go at once."""
    running = await secure(gateway, certificates)
    client = await running.client()
    await eventually(lambda: running.app.runtime.handshakes._silent)
    running.app.signalled()
    async with asyncio.timeout(10):
        await running.app.run_until_stopped()

    assert await client.closed() == b""
