"""Plain HTTP and HTTPS beside one another: routes that tell them apart, and the redirect from one to the other."""

from __future__ import annotations

import shutil
import socket

import pytest

from tests.certificates import Certificates
from tests.conftest import StartGateway, StartUpstream
from tests.support import OK, answers

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with the openssl command")

ANSWERS = """
  - {name: any, match: {path: "/**"}, respond: {body: any}}
"""


def both(certificates: Certificates, plain: str = "", *, server: str = "", routes: str = ANSWERS) -> str:
    """A configuration that listens for plain HTTP and for HTTPS."""
    tls = f'{{certificate: "{certificates["good.crt"]}", key: "{certificates["good.key"]}"}}'
    return f"""
version: 1
server:
  overload: {{default: off, sheddable: off}}
  listen: [{{address: "127.0.0.1:0", {plain}}}, {{address: "localhost:0", tls: {tls}}}]
  {server}
admin: {{listen: "127.0.0.1:0"}}
access_log: "off"
routes: {routes}
"""


def get(target: str = "/a?b=c", host: str = "good.example", more: str = "") -> bytes:
    """A GET request."""
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()


SCHEMES = """
  - {name: secure, match: {scheme: https}, respond: {body: secure}}
  - {name: plain, match: {scheme: http}, respond: {body: plain}}
"""


async def test_a_route_is_chosen_by_the_scheme(gateway: StartGateway, certificates: Certificates) -> None:
    """The scheme is that of the connection, whatever a stranger's `X-Forwarded-Proto` says."""
    running = await gateway(both(certificates, routes=SCHEMES))
    plain, secure = await running.client(), await running.client(tls=certificates.client(), listener=1)

    assert (await plain.ask(get(more="X-Forwarded-Proto: https\r\n"))).body == b"plain"
    assert (await secure.ask(get(more="X-Forwarded-Proto: http\r\n"))).body == b"secure"


@pytest.mark.parametrize(
    "said, body",
    [
        ("https", b"secure"),
        ("HTTPS", b"secure"),
        ("http, https", b"secure"),
        ("http", b"plain"),
        ("ftp", b"plain"),
        ("", b"plain"),
    ],
)
async def test_a_trusted_proxy_says_what_the_scheme_is(
    gateway: StartGateway, certificates: Certificates, said: str, body: bytes
) -> None:
    """The last word of `X-Forwarded-Proto` is that of the nearest proxy; what is no scheme of ours does not count."""
    running = await gateway(both(certificates, routes=SCHEMES, server="trusted_proxies: [127.0.0.1]"))
    client = await running.client()

    assert (await client.ask(get())).body == b"plain"
    assert (await client.ask(get(more=f"X-Forwarded-Proto: {said}\r\n"))).body == body


async def test_a_route_is_chosen_by_the_listener(gateway: StartGateway, certificates: Certificates) -> None:
    """`match.listen` names an address as `server.listen` has it."""
    routes = """
  - {name: first, match: {listen: "127.0.0.1:0"}, respond: {body: first}}
  - {name: second, match: {listen: ["localhost:0"]}, respond: {body: second}}
"""
    running = await gateway(both(certificates, routes=routes))

    assert (await (await running.client()).ask(get())).body == b"first"
    assert (await (await running.client(tls=certificates.client(), listener=1)).ask(get())).body == b"second"


@pytest.mark.parametrize(
    "host, path, status",
    [
        ("a.example", "/x", 200),
        ("b.example", "/x/y", 200),
        ("c.b.example", "/z", 200),
        ("b.example", "/z", 200),
        ("a.example", "/y", 404),
        ("d.example", "/x", 421),
    ],
)
async def test_a_route_has_several_hosts_and_paths(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates, host: str, path: str, status: int
) -> None:
    """Any host with any path."""
    match = '{host: [a.example, b.example, "*.b.example"], path: ["/x/**", /z]}'
    running = await gateway(both(certificates, routes=f"[{{name: all, match: {match}, respond: {{body: ok}}}}]"))

    assert (await (await running.client()).ask(get(path, host))).status == status


# -- redirect_to_https -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "to, host, location",
    [
        ("true", "a.example", b"https://a.example/a?b=c"),
        ("true", "a.example:80", b"https://a.example/a?b=c"),
        ("8443", "a.example", b"https://a.example:8443/a?b=c"),
        ("8443", "a.example:8080", b"https://a.example:8443/a?b=c"),
        ("443", "a.example:8080", b"https://a.example/a?b=c"),
        ("443", "[::1]:8080", b"https://[::1]/a?b=c"),
        ("443", "[::1]", b"https://[::1]/a?b=c"),
        ("443", "10.0.0.1", b"https://10.0.0.1/a?b=c"),
    ],
)
async def test_plain_http_is_sent_to_https(
    gateway: StartGateway, certificates: Certificates, to: str, host: str, location: bytes
) -> None:
    """308 keeps the method; path and query stay as they are, and the port is the one that is written."""
    running = await gateway(both(certificates, f"redirect_to_https: {to}"))
    client = await running.client()
    for method in ("GET", "POST"):
        response = await client.ask(f"{method} /a?b=c HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n".encode())
        assert (response.status, response.value(b"location")) == (308, location)
    secure = await running.client(tls=certificates.client(), listener=1)

    assert (await secure.ask(get())).body == b"any"
    assert running.plane.metrics.routes["_to_https"].requests == {(b"GET", 308): 1, (b"POST", 308): 1}


async def test_a_client_that_names_a_port_goes_to_that_of_https(gateway: StartGateway, certificates: Certificates) -> None:
    """`true`: who came by a port of ours finds HTTPS at a port of ours; who came by port 80 finds it at 443."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    text = both(certificates, "redirect_to_https: true").replace("localhost:0", f"localhost:{port}")
    running = await gateway(text)
    client = await running.client()

    assert (await client.ask(get(host="a.example:8080"))).value(b"location") == b"https://a.example:%d/a?b=c" % port
    assert (await client.ask(get(host="a.example"))).value(b"location") == b"https://a.example/a?b=c"


async def test_acme_challenges_are_not_redirected(gateway: StartGateway, certificates: Certificates) -> None:
    """A certificate authority asks over plain HTTP (RFC 8555 8.3)."""
    running = await gateway(both(certificates, "redirect_to_https: true"))
    client = await running.client()

    assert (await client.ask(get("/.well-known/acme-challenge/token"))).body == b"any"
    assert (await client.ask(get("/.well-known/acme-challenges"))).status == 308
    assert (await client.ask(get("/.well-known/acme-challenge/../x"))).status == 308


async def test_what_a_trusted_proxy_took_as_https_is_not_redirected(gateway: StartGateway, certificates: Certificates) -> None:
    """Else a balancer that ends TLS would be sent round for ever."""
    running = await gateway(both(certificates, "redirect_to_https: true", server="trusted_proxies: [127.0.0.1]"))
    client = await running.client()

    assert (await client.ask(get(more="X-Forwarded-Proto: https\r\n"))).body == b"any"
    assert (await client.ask(get(more="X-Forwarded-Proto: http\r\n"))).status == 308


async def test_without_a_host_nobody_is_redirected(gateway: StartGateway, certificates: Certificates) -> None:
    """There is no URL to send an HTTP/1.0 client to that says no host."""
    running = await gateway(both(certificates, "redirect_to_https: true"))

    assert (await (await running.client()).ask(b"GET / HTTP/1.0\r\n\r\n")).status == 400


async def test_a_sticky_cookie_is_secure_where_the_client_speaks_https(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates
) -> None:
    """Behind a balancer that ends TLS the scheme is what it says."""
    origin = await upstream(answers(OK))
    routes = "[{name: all, match: {}, upstream: app}]"
    server = "trusted_proxies: [127.0.0.1]"
    text = (
        both(certificates, routes=routes, server=server) + f"upstreams: {{app: {{endpoints: ['{origin.url}'], sticky: s}}}}\n"
    )
    client = await (await gateway(text)).client()

    assert b"; Secure" in ((await client.ask(get(more="X-Forwarded-Proto: https\r\n"))).value(b"set-cookie") or b"")
    assert b"; Secure" not in ((await client.ask(get())).value(b"set-cookie") or b"; Secure")
