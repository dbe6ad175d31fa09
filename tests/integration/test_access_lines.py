"""What stands in a line of the access log, as real requests make it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.proxy.access_log.line import ECS, FLAT, OTEL, escaped, redacted
from tests.conftest import StartGateway, StartUpstream
from tests.support import OK, answers, closes_without_an_answer, drips, eventually, proxy

FLAT_FIELDS = [
    "ts", "request_id", "trace_id", "span_id", "client_ip", "method", "scheme", "host", "path", "proto", "status", "failure",
    "flags", "upstream", "upstream_addr", "attempts", "retries", "bytes_in", "bytes_out", "coding", "duration_ms", "queue_ms",
    "upstream_ms", "overhead_ms", "ttfb_ms", "user_agent", "route", "config",
]  # fmt: skip


def logged(url: str, log: str = "", route: str = "") -> str:
    """A configuration with an access log of these settings."""
    return proxy(url, route=route).replace('access_log: "off"', f"access_log: {{{log}}}")


async def test_a_line_says_all_there_is_to_say(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Every field is there, in a fixed order, and what the client and the upstream did stands in it."""
    origin = await upstream(answers(OK))
    running = await gateway(logged(origin.url))
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await running.ask(
        b"POST /a/b?token=1 HTTP/1.1\r\nHost: API.example.com:80\r\nUser-Agent: curl/8\r\ntraceparent: %b\r\n"
        b"Content-Length: 3\r\nConnection: close\r\n\r\nabc" % trace.encode()
    )
    await eventually(lambda: running.log.entries)
    (entry,) = running.log.entries

    assert list(entry) == [*FLAT_FIELDS, "connect_ms"]
    assert {name: entry[name] for name in ("client_ip", "method", "scheme", "host", "path", "proto", "status")} == {
        "client_ip": "127.0.0.1",
        "method": "POST",
        "scheme": "http",
        "host": "api.example.com",
        "path": "/a/b",
        "proto": "HTTP/1.1",
        "status": 200,
    }
    assert (entry["failure"], entry["flags"], entry["route"], entry["upstream"]) == (None, "-", "all", "app")
    assert (entry["upstream_addr"], entry["attempts"]) == (origin.url, 1)
    assert (entry["bytes_in"], entry["bytes_out"], entry["coding"]) == (3, 2, None)
    assert (entry["trace_id"], entry["span_id"]) == (trace[3:35], trace[36:52])
    assert entry["user_agent"] == "curl/8"
    assert 0 < entry["connect_ms"] < entry["upstream_ms"] < entry["duration_ms"]
    assert entry["overhead_ms"] == pytest.approx(entry["duration_ms"] - entry["upstream_ms"] - entry["queue_ms"], abs=0.003)
    assert entry["ttfb_ms"] == entry["duration_ms"]


async def test_the_first_byte_is_told_apart_from_the_last(upstream: StartUpstream, gateway: StartGateway) -> None:
    """`ttfb_ms` ends with the response head, `duration_ms` with its last byte."""
    origin = await upstream(drips(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", b"cd"))
    running = await gateway(logged(origin.url))
    client = await running.client()
    await client.send(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
    origin.gate.release()
    await client.head()
    origin.gate.release()
    await client.read(4)
    await eventually(lambda: running.log.entries)
    (entry,) = running.log.entries

    assert 0 < entry["ttfb_ms"] < entry["duration_ms"]


async def test_what_no_route_takes_is_logged_too(gateway: StartGateway, upstream: StartUpstream) -> None:
    """A request without a route has none in its line, and says why."""
    running = await gateway(logged("http://127.0.0.1:1").replace("/**", "/known"))
    await running.get("/unknown")
    await running.ask(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    await eventually(lambda: len(running.log.entries) == 2)
    unmatched, broken = running.log.entries

    assert (unmatched["route"], unmatched["failure"], unmatched["flags"]) == (None, "destination_not_found", "NR")
    assert (broken["status"], broken["failure"], broken["client_ip"]) == (400, "http_request_error", "127.0.0.1")


async def test_a_sample_keeps_all_that_went_wrong(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Of what is fine a share is written, and the line says which share it stands for; failures are written all."""
    origin = await upstream(answers(OK))
    running = await gateway(logged(origin.url, route="access_log: {sample: 10%, slow: 1h}"))
    client = await running.client()
    for _ in range(400):
        await client.ask(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
    fine = len(running.log.entries)
    origin.behaviour = closes_without_an_answer
    for peer in list(origin.peers):
        peer.writer.close()
    for _ in range(20):
        await client.ask(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")

    assert 5 < fine < 120
    assert {entry["sample_rate"] for entry in running.log.entries[:fine]} == {0.1}
    failed = running.log.entries[fine:]
    assert len(failed) == 20
    assert all(entry["status"] == 502 and "sample_rate" not in entry for entry in failed)


async def test_slow_requests_are_marked_and_never_sampled_away(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A request that takes as long as the route's threshold is written, whatever the sample, and says so."""
    origin = await upstream(answers(OK))
    running = await gateway(logged(origin.url, route="access_log: {sample: 0.001%, slow: 1ms}"))
    origin.behaviour = drips(OK)
    client = await running.client()
    await client.send(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
    await eventually(lambda: origin.requests)
    started = running.plane.loop.time()
    await eventually(lambda: running.plane.loop.time() - started > 0.002)
    origin.gate.release()
    await client.response(b"GET")
    await eventually(lambda: running.log.entries)
    (entry,) = running.log.entries

    assert entry["slow"] is True and entry["duration_ms"] >= 1


async def test_only_the_header_fields_asked_for_are_written(upstream: StartUpstream, gateway: StartGateway) -> None:
    """An allow list per direction; the query inside a value is redacted as that of the request is."""
    origin = await upstream(
        answers(b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 2\r\n\r\nOK")
    )
    running = await gateway(
        logged(origin.url, log="query: true, headers: {request: [Referer, Accept], response: [x-a, content-type]}")
    )
    await running.get("/?a=1&token=secret", "Referer: http://x/?key=secret&b=2", "Cookie: secret", "Authorization: secret")
    await eventually(lambda: running.log.entries)
    (entry,) = running.log.entries

    assert entry["query"] == "a=1&token=***"
    assert entry["request_headers"] == {"referer": "http://x/?key=***&b=2"}
    assert entry["response_headers"] == {"content-type": "text/x", "x-a": "1, 2"}
    assert "secret" not in str(entry)


@pytest.mark.parametrize("log", ["", "query: true, headers: {request: [X-Hostile], response: [X-Hostile]}"])
async def test_hostile_bytes_make_valid_lines(log: str, upstream: StartUpstream, gateway: StartGateway) -> None:
    """No byte that HTTP lets through breaks a line, or reaches a terminal as a control: quotes, C1 controls, broken UTF-8."""
    hostile = b'"\\\xff\xfe \xc2\x9b31m \xe2\x80\xa8 \xed\xa0\x80 \xc3\xa9 %s\t</script>'
    origin = await upstream(answers(b"HTTP/1.1 200 OK\r\nX-Hostile: %b\r\nContent-Length: 2\r\n\r\nOK" % hostile))
    running = await gateway(logged(origin.url, log=log))
    await running.ask(
        b'GET /a"\\\xc3\xbf%%\xc2\x9b?"\\%%00\xc3\xbe HTTP/1.1\r\nHost: example.com\r\nUser-Agent: %b\r\nX-Hostile: %b\r\n'
        b"traceparent: 00-zz\r\n\r\n" % (hostile, hostile)
    )
    await eventually(lambda: running.log.entries)
    (entry,) = running.log.entries

    assert entry["user_agent"] == '"\\\\xff\\xfe \x9b31m \u2028 \\xed\\xa0\\x80 é %s\t</script>'
    assert entry["path"] == '/a"\\%C3%BF%%C2%9B'
    assert entry["trace_id"] is None
    if log:
        assert entry["request_headers"] == entry["response_headers"] == {"x-hostile": entry["user_agent"]}
        assert entry["query"] == '"\\%00%C3%BE'


def test_what_terminals_obey_is_escaped() -> None:
    """C1 controls, DEL and line separators are valid in JSON, and yet written as escapes."""
    assert escaped("\x7f\x9b\x85\u2028".encode()) == b"\\u007f\\u009b\\u0085\\u2028"
    assert escaped(b"\x1b[31m") == b"\\u001b[31m"
    assert escaped(b"\x9b") == b"\\\\x9b"


@pytest.mark.parametrize(
    "query,expected",
    [
        (b"token=1&a=2", b"token=***&a=2"),
        (b"TOKEN=1", b"TOKEN=***"),
        (b"tok%65n=1", b"tok%65n=***"),
        (b"tok%2565n=1", b"tok%2565n=***"),
        (b"token", b"token"),
        (b"token=a=b&token=c", b"token=***&token=***"),
        (b"+token=1", b"+token=***"),
        (b"a=token=1", b"a=token=1"),
        (b"", b""),
    ],
)
def test_redaction_sees_through_spellings(query: bytes, expected: bytes) -> None:
    """A parameter's value is hidden however its name is written."""
    assert redacted(query, frozenset({b"token"})) == expected


@pytest.mark.parametrize("log,names", [("format: otel", OTEL), ("format: ecs", ECS)])
async def test_formats_rename_and_rescale(log: str, names: Any, upstream: StartUpstream, gateway: StartGateway) -> None:
    """Another format is the same line under other names, and in the units that belong to them."""
    origin = await upstream(answers(OK))
    running = await gateway(logged(origin.url, log=log))
    await running.get("/a")
    await eventually(lambda: running.log.entries)
    (entry,) = running.log.entries

    assert list(entry) == [names.names.get(name, name) for name in (*FLAT_FIELDS, "connect_ms")]
    duration, upstream_time = entry[names.names["duration_ms"]], entry[names.names["upstream_ms"]]
    assert 0 < upstream_time / names.duration_scale < duration / names.duration_scale < 5
    assert abs(entry[names.names["ts"]] / names.time_scale - 1.79e9) < 1e9
    assert entry[names.names["proto"]] == "1.1"
    assert len(set(names.names.values())) == len(names.names)
    assert not FLAT.names
