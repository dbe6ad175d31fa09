"""What goes to a client over HTTP/1.1: responses and their framing (RFC 9112)."""

from __future__ import annotations

from time import monotonic
from typing import Final

from gateway.proxy import time_limits
from gateway.proxy.bodies.body import Outlet
from gateway.proxy.downstream.client_connection import ClientConnection
from gateway.proxy.wire.http1_response import ResponseHead
from gateway.proxy.wire.http1_writer import interim_head, response_message

LARGE: Final = 16 * 1024
"""Bytes of content from which on it is cheaper to hand head and content over apart than to join them."""


class Http1Answers(ClientConnection):
    """The answering half of a connection."""

    __slots__ = ()

    def interim(self, head: ResponseHead) -> None:
        """Never to HTTP/1.0, and a 100 only to who expects it."""
        exchange = self.exchange
        if exchange is None or not exchange.head.minor:
            return
        if head.status == 100:
            if not exchange.head.expect_continue:
                return
            exchange.head.expect_continue = False
            time_limits.upload_began(exchange, monotonic())
        # A client that takes nothing gets no more of what it can do without.
        if not self.write_paused:
            self.transport.write(interim_head(head))

    def respond(self, status: int, reason: bytes, lines: list[bytes], content: bytes, length: int) -> None:
        if length >= 0:
            lines.append(b"Content-Length: %d\r\n" % length)
        self._add_persistence(lines)
        if len(content) < LARGE:
            self.transport.write(response_message(status, reason, lines, content))
        else:
            self.transport.writelines((response_message(status, reason, lines), content))

    def open(self, status: int, reason: bytes, lines: list[bytes], length: int) -> Outlet:
        exchange = self.exchange
        assert exchange is not None
        chunked = False
        if length >= 0:
            lines.append(b"Content-Length: %d\r\n" % length)
        elif exchange.head.minor:
            chunked = True
            lines.append(b"Transfer-Encoding: chunked\r\n")
        else:
            exchange.keep_alive = exchange.framed = False
        self._add_persistence(lines)
        return Outlet(self, response_message(status, reason, lines), chunked=chunked)

    def _add_persistence(self, lines: list[bytes]) -> None:
        """What `Connection` must say (RFC 9112 9.3)."""
        exchange = self.exchange
        assert exchange is not None
        if not exchange.keep_alive:
            lines.append(b"Connection: close\r\n")
        elif not exchange.head.minor:
            lines.append(b"Connection: keep-alive\r\n")
