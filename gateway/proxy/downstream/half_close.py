"""Has the client left, or has it only finished sending? A FIN alone does not tell (RFC 9112 9.6).

Before the response has begun, a FIN is taken for half-closed, and a moment later the client is asked with an interim
response (RFC 9110 15.2 lets us send one at any time): a peer that is gone answers that with a reset. While a response
streams, its own bytes ask the same question; only when none flow is a silent peer taken for gone.

After a FIN the loop does not read any more, so it sees no reset either; but the socket notes it, and is asked now and then.
HTTP/1.0 clients get no interim response, and TLS has no half-close.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from gateway.errors import Failed, Failure
from gateway.proxy.downstream.client_connection import ClientConnection
from gateway.proxy.exchange import Exchange
from gateway.proxy.wire.http1_writer import CONTINUE

ASK_AFTER: Final = 0.2
"""Seconds from the FIN to the first question. Each next one comes after twice the time: who is there may still go."""

LOOK_EVERY: Final = 0.2
"""Seconds between looks for the answer."""

SILENCE: Final = 0.3
"""Seconds without a byte of a streaming response after which a client that sent a FIN is taken for gone."""


def may_still_read(client: ClientConnection, exchange: Exchange) -> bool:
    """Whether to keep the connection after the client's FIN. An upload that ends too early has no response to wait for."""
    if not exchange.request_is_read():
        exchange.fail(Failed(Failure.CLIENT_CLOSED))
        return False
    # Who waits in a queue is asked at once: nothing has been spent on it yet.
    client.plane.loop.call_later(0 if exchange.waiter is not None else ASK_AFTER, _ask, client, exchange, ASK_AFTER)
    return True


def _ask(client: ClientConnection, exchange: Exchange, waited: float) -> None:
    if client.exchange is not exchange or client.transport.is_closing():
        return
    if not exchange.committed and exchange.head.minor:
        client.transport.write(CONTINUE)
        client.plane.loop.call_later(2 * waited, _ask, client, exchange, 2 * waited)
    if waited == ASK_AFTER:
        client.plane.loop.call_later(LOOK_EVERY / 4, _look, client, exchange)


def _look(client: ClientConnection, exchange: Exchange) -> None:
    if client.exchange is not exchange or client.transport.is_closing():
        return
    if client.is_reset():
        client.transport.abort()
        return
    body = exchange.response_body
    if body is not None and not client.write_paused and monotonic() - body.touched > SILENCE:
        exchange.fail(Failed(Failure.CLIENT_CLOSED))
        return
    client.plane.loop.call_later(LOOK_EVERY, _look, client, exchange)
