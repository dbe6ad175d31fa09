"""What `gateway explain` says of a request, and what a running gateway does with it: they agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from gateway.control.tools.explain import explain
from tests.conftest import StartGateway, StartUpstream
from tests.support import OK, Gateway, Upstream, answers, eventually

LIMITS = """
      - {name: client, limit: 1/h}
      - {name: tenant, limit: 1/h, key: [client_ip, "header:X-T"], missing: skip, exempt: {cidrs: [203.0.113.0/24]}}
      - {name: user, limit: 1/h, key: ["cookie:s", "path:id", "query:q", host, method, route, "constant:eu"]}
      - {name: paid, limit: 4/h, key: "header:X-Paid", missing: skip, cost: {header: X-Cost, max: 4}}
"""


def config(urls: list[str], *, proxies: str = "[127.0.0.1, 10.0.0.0/8]", listen: str = '"127.0.0.1:0"', more: str = "") -> str:
    """Several limits before endpoints of which a key decides; and routes for the rest, one for each scheme."""
    return f"""
version: 1
server: {{name: gw, listen: [{listen}], trusted_proxies: {proxies}, overload: {{default: off, sheddable: off}}}}
admin: {{listen: "127.0.0.1:0"}}
defaults: {{timeout: 1h}}
upstreams:
  app:
    endpoints: {urls}
    load_balancing: {{algorithm: consistent_hash, key: [client_ip, "header:X-T"]}}
    {more}
routes:
  - {{name: plain, match: {{path: "/**", scheme: http}}, respond: 204}}
  - {{name: secure, match: {{path: "/**", scheme: https}}, respond: 204}}
  - name: users
    match: {{path: "/users/{{id}}"}}
    upstream: app
    rate_limit:{LIMITS}"""


def told(text: str) -> dict[str, str]:
    """The rows of an explanation."""
    rows = re.findall(r"^  (\S+(?: \S+)*)  +(.*?)(?:  .*)?$", text, re.MULTILINE)
    return dict(rows)


def digests(rows: dict[str, str]) -> dict[str, str]:
    """By the names of the limits, what the request is counted under."""
    return {name.split(".")[1]: value for name, value in rows.items() if name.endswith(".digest")}


async def denied(running: Gateway) -> dict[str, dict[str, Any]]:
    """The keys that were denied, by the names of their limits, as the admin listener shows them."""
    host, port = running.admin
    async with ClientSession() as session, session.get(f"http://{host}:{port}/limits") as response:
        return {one["limit"]: one for one in (await response.json())["top"]}


def explained(running: Gateway, target: str, lines: tuple[str, ...], peer: str = "127.0.0.1") -> str:
    """What `explain` says, with the configuration that runs."""
    return explain(running.app.runtime.loaded, "GET", f"http://example.com{target}", lines, peer=peer)


TENANT = ("X-T: acme", "X-Paid: gold", "X-Cost: 3")


@pytest.mark.parametrize(
    "proxies,lines",
    [
        ("[127.0.0.1, 10.0.0.0/8]", ()),
        ("[127.0.0.1, 10.0.0.0/8]", TENANT),
        ("[]", (*TENANT, "X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: https", "X-Request-Timeout-Ms: 900000")),
        ("[127.0.0.1, 10.0.0.0/8]", (*TENANT, "X-Forwarded-For: 198.51.100.7")),
        ("[127.0.0.1, 10.0.0.0/8]", (*TENANT, "X-Forwarded-For: 192.0.2.1, 198.51.100.7 , 10.0.0.9,10.0.0.8")),
        ("[127.0.0.1, 10.0.0.0/8]", (*TENANT, "X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 198.51.100.7, 10.0.0.9")),
        ("[127.0.0.1, 10.0.0.0/8]", (*TENANT, "X-Forwarded-For: 192.0.2.1, nonsense, 10.0.0.9")),
        ("[127.0.0.1, 10.0.0.0/8]", (*TENANT, "X-Forwarded-For: nonsense")),
        ("[127.0.0.1, 10.0.0.0/8]", (*TENANT, "X-Forwarded-For: ")),
        ("[127.0.0.1, 10.0.0.0/8]", (*TENANT, "X-Forwarded-For: 10.0.0.1, 10.0.0.9")),
        ("[127.0.0.1]", (*TENANT, "X-Forwarded-For: [2001:db8:1:2:3::7]:4711")),
        ("[127.0.0.1]", (*TENANT, "X-Forwarded-For: ::ffff:198.51.100.9")),
        ("[127.0.0.1]", (*TENANT, "X-Forwarded-For: 203.0.113.1:80")),
        ("[127.0.0.1]", ("X-T: a", "X-T: b", "Cookie: t=1; s=x", "Cookie: s=y", "X-Forwarded-Proto: https")),
        ("[127.0.0.1]", ("X-Request-Timeout-Ms: 900000",)),
        ("[127.0.0.1]", ("X-Request-Timeout-Ms: 90000000",)),
        ("[127.0.0.1]", ("X-Request-Timeout-Ms: soon",)),
    ],
)
async def test_client_keys_endpoint_and_budget(
    upstream: StartUpstream, gateway: StartGateway, proxies: str, lines: tuple[str, ...]
) -> None:
    """The client, the keys that deny a second request, the endpoint and the budget that it is told are those of `explain`."""
    origins = [await upstream(answers(OK)) for _ in range(3)]
    running = await gateway(config([one.url for one in origins], proxies=proxies))
    target = "/users/7?q=a%20b&q=2"
    rows = told(explained(running, target, lines))

    assert [(await running.get(target, *lines)).status for _ in range(2)] == [200, 429]
    (asked,) = [one for one in origins if one.requests]
    await eventually(lambda: len(running.log.entries) == 2)
    assert {entry["client_ip"] for entry in running.log.entries} == {rows["client"].split(": ")[0]}
    found = await denied(running)
    assert {name: one["key"] for name, one in found.items()} == digests(rows)
    for name, one in found.items():
        shown = re.search(r"client_ip = (\S+)", rows[f"rate_limit.{name}.key"])
        assert one["client_ip"] == (shown[1] if shown else None)
    keyed = any(line.startswith("X-T:") for line in lines)
    assert rows["endpoint for it"].startswith(f"{asked.url}, if" if keyed else "any of them: header:x-t is missing")
    budget = re.match(r"X-Request-Timeout-Ms: (\d+), ", rows["upstream is told"])
    assert budget is not None
    # Spent on the way: less than a minute of a quarter of an hour.
    assert int(budget[1]) - 60_000 < int(asked.requests[0].value(b"x-request-timeout-ms") or 0) <= int(budget[1])


@pytest.mark.parametrize("said,route", [("https", "secure"), ("HTTP", "plain"), ("gopher", "plain"), ("http, https", "secure")])
async def test_the_scheme_that_is_believed(upstream: StartUpstream, gateway: StartGateway, said: str, route: str) -> None:
    """The route that the believed scheme leads to is the one that `explain` names."""
    origin = await upstream(answers(OK))
    running = await gateway(config([origin.url]))
    line = f"X-Forwarded-Proto: {said}"
    await running.get("/", line)
    await eventually(lambda: running.log.entries)

    assert running.log.entries[0]["route"] == route
    assert f"→ route `{route}`" in explained(running, "/", (line,))


async def test_a_cookie_that_names_an_endpoint(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The endpoint that a client's cookie leads to is told, and one that leads nowhere is ignored."""
    origins = [await upstream(answers(OK)) for _ in range(3)]
    running = await gateway(config([one.url for one in origins], more="sticky: srv"))
    first = await running.get("/users/1", "X-T: acme")
    cookie = (first.value(b"set-cookie") or b"").split(b";")[0].decode()

    (asked,) = [one for one in origins if one.requests]
    rows = told(explained(running, "/users/1", ("X-T: another", f"Cookie: {cookie}")))
    assert rows["endpoint for it"] == f"{asked.url}, if available: the cookie `srv` names it"
    for lines, why in [(("Cookie: srv=1",), "names no endpoint"), ((), "is missing")]:
        rows = told(explained(running, "/users/1", ("X-T: acme", *lines)))
        assert rows["endpoint for it"].startswith(f"{asked.url}, if available and not over its share: by the hash of client_ip")
        assert rows["endpoint for it"].endswith(f"the cookie `srv` {why}")


@pytest.mark.parametrize(
    "proxies,lines,client",
    [
        ("[]", ("X-Forwarded-For: 198.51.100.7",), ""),
        ("[unix]", ("X-Forwarded-For: 198.51.100.7",), "198.51.100.7"),
        ("[unix]", (), ""),
        ('["0.0.0.0/0", "::/0"]', ("X-Forwarded-For: 198.51.100.7",), "198.51.100.7"),
    ],
)
async def test_who_comes_by_a_unix_socket(
    upstream: StartUpstream, gateway: StartGateway, tmp_path: Path, proxies: str, lines: tuple[str, ...], client: str
) -> None:
    """Such a peer has no address; what it says is believed when `unix` is a trusted proxy."""
    origin: Upstream = await upstream(answers(OK))
    running = await gateway(config([origin.url], proxies=proxies, listen=f'"unix:{tmp_path}/s"'))
    rows = told(explained(running, "/users/7", lines, peer="unix"))
    head = "\r\n".join(["GET /users/7 HTTP/1.1", "Host: example.com", *lines, "", ""]).encode()
    for _ in range(2):
        await (await running.client(path=f"{tmp_path}/s")).ask(head)

    found = await denied(running)
    assert {name: one["key"] for name, one in found.items()} == digests(rows)
    assert rows["client"].startswith(client or "a Unix socket, no address")
    assert found["client"]["client_ip"] == (client or None)


async def test_the_redirect_to_https_takes_the_request(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Where the listener sends plain HTTP to HTTPS, `explain` says so, and where to; ACME challenges reach their route."""
    origin = await upstream(answers(OK))
    running = await gateway(config([origin.url], listen='{address: "127.0.0.1:0", redirect_to_https: 8443}'))
    answer = await running.get("/users/7?a=b")
    text = explained(running, "/users/7?a=b", ())

    assert answer.status == 308
    assert f"→ 308, Location: {(answer.value(b'location') or b'').decode()}\n" in text
    assert "takes all of plain HTTP but ACME challenges (/.well-known/acme-challenge/…)" in text
    assert "→ route `users`" in explained(running, "/users/7?a=b", ("X-Forwarded-Proto: https",))
    challenge = "/.well-known/acme-challenge/x"
    assert (await running.get(challenge)).status == 204
    assert "→ route `plain`" in explained(running, challenge, ())
    assert "ACME challenges pass: `redirect_to_https` of `127.0.0.1:0`" in explained(running, challenge, ())
