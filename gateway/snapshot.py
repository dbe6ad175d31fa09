"""The compiled world a request runs in: Snapshot ▸ Route ▸ Upstream ▸ Endpoint.

Everything is resolved: names are objects, defaults merged, units parsed, field lines encoded, metric objects bound. A
request reads the snapshot once and keeps it to its last byte. Frozen, but for the live parts of an `Endpoint`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeAlias

from gateway.access_log import AccessSettings
from gateway.endpoints import Affinity, Endpoint, EndpointGroup
from gateway.gates import Gate
from gateway.headers import Networks
from gateway.metrics import UNMATCHED, RouteMetrics, UpstreamMetrics
from gateway.metrics.compression import CodingMetrics, CompressionMetrics
from gateway.metrics.rate_limit import LimitMetrics
from gateway.policies.adaptive_limit import AdaptiveSettings
from gateway.policies.circuit_breaker import BreakerSettings
from gateway.policies.compression import CompressionSettings, Tags
from gateway.policies.decompress_request import DecompressRequestSettings
from gateway.policies.health import Thresholds
from gateway.policies.hedge import HedgeDelay
from gateway.policies.max_in_flight import MaxInFlightSettings
from gateway.policies.rate_limit import CostSettings, Headers, KeyDigest, LimitSettings, Missing, OnStoreError, Rule
from gateway.policies.retry import RetryBudget, RetrySettings
from gateway.policies.rewrite_response import RewriteResponseSettings
from gateway.policies.timeout import TimeoutSettings
from gateway.ports import Coder
from gateway.request_key import KeyPart
from gateway.router import Router
from gateway.server_settings import Names, ServerSettings


class Fact(Enum):
    """What of a request may stand in the value of a field."""

    CLIENT_IP = "client_ip"
    REQUEST_ID = "request_id"
    ROUTE = "route"
    HOST = "host"
    SCHEME = "scheme"
    METHOD = "method"
    PATH = "path"
    """A parameter of the path."""


FieldPart: TypeAlias = bytes | tuple[Fact, str]
"""Text, or a fact with the name of the parameter."""


@dataclass(frozen=True, slots=True)
class FieldEdits:
    """Changes to a header section: drop all fields of these names, then append these lines."""

    drop: frozenset[bytes] = frozenset()
    """Lower-case names: those removed and those about to be set."""
    lines: tuple[bytes, ...] = ()
    """Complete field lines without CRLF."""
    parts: tuple[FieldPart, ...] = ()
    """What stands behind them, from the first line with a fact of the request on: joined, complete lines with CRLF."""


class ServerTiming(Enum):
    """When a response carries `Server-Timing`."""

    ON_REQUEST = "on_request"
    """When the request has `X-Server-Timing: 1`."""
    ALWAYS = "always"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """How connections to an upstream are made and kept."""

    idle_timeout: float = 4.0
    """Seconds an idle connection is kept: less than the upstream's own keep-alive."""
    max_idle: int = 256
    """Idle connections kept per endpoint."""
    max_connections: int = 1024
    """Connections per endpoint."""
    tls: ssl.SSLContext | None = field(default=None, compare=False)
    server_name: str = ""
    """TLS name to ask for and to verify; empty: the endpoint's host."""
    tls_fingerprint: str = ""
    """Stands for `tls` in comparisons: a digest over its settings and the content of its files."""


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """How the endpoints of an upstream are asked whether they are well. Times in seconds."""

    tcp: bool = False
    """Only open a connection."""
    target: str = "/"
    host: str = ""
    """`Host` to send; empty: the endpoint's authority."""
    fields: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    interval: float = 5.0
    timeout: float = 1.0
    thresholds: Thresholds = Thresholds()
    statuses: tuple[tuple[int, int], ...] = ((200, 399),)
    """Ranges, both ends included."""
    body: bytes = b""
    """What the beginning of the body must contain."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The retry policy of a route, with its back-off ready to be asked."""

    settings: RetrySettings
    wait: Callable[[Any], float] = field(compare=False)
    """A tenacity wait strategy: seconds, from an object with `attempt_number`. Stateless."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A named group of endpoints."""

    name: str
    group: EndpointGroup
    settings: UpstreamSettings
    host: bytes | None
    """None: the client's `Host` is kept; empty: the endpoint's authority; else this value."""
    metrics: UpstreamMetrics
    retry_budget: RetryBudget
    """Live."""
    fallback: Upstream | None = None
    """Serves in its place while none of its endpoints is available."""
    affinity: Affinity | None = None
    """None: nothing of the request decides which endpoint takes it."""
    probe: ProbeSettings | None = None
    names: tuple[Endpoint, ...] = ()
    """What stands in the group for a name until its addresses are known, and says what endpoints at them are like."""
    dns_interval: float = 0.0
    """Seconds between two lookups of the names."""
    circuit_breaker: BreakerSettings | None = None
    """Of each endpoint; the breakers themselves live in `proxy/upstream/circuit_breaker.py`."""
    gate: Gate | None = None
    """Its own limit on what is in flight."""


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What a gate is to live by, once the snapshot is in place."""

    gate: Gate
    settings: MaxInFlightSettings
    adaptive: AdaptiveSettings | None


@dataclass(frozen=True, slots=True)
class Redirect:
    """Answer with `Location`: `to`, and the request's path and query behind it when `keep_path`."""

    status: int
    to: bytes
    keep_path: bool
    keep_query: bool
    to_https: tuple[bytes, bytes] | None = None
    """In place of `to`: the client's host under `https`, followed by the first where the client named no port, else by the
    second."""


@dataclass(frozen=True, slots=True)
class Respond:
    """A fixed answer."""

    status: int
    body: bytes
    lines: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Replace the path prefix `old` by `new`, on the raw bytes of the target."""

    old: bytes
    new: bytes


@dataclass(frozen=True, slots=True)
class LimitTier:
    """What holds for a key: the settings of the limit, or of one of its overrides."""

    settings: LimitSettings
    rule: Rule
    """For the counts in process; with a store outside, the share of one gateway."""
    packed: bytes
    """For `limit_store.lua`."""
    policy: bytes
    """The item of `RateLimit-Policy`."""
    near: int
    """With fewer units left than these, the limit is nearly reached."""


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """One rate limit of a route."""

    name: str
    id: bytes
    enforce: bool
    """False: shadow, or the candidate of another limit."""
    candidate: bool
    tier: LimitTier
    overrides: dict[bytes, LimitTier]
    """By digest of the key."""
    key: tuple[tuple[KeyPart, bytes], ...]
    """Each part with its name: of the field, the parameter, or the constant itself."""
    digest: KeyDigest
    missing: Missing
    cost: CostSettings
    cost_field: tuple[KeyPart, bytes] | None
    exempt_networks: Networks
    exempt_keys: frozenset[bytes]
    plain: bool
    """Fixed cost, no overrides, nothing exempt."""
    steady: bool
    """Plain, and the key says the same for all requests from one address to one host of one route."""
    by_client: bool
    """The client's address is a part of the key."""
    on_store_error: OnStoreError
    headers: Headers
    item: bytes
    """`"name"`, to begin the item of `RateLimit`."""
    reached: str
    """What the problem says."""
    metrics: LimitMetrics


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """The resolved `redis:` block."""

    scheme: str
    """`redis`, `unix`, `sentinel` or `cluster`."""
    nodes: tuple[tuple[str, int], ...] = ()
    path: str = ""
    """Of a Unix socket."""
    tls: bool = False
    ca: str = ""
    database: int = 0
    service: str = ""
    """The master's name at the sentinels."""
    username: str = ""
    password: str = field(default="", repr=False)
    timeout: float = 0.02
    """Seconds a check may take."""
    prefix: bytes = b"gateway"
    shown: str = ""
    """The URL without credentials."""


@dataclass(frozen=True, slots=True, eq=False)
class Compression:
    """How responses of a route are compressed."""

    settings: CompressionSettings
    coders: tuple[tuple[Coder, CodingMetrics], ...]
    """In the order of `settings.codings`."""
    metrics: CompressionMetrics
    tags: Tags = field(default_factory=Tags)
    """Live."""


@dataclass(frozen=True, slots=True)
class Route:
    """Everything decided in advance for the requests of one route. Exactly one of upstream, redirect, respond is set."""

    name: str
    metrics: RouteMetrics
    upstream: Upstream | None = None
    fallback: Upstream | None = None
    """Serves while no endpoint of `upstream` is available."""
    redirect: Redirect | None = None
    respond: Respond | None = None
    timeout: TimeoutSettings = TimeoutSettings()
    retry: Retry | None = None
    """None: nothing is ever sent twice."""
    hedge: HedgeDelay | None = None
    """Live: it learns how long answers take. None: no hedging."""
    max_body: int = 10 * 1024 * 1024
    """Largest request body in bytes; -1: no limit."""
    rewrite: Rewrite | None = None
    forwards_dots: bool = False
    """A path with dot segments is matched as it was sent and goes on; else it is refused."""
    request_edits: FieldEdits | None = None
    response_edits: FieldEdits | None = None
    rewrite_response: RewriteResponseSettings | None = None
    """None: what upstreams say of their own addresses stays."""
    upgrades: frozenset[bytes] = frozenset({b"websocket"})
    """Lower-case protocols that may be upgraded to."""
    server_timing: ServerTiming = ServerTiming.ON_REQUEST
    access_log: AccessSettings | None = None
    """None: its requests are not logged."""
    rate_limit: tuple[Limit, ...] | None = None
    """Asked together; None: no limits."""
    rank: int = 1
    """Of its priority: 0 critical, 1 default, 2 sheddable."""
    gate: Gate | None = None
    """Its own limit on what is in flight."""
    gates: tuple[Gate, ...] = ()
    """All that its requests pass: server, route, upstream, in this order."""
    limit_template: bytes | None = None
    """The `RateLimit` lines with places for two numbers per limit, if all are plain, enforced and told as the draft."""
    compression: Compression | None = None
    decompress_request: DecompressRequestSettings | None = None
    """Coded request bodies are decoded."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One configuration, compiled."""

    server: ServerSettings
    names: Names
    router: Router[Route]
    routes: tuple[Route, ...]
    upstreams: tuple[Upstream, ...]
    unmatched: RouteMetrics
    config_hash: str
    match_fields: frozenset[bytes] = field(default_factory=frozenset)
    """Lower-case names of request fields that routes match on, or that rate limits read."""
    redis: RedisSettings | None = None
    gates: tuple[GateSettings, ...] = ()
    """All there are."""
    access_log: AccessSettings | None = None
    """For what no route took."""
    to_https: Mapping[bytes, Route] = field(default_factory=dict)
    """By listener: what answers plain HTTP there."""


EMPTY: Final = Snapshot(ServerSettings((), "", Networks()), Names(), Router(()), (), (), RouteMetrics(UNMATCHED), "")
"""What runs before the first configuration: no listener, so no request sees it."""
