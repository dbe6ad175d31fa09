"""Response heads: read as strictly as requests, because an upstream's mistake must not become the client's problem."""

from __future__ import annotations

import pytest

from gateway.errors import Failed, Failure
from gateway.proxy.wire.http1_response import ResponseHead, check_partial_response, read_response

OWN = b"x-request-id"


def read(data: bytes) -> ResponseHead:
    """The head that is all of `data`."""
    return read_response(data, len(data), OWN)


def ok(*lines: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """A response head with these field lines."""
    return b"\r\n".join([line, *lines, b"", b""])


@pytest.mark.parametrize(
    "line,status,reason",
    [
        (b"HTTP/1.1 200 OK", 200, b"OK"),
        (b"HTTP/1.0 599 ", 599, b""),
        (b"HTTP/1.1 404", 404, b""),
        (b"HTTP/1.1 600 Odd", 600, b"Odd"),
        (b"HTTP/1.1 999 Request Denied", 999, b"Request Denied"),
        (b"HTTP/1.1 299", 299, b""),
        (b"HTTP/1.1 103 Early Hints\x80", 103, b"Early Hints\x80"),
    ],
)
def test_a_status_line_is_version_status_reason(line: bytes, status: int, reason: bytes) -> None:
    """The reason may be empty, and the space before it missing as some send it (RFC 9112 4)."""
    head = read(ok(line=line))

    assert (head.status, head.reason) == (status, reason)


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 -20 OK", b"HTTP/1.1 099 OK", b"HTTP/1.1 000 OK", b"HTTP/1.1 6x0 OK",
        b"HTTP/2.0 200 OK",
        b"HTTP/1.1  200", b"http/1.1 200 OK", b"ICY 200 OK", b" HTTP/1.1 200 OK",
        b"HTTP/1.1 200 O\x00K", b"HTTP/1.1\t200 OK", b"HTTP/1.1 2\xb20 OK",
    ],
)  # fmt: skip
def test_a_bad_status_line_is_a_protocol_error(line: bytes) -> None:
    """What is no status line is answered 502 (RFC 9110 15.6.3)."""
    with pytest.raises(Failed) as caught:
        read(ok(line=line))
    assert caught.value.failure is Failure.PROTOCOL


@pytest.mark.parametrize(
    "lines",
    [
        [b" X-A : b"], [b" : b"], [b"X A : b"], [b"X-A : b", b" fold"], [b"X-A \x0b: b"], [b"X-A\xa0: b"], [b" fold"],
        [b"Content-Length : 1", b"Content-Length: 2"], [b"Transfer-Encoding : chunked", b"Content-Length: 1"],
        [b"X-A: b\x00"], [b"X-A: b\nX: c"], [b"X-A"],
        [b"Content-Length: 1", b"Content-Length: 2"], [b"Content-Length: 1, 1"], [b"Content-Length: -1"],
        [b"Content-Length: 1_0"], [b"Content-Length:"],
        [b"Content-Length: " + b"9" * 19], [b"Transfer-Encoding: gzip"], [b"Transfer-Encoding: gzip, chunked"],
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], [b"Transfer-Encoding: chunked", b"Content-Length: 1"],
        [b"Content-Length: 1", b"Transfer-Encoding: chunked"],
    ],
)  # fmt: skip
def test_bad_fields_are_a_protocol_error(lines: list[bytes]) -> None:
    """Nothing ambiguous is passed on (RFC 9112 5.1, 5.2, 6.3; RFC 9110 5.5)."""
    with pytest.raises(Failed) as caught:
        read(ok(*lines))
    assert caught.value.failure is Failure.PROTOCOL


@pytest.mark.parametrize("blank", [b" ", b"\t", b" \t  "])
def test_blanks_before_a_colon_are_removed(blank: bytes) -> None:
    """A proxy removes them (RFC 9112 5.1), and the field is what it would be without them, framing included."""
    lines = [b"X-Legacy%b: a : b", b"Content-Length%b: 5", b"connection%b: x-hop", b"X-Hop%b: 1", b"X-Request-ID%b:1", b"D: e"]
    padded = read(ok(*(line.replace(b"%b", blank) for line in lines)))
    plain = read(ok(*(line.replace(b"%b", b"") for line in lines)))

    assert padded.fields.kept == plain.fields.kept == b"X-Legacy: a : b\r\nD: e\r\n"
    assert (padded.length, padded.keep_alive) == (plain.length, plain.keep_alive) == (5, True)
    assert padded.fields.block == plain.fields.block


def test_repeated_equal_lengths_are_one() -> None:
    """The same Content-Length twice may be taken as one (RFC 9110 8.6)."""
    head = read(ok(b"Content-Length: 5", b"content-length: 5"))

    assert (head.length, head.fields.kept) == (5, b"")


def test_transfer_encoding_in_1_0_is_a_protocol_error() -> None:
    """Faulty framing (RFC 9112 6.1)."""
    with pytest.raises(Failed):
        read(ok(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK"))


@pytest.mark.parametrize(
    "line,connection,expected",
    [
        (b"HTTP/1.1 200 OK", b"X: y", True),
        (b"HTTP/1.1 200 OK", b"Connection: CLOSE", False),
        (b"HTTP/1.0 200 OK", b"X: y", False),
        (b"HTTP/1.0 200 OK", b"Connection: keep-alive", True),
    ],
)
def test_persistence_follows_version_and_connection(line: bytes, connection: bytes, expected: bool) -> None:
    """As with requests (RFC 9112 9.3)."""
    assert read(ok(connection, line=line)).keep_alive is expected


def test_hop_by_hop_fields_are_removed_and_others_kept_as_bytes() -> None:
    """Connection, what it names, and the fields of one connection (RFC 9110 7.6.1), but never Date or Set-Cookie."""
    head = read(
        ok(
            b"A: 1 ",
            b"Connection: a-hop, Date, set-cookie",
            b"A-Hop: 2",
            b"Date: x",
            b"Set-Cookie: y",
            b"Keep-Alive: z",
            b"Trailer: t",
            b"a:\t3",
        )
    )

    assert head.fields.kept == b"A: 1 \r\nDate: x\r\nSet-Cookie: y\r\na:\t3\r\n"
    assert head.fields.has_date


def test_the_gateways_own_field_is_not_taken_from_upstreams() -> None:
    """One request id per response, and it is the gateway's; when its name changes, remembered sections are read anew."""
    data = ok(b"X-Request-Id: 1", b"X-Other: 2")
    head = read_response(data, len(data), OWN)

    assert head.fields.kept == b"X-Other: 2\r\n"
    assert read_response(data, len(data), b"x-other", head.fields).fields.kept == b"X-Request-Id: 1\r\n"


def test_the_same_section_is_not_read_twice_in_a_row() -> None:
    """What an upstream repeats byte for byte means the same; anything else is read."""
    data, other = ok(b"X-A: 1"), ok(b"X-A: 2")
    first = read_response(data, len(data), OWN)

    assert read_response(data, len(data), OWN, first.fields).fields is first.fields
    assert read_response(other, len(other), OWN, first.fields).fields.kept == b"X-A: 2\r\n"


def test_a_switch_is_described() -> None:
    """What a 101 needs to be checked (RFC 6455 4.1)."""
    fields = read(
        ok(b"Upgrade: WebSocket", b"Connection: Upgrade", b"Sec-WebSocket-Accept: abc", line=b"HTTP/1.1 101 X")
    ).fields

    assert (fields.upgrade, fields.switches, fields.websocket_accept) == (b"WebSocket", True, b"abc")


HEAD = ok(b"Content-Length: 5", b"X-A: b c")


@pytest.mark.parametrize("at", range(1, len(HEAD)))
def test_no_beginning_of_a_valid_head_is_refused(at: int) -> None:
    """Wherever a head is cut, the rest may still come."""
    check_partial_response(HEAD[:at])


@pytest.mark.parametrize(
    "data", [b"SSH-", b"\x15\x03", b"HTTP/2", b"\r\nHTTP/1.1", b"HTTP/1.1 200 OK\n", b"HTTP/1.1 200 OK\r\nA: b\rc"]
)
def test_what_can_never_become_a_head_is_refused_early(data: bytes) -> None:
    """Nobody waits for the rest of garbage."""
    with pytest.raises(Failed):
        check_partial_response(data)
