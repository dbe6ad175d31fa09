"""Rate limits through a running gateway: what is counted by, what the client is told, what the upstream never sees."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import orjson
import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import GET, OK, Gateway, Response, answers, eventually, proxy, time_passes


async def limited(upstream: StartUpstream, gateway: StartGateway, limit: str, *, answer: bytes = OK, **config: str) -> Gateway:
    """A gateway with these limits before an upstream that answers."""
    origin = await upstream(answers(answer))
    return await gateway(proxy(origin.url, route=f"rate_limit: {limit}", **config))


async def statuses(gateway: Gateway, count: int, *lines: str, target: str = "/") -> list[int]:
    """What so many requests are answered with."""
    return [(await gateway.get(target, *lines)).status for _ in range(count)]


async def test_over_the_limit_is_429_with_a_true_retry_after(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The problem names the limit; who waits as long as `Retry-After` says is admitted (RFC 9110 10.2.3, RFC 6585 4)."""
    running = await limited(upstream, gateway, "{name: client, limit: 2, per: 1s}")
    assert await statuses(running, 2) == [200, 200]
    refused = await running.get()

    assert refused.status == 429
    assert refused.code == "rate_limited"
    problem = orjson.loads(refused.body)
    assert problem["limit"] == "client"
    assert problem["violated-policies"] == ["client"]
    assert "`client` (2 per 1s)" in problem["detail"]
    wait = int(refused.value(b"retry-after") or 0)
    assert wait == problem["retry_after"] == 1
    await time_passes(wait)
    assert (await running.get()).status == 200


async def test_who_keeps_a_small_limit_is_never_refused(upstream: StartUpstream, gateway: StartGateway) -> None:
    """One request per 1.1 periods, under a limit of one per period, and none of them is 429."""
    running = await limited(upstream, gateway, "1/100ms")
    got = []
    for _ in range(12):
        got += await statuses(running, 1)
        await time_passes(0.11)

    assert got == [200] * 12


async def test_a_refused_request_never_reaches_the_upstream(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Step 5 stands before forwarding."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, route="rate_limit: 3/min"))

    assert await statuses(running, 10) == [200] * 3 + [429] * 7
    assert len(origin.requests) == 3
    assert running.route.rejections["rate_limited"] == 7


async def test_the_draft_fields(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`RateLimit-Policy` and `RateLimit` as structured fields, with all limits that can deny, on 200 and 429 alike."""
    limits = "[{name: a, limit: 2/min}, {name: b, limit: 5/h, key: host}, {name: s, limit: 9/s, mode: shadow}]"
    running = await limited(upstream, gateway, limits)
    first, _, third = [await running.get() for _ in range(3)]

    assert first.value(b"ratelimit-policy") == b'"a";q=2;w=60, "b";q=5;w=3600'
    assert (first.value(b"ratelimit") or b"").startswith(b'"a";r=1;t=')
    assert b'"b";r=4;t=' in (first.value(b"ratelimit") or b"")
    assert third.status == 429
    assert third.value(b"ratelimit-policy") == first.value(b"ratelimit-policy")
    assert (third.value(b"ratelimit") or b"").startswith(b'"a";r=0;t=%b,' % (third.value(b"retry-after") or b""))


async def test_fields_of_the_upstream_are_kept(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The draft's fields are lists, so ours come behind the upstream's; the old ones are not, so the upstream's stand."""
    answer = b'HTTP/1.1 200 OK\r\nRateLimit: "up";r=9;t=1\r\nX-RateLimit-Limit: 77\r\nContent-Length: 0\r\n\r\n'
    draft = await limited(upstream, gateway, "5/min", answer=answer)
    legacy = await limited(upstream, gateway, "{limit: 5/min, headers: legacy}", answer=answer)
    fields = (await draft.get()).values(b"ratelimit")

    assert fields[0] == b'"up";r=9;t=1'
    assert fields[1].startswith(b'"default";r=4;t=')
    response = await legacy.get()
    assert response.values(b"x-ratelimit-limit") == [b"77"]
    assert response.values(b"x-ratelimit-remaining") == []


@pytest.mark.parametrize(
    "headers,names", [("legacy", {b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset"}), ("none", set())]
)
async def test_other_fields(upstream: StartUpstream, gateway: StartGateway, headers: str, names: set[bytes]) -> None:
    """`legacy` are three fields with the tightest limit, `none` are none; `Retry-After` is always there."""
    running = await limited(
        upstream, gateway, f"[{{limit: 1/min, headers: {headers}}}, {{name: b, limit: 9/s, headers: {headers}}}]"
    )
    allowed, refused = await running.get(), await running.get()

    assert {name for name in allowed.names() if b"ratelimit" in name} == names
    assert {name for name in refused.names() if b"ratelimit" in name} == names
    assert refused.value(b"retry-after")
    if names:
        assert allowed.value(b"x-ratelimit-limit") == b"1"


@pytest.mark.parametrize(
    "key,same,other",
    [
        ("'header:X-Key'", ("/", "X-Key: a"), ("/", "X-Key: b")),
        ("'query:k'", ("/?k=a&x=1", ""), ("/?k=b", "")),
        ("'cookie:sid'", ("/", "Cookie: x=1; sid=a"), ("/", "Cookie: sid=b")),
        ("'path:id'", ("/a", ""), ("/b", "")),
        ("host", ("/", ""), ("/", "Host: other.example")),
        ("['header:X-Key', 'query:k']", ("/?k=a", "X-Key: a"), ("/?k=b", "X-Key: a")),
    ],
)
async def test_keys(
    upstream: StartUpstream, gateway: StartGateway, key: str, same: tuple[str, str], other: tuple[str, str]
) -> None:
    """Each key value has a count of its own."""
    running = await limited(upstream, gateway, f"{{limit: 1/min, key: {key}}}", path="/{id}" if "path" in key else "/**")

    async def ask(target: str, line: str) -> int:
        host = [] if line.startswith("Host") else ["Host: example.com"]
        lines = [f"GET {target} HTTP/1.1", *host, *([line] if line else []), "", ""]
        return (await running.ask("\r\n".join(lines).encode())).status

    assert [await ask(*same), await ask(*same), await ask(*other)] == [200, 429, 200]


async def test_methods_can_be_counted_apart(upstream: StartUpstream, gateway: StartGateway) -> None:
    """With `method` in the key a flood of GETs leaves room for HEAD."""
    running = await limited(upstream, gateway, "{limit: 1/min, key: method}")

    assert await statuses(running, 2) == [200, 429]
    assert (await running.ask(GET.replace(b"GET", b"HEAD", 1))).status == 200


async def test_the_client_address_is_what_trusted_proxies_say(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Behind `trusted_proxies` the client counts, IPv6 by /64; from anybody else the field is a claim that changes nothing."""
    trusting = await limited(upstream, gateway, "1/min", server="trusted_proxies: [127.0.0.1]")
    strict = await limited(upstream, gateway, "1/min")
    addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.1", "2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1"]

    got = [(await trusting.get("/", f"X-Forwarded-For: {address}")).status for address in addresses]
    assert got == [200, 200, 429, 200, 429, 200]
    got = [(await strict.get("/", f"X-Forwarded-For: {address}")).status for address in addresses]
    assert got == [200] + [429] * 5


@pytest.mark.parametrize("missing,expected", [("share", [200, 429]), ("skip", [200, 200]), ("deny", [429, 429])])
async def test_requests_without_the_key(
    upstream: StartUpstream, gateway: StartGateway, missing: str, expected: list[int]
) -> None:
    """`share` one count (so that leaving the key out is no way around), `skip` the limit, or `deny`."""
    running = await limited(upstream, gateway, f"{{limit: 1/min, key: 'header:X-Key', missing: {missing}}}")

    assert await statuses(running, 2) == expected
    assert await statuses(running, 1, "X-Key: a") == [200]


async def test_costs(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A request field says what a request takes, within bounds."""
    running = await limited(upstream, gateway, "{limit: 10/min, cost: {header: X-Cost, min: 2, max: 6, default: 3}}")

    assert await statuses(running, 1, "X-Cost: 999") == [200]
    assert await statuses(running, 1, "X-Cost: 5") == [429]
    assert await statuses(running, 1) == [200]
    assert await statuses(running, 2, "X-Cost: 1") == [429, 429]


async def test_overrides_and_exemptions(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A key can have another limit, or none; an address range can be exempt."""
    limit = "{limit: 1/min, key: 'header:X-Key', overrides: {gold: 3}, exempt: {keys: [monitor]}}"
    running = await limited(upstream, gateway, limit)

    assert await statuses(running, 2, "X-Key: tin") == [200, 429]
    assert await statuses(running, 4, "X-Key: gold") == [200, 200, 200, 429]
    assert await statuses(running, 5, "X-Key: monitor") == [200] * 5
    assert b"q=3" in ((await running.get("/", "X-Key: gold")).value(b"ratelimit-policy") or b"")
    exempt = await limited(upstream, gateway, "{limit: 1/min, exempt: {cidrs: [127.0.0.0/8]}}")
    assert await statuses(exempt, 5) == [200] * 5


async def test_shadow_and_candidate_only_count(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A shadow limit refuses nothing and shows nothing; a candidate is counted beside the live limit."""
    running = await limited(
        upstream, gateway, "[{name: s, limit: 1/min, mode: shadow}, {name: live, limit: 3/min, candidate: 2/min}]"
    )
    assert await statuses(running, 4) == [200, 200, 200, 429]
    metrics = "".join(
        f"{sample.labels.get('limit')} {sample.labels.get('decision')} {sample.value:.0f}\n"
        for family in running.metrics.collect()
        for sample in family.samples
        if sample.name == "gateway_rate_limit_decisions_total" and sample.value
    )

    assert "s allowed 1\ns shadow_denied 3\n" in metrics
    assert "live allowed 3\nlive denied 1\n" in metrics
    assert "live.candidate candidate_allowed 2\nlive.candidate candidate_denied 2\n" in metrics


@pytest.mark.parametrize("key", [b"{", b"}{a}", b"x" * 20_000, b"\xff\xfe", b"a\tb", b"%00", b"'\"\\"])
async def test_hostile_keys_are_keys_like_any_other(upstream: StartUpstream, gateway: StartGateway, key: bytes) -> None:
    """Whatever bytes a key holds, it is counted by itself and never an error."""
    running = await limited(upstream, gateway, "{limit: 1/min, key: ['header:X-Key', 'query:k']}")

    async def ask(value: bytes) -> Response:
        return await running.ask(b"GET /?k=%%00 HTTP/1.1\r\nHost: a\r\nX-Key: %b\r\n\r\n" % value)

    assert [(await ask(key)).status, (await ask(key)).status, (await ask(b"other")).status] == [200, 429, 200]


async def test_local_answers_are_limited_too(gateway: StartGateway) -> None:
    """A route that answers by itself has limits like any other, and tells them."""
    running = await gateway(
        """
version: 1
server: {listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
access_log: off
routes: [{name: all, match: {}, respond: 204, rate_limit: 1/min}]
"""
    )
    first, second = await running.get(), await running.get()

    assert (first.status, second.status) == (204, 429)
    assert (first.value(b"ratelimit") or b"").startswith(b'"default";r=0;')


async def test_a_refused_upload_closes_the_connection(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What is left of the body is not read: the answer comes at once."""
    running = await limited(upstream, gateway, "1/min")
    assert await statuses(running, 1) == [200]
    client = await running.client()
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nx")
    response = await client.response()

    assert response.status == 429
    assert response.value(b"connection") == b"close"
    await eventually(lambda: running.log.entries[-1]["failure"] == "rate_limited")


# -- the admin listener ------------------------------------------------------------------------------------------------


async def admin(running: Gateway, action: str, *arguments: str) -> tuple[int, str]:
    """`gateway limits`, in a process of its own."""
    host, port = running.admin
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "limits", action, *arguments, "--admin", f"http://{host}:{port}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_state_and_reset_of_a_key(upstream: StartUpstream, gateway: StartGateway, tmp_path: Path) -> None:
    """The state of a key is seen without charging it; forgetting it needs the token."""
    (tmp_path / "token").write_text("s3cret\n", encoding="utf-8")
    (tmp_path / "wrong").write_text("guess", encoding="utf-8")
    origin = await upstream(answers(OK))
    text = proxy(origin.url, route="rate_limit: {name: client, limit: 2/min}")
    running = await gateway(text.replace('listen: "127.0.0.1:0"', 'listen: "127.0.0.1:0", token: s3cret'))
    key = ("all", "127.0.0.1", "--limit", "client")
    assert await statuses(running, 3) == [200, 200, 429]

    for _ in range(2):
        code, output = await admin(running, "key", *key)
        assert code == 0
        assert orjson.loads(output)["remaining"] == 0
    assert (await admin(running, "reset", *key))[0] == 1
    assert (await admin(running, "reset", *key, "--token-file", str(tmp_path / "wrong")))[0] == 1
    assert await statuses(running, 1) == [429]
    code, output = await admin(running, "reset", *key, "--token-file", str(tmp_path / "token"))
    assert (code, orjson.loads(output)["remaining"]) == (0, 2)
    assert await statuses(running, 3) == [200, 200, 429]


async def test_the_keys_that_are_denied_most(upstream: StartUpstream, gateway: StartGateway) -> None:
    """They are shown as digests, with the limit and the count; what a client sent as a key is never shown."""
    running = await limited(upstream, gateway, "{limit: 1/min, key: 'header:X-Key'}")
    await statuses(running, 5, "X-Key: hunter2")
    code, output = await admin(running, "top", "--json")
    top = orjson.loads(output)["top"]

    assert code == 0
    assert [(one["route"], one["limit"], one["denied"], one["client_ip"]) for one in top] == [("all", "default", 4, None)]
    assert "hunter2" not in output
    code, output = await admin(running, "key", "all", "hunter2")
    assert orjson.loads(output)["key"] == top[0]["key"]


async def test_the_table_of_those_denied_most_leads_to_their_addresses(
    upstream: StartUpstream, gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the client's address is a part of the key it stands in the table, as a trusted proxy tells it, and in no metric and
    no log; what is in the table can be given to `limits key`."""
    running = await limited(
        upstream, gateway, "{limit: 1/min, key: [client_ip, route, 'header:X-Key']}", server="trusted_proxies: [127.0.0.1]"
    )
    assert (await admin(running, "top")) == (0, "no key has been denied\n")
    await statuses(running, 4, "X-Key: hunter2", "X-Forwarded-For: 198.51.100.7")
    await statuses(running, 2, "X-Key: hunter2", "X-Forwarded-For: 2001:db8:1:2:3::4")
    await statuses(running, 3)
    code, output = await admin(running, "top")
    head, *rows = [line.split("  ") for line in output.splitlines()]

    assert code == 0
    assert [cell.strip() for cell in head if cell] == ["ROUTE", "LIMIT", "RULE", "DENIED", "KEY", "VALUE", "DIGEST"]
    shown = [[cell.strip() for cell in row if cell] for row in rows]
    assert [row[:6] for row in shown] == [
        ["all", "default", "1 per 1m", str(denied), "client_ip|route|header:x-key", f"{client}|all|…"]
        for denied, client in [(3, "198.51.100.7"), (2, "127.0.0.1"), (1, "2001:db8:1:2::/64")]
    ]
    code, output = await admin(running, "key", "all", "2001:db8:1:2::/64|all|hunter2")
    assert (orjson.loads(output)["key"], orjson.loads(output)["remaining"]) == (shown[2][6], 0)
    told = "".join(str(family.samples) for family in running.metrics.collect())
    assert "rate_limit" in told and "198.51.100.7" not in told + caplog.text


@pytest.mark.parametrize(
    "arguments,words",
    [
        (("key", "nowhere", "x"), "no route"),
        (("key", "all", "x", "--limit", "y"), "default"),
        (("key", "all", "x"), "client address"),
        (("reset", "all", "127.0.0.1"), "token_file"),
        (("key", "all"), "needs ROUTE"),
    ],
)
async def test_what_the_command_refuses(
    upstream: StartUpstream, gateway: StartGateway, arguments: tuple[str, ...], words: str
) -> None:
    """A wrong route, limit or key is said in words; without a token nothing can be changed."""
    running = await limited(upstream, gateway, "1/min")
    code, output = await admin(running, *arguments)

    assert code in (1, 2)
    assert words in output
