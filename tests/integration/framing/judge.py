"""Sends the corpus to gateways and judges both sides: what the client saw, what the origin received.

Each case has a gateway and an origin of its own, so that all can run at once and every record is the case's. UNSAFE is a
disagreement that can be abused; MISSED is not the outcome that the RFC asks for.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from tests.integration.framing.origin import Origin, Record
from tests.support import Gateway, running, turns

HERE: Final = Path(__file__).parent
HOST: Final = "gateway.test:8080"
AT_ONCE: Final = 40

Case: TypeAlias = dict[str, Any]

_ABSENT_OR_UNSAFE: Final = ("trailer", "line/field", "request-line", "upgrade")
"""Classes in which a field that must not reach the origin is a smuggled one."""


def cases(name: str) -> list[Case]:
    """`requests` or `responses`."""
    corpus: list[Case] = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))["cases"]
    return corpus


@dataclass
class Verdict:
    """What was wrong with one case."""

    case: Case
    unsafe: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)


def expand(text: str) -> bytes:
    """The bytes of a case: `{HOST}`, `<<r|N|TEXT>>` repeats, `<<f|N>>` makes fields, `<<CL>>` is the length of the rest."""
    text = text.replace("{HOST}", HOST)
    text = re.sub(r"<<r\|(\d+)\|(.*?)>>", lambda match: match[2] * int(match[1]), text, flags=re.DOTALL)
    text = re.sub(r"<<f\|(\d+)>>", lambda match: "".join(f"X-{number}: a\r\n" for number in range(int(match[1]))), text)
    if "<<CL>>" in text:
        text = text.replace("<<CL>>", str(len(text.split("\r\n\r\n", 1)[1].encode("latin-1"))))
    return text.encode("latin-1")


# -- the client side ---------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """One response as the client saw it."""

    status: int
    fields: dict[str, list[str]]
    body: bytes
    complete: bool


LONGEST: Final = 20
"""Times the patience: then an exchange is over, whatever still comes."""


async def exchange(
    gateway: Gateway, parts: list[bytes | float], *, patience: float, quiet: float, half_close: bool = False
) -> tuple[bytes, bool]:
    """Send the parts (numbers are pauses); what came back, and whether the gateway closed the connection.

    Waits until it is closed, or nothing comes for so long: `quiet` seconds behind a final response, else `patience`.
    """
    reader, writer = await asyncio.open_connection(*gateway.address)
    sending = asyncio.create_task(_send(writer, parts, half_close))
    data, closed = b"", False
    try:
        async with asyncio.timeout(LONGEST * patience):
            while not closed:
                answered = re.search(rb"HTTP/1\.[01] [2-9]", data) is not None
                try:
                    async with asyncio.timeout(quiet if answered else patience):
                        part = await reader.read(1 << 20)
                except TimeoutError:
                    if answered or sending.done():
                        break
                    continue
                except ConnectionError:
                    part = b""
                data += part
                closed = not part
            return data, closed
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()


async def _send(writer: asyncio.StreamWriter, parts: list[bytes | float], half_close: bool) -> None:
    for part in parts:
        if isinstance(part, bytes):
            writer.write(part)
            await writer.drain()
        else:
            await asyncio.sleep(part)
    if half_close:
        writer.write_eof()


def split_responses(data: bytes, methods: list[str]) -> tuple[list[Seen], bytes]:
    """The responses in a received stream, and what is left behind them."""
    found: list[Seen] = []
    finals = 0
    while data:
        match = re.match(rb"HTTP/\d\.\d (\d{3})([^\r\n]*)\r?\n", data)
        end = re.search(rb"\r?\n\r?\n", data)
        if match is None:
            return found, data
        status = int(match[1])
        if end is None:
            return [*found, Seen(status, {}, b"", False)], b""
        fields: dict[str, list[str]] = {}
        for line in re.split(rb"\r?\n", data[match.end() : end.start()]):
            name, _, value = line.partition(b":")
            fields.setdefault(name.strip().lower().decode("latin-1"), []).append(value.strip().decode("latin-1"))
        data = data[end.end() :]
        if 100 <= status < 200 and status != 101:
            found.append(Seen(status, fields, b"", True))
            continue
        bodiless = status in (204, 304) or (methods[finals] if finals < len(methods) else "GET") == "HEAD"
        finals += 1
        body, complete, data = (b"", True, data) if bodiless else _body(fields, data)
        found.append(Seen(status, fields, body, complete))
        if not complete:
            break
    return found, data


def _body(fields: dict[str, list[str]], data: bytes) -> tuple[bytes, bool, bytes]:
    """Body, whether it is complete, and what is left."""
    if "chunked" in ",".join(fields.get("transfer-encoding", [])).lower():
        body = b""
        while (match := re.match(rb"([0-9A-Fa-f]+)[^\r\n]*\r\n", data)) is not None:
            size, data = int(match[1], 16), data[match.end() :]
            if size == 0:
                end = re.match(rb"(?:[^\r\n]+\r\n)*\r\n", data)
                return body, end is not None, data[end.end() :] if end is not None else data
            body, data = body + data[:size], data[size + 2 :]
        return body, False, data
    if "content-length" in fields:
        first = fields["content-length"][0]
        length = int(first) if re.fullmatch("[0-9]{1,18}", first) else len(data)
        return data[:length], len(data) >= length, data[length:]
    return data, True, b""


# -- requests ----------------------------------------------------------------------------------------------------------


async def judge_request(case: Case, config: Callable[[int], Path]) -> Verdict:
    """Send one raw request."""
    async with _under_test(config) as (gateway, origin):
        if "parts" in case:
            parts = [expand(part) if isinstance(part, str) else float(part) for part in case["parts"]]
        else:
            parts = [expand(case["raw"])]
        data, closed = await exchange(
            gateway,
            parts,
            patience=10.0,
            quiet=4.0 if case.get("close") or "finals" in case else 0.5,
            half_close=case.get("half_close", False),
        )
        await turns(100)  # what the gateway has sent to the origin may still be on its way
        responses, left = split_responses(data, case.get("methods", []))
        verdict = Verdict(case, statuses=[response.status for response in responses])
        finals = [response for response in responses if response.status >= 200 or response.status == 101]
        _judge_origin(case, origin.records, verdict)
        _judge_client(case, finals, closed, [record for record in origin.records if record.complete], verdict)
        if case.get("no_1xx") and len(finals) < len(responses):
            verdict.missed.append("1xx to an HTTP/1.0 client")
        if left and not left.startswith(b"HTTP/"):
            verdict.missed.append(f"bytes behind the responses: {left[:30]!r}")
        return verdict


def _judge_origin(case: Case, records: list[Record], verdict: Verdict) -> None:
    done = [record for record in records if record.complete]
    unsafe, missed = verdict.unsafe, verdict.missed
    for record in records:
        if record.target.startswith(b"/smuggled") or b"/smuggled" in record.method:
            unsafe.append("the inner request reached the origin")
        unsafe += [f"forwarded: {anomaly}" for anomaly in record.anomalies]
    if len(done) > max(1, case["origin_max"]):
        unsafe.append(f"{len(done)} requests at the origin, at most {case['origin_max']} sent")
    if case.get("origin_body") is not None and done and done[0].target.startswith((b"/c/", b"/p/")):
        bodies = [expand(body) for body in case["origin_body"]]
        if done[0].body not in bodies:
            unsafe.append(f"the origin read another body: {done[0].body[:40]!r}")
    for name, value in case.get("origin_headers_absent", []):
        values = [part.strip() for record in records for whole in record.values(name) for part in (whole, *whole.split(","))]
        if value in values:
            (unsafe if case["cls"] in _ABSENT_OR_UNSAFE or "h2c" in case["id"] else missed).append(f"{name} reached the origin")
    missed += [f"{name} was lost" for name in case.get("origin_headers_present", []) if any(not r.values(name) for r in done)]
    if any(case["origin_host_not"] in host for record in done for host in record.values("host") if "origin_host_not" in case):
        unsafe.append("the wrong Host reached the origin")


def _judge_client(case: Case, finals: list[Seen], closed: bool, done: list[Record], verdict: Verdict) -> None:
    missed = verdict.missed
    first = finals[0].status if finals else None
    may_wait = case.get("slow") or case.get("half_close") or case.get("may_wait")
    if case["expect"] == "reject":
        if done and case["origin_max"] == 0:
            missed.append("forwarded whole")
        if first is not None and first < 400:
            missed.append(f"answered {first}")
        if first is None and not closed:
            missed.append("neither answered nor closed")
    elif case["expect"] == "accept":
        if first is None or not 200 <= first < 300:
            missed.append(f"refused: {first}")
        elif not done:
            missed.append("answered 2xx, the origin saw nothing whole")
    elif first is None and not closed and not may_wait:
        missed.append("neither answered nor closed")
    if "finals" in case and len(finals) != case["finals"]:
        missed.append(f"{len(finals)} responses, {case['finals']} due")
    if case["origin_max"] == 0 and case["expect"] == "either" and done:
        missed.append("forwarded")
    if case.get("close") and finals and not closed:
        missed.append("connection left open")
    if any(final.status == 500 for final in finals):
        missed.append("500: an unhandled error")


# -- responses ---------------------------------------------------------------------------------------------------------


async def judge_response(case: Case, config: Callable[[int], Path]) -> Verdict:
    """Let the origin answer with raw bytes, then ask three more times: they must get their own answers."""
    async with _under_test(config, expand(case["raw"]), keep=case.get("keep", False)) as (gateway, _):
        data, closed = await exchange(gateway, [_get(f"/r/{case['id']}")], patience=10.0, quiet=0.5)
        responses, _ = split_responses(data, [])
        verdict = Verdict(case, statuses=[response.status for response in responses])
        finals = [response for response in responses if response.status >= 200 or response.status == 101]
        for number in range(3):
            after, _ = await exchange(gateway, [_get(f"/after/{number}")], patience=10.0, quiet=0.05)
            seen, _ = split_responses(after, [])
            if any(b"poison" in one.body or "x-poison" in one.fields for one in seen):
                verdict.unsafe.append("the next request got the planted answer")
            elif not seen or seen[-1].status != 200 or seen[-1].body != b"OK":
                verdict.missed.append(f"next request {number}: {seen[-1].status if seen else None}")
        if len(finals) > 1:
            verdict.unsafe.append(f"{len(finals)} responses to one request")
        verdict.unsafe += [f"client sees: {departure}" for departure in departures(data)]
        _judge_answer(case, finals[0] if finals else None, closed, verdict)
        return verdict


def _get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


def _judge_answer(case: Case, final: Seen | None, closed: bool, verdict: Verdict) -> None:
    unsafe, missed = verdict.unsafe, verdict.missed
    if final is None:
        if case["expect"] == "clean" or not closed:
            missed.append("no answer")
        return
    if final.status == 101:
        unsafe.append("101 to a client that asked for none")
    if b"poison" in final.body:
        missed.append("planted bytes inside the body")
    missed += [f"{name} passed on" for name in case.get("headers_absent", []) if name in final.fields]
    if case["expect"] == "502" and final.status < 500:
        missed.append(f"answered {final.status}")
    if case["expect"] == "clean":
        if final.status != case.get("status", 200):
            missed.append(f"answered {final.status}")
        elif "body" in case and final.body != case["body"].encode():
            missed.append(f"body {final.body[:30]!r}")
    if case.get("truncated") and final.status < 400 and final.complete:
        framed = "content-length" in final.fields or "transfer-encoding" in final.fields
        (unsafe if framed else missed).append("a cut body was passed on as whole")


def departures(data: bytes) -> list[str]:
    """What is not canonical in the head of a raw response."""
    if not data:
        return []
    end = data.find(b"\r\n\r\n")
    head = data[: end + 4] if end >= 0 else data
    if not re.match(rb"HTTP/1\.[01] \d{3}( |\r\n)", head):
        return ["status line"]
    found = ["unfinished head"] if end < 0 else []
    found += [name for name, pattern in _DEPARTURES if re.search(pattern, head)]
    names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:] if line]
    found += ["field line" for name in names if not re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name)]
    lengths = names.count(b"content-length")
    if lengths > 1 or (lengths and b"transfer-encoding" in names):
        found.append("two lengths")
    return found


_DEPARTURES: Final = (("bare LF", rb"(?<!\r)\n"), ("bare CR", rb"\r(?!\n)"), ("NUL", rb"\0"), ("obs-fold", rb"\n[ \t]"))


# -- running it --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _under_test(
    config: Callable[[int], Path], script: bytes | None = None, *, keep: bool = False
) -> AsyncIterator[tuple[Gateway, Origin]]:
    origin = Origin(script, keep=keep)
    await origin.start()
    try:
        async with running(config(origin.port), tasks=False) as gateway:
            yield gateway, origin
    finally:
        origin.stop()


async def judge_all(folder: Path) -> dict[str, Verdict]:
    """The verdicts of both corpora, by case id."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def judged(judge: Callable[[Case, Callable[[int], Path]], Awaitable[Verdict]], case: Case) -> Verdict:
        def config(port: int) -> Path:
            path = folder / f"{case['id']}.yaml"
            path.write_text(CONFIG.replace("PORT", str(port)), encoding="utf-8")
            return path

        async with turn:
            return await judge(case, config)

    verdicts = await asyncio.gather(
        *(judged(judge_request, case) for case in cases("requests")),
        *(judged(judge_response, case) for case in cases("responses")),
    )
    return {verdict.case["id"]: verdict for verdict in verdicts}


CONFIG: Final = """
version: 1
server: {name: gw, listen: ["127.0.0.1:0"], limits: {body: 64MiB}}
admin: {listen: "off"}
access_log: "off"
upstreams: {app: {endpoints: ["http://127.0.0.1:PORT"]}}
routes: [{name: all, match: {path: "/**"}, upstream: app}]
"""
