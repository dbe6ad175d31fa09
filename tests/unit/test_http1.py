"""Request heads: what is accepted and what it means, and that a parser which millions use understands it in the same way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import Failed, Failure
from gateway.proxy.wire.http1_request import (
    K_CODING,
    KEEP,
    MOST_NAMES,
    FieldTable,
    RequestHead,
    RequestReader,
    check_partial_request,
    check_request_size,
    escape_target,
    request_kinds,
    split_absolute,
    without,
)

KINDS = request_kinds([b"x-request-id", b"x-request-timeout-ms"], [b"x-seen"])


def read(data: bytes) -> RequestHead:
    """The head that is all of `data`."""
    return RequestReader(KINDS).read(data, len(data))


def get(*lines: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a") -> bytes:
    """A request head with these field lines."""
    return b"\r\n".join([line, *([host] if host else []), *lines, b"", b""])


def refusal(data: bytes) -> Failure:
    """Why a head is refused; nothing on its connection is trusted afterwards."""
    with pytest.raises(Failed) as caught:
        read(data)
    assert caught.value.close
    return caught.value.failure


# -- the request line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/1.1", b"M-SEARCH * HTTP/1.0", b"get /a?b#c HTTP/1.1", b"!#$%&'*+-.^_`|~0aZ / HTTP/1.1"]
)
def test_a_request_line_is_method_target_version(line: bytes) -> None:
    """Exactly one space between the three, methods are case-sensitive tokens (RFC 9112 3, RFC 9110 9.1)."""
    head = read(get(line=line))

    assert b" ".join([head.method, head.target, b"HTTP/1.%d" % head.minor]) == line


def test_a_higher_minor_version_is_1_1() -> None:
    """HTTP/1.x is understood as 1.1 (RFC 9110 2.5)."""
    assert read(get(line=b"GET / HTTP/1.7")).minor == 1


@pytest.mark.parametrize(
    "line,failure",
    [
        (b"GET  / HTTP/1.1", Failure.BAD_REQUEST),
        (b"GET /\tHTTP/1.1", Failure.BAD_REQUEST),
        (b" GET / HTTP/1.1", Failure.BAD_REQUEST),
        (b"GET / HTTP/1.1 ", Failure.BAD_REQUEST),
        (b"GET /a b HTTP/1.1", Failure.BAD_REQUEST),
        (b"GET /\x7f HTTP/1.1", Failure.BAD_REQUEST),
        (b"GET /\x00 HTTP/1.1", Failure.BAD_REQUEST),
        (b"GET / http/1.1", Failure.BAD_REQUEST),
        (b"GET / HTTP/1.10", Failure.BAD_REQUEST),
        (b"GET / HTTP/01.1", Failure.BAD_REQUEST),
        (b"GET /", Failure.BAD_REQUEST),
        (b"G\xc9T / HTTP/1.1", Failure.BAD_REQUEST),
        (b"G{T / HTTP/1.1", Failure.BAD_REQUEST),
        (b"PRI * HTTP/2.0", Failure.VERSION_NOT_SUPPORTED),
        (b"GET / HTTP/0.9", Failure.VERSION_NOT_SUPPORTED),
        (b"A" * 33 + b" / HTTP/1.1", Failure.METHOD_NOT_IMPLEMENTED),
    ],
)
def test_a_bad_request_line_is_refused(line: bytes, failure: Failure) -> None:
    """400, or 505 and 501 where the cause is that clear (RFC 9112 3); nothing is repaired."""
    assert refusal(get(line=line)) is failure


# -- fields ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"X-A : b", b"X A: b", b": b", b"X-A", b"", b" X-A: b", b"\tfold", b"X-A: b\x00", b"X-A: b\x7f", b"X-A: \x0b",
        b"X-\xe9: b",
        b"X-A: b\rX-B: c", b"X-A: b\nX-B: c", b"(X): a", b"X-A: b\r",
    ],
)  # fmt: skip
def test_a_bad_field_line_is_refused(line: bytes) -> None:
    """No space before the colon, no fold, no bare CR or LF, no control characters (RFC 9112 2.2, 5.1, 5.2; RFC 9110 5.5)."""
    if line:
        assert refusal(get(b"X-First: 1", line, b"X-Last: 1")) is Failure.BAD_REQUEST


def test_fields_without_a_kind_are_kept_as_bytes() -> None:
    """What the gateway does not know is forwarded as it is, in order (RFC 9110 5.1, 5.3)."""
    assert read(get(b"x-A:b ", b"X-a:\t\xe9", b"X-A:")).kept == b"x-A:b \r\nX-a:\t\xe9\r\nX-A:\r\n"


BAD_LENGTHS = [b"", b"+1", b"-1", b"1_0", b"0x1", b"1 0", b"\xb2", b"1" * 19, b"1.0", b"1\x0b"]
BAD_CODINGS = [
    b"chunked, chunked",
    b"chunked\r\nTransfer-Encoding: chunked",
    b"chunked, gzip, chunked",
    b"gzip, chunked, chunked",
    b"chunked\r\nTransfer-Encoding: gzip, chunked",
    b"chunked, CHUNKED,",
    b"",
    b"identity",
    b"chunked, gzip",
    b"xchunked",
    b"chunked;q=1",
    b'"chunked"',
    b"chun\xe9ed",
]


@pytest.mark.parametrize(
    "lines",
    [
        [b"Host: b"],
        [b"host:"],
        [b"Content-Length: 1", b"Content-Length: 1"],
        [b"Content-Length: 1, 1"],
        *[[b"Content-Length: " + value] for value in BAD_LENGTHS],
        [b"Content-Length: 1", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 1"],
        *[[b"Transfer-Encoding: " + value] for value in BAD_CODINGS],
        [b"Max-Forwards: -1"],
        [b"Max-Forwards: 1", b"Max-Forwards: 1"],
        [b"Connection: host"],
        [b"Connection: close, AUTHORIZATION"],
        [b"Connection: transfer-encoding"],
    ],
)  # fmt: skip
def test_ambiguous_fields_are_refused(lines: list[bytes]) -> None:
    """Anything about framing or routing that two readers could read differently is 400 (RFC 9112 3.2, 6.1, 6.3)."""
    assert refusal(get(*lines)) is Failure.BAD_REQUEST


@pytest.mark.parametrize("value", [b"gzip, chunked", b"gzip;q=1, cow, chunked", b",gzip,,chunked,"])
def test_another_coding_before_chunked_is_501(value: bytes) -> None:
    """A coding that is not understood, in a message whose end is: 501 (RFC 9112 6.1)."""
    assert refusal(get(b"Transfer-Encoding: " + value)) is Failure.CODING_NOT_IMPLEMENTED


def test_an_unknown_expectation_is_417() -> None:
    """Only 100-continue is known (RFC 9110 10.1.1)."""
    assert refusal(get(b"Expect: 101-go")) is Failure.EXPECTATION_FAILED


def test_http_1_1_needs_a_host_and_1_0_does_not() -> None:
    """A request of 1.1 without Host is 400 (RFC 9112 3.2)."""
    assert refusal(get(host=b"")) is Failure.BAD_REQUEST
    assert read(get(line=b"GET / HTTP/1.0", host=b"")).fields.host is None


def test_transfer_encoding_in_1_0_is_refused() -> None:
    """Chunked in HTTP/1.0 is faulty framing (RFC 9112 6.1)."""
    assert refusal(get(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0")) is Failure.BAD_REQUEST


@pytest.mark.parametrize(
    "line,connection,expected",
    [
        (b"GET / HTTP/1.1", b"", True),
        (b"GET / HTTP/1.1", b"Connection: close, keep-alive", False),
        (b"GET / HTTP/1.1", b"connection: ,, Close", False),
        (b"GET / HTTP/1.0", b"", False),
        (b"GET / HTTP/1.0", b"Connection: Keep-Alive", True),
    ],
)
def test_persistence_follows_version_and_connection(line: bytes, connection: bytes, expected: bool) -> None:
    """`close` wins, 1.1 persists, 1.0 asks for it (RFC 9112 9.3)."""
    assert read(get(*([connection] if connection else []), line=line)).keep_alive is expected


def test_connection_removes_what_it_names() -> None:
    """Nominated fields are not forwarded, in all of their lines (RFC 9110 7.6.1)."""
    assert read(get(b"x-b: 1", b"X-A: 1", b"Connection: X-B, x-c", b"X-B: 2", b"X-C: 3")).kept == b"X-A: 1\r\n"


def test_underscored_twins_are_dropped() -> None:
    """`X_Forwarded_For` reaches CGI-like upstreams under the same name as the real field (threat: spoofing)."""
    head = read(get(b"X_Forwarded_For: 1", b"X_Request_ID: 2", b"Content_Length: 3", b"X-Request_Id: 4", b"X_Other: 5"))

    assert b"Forwarded" not in head.kept and b"Content_Length" not in head.kept and b"X_Request_ID" not in head.kept
    assert b"X_Other: 5\r\n" in head.kept


def test_an_upgrade_counts_only_when_nominated() -> None:
    """Upgrade without `Connection: upgrade` is nothing (RFC 9110 7.8)."""
    assert read(get(b"Upgrade: WebSocket", b"Connection: Upgrade")).upgrade == b"WebSocket"
    assert read(get(b"Upgrade: a/1", b"Connection: upgrade", b"Upgrade: b, c")).upgrade == b"a/1, b, c"
    assert read(get(b"Upgrade: websocket")).upgrade == b""
    assert read(get(b"Connection: upgrade")).upgrade == b""


def test_fields_that_policies_need_are_noted() -> None:
    """Values for routing are forwarded and seen; the request id is only seen; repeated ones are one list (RFC 9110 5.3)."""
    head = read(get(b"X-Seen: 1", b"x-seen: 2", b"X-Request-ID: 3"))

    assert head.fields.values == {b"x-seen": b"1, 2", b"x-request-id": b"3"}
    assert head.kept == b"X-Seen: 1\r\nx-seen: 2\r\n"


def test_forwarding_fields_are_kept_apart() -> None:
    """They go on only from trusted peers, so they are not among the kept lines."""
    head = read(get(b"X-Forwarded-For: a", b"X-Forwarded-For: b", b"Forwarded: for=c", b"X-Real-IP: d"))

    assert head.kept == b""
    assert head.fields.forwarded == {b"x-forwarded-for": b"a, b", b"forwarded": b"for=c", b"x-real-ip": b"d"}


def test_the_same_section_is_not_read_twice_in_a_row() -> None:
    """Requests of the same bytes share one reading; changing the marks of one does not change the next."""
    reader = RequestReader(KINDS)
    data = get(b"Expect: 100-continue", b"Connection: upgrade", b"Upgrade: websocket")
    first = reader.read(data, len(data))
    second = reader.read(data, len(data), 0, first.fields)
    first.expect_continue, first.keep_alive, first.upgrade, first.kept = False, False, b"", b"x"

    assert first.fields is second.fields
    assert (second.expect_continue, second.keep_alive, second.upgrade, second.kept) == (True, True, b"websocket", b"")


def test_another_section_or_another_table_is_read_anew() -> None:
    """What is remembered holds for the same bytes under the same configuration."""
    data, other = get(b"X-Seen: 1"), get(b"X-Seen: 2")
    first = RequestReader(KINDS).read(data, len(data))

    assert RequestReader(KINDS).read(other, len(other), 0, first.fields).fields.values == {b"x-seen": b"2"}
    assert RequestReader(request_kinds([], [])).read(data, len(data), 0, first.fields).fields.values == {}


def test_the_memory_for_names_is_bounded() -> None:
    """Clients that never repeat a name cost no memory (threat: key growth)."""
    table = FieldTable(KINDS)
    for number in range(3 * MOST_NAMES):
        assert table[b"X-%d" % number] == KEEP

    assert len(table) == MOST_NAMES
    assert table[b"TRANSFER-encoding"] == K_CODING


# -- helpers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target,parts",
    [
        (b"http://a", (b"http", b"a", b"/")),
        (b"HTTP://A:1?q", (b"http", b"A:1", b"/?q")),
        (b"https://[::1]:1/x?y", (b"https", b"[::1]:1", b"/x?y")),
        (b"http://a/http://b", (b"http", b"a", b"/http://b")),
    ],
)
def test_absolute_form_is_split(target: bytes, parts: tuple[bytes, bytes, bytes]) -> None:
    """Scheme, authority and origin-form (RFC 9112 3.2.2)."""
    assert split_absolute(target) == parts


@pytest.mark.parametrize(
    "target", [b"a", b"a:1", b"http:/a", b"http:///a", b"http://", b"http://u@a/", b"http://a/#f", b"*", b"1http://a"]
)
def test_what_is_no_absolute_form_is_refused(target: bytes) -> None:
    """An http URI has a host and, here, no user (RFC 9110 4.2.1, 4.2.4)."""
    with pytest.raises(Failed):
        split_absolute(target)


def test_targets_are_escaped_byte_by_byte() -> None:
    """Only what is not ASCII is touched."""
    assert escape_target(b"/%41\xc3\xa9~\xf0\x9f\x98\x80") == b"/%41%C3%A9~%F0%9F%98%80"


@pytest.mark.parametrize(
    "target",
    [b"/\xff", b"/caf\xe9", b"/\xc0\xaf..", b"/\xed\xa0\x80", b"/\xc3", b"/?q=\x80", b"/\xc3\xa9\xe9", b"http://a/\xe9"],
)
def test_bytes_that_are_no_characters_are_refused(target: bytes) -> None:
    """A target is ASCII (RFC 3986 2); UTF-8 can be mended, and other bytes mean one thing here and another thing there."""
    assert refusal(get(line=b"GET %b HTTP/1.1" % target)) is Failure.BAD_REQUEST


def test_without_takes_out_all_lines_of_a_name() -> None:
    """Names are compared without case, values are never looked at."""
    assert without(b"A: b\r\nb: a\r\nB:\r\nC: b\r\n", {b"b"}) == b"A: b\r\nC: b\r\n"


HEAD = get(b"X-A: some value", b"Content-Length: 5", b"Cookie: a=b")


@pytest.mark.parametrize("at", range(1, len(HEAD)))
def test_no_beginning_of_a_valid_head_is_refused(at: int) -> None:
    """Wherever a head is cut, the rest may still come."""
    check_partial_request(HEAD[:at], 0, 1024, 4096)
    for scanned in {0, max(0, at - 4), at - 1}:
        check_partial_request(HEAD[:at], scanned, 1024, 4096)


@pytest.mark.parametrize(
    "data,failure",
    [
        (b"\x16\x03\x01", Failure.BAD_REQUEST),
        (b" GET", Failure.BAD_REQUEST),
        (b"GET / HTTP/1.1\n", Failure.BAD_REQUEST),
        (b"GET / HTTP/1.1\r\nA: b\rc", Failure.BAD_REQUEST),
        (b"GET / HTTP/3.1\r\n", Failure.VERSION_NOT_SUPPORTED),
        (b"GET bad line HTTP/1.1\r\n", Failure.BAD_REQUEST),
        (b"GET /" + b"a" * 2000, Failure.TARGET_TOO_LONG),
        (b"G" * 2000, Failure.METHOD_NOT_IMPLEMENTED),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 9000, Failure.HEADERS_TOO_LARGE),
    ],
)
def test_what_can_never_become_a_head_is_refused_early(data: bytes, failure: Failure) -> None:
    """Nobody waits for the rest of garbage (RFC 9112 3, RFC 9110 5.4)."""
    with pytest.raises(Failed) as caught:
        check_partial_request(data, 0, 1024, 4096)

    assert caught.value.failure is failure


def test_a_complete_head_over_a_limit_is_refused() -> None:
    """Each limit at its exact edge."""
    data = get(b"X-A: b", line=b"GET /" + b"a" * 9 + b" HTTP/1.1")
    head = read(data)
    check_request_size(data, head, 10, len(data) - 10, 2)
    for limits, failure in (
        ((9, 1000, 2), Failure.TARGET_TOO_LONG),
        ((10, len(data) - 11, 2), Failure.HEADERS_TOO_LARGE),
        ((10, 1000, 1), Failure.HEADERS_TOO_LARGE),
    ):
        with pytest.raises(Failed) as caught:
            check_request_size(data, head, *limits)
        assert caught.value.failure is failure


# -- against aiohttp's C parser ----------------------------------------------------------------------------------------

METHODS = [b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"HEAD", b"PATCH"]
LINES = [
    b"Host: example.com", b"Host: a:80", b"Content-Length: 5", b"Content-Length: 0", b"Transfer-Encoding: chunked",
    b"Connection: close", b"Connection: keep-alive", b"X-A: b", b"X-A:", b"X-A:  b\t", b"x-a: \xe9\xff", b'Cookie: c="d"',
    b"Accept: */*", b"Via: 1.1 x", b"Expect: 100-continue", b"Upgrade: websocket", b"X-Empty: ",
]  # fmt: skip
SPICE = [
    b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b",", b";", b"\x00", b"\x0b", b"\x7f", b"\x80", b"\xff", b"0", b"+1",
    b"_", b"chunked", b"\r\n ", b"HTTP/1.1", b"1.0", b"#", b"%", b"*", b"/", b"?",
]  # fmt: skip


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """Request heads, with some bytes put in, taken out or doubled."""
    target = draw(st.sampled_from([b"/", b"/a/b?c=d", b"/%2F;x?", b"//a", b"/a#b", b"/caf\xc3\xa9", b"/:"]))
    version = draw(st.sampled_from([b"1.1", b"1.0"]))
    lines = draw(st.lists(st.sampled_from(LINES), max_size=6))
    data = b"\r\n".join([b"%b %b HTTP/%b" % (draw(st.sampled_from(METHODS)), target, version), *lines, b"", b""])
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.sampled_from(SPICE)) + data[at + draw(st.integers(0, 2)) :]
    end = data.find(b"\r\n\r\n")
    return data[: end + 4] if end >= 0 else data + b"\r\n\r\n"


def aiohttp_reads(data: bytes) -> Any:
    """The message that aiohttp's C parser finds; None when it refuses the bytes or finds not exactly one."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, max_line_size=65536, max_field_size=65536, max_headers=1000)
        try:
            messages, _, rest = parser.feed_data(data)
        except HttpProcessingError:
            return None
        return messages[0][0] if len(messages) == 1 and not rest else None
    finally:
        loop.close()


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(heads())
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
@example(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tChunked \r\n\r\n")
@example(b"POST / HTTP/1.1\r\nhOST:\r\ncontent-length:005\r\n\r\n")
def test_what_we_accept_means_the_same_to_aiohttp(data: bytes) -> None:
    """Our strictness is a subset of llhttp's, with the same method, target, fields, framing and persistence (RFC 9112 11.2)."""
    try:
        head = read(data)
    except Failed:
        return
    if (
        head.method not in METHODS
        or not data.split(b" ")[2].startswith((b"HTTP/1.0", b"HTTP/1.1"))
        or not head.target.startswith(b"/")
    ):
        return  # llhttp knows a list of methods, and two versions; other forms of target are parsed by yarl
    if head.fields.chunked and b"ed\t" in data:
        return  # a tab behind `chunked` is optional whitespace (RFC 9110 5.5) that llhttp does not know
    line, _, rest = data.partition(b"\r\n")
    other = aiohttp_reads(b" ".join([head.method, head.target, line[-8:]]) + b"\r\n" + rest)

    assert other is not None
    assert other.method.encode() == head.method
    assert other.path.encode("utf-8", "surrogateescape") == head.target  # raw UTF-8 escaped, as it is forwarded
    seen = [(name, value) for name, value in other.raw_headers]
    lines = [line.partition(b":") for line in data.split(b"\r\n")[1:-2]]
    assert seen == [(name, value.strip(b" \t")) for name, _, value in lines]
    kept = [line.partition(b":") for line in head.kept.split(b"\r\n")[:-1]]
    assert {(name, value.strip(b" \t")) for name, _, value in kept} <= set(seen)
    assert other.chunked == head.fields.chunked
    assert int(other.headers.get("Content-Length", "-1")) == head.fields.length
    assert not (head.keep_alive and other.should_close)
