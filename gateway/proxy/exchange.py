"""One request and its response: the facts, the marks, its attempts, and the coroutine that lives it.

The coroutine (`pipeline.serve`) is driven by the callbacks of the two connections, not by an asyncio task: a task costs
about 5 µs per request on CPython 3.11, a step here 0.2 µs. The rule that makes it simple: a coroutine suspends with
`await suspend()` inside a loop that re-checks its own condition, so a spurious `wake()` does no harm; failures are
thrown in at that point by `fail()`.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Coroutine, Generator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from gateway.endpoints import Endpoint
from gateway.errors import Failed, Failure
from gateway.gates import Gate
from gateway.headers import normalise_host
from gateway.policies import NEVER
from gateway.policies.max_in_flight import Waiter
from gateway.proxy.bodies.body import Body
from gateway.proxy.bodies.tunnel import Tunnel
from gateway.proxy.client import Client
from gateway.proxy.upstream.connection import UpstreamConnection
from gateway.proxy.wire.http1_request import RequestHead
from gateway.proxy.wire.http1_response import ResponseHead
from gateway.router import LISTENER, SCHEME
from gateway.snapshot import Route, Snapshot, Upstream

_log = logging.getLogger("gateway")

_DEADLINE: Final = Failure.DEADLINE  # looked up on its Enum class it costs 0.07 µs on CPython 3.11

MAX_RECORDED: Final = 32
"""Attempts that are recorded one by one; a request has fewer by far."""


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


@types.coroutine
def suspend() -> Generator[None, None, None]:
    """Wait for the next `wake()` or `fail()` of the exchange."""
    yield


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt to have the request answered by one endpoint. It occupies its connection (`upstream.connection.Occupant`)."""

    x: Exchange
    route: Route
    upstream: Upstream
    endpoint: Endpoint
    permit: object
    """What the endpoint's circuit breaker gave for it."""
    began: float
    dispatched_at: float = 0.0
    """When the request was sent (monotonic); 0 while it is not, and once the attempt is settled."""
    connection: UpstreamConnection | None = None
    reused: bool = False
    """The connection was a kept one."""
    stale: bool = False
    """The kept connection turned out to be closed."""
    failed: Failed | None = None
    racing: bool = False
    """Others are under way beside it: a failure concerns this attempt alone."""

    def wake(self) -> None:
        """Something has happened on its connection."""
        self.x.wake()

    def fail(self, failed: Failed) -> None:
        """The attempt is lost, and unless it has company the exchange learns it where it waits."""
        if not self.racing:
            self.x.fail(failed)
            return
        self.failed = self.failed or failed
        self.x.wake()

    def interim(self, head: ResponseHead) -> None:
        """A 1xx has come. Of several attempts only one will be the answer, so none of theirs is passed on."""
        if not self.racing:
            self.x.client.interim(head)


@dataclass(slots=True, eq=False)
class Tries:
    """What is remembered between the attempts of one request."""

    attempt_number: int = 1
    """Attempts that count against `max_retries`. The name is tenacity's: its wait strategies read nothing else."""
    retries: int = 0
    backoff: float = 0.0
    """Seconds waited between attempts, because the back-off or an upstream's `Retry-After` asked for it."""
    fresh: bool = False
    """A kept connection was stale: the next attempts take new ones."""
    log: list[dict[str, Any]] = field(default_factory=list)

    def record(self, endpoint: Endpoint, outcome: str, seconds: float, **why: str) -> None:
        """One attempt is over. `why` says by `retry` or `no_retry` why another follows or not."""
        if len(self.log) < MAX_RECORDED:
            self.log.append({"endpoint": endpoint.url, "outcome": outcome, "ms": round(seconds * 1000, 3), **why})


class Exchange:
    """State of one request. Times are monotonic seconds."""

    __slots__ = (
        "_coroutine", "_raised", "_running", "added", "answer", "attempt", "attempts", "budget", "client", "client_ip",
        "coding", "committed", "connect_seconds", "deadline", "detail", "due", "due_failure", "failure", "framed", "head",
        "host", "host_field", "keep_alive", "legacy_limit_lines", "parameters", "path", "query_at", "queued", "request_body",
        "request_id", "responded_at", "response_body", "response_bytes", "route", "slots", "snapshot", "started", "status",
        "tries", "tunnel", "upstream", "upstream_seconds", "waiter",
    )  # fmt: skip

    detail: str
    """Why it failed, in words for people; there when `failure` is."""

    def __init__(self, client: Client, snapshot: Snapshot, head: RequestHead, now: float) -> None:
        self.client = client
        self.snapshot = snapshot
        self.head = head
        self.started = now
        self.route: Route | None = None
        self.host = b""
        """Normalised host that routes matched on."""
        self.host_field = b""
        """The authority as it is forwarded."""
        self.path = b""
        self.query_at = -1
        """Where `?` stands in the target, or -1."""
        self.parameters: tuple[tuple[str, bytes], ...] = ()
        self.client_ip: IPv4Address | IPv6Address | None = None
        """The client's address as trusted proxies tell it; None: the peer's."""
        self.request_id = b""
        self.request_body: Body | None = None
        self.response_body: Body | None = None
        self.response_bytes = 0
        self.answer: ResponseHead | None = None
        """The upstream's response head."""
        self.responded_at = 0.0
        """When the head of a response went out whose body was still to come; 0 for one that went out whole."""
        self.budget = 0.0
        """Seconds from the complete request to the response head."""
        self.deadline = NEVER
        """The instant the response head must be there. NEVER while the client is still sending its body."""
        self.due = NEVER
        """When the current phase has taken too long, with `due_failure`; NEVER while progress of a body is what counts."""
        self.due_failure: Failure | None = _DEADLINE
        """What is wrong then; None: nothing, it is only time to go on."""
        self.upstream: Upstream | None = None
        """That of the route, or its fallback."""
        self.attempt: Attempt | None = None
        """The attempt under way, or the last one."""
        self.attempts = 0
        """Attempts begun so far, with those that got no connection."""
        self.upstream_seconds = 0.0
        self.connect_seconds = 0.0
        """Waiting for new connections to endpoints; not in `upstream_seconds`, which says how long the service took."""
        self.tries: Tries | None = None
        """The attempts one by one, from the first that failed."""
        self.slots: tuple[Gate, ...] = ()
        """Gates where the exchange holds a slot."""
        self.waiter: Waiter | None = None
        """Its place in the queue of a gate, while it has one."""
        self.queued = 0.0
        """Seconds spent in queues."""
        self.status = 0
        self.failure: Failure | None = None
        self.committed = False
        """The final response head has been written: a failure can only be shown by cutting the connection."""
        self.keep_alive = head.keep_alive
        self.framed = True
        """The response's own framing shows where it ends; False: the end of the connection does (HTTP/1.0)."""
        self.coding = b""
        """The content coding that was applied to the response here."""
        self.tunnel: Tunnel | None = None
        self.added = b""
        """Complete field lines that the steps add to the response, whoever makes it."""
        self.legacy_limit_lines = b""
        """Rate limit fields in the old words, for a response that has none of its own."""
        self._coroutine: Coroutine[None, None, None] | None = None
        self._running = False
        self._raised: Failed | None = None

    def start(self, coroutine: Coroutine[None, None, None]) -> None:
        """Run the exchange until it first has to wait."""
        self._coroutine = coroutine
        self._step(None)

    def wake(self) -> None:
        """Something the coroutine may be waiting for has happened. Harmless when it is running or over."""
        if self._coroutine is not None and not self._running:
            self._step(None)

    def fail(self, failed: Failed) -> None:
        """Make the coroutine's current wait raise `failed`. The first failure counts; nothing happens once it is over."""
        if self._coroutine is None:
            return
        if self._running:
            self._raised = self._raised or failed
        else:
            self._step(failed)

    # -- what the steps ask ------------------------------------------------------------------------------------------

    def expect_by(self, due: float, failure: Failure | None, now: float) -> None:
        """The current phase must be over at `due`, else the exchange fails so, or is woken when `failure` is None.

        NEVER: watch the body's progress instead.
        """
        self.due = due
        self.due_failure = failure
        if due == NEVER:
            timeouts = self.snapshot.server.timeouts
            due = now + min(timeouts.body_idle, timeouts.write_stall, 1.0)
        self.client.alarm.set(due, now)

    def overhead(self, seconds: float) -> float:
        """What the gateway itself took of `seconds` since the start: neither the upstream, nor waits that a policy ordered."""
        seconds -= self.upstream_seconds + self.connect_seconds + self.queued
        if self.tries is not None:
            seconds -= self.tries.backoff
        return seconds if seconds > 0.0 else 0.0

    def request_is_read(self) -> bool:
        """The whole request has been received, so the connection can carry another."""
        return self.request_body is None or self.request_body.done

    def field_value(self, name: bytes) -> bytes | None:
        """A request field that routes match on, by lower-case name; forwarding fields only from trusted peers."""
        head = self.head
        value = head.fields.values.get(name)
        if value is None and head.fields.forwarded is not None and self.client.trusted:
            value = head.fields.forwarded.get(name)
        if value is None:
            if name == b"upgrade":
                return head.upgrade or None
            if name == SCHEME:
                return self.scheme()
            if name == LISTENER:
                return self.client.listener
        return value

    def scheme(self) -> bytes:
        """`http` or `https`, as the client's own connection has it: a trusted proxy says what stands before it."""
        client = self.client
        forwarded = self.head.fields.forwarded if client.trusted else None
        if forwarded is not None:
            said = forwarded.get(b"x-forwarded-proto", b"").rpartition(b",")[2].strip().lower()
            if said in (b"http", b"https"):
                return said
        return client.scheme

    def authority(self) -> bytes:
        """What the client takes the gateway for, as it wrote it: a trusted proxy says what its own client wrote."""
        forwarded = self.head.fields.forwarded if self.client.trusted else None
        if forwarded is not None:
            said = forwarded.get(b"x-forwarded-host", b"").rpartition(b",")[2].strip(b" \t")
            if said and normalise_host(said) is not None:
                return said
        return self.host_field

    def query(self) -> dict[bytes, bytes]:
        """The decoded query parameters; of a repeated one, the first."""
        values: dict[bytes, bytes] = {}
        if self.query_at >= 0:
            for pair in self.head.target[self.query_at + 1 :].split(b"&"):
                if pair:
                    name, _, value = pair.partition(b"=")
                    values.setdefault(_decoded(name), _decoded(value))
        return values

    def _step(self, failed: Failed | None) -> None:
        coroutine = self._coroutine
        assert coroutine is not None
        while True:
            self._running = True
            try:
                if failed is None:
                    coroutine.send(None)
                else:
                    coroutine.throw(failed)
            except StopIteration:
                self._coroutine = None
            except Exception:  # noqa: BLE001 - a bug must cost one connection, not the loop's callback
                self._coroutine = None
                _log.exception("an exchange ended in an error of the gateway")
                self.client.abort()
            self._running = False
            failed, self._raised = self._raised, None
            if failed is None or self._coroutine is None:
                break
        if self._coroutine is None:
            self.client.exchange_over()
