"""Paths with dot segments: refused, or forwarded as they were sent by the route of an object store."""

from __future__ import annotations

import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import OK, Gateway, Upstream, answers

TEXT = """\
version: 1
server: {{listen: ["127.0.0.1:0"], overload: {{default: off, sheddable: off}}, {server}}}
admin: {{listen: "127.0.0.1:0"}}
access_log: {{}}
upstreams: {{app: {{endpoints: ["{url}"]}}}}
routes:
  - {{name: s3, match: {{host: s3.test}}, upstream: app, paths: {{dot_segments: forward}}}}
  - {{name: all, match: {{path: "/app/**"}}, upstream: app}}
"""
KEYS = [
    b"/dir/../up", b"/dot./.", b"/.", b"/..", b"/../..//etc", b"/./x?a=/../b", b"/b/%2e%2e/c", b"/b/.%2E/c", b"/b/..%2fc",
    b"/b/..\\c", b"/;v=1/../b", b"/a//../b/", b"/app/../x", "/café/../é".encode(),
]  # fmt: skip


async def two(upstream: StartUpstream, gateway: StartGateway, server: str = "") -> tuple[Upstream, Gateway]:
    """A store, and a service beside it."""
    origin = await upstream(answers(OK))
    return origin, await gateway(TEXT.format(url=origin.url, server=server))


@pytest.mark.parametrize("key", KEYS)
async def test_a_store_gets_the_path_as_it_was_sent(upstream: StartUpstream, gateway: StartGateway, key: bytes) -> None:
    """Not a byte is decoded, merged or cut, whichever spelling the dots have; again and again, on one connection."""
    origin, running = await two(upstream, gateway)
    client = await running.client()
    for _ in range(2):
        assert (await client.ask(b"GET %b HTTP/1.1\r\nHost: s3.test\r\n\r\n" % key)).status == 200

    sent = key if key.isascii() else b"/caf%C3%A9/../%C3%A9"
    assert [request.target for request in origin.requests] == [sent, sent]
    assert [entry["route"] for entry in running.log.entries] == ["s3", "s3"]


@pytest.mark.parametrize("key", KEYS)
async def test_others_never_see_such_a_path(upstream: StartUpstream, gateway: StartGateway, key: bytes) -> None:
    """On every other host it is 400, also where a pattern would fit it as it was sent."""
    origin, running = await two(upstream, gateway)
    response = await running.ask(b"GET %b HTTP/1.1\r\nHost: other.test\r\n\r\n" % key)

    assert (response.status, response.code) == (400, "path_ambiguous")
    assert origin.requests == []
    assert running.log.entries[0]["detail"] == "the path holds a dot segment"


@pytest.mark.parametrize(
    "server,key",
    [
        ("", b"/a/../%00"),
        ("", b"/../%c0%ae"),
        ("paths: {encoded_slash: reject}", b"/a/..%2fb"),
        ("paths: {double_slash: reject}", b"/a//../b"),
    ],
)
async def test_what_else_is_ambiguous_stays_so(upstream: StartUpstream, gateway: StartGateway, server: str, key: bytes) -> None:
    """NUL, overlong UTF-8, and what `server.paths` refuses is no matter of dot segments."""
    origin, running = await two(upstream, gateway, server)
    response = await running.ask(b"GET %b HTTP/1.1\r\nHost: s3.test\r\n\r\n" % key)

    assert (response.status, response.code) == (400, "path_ambiguous")
    assert origin.requests == []
