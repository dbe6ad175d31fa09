"""Method × body × point of failure × fresh or kept connection: what is not idempotent is never seen twice, and what may be
repeated is (RFC 9110 9.2.2)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import GET, OK, Behaviour, Gateway, Peer, Request, Response, Upstream, refusing_port

BOUND: Final = 8192
"""Of the replay buffer, in these tests."""

IDEMPOTENT: Final = (b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"QUERY")
OTHERS: Final = (b"POST", b"PATCH", b"LOCK", b"get")

POINTS: Final = ("before-head", "after-head", "mid-body", "after-request", "closes", "half-head", "hangs", "503", "503-cut")
UNCERTAIN: Final = ("before-head", "after-head", "mid-body")
"""Points at which the gateway may have received less than the bound of a body that is larger."""

BUSY: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
BUSY_CUT: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100000\r\n\r\nbusy"


@dataclass(frozen=True)
class Case:
    """One request."""

    method: bytes
    size: int
    chunked: bool = False

    def written(self, line: bytes = b"") -> bytes:
        """It, as a client sends it."""
        head = b"%b /case HTTP/1.1\r\nHost: a\r\n%b" % (self.method, line)
        if self.chunked:
            return b"%bTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (head, self.size, self.body)
        if not self.size:
            return head + b"\r\n"
        return b"%bContent-Length: %d\r\n\r\n%b" % (head, self.size, self.body)

    @property
    def body(self) -> bytes:
        """Its content."""
        return bytes(index % 251 for index in range(self.size))


CASES: Final = [
    Case(method, size, chunked)
    for method in (*IDEMPOTENT, *OTHERS)
    for size, chunked in (
        (0, False),
        (10, False),
        (BOUND, False),
        (BOUND + 1, False),
        (10, True),
        (BOUND, True),
        (BOUND + 1, True),
    )
]


def fails_once(point: str, warm: bool = False) -> Behaviour:
    """Answers, but fails at this point of the first request for `/case`; `warm`: which comes behind one for `/warm`."""
    failed = point == "nowhere"

    async def fail(peer: Peer, request: Request | None) -> bool:
        """Fail; whether the connection lives on."""
        if point in ("before-head", "after-head"):
            peer.reset()
            return False
        assert request is not None
        if point == "mid-body":
            if request.value(b"content-length") or request.value(b"transfer-encoding"):
                await peer.reader.readexactly(1)
            peer.reset()
            return False
        await peer.body(request)
        if point == "after-request":
            peer.reset()
        elif point == "half-head":
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Le")
            peer.reset()
        elif point == "hangs":
            await peer.gone()
        elif point == "503":
            await peer.send(BUSY)
            return True
        elif point == "503-cut":
            await peer.send(BUSY_CUT)
        return False

    async def behave(peer: Peer) -> None:
        nonlocal failed
        warmed = False
        while True:
            if point == "before-head" and not failed and warmed is warm:
                await peer.reader.readexactly(1)
                failed = True
                await fail(peer, None)
                return
            request = await peer.head()
            if request.target == b"/warm":
                await peer.send(OK)
                warmed = True
                continue
            if not failed:
                failed = True
                if await fail(peer, request):
                    continue
                return
            await peer.body(request)
            await peer.send(OK)

    return behave


def configuration(origins: list[Upstream], retry: str, attempt: str) -> str:
    """A route to each of the upstreams, by host."""
    budget = "retry_budget: {ratio: 100%, min_per_second: 10000}"
    lines = [
        "version: 1",
        "server: {listen: ['127.0.0.1:0'], overload: {default: off, sheddable: off}}",
        'admin: {listen: "127.0.0.1:0"}',
        'access_log: "off"',
        "upstreams:",
    ]
    lines += [f"  u{number}: {{endpoints: ['{origin.url}'], {budget}}}" for number, origin in enumerate(origins)]
    lines += [f"defaults: {{timeout: {{request: 20s, attempt: {attempt}}}, retry: {retry}}}", "routes:"]
    lines += [f"  - {{name: r{number}, match: {{host: h{number}}}, upstream: u{number}}}" for number in range(len(origins))]
    return "\n".join(lines)


async def asked(running: Gateway, number: int, request: bytes, *, warm: bool) -> Response:
    """The response to the request of this number, behind another one on the same connection when `warm`."""
    host = b"Host: h%d\r\n" % number
    if warm:
        assert (await running.ask(GET.replace(b" / ", b" /warm ").replace(b"Host: example.com\r\n", host))).status == 200
    async with asyncio.timeout(30):
        return await running.ask(request.replace(b"Host: a\r\n", host))


async def results(
    upstream: StartUpstream, gateway: StartGateway, point: str, warm: bool, retry: str, cases: list[Case], line: bytes = b""
) -> list[tuple[Case, Response, list[Request], dict[str, int]]]:
    """What became of each case: the response, what the upstream saw of it, and why there was no retry."""
    origins = [await upstream(fails_once(point, warm)) for _ in cases]
    running = await gateway(configuration(origins, retry, "2s" if point == "hangs" else "10s"))
    answers = await asyncio.gather(
        *(asked(running, number, case.written(line), warm=warm) for number, case in enumerate(cases))
    )
    return [
        (
            case,
            answer,
            [seen for seen in origin.requests if seen.target == b"/case"],
            running.metrics.upstreams[f"u{number}"].denials,
        )
        for number, (case, answer, origin) in enumerate(zip(cases, answers, origins, strict=True))
    ]


@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "kept"])
@pytest.mark.parametrize("point", POINTS)
async def test_what_is_idempotent_is_repeated_and_nothing_else(
    upstream: StartUpstream, gateway: StartGateway, point: str, warm: bool
) -> None:
    """Every idempotent request that fits the replay buffer succeeds on the second attempt, every other is sent once."""
    outcome = {"hangs": 504, "503": 503, "503-cut": 503}.get(point, 502)
    retry = f"{{replay: {BOUND}B, backoff: {{base: 1ms}}}}"
    for case, answer, seen, denials in await results(upstream, gateway, point, warm, retry, CASES):
        where = (case, answer.start, [request.start for request in seen], denials)
        once = 0 if point == "before-head" else 1
        if case.method not in IDEMPOTENT:
            assert (answer.status, len(seen), denials) == (outcome, once, {"method": 1}), where
        elif case.size <= BOUND:
            assert (answer.status, len(seen), denials) == (200, once + 1, {}), where
            assert seen[-1].body == case.body, where
        elif point in UNCERTAIN and answer.status == 200:
            assert (len(seen), seen[-1].body) == (once + 1, case.body), where
        else:
            assert (answer.status, len(seen), denials) == (outcome, once, {"body": 1}), where


@pytest.mark.parametrize("point", ["after-request", "hangs", "503"])
async def test_a_believed_key_makes_any_method_repeatable(upstream: StartUpstream, gateway: StartGateway, point: str) -> None:
    """With `idempotency_key: true` a request that brings the field is repeated like an idempotent one."""
    retry = f"{{replay: {BOUND}B, idempotency_key: true}}"
    line = b'Idempotency-Key: "8e03978e"\r\n'
    cases = [case for case in CASES if case.method in OTHERS and case.size <= BOUND]
    for case, answer, seen, _ in await results(upstream, gateway, point, False, retry, cases, line):
        assert (answer.status, len(seen), seen[-1].body) == (200, 2, case.body), case
        assert [request.value(b"idempotency-key") for request in seen] == [b'"8e03978e"'] * 2


@pytest.mark.parametrize("retry,line", [("{}", b'Idempotency-Key: "1"\r\n'), ("{idempotency_key: true}", b"")])
async def test_a_key_is_believed_only_where_the_route_says_so(
    upstream: StartUpstream, gateway: StartGateway, retry: str, line: bytes
) -> None:
    """A field that nobody vouches for repeats nothing, and neither does a setting without the field."""
    cases = [Case(method, 10) for method in OTHERS]
    for case, answer, seen, _ in await results(upstream, gateway, "after-request", False, retry, cases, line):
        assert (answer.status, len(seen)) == (502, 1), case


async def test_what_was_never_sent_is_repeated_whatever_it_is(upstream: StartUpstream, gateway: StartGateway) -> None:
    """No connection, no request: every method goes to the next endpoint at once, with a body of any size."""
    for case in CASES:
        if case.size in (0, BOUND + 1):
            origin = await upstream(fails_once("nowhere"))
            running = await gateway(
                f"""
version: 1
server: {{listen: ["127.0.0.1:0"], overload: {{default: off, sheddable: off}}}}
admin: {{listen: "127.0.0.1:0"}}
access_log: "off"
upstreams:
  app: {{endpoints: ["http://127.0.0.1:{refusing_port()}", "{origin.url}"], load_balancing: round_robin}}
routes: [{{name: all, match: {{}}, upstream: app, retry: {{replay: {BOUND}B}}}}]
"""
            )
            for _ in range(2):
                assert (await running.ask(case.written())).status == 200, case
            assert [request.body for request in origin.requests] == [case.body] * 2
            assert set(running.upstream.retries) == {"connect"}
