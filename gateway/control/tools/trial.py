"""A request tried out on the data plane's own steps, without a network: what is explained is what is done"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from gateway import __version__
from gateway.control.blocks.block import Counted
from gateway.control.blocks.server.listen import Listen
from gateway.control.blocks.tls import TlsError
from gateway.control.compile import compile_config
from gateway.control.load import Loaded
from gateway.control.words.host_names import ascii_host
from gateway.endpoints import Endpoint
from gateway.errors import Failed, Failure
from gateway.headers import FIELD_NAME, UNIX, Networks, normalise_host, parse_address
from gateway.metrics import GatewayMetrics, UpstreamMetrics
from gateway.metrics.rate_limit import DECIDERS, DECISIONS
from gateway.proxy.client import Client
from gateway.proxy.exchange import Exchange
from gateway.proxy.pipeline import start_deadline
from gateway.proxy.plane import request_reader
from gateway.proxy.steps.match import match
from gateway.proxy.steps.rate_limit import check_limit
from gateway.proxy.steps.request_keys import key_part
from gateway.request_key import KeyPart
from gateway.snapshot import Limit, Route, UpstreamSettings

Address: TypeAlias = IPv4Address | IPv6Address | None
"""None: whoever comes by a Unix socket."""

_NO_ROUTE: Final = frozenset({Failure.ROUTE_NOT_FOUND, Failure.MISDIRECTED, Failure.METHOD_NOT_ALLOWED})
"""Told with the routes that there are; other refusals come before them."""


class RequestError(ValueError):
    """The request to explain is not one, or is refused before routing."""


class Caller(Client):
    """Who sends a request that is tried out. Nothing is ever sent back."""

    def __init__(self, scheme: bytes, listener: bytes, peer: Address, *, trusted: bool) -> None:
        self.scheme = scheme
        self.listener = listener
        self.peer = peer
        self.trusted = trusted
        self.limit_key = None
        self.matched = None

    def host_of(self, field: bytes) -> bytes | None:
        return normalise_host(field)


class NotedNetworks(Networks):
    """Address ranges that note who was looked up in them."""

    __slots__ = ("asked",)

    def __init__(self, cidrs: tuple[str, ...]) -> None:
        super().__init__(cidrs)
        self.asked: list[tuple[Address, bool]] = []

    def __contains__(self, address: Address) -> bool:
        found = super().__contains__(address)
        self.asked.append((address, found))
        return found


class NoPool:
    """The connections of an endpoint that nobody connects to."""

    def __init__(self, endpoint: Endpoint, settings: UpstreamSettings, metrics: UpstreamMetrics) -> None:
        pass

    def retire(self) -> None:
        """There is nothing to close."""

    def sweep(self, now: float) -> None:
        """There is nothing to close."""

    def counts(self) -> dict[str, int]:
        """None."""
        return {}


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of it."""

    x: Exchange
    """With its deadline started, at the instant 0."""
    route: Route | None
    failed: Failed | None
    """Why there is no route."""
    listen: Listen
    from_known: bool
    """It was said who is at the other end of the connection. Else that is somebody unknown, who is not believed."""
    looked_up: Sequence[tuple[Address, bool]]
    """Who was looked up among the trusted proxies, in order, and whether it is one: the peer first."""

    def counted(self) -> dict[str, Counted]:
        """What the rate limits make of it, by name."""
        limits = self.route.rate_limit or () if self.route is not None else ()
        return {limit.name: self._counted(limit) for limit in limits}

    def _counted(self, limit: Limit) -> Counted:
        assert self.route is not None
        x, route = self.x, self.route
        values = tuple([key_part(x, route, part, name) for part, name in limit.key])
        others = [value for value, (part, _) in zip(values, limit.key, strict=True) if part is not KeyPart.CLIENT_IP]
        unknown = limit.by_client and not self.from_known
        if unknown and None not in others:
            return Counted(values, self.from_known, None, "", limit.tier.settings, overridden=False, cost=limit.cost.default)
        before = limit.metrics.counts.copy()
        try:
            check = check_limit(x, route, limit)
        except Failed:
            check = None
        if check is None:
            after = limit.metrics.counts
            place = next(at for at, count in enumerate(after) if count != before[at])
            decision = DECISIONS[place // len(DECIDERS)]
            return Counted(values, self.from_known, None, decision, limit.tier.settings, overridden=False, cost=0)
        tier = limit.overrides.get(check.digest, limit.tier)
        digest = None if unknown else check.digest
        return Counted(values, self.from_known, digest, "", tier.settings, overridden=tier is not limit.tier, cost=check.cost)


def try_out(
    loaded: Loaded, method: str, url: str, headers: Sequence[str] = (), *, peer: str | None = None, listen: str | None = None
) -> Trial:
    """Try the request of a command line. `peer`: who is at the other end, an address or `unix`. Raises RequestError."""
    config = loaded.config
    scheme, head = _head(method, url, headers)
    by = _listen(config.server.listen, scheme, peer, listen)
    address = _address(peer, by)
    try:
        snapshot = compile_config(loaded, GatewayMetrics(__version__, ""), NoPool)
    except (TlsError, OSError, ValueError) as error:
        raise RequestError(str(error)) from None
    trusted = NotedNetworks(config.server.trusted_proxies)
    snapshot = replace(snapshot, server=replace(snapshot.server, trusted_proxies=trusted))
    connection = "https" if by.tls is not None else "http"
    if peer is None and listen is None and scheme:
        connection = scheme  # nothing is known of who stands between: what the client wrote is what counts
    caller = Caller(
        connection.encode("ascii"), str(by.address).encode(), address, trusted=peer is not None and address in trusted
    )
    try:
        x = Exchange(caller, snapshot, request_reader(snapshot).read(head, len(head)), 0.0)
        route, refused = _matched(x)
    except Failed as failed:
        why = failed.detail or failed.failure.title
        raise RequestError(f"answered {failed.failure.status} before routing: {why}") from None
    if route is not None:
        start_deadline(x, route)
    return Trial(x, route, refused, by, peer is not None, trusted.asked)


def _matched(x: Exchange) -> tuple[Route | None, Failed | None]:
    """The route, or why there is none. Raises `Failed` for what is refused before any route is looked for."""
    try:
        return match(x), None
    except Failed as failed:
        if failed.failure not in _NO_ROUTE:
            raise
        return None, failed


def _head(method: str, url: str, headers: Sequence[str]) -> tuple[str, bytes]:
    """The scheme that the URL names, if it does, and the request head as a client sends it. Raises RequestError."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise RequestError(f"`{url}` is not a URL: {error}") from None
    if parts.scheme not in ("", "http", "https") or (parts.scheme and not parts.netloc):
        raise RequestError(f"`{url}` is not a URL: write `https://host/path` or `/path`")
    path = parts.path or "/"
    rest = parts._replace(netloc="").geturl()
    if not path.startswith("/") or not (rest.isascii() and url.isprintable() and " " not in url):
        raise RequestError(f"`{url}`: the path starts with `/` and is ASCII, percent-encoded where needed")
    target = f"{path}?{parts.query}" if parts.query else path
    fields = [field_of(header) for header in headers]
    if parts.netloc:
        # The authority of a URL wins over `Host`, as in the data plane.
        fields = [(name, value) for name, value in fields if name.lower() != b"host"]
        fields.append((b"Host", _host(parts.netloc.rpartition("@")[2])))
    elif all(name.lower() != b"host" for name, _ in fields):
        fields.append((b"Host", b""))
    lines = b"".join([b"%b: %b\r\n" % field for field in fields])
    return parts.scheme, b"%b %b HTTP/1.1\r\n%b\r\n" % (
        method.encode("utf-8", "surrogateescape"),
        target.encode("ascii"),
        lines,
    )


def _host(authority: str) -> bytes:
    """As a browser sends it."""
    try:
        return ascii_host(authority).encode("ascii")
    except ValueError:
        raise RequestError("the host is not valid") from None


def field_of(header: str) -> tuple[bytes, bytes]:
    """Name and value of `Name: value`. Raises RequestError."""
    name, colon, value = header.encode("utf-8", "surrogateescape").partition(b":")
    if not colon or FIELD_NAME.fullmatch(name) is None:
        raise RequestError(f"`{header}` is not a header: write 'Name: value'")
    return name, value.strip(b" \t")


def _listen(listed: Sequence[Listen], scheme: str, peer: str | None, wanted: str | None) -> Listen:
    """The listener that the request comes in by: the one that is named, or the first that fits."""
    if wanted is not None:
        for listen in listed:
            if wanted == str(listen.address):
                return listen
        raise RequestError(f"nobody listens on `{wanted}`; there is {', '.join(str(listen.address) for listen in listed)}")
    fit = [listen for listen in listed if peer is None or bool(listen.address.path) is (peer == UNIX)]
    if not scheme:  # who writes a path alone asks for its route, not where plain HTTP is sent to
        fit = [listen for listen in fit or listed if not listen.redirect_to_https] or fit
    same = [listen for listen in fit or listed if (listen.tls is not None) is (scheme == "https")]
    return (same or fit or listed)[0]


def _address(peer: str | None, by: Listen) -> Address:
    if peer is None:
        return None
    address = None if peer == UNIX else parse_address(peer)
    if peer != UNIX and address is None:
        raise RequestError(f"`{peer}` is not an address: write `--from 10.0.0.5` or `--from unix`")
    if bool(by.address.path) is not (address is None):
        kind = "a Unix socket: who comes there has no address, write `--from unix`" if by.address.path else "no Unix socket"
        raise RequestError(f"`{by.address}` is {kind}")
    return address
