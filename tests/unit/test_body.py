"""The pump and the replay buffer, without sockets."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import Failed, Failure
from gateway.proxy.bodies.body import Body, Outlet
from gateway.proxy.connection import WRITE_HIGH, Connection
from gateway.proxy.wire.framing import ChunkedDecoder, LengthDecoder, UntilClose
from tests.unit.fakes import RecordingTransport


def connection() -> tuple[Connection, RecordingTransport]:
    """A connection whose transport records."""
    transport = RecordingTransport()
    made = Connection()
    made.adopt(transport)
    return made, transport


@pytest.mark.parametrize(
    "chunked,written",
    [(False, b"HEADabcde"), (True, b"HEAD3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")],
)
def test_a_body_goes_out_in_the_framing_of_the_outlet(chunked: bool, written: bytes) -> None:
    """The head goes with the first bytes, the end with the last."""
    source, _ = connection()
    sink, out = connection()
    body = Body(source, LengthDecoder(5))
    body.attach(Outlet(sink, b"HEAD", chunked=chunked), sink)
    body.feed(b"abc")
    body.feed(b"de")

    assert (out.written, body.done, body.received) == (written, True, 5)


def test_an_empty_body_sends_the_head_alone() -> None:
    """A chunked body without a byte still has an end."""
    source, _ = connection()
    for chunked, written in ((False, b"HEAD"), (True, b"HEAD0\r\n\r\n")):
        sink, out = connection()
        body = Body(source, ChunkedDecoder())
        body.feed(b"0\r\n\r\n")
        body.attach(Outlet(sink, b"HEAD", chunked=chunked), sink)
        assert out.written == written


def test_what_is_held_is_bounded() -> None:
    """Before a receiver is there, the source is read up to a mark and no further (threat: memory)."""
    source, reading = connection()
    body = Body(source, UntilClose())
    body.feed(bytes(WRITE_HIGH))
    assert reading.calls == []
    body.feed(b"x")
    assert reading.calls == ["pause"]
    sink, out = connection()
    body.attach(Outlet(sink, b"", chunked=False), sink)

    assert reading.calls == ["pause", "resume"]
    assert len(out.written) == WRITE_HIGH + 1


def test_a_full_receiver_pauses_the_source() -> None:
    """Back-pressure: hold while the receiver is full, release when it has drained; a complete body holds nobody."""
    source, reading = connection()
    sink, _ = connection()
    body = Body(source, LengthDecoder(10))
    body.attach(Outlet(sink, b"", chunked=False), sink)
    sink.pause_writing()
    assert reading.calls == ["pause"]
    sink.resume_writing()
    body.feed(b"0123456789")
    sink.pause_writing()

    assert reading.calls == ["pause", "resume"]


def test_a_body_over_its_limit_fails() -> None:
    """413 with the first byte too much, which is not passed on (RFC 9110 15.5.14)."""
    source, _ = connection()
    sink, out = connection()
    body = Body(source, ChunkedDecoder(), limit=3)
    body.attach(Outlet(sink, b"", chunked=False), sink)
    body.feed(b"3\r\nabc\r\n")
    with pytest.raises(Failed) as caught:
        body.feed(b"1\r\nd\r\n")

    assert (caught.value.failure, caught.value.close) == (Failure.CONTENT_TOO_LARGE, True)
    assert out.written == b"abc"


def test_broken_framing_fails_and_closes() -> None:
    """After a framing error nothing on the connection can be trusted (RFC 9112 6.3)."""
    source, _ = connection()
    with pytest.raises(Failed) as caught:
        Body(source, ChunkedDecoder()).feed(b"zz\r\n")

    assert (caught.value.failure, caught.value.close) == (Failure.BAD_REQUEST, True)


def test_a_body_tells_when_it_is_done_once() -> None:
    """`finish` is idempotent: the end is written once and reported once."""
    source, _ = connection()
    sink, out = connection()
    told: list[None] = []
    body = Body(source, UntilClose())
    body.attach(Outlet(sink, b"", chunked=True), sink)
    body.on_done = lambda: told.append(None)
    body.feed(b"a")
    body.finish()
    body.finish()

    assert (out.written, len(told)) == (b"1\r\na\r\n0\r\n\r\n", 1)


def test_a_body_can_be_replayed_from_its_first_byte() -> None:
    """What was sent on a stale connection, and what came meanwhile, goes to the next one whole."""
    source, _ = connection()
    body = Body(source, LengthDecoder(6))
    body.feed(b"ab")
    body.keep_for_replay(100)
    first, _ = connection()
    body.attach(Outlet(first, b"", chunked=False), first)
    body.feed(b"cd")
    assert body.replayable
    body.rewind()
    body.feed(b"ef")
    second, out = connection()
    body.attach(Outlet(second, b"HEAD", chunked=False), second)

    assert (out.written, body.done) == (b"HEADabcdef", True)


def test_a_body_may_be_rewound_twice() -> None:
    """A replay that fails can be replayed."""
    source, _ = connection()
    body = Body(source, LengthDecoder(3))
    for part in (b"a", b"b"):
        body.keep_for_replay(100)
        lost, _ = connection()
        body.attach(Outlet(lost, b"", chunked=False), lost)
        body.feed(part)
        body.rewind()
    body.feed(b"c")
    sink, out = connection()
    body.attach(Outlet(sink, b"", chunked=False), sink)

    assert out.written == b"abc"


def test_a_body_that_nobody_took_is_still_whole() -> None:
    """An attempt that found no connection took nothing: rewinding changes nothing, however much is held."""
    source, _ = connection()
    body = Body(source, LengthDecoder(5))
    body.feed(b"abc")
    assert body.replayable
    body.rewind()
    body.feed(b"de")
    sink, out = connection()
    body.attach(Outlet(sink, b"", chunked=False), sink)

    assert out.written == b"abcde"


def test_the_replay_buffer_is_bounded() -> None:
    """More than it holds is forgotten, and then there is no replay."""
    source, _ = connection()
    sink, out = connection()
    body = Body(source, UntilClose())
    body.keep_for_replay(1000)
    body.attach(Outlet(sink, b"", chunked=False), sink)
    replayable = []
    for data in (bytes(1000), b"x"):
        body.feed(data)
        replayable.append(body.replayable)

    assert replayable == [True, False]
    assert len(out.written) == 1001


def test_without_a_replay_buffer_only_nothing_can_be_replayed() -> None:
    """A body that was not kept cannot be sent again once a byte of it went out."""
    source, _ = connection()
    sink, _ = connection()
    body = Body(source, UntilClose())
    body.attach(Outlet(sink, b"", chunked=False), sink)
    replayable = [body.replayable]
    body.feed(b"x")

    assert [*replayable, body.replayable] == [True, False]


def test_what_is_held_already_may_be_too_much() -> None:
    """More than the bound came before the first attempt: it is sent, and not kept."""
    source, _ = connection()
    sink, _ = connection()
    body = Body(source, UntilClose())
    body.feed(bytes(11))
    body.keep_for_replay(10)
    body.attach(Outlet(sink, b"", chunked=False), sink)

    assert not body.replayable


def test_a_complete_body_is_whole() -> None:
    """Parts that nobody took are one piece."""
    source, _ = connection()
    body = Body(source, LengthDecoder(4))
    body.feed(b"ab")
    body.feed(b"cd")

    assert body.whole() == b"abcd"
    assert isinstance(source.transport, asyncio.Transport)
