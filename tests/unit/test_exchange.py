"""How the coroutine of an exchange is driven: woken, failed, once, and never while it runs."""

from __future__ import annotations

import types
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from gateway.errors import Failed, Failure
from gateway.proxy.exchange import Exchange, suspend
from gateway.proxy.wire.http1_request import RequestHead, RequestReader, request_kinds
from tests.unit.fakes import RecordingTransport


class Downstream:
    """As much of a client connection as an exchange needs."""

    def __init__(self) -> None:
        self.transport = RecordingTransport()
        self.over = 0
        self.trusted = False

    def exchange_over(self) -> None:
        """Count it."""
        self.over += 1

    def abort(self) -> None:
        """Close."""
        self.transport.abort()


def head(*lines: bytes, target: bytes = b"/") -> RequestHead:
    """A request head; X-Seen is a field that routes match on."""
    data = b"\r\n".join([b"GET %b HTTP/1.1" % target, b"Host: a", *lines, b"", b""])
    return RequestReader(request_kinds([], [b"x-seen"])).read(data, len(data))


def exchange(*lines: bytes, target: bytes = b"/") -> tuple[Exchange, Downstream]:
    """An exchange on a connection that counts."""
    connection = Downstream()
    return Exchange(cast(Any, connection), cast(Any, types.SimpleNamespace()), head(*lines, target=target), 0.0), connection


def start(coroutine: Coroutine[None, None, None]) -> tuple[Exchange, Downstream]:
    """A started exchange."""
    x, connection = exchange()
    x.start(coroutine)
    return x, connection


def test_a_wake_moves_the_coroutine_to_its_next_wait() -> None:
    """Spurious wakes do no harm to a loop that re-checks its condition; none after the end either."""
    seen: list[int] = []

    async def waits() -> None:
        for number in range(3):
            seen.append(number)
            await suspend()

    x, connection = start(waits())
    assert (seen, connection.over) == ([0], 0)
    for _ in range(5):
        x.wake()

    assert (seen, connection.over) == ([0, 1, 2], 1)


def test_a_failure_is_raised_where_the_coroutine_waits() -> None:
    """It can be caught there; the first counts, and after the end there is none."""
    caught: list[Failure] = []

    async def waits() -> None:
        try:
            await suspend()
        except Failed as failed:
            caught.append(failed.failure)

    x, connection = start(waits())
    x.fail(Failed(Failure.DEADLINE))
    x.fail(Failed(Failure.CLIENT_CLOSED))
    x.wake()

    assert (caught, connection.over) == ([Failure.DEADLINE], 1)


def test_a_failure_while_it_runs_waits_for_the_next_wait() -> None:
    """A callback inside a step does not re-enter the coroutine; of two such failures the first is raised."""
    caught: list[Failure] = []
    running: list[Exchange] = []

    async def fails_itself() -> None:
        await suspend()
        running[0].fail(Failed(Failure.TERMINATED))
        running[0].fail(Failed(Failure.DEADLINE))
        running[0].wake()
        try:
            await suspend()
        except Failed as failed:
            caught.append(failed.failure)

    x, connection = start(fails_itself())
    running.append(x)
    x.wake()

    assert (caught, connection.over) == ([Failure.TERMINATED], 1)


def test_an_error_of_ours_cuts_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """A coroutine that raises is logged with its traceback, and nothing half-done is left on the wire."""

    async def breaks() -> None:
        raise KeyError("x")

    _, connection = start(breaks())

    assert connection.transport.calls == ["abort"]
    assert connection.over == 1
    assert "ended in an error" in caplog.text


@pytest.mark.parametrize(
    "target,query_at,expected",
    [(b"/?a=1&b=%20&a=2&c", 1, {b"a": b"1", b"b": b" ", b"c": b""}), (b"/", -1, {}), (b"/?", 1, {})],
)
def test_query_parameters_are_decoded_and_the_first_counts(target: bytes, query_at: int, expected: dict[bytes, bytes]) -> None:
    """Of repeated parameters routes see the first."""
    x, _ = exchange(target=target)
    x.query_at = query_at

    assert x.query() == expected


def test_forwarding_fields_are_seen_from_trusted_peers_only() -> None:
    """A route that matches on X-Forwarded-Proto must not believe strangers (threat: spoofing)."""
    x, connection = exchange(b"X-Forwarded-Proto: https", b"X-Seen: y", b"Connection: upgrade", b"Upgrade: websocket")
    assert x.field_value(b"x-forwarded-proto") is None
    connection.trusted = True

    assert x.field_value(b"x-forwarded-proto") == b"https"
    assert (x.field_value(b"x-seen"), x.field_value(b"upgrade"), x.field_value(b"x-none")) == (b"y", b"websocket", None)
