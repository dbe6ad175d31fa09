"""Requests that are not quite right: what is unclear is 400, on a connection that is closed then, and reaches no upstream."""

from __future__ import annotations

import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import OK, answers, proxy

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
REFUSED = {
    "blank-behind-size": CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n",
    "tab-behind-size": CHUNKED + b"5\t\r\nhello\r\n0\r\n\r\n",
    "blank-behind-last-size": CHUNKED + b"5\r\nhello\r\n0 \r\n\r\n",
    "latin-1": b"GET /caf\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "latin-1-query": b"GET /?q=caf\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "overlong": b"GET /\xc0\xae\xc0\xae/etc HTTP/1.1\r\nHost: a\r\n\r\n",
    "half-a-character": b"GET /\xe2\x82 HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute-latin-1": b"GET http://a/\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "empty-host-absolute": b"GET http://a/ HTTP/1.1\r\nHost:\r\n\r\n",
    "empty-host-absolute-1.0": b"GET http://a/ HTTP/1.0\r\nHost: \r\n\r\n",
    "empty-authority": b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
    "port-alone": b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n",
    "stray-percent": b"GET / HTTP/1.1\r\nHost: 50%.example\r\n\r\n",
    "half-percent": b"GET / HTTP/1.1\r\nHost: a%4\r\n\r\n",
    "stray-percent-absolute": b"GET http://a%/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "chunked-twice": CHUNKED.replace(b"chunked", b"chunked, chunked") + b"0\r\n\r\n",
    "chunked-in-two-lines": CHUNKED.replace(b": chunked", b": chunked\r\nTransfer-Encoding: chunked") + b"0\r\n\r\n",
    "chunked-around": CHUNKED.replace(b"chunked", b"chunked, gzip, chunked") + b"0\r\n\r\n",
}


@pytest.mark.parametrize("wire", REFUSED.values(), ids=REFUSED)
async def test_what_is_unclear_is_refused(upstream: StartUpstream, gateway: StartGateway, wire: bytes) -> None:
    """400, and the connection ends: what follows on it cannot be trusted (RFC 9112 3.2, 6.3, 7.1; RFC 9110 4.2.1)."""
    origin = await upstream(answers(OK))
    client = await (await gateway(proxy(origin.url))).client()
    response = await client.ask(wire)

    assert (response.status, response.code, response.value(b"connection")) == (400, "http_request_error", b"close")
    assert all(not request.complete for request in origin.requests)


FINE = {
    "utf-8": ("GET /café?q=€😀 HTTP/1.1\r\nHost: a\r\n\r\n".encode(), b"/caf%C3%A9?q=%E2%82%AC%F0%9F%98%80"),
    "escaped": (b"GET /caf%E9 HTTP/1.1\r\nHost: a\r\n\r\n", b"/caf%E9"),
    "host-escaped": (b"GET / HTTP/1.1\r\nHost: a%2Db\r\n\r\n", b"/"),
    "empty-host": (b"GET /x HTTP/1.1\r\nHost:\r\n\r\n", b"/x"),
    "extension": (CHUNKED + b"5 ; a \r\nhello\r\n0\r\n\r\n", b"/"),
}


@pytest.mark.parametrize("wire,target", FINE.values(), ids=FINE)
async def test_what_is_clear_goes_on(upstream: StartUpstream, gateway: StartGateway, wire: bytes, target: bytes) -> None:
    """UTF-8 is percent-encoded as the client ought to have done; what is encoded goes on as it is."""
    origin = await upstream(answers(OK))
    response = await (await gateway(proxy(origin.url))).ask(wire)

    assert response.status == 200
    assert origin.requests[0].target == target
