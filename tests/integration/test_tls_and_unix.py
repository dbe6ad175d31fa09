"""TLS and Unix sockets, on both sides."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path

import pytest

from tests.certificates import Certificates
from tests.conftest import StartGateway, StartUpstream
from tests.support import GET, LOOKED_FOR, OK, Peer, answers, at_once, drips, echoes_requests, eventually, proxy, time_passes

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with the openssl command")


def https(certificates: Certificates) -> str:
    """A listener with TLS."""
    return f'{{address: "127.0.0.1:0", tls: {{certificate: "{certificates["good.crt"]}", key: "{certificates["good.key"]}"}}}}'


# -- clients -----------------------------------------------------------------------------------------------------------


async def test_a_certificate_is_renewed(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates, tmp_path: Path
) -> None:
    """New connections are shown the new certificate, old ones go on, and nobody is refused meanwhile."""
    origin = await upstream(answers(OK))
    for name, source in (("now.crt", "wrong.crt"), ("now.key", "wrong.key")):
        (tmp_path / name).write_bytes(certificates[source].read_bytes())
    listen = f'{{address: "127.0.0.1:0", tls: {{certificate: "{tmp_path}/now.crt", key: "{tmp_path}/now.key"}}}}'
    text = proxy(origin.url, listen=listen)
    running = await gateway(text)
    trusting = certificates.client()
    old = await running.client(tls=trusting, name="other.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        await running.client(tls=trusting)
    for name, source in (("now.crt", "good.crt"), ("now.key", "good.key")):
        (tmp_path / name).write_bytes(certificates[source].read_bytes())
    outcome = await running.app.reloader.reload("test")

    assert outcome.text == "\n".join(
        f"~ server.listen[127.0.0.1:0].tls.{field}: the content of `{tmp_path}/now.{suffix}`"
        for field, suffix in (("certificate", "crt"), ("key", "key"))
    )
    assert (await (await running.client(tls=trusting)).ask(GET)).status == 200
    assert (await old.ask(GET)).status == 200


async def test_a_tls_client_is_served(upstream: StartUpstream, gateway: StartGateway, certificates: Certificates) -> None:
    """HTTPS in, HTTP out; the upstream is told the scheme, and absolute-form with it is ours (RFC 9110 4.2.2)."""
    origin = await upstream(echoes_requests)
    running = await gateway(proxy(origin.url, listen=https(certificates)))
    client = await running.client(tls=certificates.client())
    response = await client.ask(b"POST https://a/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")

    assert response.body == b"hello"
    assert origin.requests[0].value(b"x-forwarded-proto") == b"https"
    assert (await client.ask(GET)).status == 200


async def test_a_large_body_passes_through_tls(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates
) -> None:
    """Back-pressure and framing hold under TLS as well."""
    origin = await upstream(echoes_requests)
    running = await gateway(proxy(origin.url, listen=https(certificates)))
    client = await running.client(tls=certificates.client())
    body = bytes(range(256)) * 8192
    client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    assert (await client.response()).body == body


async def test_an_early_refusal_reaches_a_tls_client(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates
) -> None:
    """A 413 in the middle of an upload is read by the client (RFC 9112 9.6)."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, listen=https(certificates), route="limits: {body: 1KiB}"))
    client = await running.client(tls=certificates.client())
    client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n" + bytes(1 << 20))
    response = await client.response()

    assert (response.status, response.code) == (413, "content_too_large")


async def test_a_tls_client_that_leaves_frees_its_upstream(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates
) -> None:
    """TLS has no half-close worth the name: a client that closes is gone, and its upstream is let go at once."""
    origin = await upstream(drips(OK))
    running = await gateway(proxy(origin.url, listen=https(certificates)))
    client = await running.client(tls=certificates.client())
    await client.send(GET)
    await eventually(lambda: origin.requests)
    client.close()

    await at_once(lambda: running.pools()["open"] == 0)


async def test_plain_http_on_a_tls_port_is_no_request(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates
) -> None:
    """Bytes that are no TLS handshake reach no upstream and disturb nobody else."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, listen=https(certificates)))
    client = await running.client()
    await client.send(GET)
    await client.closed()

    assert (await (await running.client(tls=certificates.client())).ask(GET)).status == 200
    assert len(origin.requests) == 1


async def test_a_silent_tls_handshake_is_ended(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates
) -> None:
    """A handshake has the time of a request head (threat: slowloris)."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, listen=https(certificates), server="timeouts: {header: 200ms}"))
    client = await running.client()

    assert await client.closed() == b""


# -- upstreams ---------------------------------------------------------------------------------------------------------


async def test_an_https_upstream_is_verified_and_reused(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates
) -> None:
    """A certificate that the configured authority signed for the endpoint's name is accepted."""
    origin = await upstream(answers(OK), tls=certificates.server("good"))
    running = await gateway(proxy(origin.url, upstream=f'tls: {{ca: "{certificates["ca.crt"]}"}}'))

    assert [(await running.get()).body for _ in range(2)] == [b"OK", b"OK"]
    assert origin.connections == 1


@pytest.mark.parametrize(
    "shown,settings",
    [
        ("wrong", 'ca: "{ca}"'),
        ("expired", 'ca: "{ca}"'),
        ("self", 'ca: "{ca}"'),
        ("good", ""),
        ("good", 'ca: "{ca}", server_name: other.example'),
    ],
    ids=["wrong-name", "expired", "self-signed", "unknown-authority", "other-name-asked"],
)
async def test_a_certificate_that_does_not_hold_is_502(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates, shown: str, settings: str
) -> None:
    """Wrong name, expired, self-signed or unknown: the upstream never sees the request (threat: verification off)."""
    origin = await upstream(answers(OK), tls=certificates.server(shown))
    tls = settings.replace("{ca}", str(certificates["ca.crt"]))
    running = await gateway(proxy(origin.url, upstream=f"tls: {{{tls}}}"))
    response = await running.get()

    assert (response.status, response.code) == (502, "tls_certificate_error")
    assert origin.requests == []


async def test_server_name_is_asked_for_and_verified(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates
) -> None:
    """`tls.server_name` stands in for the endpoint's host, and SNI says so."""
    asked: list[str | None] = []
    context = certificates.server("wrong")
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    origin = await upstream(answers(OK), tls=context)
    running = await gateway(proxy(origin.url, upstream=f'tls: {{ca: "{certificates["ca.crt"]}", server_name: other.example}}'))

    assert (await running.get()).status == 200
    assert asked == ["other.example"]


async def test_verification_can_be_turned_off(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates
) -> None:
    """`verify: false` is the operator's word."""
    origin = await upstream(answers(OK), tls=certificates.server("self"))
    running = await gateway(proxy(origin.url, upstream="tls: {verify: false}"))

    assert (await running.get()).status == 200


async def test_an_upstream_without_tls_is_502(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates
) -> None:
    """An endpoint that answers a handshake with something else has failed it."""
    origin = await upstream(answers_with_noise)
    running = await gateway(proxy(origin.url.replace("http:", "https:"), upstream=f'tls: {{ca: "{certificates["ca.crt"]}"}}'))
    response = await running.get()

    assert (response.status, response.code) == (502, "tls_protocol_error")
    assert running.log.entries[0]["detail"].startswith("what came back is no TLS: is it an `http://` endpoint? (")


async def answers_with_noise(peer: Peer) -> None:
    """Answers whatever comes with bytes that are no TLS."""
    await peer.reader.read(1)
    await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await peer.gone()


async def test_a_client_certificate_is_shown(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates
) -> None:
    """`tls.certificate` is what the upstream sees."""
    context = certificates.server("good")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificates["ca.crt"])
    origin = await upstream(answers(OK), tls=context)
    ca = f'ca: "{certificates["ca.crt"]}"'
    shown = f'certificate: "{certificates["wrong.crt"]}", key: "{certificates["wrong.key"]}"'

    assert (await (await gateway(proxy(origin.url, upstream=f"tls: {{{ca}, {shown}}}"))).get()).status == 200
    assert (await (await gateway(proxy(origin.url, upstream=f"tls: {{{ca}}}"))).get()).status == 502


# -- Unix sockets ------------------------------------------------------------------------------------------------------


async def test_unix_sockets_serve_both_sides(upstream: StartUpstream, gateway: StartGateway, tmp_path: Path) -> None:
    """A peer without an address is `unknown` in the forwarding fields (RFC 7239 6.3)."""
    inside, outside = str(tmp_path / "in"), str(tmp_path / "out")
    origin = await upstream(echoes_requests, path=inside)
    running = await gateway(proxy(origin.url, listen=f'"unix:{outside}"', server="forwarded: both"))
    client = await running.client(path=outside)
    response = await client.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")

    assert response.body == b"hello"
    assert origin.requests[0].value(b"x-forwarded-for") == b"unknown"
    assert (origin.requests[0].value(b"forwarded") or b"").startswith(b"for=unknown;")
    assert (await client.ask(GET)).status == 200


async def test_a_missing_socket_is_502(gateway: StartGateway, tmp_path: Path) -> None:
    """A Unix socket that is not there refuses."""
    response = await (await gateway(proxy(f"unix:{tmp_path / 'none'}"))).get()

    assert (response.status, response.code) == (502, "connection_refused")


async def test_a_half_closed_unix_client_gets_its_response(
    upstream: StartUpstream, gateway: StartGateway, tmp_path: Path
) -> None:
    """Half-close works on Unix sockets, too."""
    outside = str(tmp_path / "out")
    origin = await upstream(drips(OK))
    running = await gateway(proxy(origin.url, listen=f'"unix:{outside}"'))
    client = await running.client(path=outside)
    await client.send(GET)
    client.half_close()
    await eventually(lambda: origin.requests)
    await time_passes(LOOKED_FOR)
    assert running.route.in_flight == 1
    origin.gate.release()

    assert (await client.response()).body == b"OK"
