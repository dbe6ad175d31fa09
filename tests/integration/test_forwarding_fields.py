"""What the upstream is told about the client when not all of it is known: no forwarding field is empty or made up."""

from __future__ import annotations

import re

import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import OK, Request, answers, proxy

TRUSTED = "trusted_proxies: [127.0.0.1]"
WITHOUT_HOST = {
    "http-1.0": b"GET /z HTTP/1.0\r\n%b\r\n",
    "http-1.0-kept": b"GET /z HTTP/1.0\r\nConnection: keep-alive\r\n%b\r\n",
    "http-1.0-empty": b"GET /z HTTP/1.0\r\nHost:\r\n%b\r\n",
    "http-1.1-empty": b"GET /z HTTP/1.1\r\nHost: \t\r\n%b\r\n",
    "options-star": b"OPTIONS * HTTP/1.0\r\n%b\r\n",
}
EMPTY = {
    "nothing": b"",
    "empty": b"".join(
        b"%b:\r\n" % name
        for name in (
            b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host", b"X-Forwarded-Port", b"X-Forwarded-Prefix",
            b"X-Real-IP", b"Forwarded",
        )
    ),
    "empty-members": b"X-Forwarded-For: , ,\r\nX-Forwarded-Host: \t,\r\nForwarded: ,\r\nX-Real-IP: ,\r\n",
}  # fmt: skip


def told(got: Request) -> list[bytes]:
    """The lines about the client."""
    return [line for line in got.lines if re.match(rb"(?i)x-forwarded-|forwarded:|x-real-ip:", line)]


@pytest.mark.parametrize("lines", EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("request_line", WITHOUT_HOST.values(), ids=WITHOUT_HOST)
@pytest.mark.parametrize("trust", ["", TRUSTED], ids=["stranger", "trusted"])
@pytest.mark.parametrize("mode", ["x_forwarded", "forwarded", "both", "off"])
async def test_what_is_not_known_is_not_told(
    upstream: StartUpstream, gateway: StartGateway, mode: str, trust: str, request_line: bytes, lines: bytes
) -> None:
    """Without a host, and with empty words of the peer before us, only address and scheme are told, and nothing empty."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, server=f"forwarded: {mode}, {trust}"))
    response = await running.ask(request_line % lines)

    older = [b"X-Forwarded-For: 127.0.0.1", b"X-Forwarded-Proto: http"]
    standard = [b"Forwarded: for=127.0.0.1;proto=http"]
    expected = {"x_forwarded": older, "forwarded": standard, "both": older + standard, "off": []}
    assert response.status == 200
    assert told(origin.requests[0]) == expected[mode]
    assert origin.requests[0].value(b"host") == b"127.0.0.1:%d" % origin.port


async def test_what_a_trusted_proxy_knows_is_told_without_a_host(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The host that the proxy before us was asked for goes on although our own hop knows none."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, server=f"forwarded: both, {TRUSTED}"))
    await running.ask(
        b"GET / HTTP/1.0\r\nX-Forwarded-Host: outer.example\r\nForwarded: for=192.0.2.1;host=outer.example\r\n\r\n"
    )

    assert told(origin.requests[0])[2:] == [
        b"X-Forwarded-Host: outer.example",
        b"X-Forwarded-Port: 80",
        b"Forwarded: for=192.0.2.1;host=outer.example, for=127.0.0.1;proto=http",
    ]
