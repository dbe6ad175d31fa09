"""What integration tests are made of: upstreams named after their behaviour, a raw client, a gateway in this process.

Nothing here understands more HTTP than a test needs to see what was really sent; nothing waits without a bound.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final, TypeAlias

import orjson

from gateway.app import App
from gateway.control.load import load
from gateway.metrics import GatewayMetrics, RouteMetrics, UpstreamMetrics
from gateway.ports import Resolver
from gateway.proxy.downstream.half_close import ASK_AFTER, LOOK_EVERY
from gateway.proxy.downstream.http1_connection import Http1Connection
from gateway.proxy.plane import DataPlane

PATIENCE: Final = 8.0
"""Seconds after which what a test waits for will not happen any more, however busy the machine is. No test waits so long when
all is well. What must not take its time is told by this too: the time that it must not take is longer."""

OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"
GET: Final = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"

STARTS_WITHIN: Final = 60.0
"""Seconds in which processes have started, and settled on what they were told: each has a second of work before it serves."""

AT_ONCE: Final = 2000
"""Turns of the loop in which everything that waits for nothing but bytes on the way has happened."""

LOOKED_FOR: Final = 2 * (ASK_AFTER + LOOK_EVERY)
"""Seconds in which a client that has sent a FIN has been looked for, so that one which is gone would have been found out."""

_HEAD_END: Final = re.compile(rb"\r\n\r\n")
_RESET: Final = struct.pack("ii", 1, 0)


async def eventually(condition: Callable[[], object], within: float = PATIENCE) -> None:
    """Return as soon as `condition` holds; fail when it does not within so many seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within
    while not condition():
        assert loop.time() < end, f"did not happen within {within} s"
        await asyncio.sleep(0.002)


def holds(condition: Callable[[], object], within: float = PATIENCE) -> bool:
    """Whether `condition` comes true in time, for tests without a loop. One that has come true is not asked again."""
    end = monotonic() + within
    while monotonic() < end:
        if condition():
            return True
        sleep(0.005)
    return bool(condition())


async def at_once(condition: Callable[[], object]) -> None:
    """Return as soon as `condition` holds; fail when it does not hold soon, counted in turns of the loop and not in seconds.

    What the gateway does at once it does in a few turns, however slow the machine is; no timer of it rings in so many.
    """
    for _ in range(AT_ONCE):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("did not happen at once")


async def time_passes(seconds: float) -> None:
    """Let time pass, for two reasons only. It is what the test is about: a peer that is slow, a wait that was asked for. Or a
    timer of the gateway must not have rung: those of one loop ring in their order, so all that were due earlier have rung.
    """
    await asyncio.sleep(seconds)


async def turns(count: int = 3) -> None:
    """Let the loop go round: what had arrived at its sockets has been read then, and what follows from that at once is done."""
    for _ in range(count):
        await asyncio.sleep(0)


def field_values(lines: Iterable[bytes], name: bytes) -> list[bytes]:
    """The values of the field lines of this name, in order."""
    pairs = (line.partition(b":") for line in lines)
    return [value.strip(b" \t") for found, _, value in pairs if found.lower() == name.lower()]


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def read_chunked(reader: asyncio.StreamReader, trailers: list[bytes]) -> AsyncIterator[bytes]:
    """The chunks of a body as they arrive; the trailer lines are appended to `trailers`."""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        yield await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        trailers.append(line[:-2])


@dataclass
class Message:
    """One message as it was on the wire."""

    start: bytes
    """The first line."""
    lines: list[bytes]
    """The field lines, as they came."""
    body: bytes = b""
    complete: bool = False
    trailers: list[bytes] = field(default_factory=list)

    def values(self, name: bytes) -> list[bytes]:
        """The values of a field, in order."""
        return field_values(self.lines, name)

    def value(self, name: bytes) -> bytes | None:
        """The value of a field that is there once, or None."""
        values = self.values(name)
        assert len(values) < 2, f"{name!r} is there more than once"
        return values[0] if values else None

    def names(self) -> list[bytes]:
        """The field names in order, lower case."""
        return [line.partition(b":")[0].lower() for line in self.lines]


# -- upstreams ---------------------------------------------------------------------------------------------------------


class Request(Message):
    """What an upstream received."""

    @property
    def method(self) -> bytes:
        """The method."""
        return self.start.split(b" ")[0]

    @property
    def target(self) -> bytes:
        """The request target."""
        return self.start.split(b" ")[1]


class Peer:
    """One connection to an upstream."""

    def __init__(self, upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.upstream = upstream
        self.reader = reader
        self.writer = writer
        self.sent = 0
        """Bytes of body handed to the kernel by `pour`."""

    async def head(self) -> Request:
        """The next request head. It is recorded at once, its body is not read."""
        block = await self.reader.readuntil(b"\r\n\r\n")
        start, *lines = block[:-4].split(b"\r\n")
        request = Request(start, lines)
        self.upstream.requests.append(request)
        return request

    async def body(self, request: Request) -> None:
        """Read the request's body into it."""
        if request.value(b"transfer-encoding"):
            async for chunk in read_chunked(self.reader, request.trailers):
                request.body += chunk
        else:
            left = int(request.value(b"content-length") or 0)
            parts: list[bytes] = []
            while left:
                parts.append(await self.reader.read(min(left, 65536)))
                if not parts[-1]:
                    raise asyncio.IncompleteReadError(b"", left)
                left -= len(parts[-1])
            request.body = b"".join(parts)
        request.complete = True

    async def request(self) -> Request:
        """The next request, with its body."""
        request = await self.head()
        await self.body(request)
        return request

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def pour(self, size: int) -> None:
        """Send so many bytes, as fast as they are taken."""
        block = bytes(65536)
        while self.sent < size:
            await self.send(block[: size - self.sent])
            self.sent += min(65536, size - self.sent)

    async def gone(self) -> None:
        """Wait until the gateway has closed the connection."""
        while await self.reader.read(65536):
            pass

    def reset(self) -> None:
        """Close with RST."""
        reset(self.writer)


Behaviour: TypeAlias = Callable[[Peer], Awaitable[None]]
"""What an upstream does with a connection. When it returns, the connection is closed."""


class Upstream:
    """A server that does what its behaviour says, and records what it receives."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[Request] = []
        self.connections = 0
        """Accepted so far."""
        self.peers: list[Peer] = []
        """Open now."""
        self.errors: list[Exception] = []
        self.url = ""
        self.port = 0
        self.gate = asyncio.Semaphore(0)
        """Behaviours that wait for the test wait for this: `gate.release()` lets them take one step."""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(
        self, *, path: str = "", tls: ssl.SSLContext | None = None, limit: int = 65536, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        """Listen on a free port or this one, or on a Unix socket."""
        if path:
            self._server = await asyncio.start_unix_server(self._accept, path)
            self.url = f"unix:{path}"
            return
        self._server = await asyncio.start_server(self._accept, host, port, ssl=tls, limit=limit)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://{host}:{self.port}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._serve(Peer(self, reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, peer: Peer) -> None:
        self.peers.append(peer)
        try:
            await self.behaviour(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception as error:  # noqa: BLE001 - the fixture reports it
            self.errors.append(error)
        finally:
            self.peers.remove(peer)
            peer.writer.close()

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert self.errors == []


def answers(*responses: bytes) -> Behaviour:
    """Answers each request with the next of these bytes, and with the last ones from then on."""
    queue = list(responses)

    async def behave(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(queue.pop(0) if len(queue) > 1 else queue[0])

    return behave


def answers_and_closes(response: bytes) -> Behaviour:
    """Answers the first request with these bytes and closes the connection."""

    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.send(response)

    return behave


def answers_at_once(response: bytes) -> Behaviour:
    """Answers as soon as the request head is there, and never reads the body."""

    async def behave(peer: Peer) -> None:
        await peer.head()
        await peer.send(response)
        await peer.upstream.gate.acquire()

    return behave


async def echoes_requests(peer: Peer) -> None:
    """Answers with the request's body."""
    while True:
        request = await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request.body), request.body))


async def accepts_and_hangs(peer: Peer) -> None:
    """Reads what comes and never answers."""
    await peer.request()
    await peer.gone()


async def reads_nothing(peer: Peer) -> None:
    """Reads the head and then no byte more, until the gate opens; then it reads the rest and answers."""
    request = await peer.head()
    await peer.upstream.gate.acquire()
    await peer.body(request)
    await peer.send(OK)


async def sends_half_a_body(peer: Peer) -> None:
    """Announces 10 bytes, sends 5 and closes."""
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf.")


async def sends_half_a_chunked_body(peer: Peer) -> None:
    """Sends one chunk and closes without the last."""
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf.\r\n")


async def resets_mid_headers(peer: Peer) -> None:
    """Sends half a response head and resets the connection."""
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    peer.reset()


async def resets_at_once(peer: Peer) -> None:
    """Resets the connection when the request is there."""
    await peer.request()
    peer.reset()


async def closes_without_an_answer(peer: Peer) -> None:
    """Closes the connection when the request is there."""
    await peer.request()


async def closes_idle_connection(peer: Peer) -> None:
    """Answers as if to keep the connection, and closes it."""
    await peer.request()
    await peer.send(OK)


async def closes_when_reused(peer: Peer) -> None:
    """Answers the first request of a connection, and closes on the second: that is how a stale connection looks."""
    await peer.request()
    await peer.send(OK)
    await peer.head()


async def lies_about_length(peer: Peer) -> None:
    """Sends more bytes than it announced."""
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOKHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    await peer.gone()


def drips(*parts: bytes) -> Behaviour:
    """Answers with these bytes, one part each time the gate opens; then it keeps the connection."""

    async def behave(peer: Peer) -> None:
        while True:
            await peer.request()
            for part in parts:
                await peer.upstream.gate.acquire()
                await peer.send(part)

    return behave


def pours(size: int) -> Behaviour:
    """Answers with so many bytes, as fast as they are taken."""

    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        await peer.pour(size)
        await peer.gone()

    return behave


_held: Final[list[socket.socket]] = []


def refusing_port() -> int:
    """A port that refuses connections until the test lets somebody listen on it.

    It is bound to the end of the test, so that neither the kernel nor a test beside this one gives it to anybody else. Whoever
    is told its number can listen on it, as every server does, with SO_REUSEADDR.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    _held.append(sock)
    port: int = sock.getsockname()[1]
    return port


def release_ports() -> None:
    """The ports of a test that has ended."""
    while _held:
        _held.pop().close()


class FullBacklog:
    """A port that neither accepts nor refuses: its backlog is full, so the kernel drops every SYN."""

    def __init__(self) -> None:
        self._server = socket.socket()
        self._server.bind(("127.0.0.1", 0))
        self._server.listen(0)
        self.port: int = self._server.getsockname()[1]
        self._fillers = [socket.socket() for _ in range(4)]
        for filler in self._fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))

    def close(self) -> None:
        """Give the port back."""
        for sock in (*self._fillers, self._server):
            sock.close()


# -- the client --------------------------------------------------------------------------------------------------------


class Response(Message):
    """What a client received."""

    def __init__(self, start: bytes, lines: list[bytes]) -> None:
        super().__init__(start, lines)
        self.interim: list[Response] = []
        """The 1xx responses before it."""

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.start.split(b" ")[1])

    @property
    def code(self) -> str:
        """The failure code of a problem body, which the Proxy-Status field must say too."""
        assert self.value(b"content-type") == b"application/problem+json"
        problem = orjson.loads(self.body)
        code: str = problem["code"]
        status = self.value(b"proxy-status") or b""
        assert f"; error={code}".encode() in status, status
        assert problem["status"] == self.status
        return code


class Client:
    """A raw client connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def head(self) -> Response:
        """The next response head, interim ones too."""
        async with asyncio.timeout(PATIENCE):
            block = await self.reader.readuntil(b"\r\n\r\n")
        start, *lines = block[:-4].split(b"\r\n")
        return Response(start, lines)

    async def response(self, method: bytes = b"GET") -> Response:
        """The next final response with its body; `complete` tells whether its framing came to an end."""
        interim = []
        while (response := await self.head()).status < 200 and response.status != 101:
            interim.append(response)
        response.interim = interim
        try:
            async with asyncio.timeout(PATIENCE):
                await self._body(response, method)
            response.complete = True
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            response.body += getattr(error, "partial", b"")
        return response

    async def _body(self, response: Response, method: bytes) -> None:
        length = response.value(b"content-length")
        if method == b"HEAD" or response.status in (101, 204, 304):
            return
        if response.value(b"transfer-encoding"):
            assert length is None
            async for chunk in read_chunked(self.reader, response.trailers):
                response.body += chunk
        elif length is not None:
            response.body = await self.reader.readexactly(int(length))
        else:
            while part := await self.reader.read(65536):
                response.body += part

    async def ask(self, request: bytes) -> Response:
        """Send a request and read its response."""
        await self.send(request)
        return await self.response(request.split(b" ", 1)[0])

    async def read(self, size: int) -> bytes:
        """Exactly so many bytes."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readexactly(size)

    async def closed(self, within: float = PATIENCE) -> bytes:
        """Wait until the gateway has closed the connection; what it still sent."""
        data = b""
        try:
            async with asyncio.timeout(within):
                while part := await self.reader.read(65536):
                    data += part
        except ConnectionError:
            pass
        return data

    def half_close(self) -> None:
        """Send FIN and go on reading."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Leave with RST."""
        reset(self.writer)

    def close(self) -> None:
        """Leave with FIN."""
        self.writer.close()


# -- the gateway -------------------------------------------------------------------------------------------------------


def proxy(
    url: str, *, server: str = "", route: str = "", upstream: str = "", listen: str = "127.0.0.1:0", path: str = "/**"
) -> str:
    """A configuration with one route to one endpoint; the rest are fields of YAML flow mappings.

    Nothing is shed because the machine is busy, unless the test asks for it.
    """
    if "overload" not in server:
        server = f"overload: {{default: off, sheddable: off}}, {server}"
    return f"""
version: 1
server: {{name: gw, listen: [{listen}], {server}}}
admin: {{listen: "127.0.0.1:0"}}
access_log: "off"
upstreams: {{app: {{endpoints: ["{url}"], {upstream}}}}}
routes: [{{name: all, match: {{path: "{path}"}}, upstream: app, {route}}}]
"""


class Records:
    """A `LogSink` that keeps what is logged."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def record(self, line: bytes) -> None:
        """Keep it."""
        assert line.endswith(b"}\n") and line.count(b"\n") == 1
        self.entries.append(orjson.loads(line))


class Gateway:
    """A gateway in this process."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.log = Records()
        self.plane.log = self.log
        self.clients: list[Client] = []

    @property
    def plane(self) -> DataPlane:
        """Its data plane."""
        return self.app.plane

    def client_connections(self) -> list[Http1Connection]:
        """The connections of its clients."""
        return [connection for connection in self.plane.connections if isinstance(connection, Http1Connection)]

    @property
    def metrics(self) -> GatewayMetrics:
        """What it counts."""
        return self.app.metrics

    @property
    def route(self) -> RouteMetrics:
        """What it counts for the route `all`."""
        return self.metrics.routes["all"]

    @property
    def upstream(self) -> UpstreamMetrics:
        """What it counts for the upstream `app`."""
        return self.metrics.upstreams["app"]

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        name = self.app.runtime.doors[0].sockets[0].getsockname()
        return name[0], name[1]

    @property
    def admin(self) -> tuple[str, int]:
        """Where its admin listener is."""
        assert self.app._admin is not None
        host, port = self.app._admin.addresses[0][:2]
        return host, port

    def pools(self) -> dict[str, int]:
        """Upstream connections by state, over all endpoints."""
        total = {"open": 0, "idle": 0}
        for upstream in self.app.plane.snapshot.upstreams:
            for endpoint in upstream.group.endpoints:
                for state, count in endpoint.pool.counts().items():
                    total[state] += count
        return total

    async def client(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        path: str = "",
        limit: int = 65536,
        name: str | None = None,
        listener: int = 0,
    ) -> Client:
        """A new client connection, closed when the gateway is. `listener`: which one, in the order of the file."""
        if path:
            reader, writer = await asyncio.open_unix_connection(path)
        else:
            reader, writer = await asyncio.open_connection(
                *self.app.runtime.doors[listener].sockets[0].getsockname()[:2],
                ssl=tls,
                limit=limit,
                server_hostname=(name or "localhost") if tls else None,
            )
        client = Client(reader, writer)
        self.clients.append(client)
        return client

    async def ask(self, request: bytes) -> Response:
        """One request on a connection of its own."""
        client = await self.client()
        return await client.ask(request)

    async def get(self, target: str = "/", *lines: str) -> Response:
        """One GET on a connection of its own."""
        return await self.ask("\r\n".join([f"GET {target} HTTP/1.1", "Host: example.com", *lines, "", ""]).encode("latin-1"))

    def busy(self) -> list[str]:
        """What is not as it is when nothing is going on."""
        plane = self.plane
        found = [f"{len(plane.connections)} client connections"] if plane.connections else []
        found += [f"gauge {name}" for name in ("connections", "tunnels") if getattr(self.metrics, name)]
        found += [f"route {name} in flight" for name, route in self.metrics.routes.items() if route.in_flight]
        for upstream in self.app.plane.snapshot.upstreams:
            found += [f"endpoint {endpoint.url} in flight" for endpoint in upstream.group.endpoints if endpoint.in_flight]
        for one in self.app.plane.snapshot.gates:
            if one.gate.in_flight or one.gate.waiting:
                found.append(f"gate {one.gate.metrics.scope} {one.gate.metrics.name}: {one.gate.shown()}")
        pools = self.pools()
        if pools["open"] != pools["idle"]:
            found.append(f"upstream connections {pools}")
        return found


@asynccontextmanager
async def running(config: Path, *, tasks: bool = True, resolver: Resolver | None = None) -> AsyncIterator[Gateway]:
    """A gateway with this configuration; afterwards nothing of it may be left, no task either unless others run beside it."""
    before = asyncio.all_tasks()
    app = App(load(config), resolver)
    try:
        await app.start()
        gateway = Gateway(app)
        yield gateway
        for client in gateway.clients:
            client.close()
        try:
            await eventually(lambda: not gateway.busy())
        except AssertionError:
            raise AssertionError(f"left behind: {gateway.busy()}") from None
    finally:
        await app.stop()
    await eventually(lambda: gateway.pools()["open"] == 0)
    if tasks:
        await eventually(lambda: all(map(_of_a_test, asyncio.all_tasks() - before)))


def _of_a_test(task: asyncio.Task[Any]) -> bool:
    """The task is the current one or belongs to an upstream of the test, not to the gateway."""
    code = getattr(task.get_coro(), "cr_code", None)
    return task is asyncio.current_task() or (code is not None and Path(code.co_filename).is_relative_to(Path(__file__).parent))
