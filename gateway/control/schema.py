"""The configuration file, as models: this is the reference manual, the editor's hover text and the validation at once.

The models of blocks are with the blocks. A field of a route that is not written is inherited: see `words/inherit.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from gateway.control.blocks.action.redirect import Redirect
from gateway.control.blocks.action.respond import Respond
from gateway.control.blocks.action.rewrite_prefix import RewritePrefix
from gateway.control.blocks.message.access_log import AccessLog, RouteLogSetting
from gateway.control.blocks.message.compression import CompressionValue
from gateway.control.blocks.message.decompress_request import DecompressRequestValue
from gateway.control.blocks.message.fields import EDITS_OFF, FieldEdits
from gateway.control.blocks.message.limits import RouteLimits
from gateway.control.blocks.message.paths import RoutePaths
from gateway.control.blocks.message.rewrite_response import RewriteResponseValue
from gateway.control.blocks.message.server_timing import ServerTiming
from gateway.control.blocks.message.upgrades import Upgrades
from gateway.control.blocks.server.redis import Redis
from gateway.control.blocks.server.server import Admin, Server
from gateway.control.blocks.tls import UpstreamTls
from gateway.control.blocks.traffic.hedge import HEDGE_OFF, Hedge
from gateway.control.blocks.traffic.max_in_flight import MaxInFlight, UpstreamMaxInFlight
from gateway.control.blocks.traffic.priority import Priority
from gateway.control.blocks.traffic.rate_limit_model import RateLimits
from gateway.control.blocks.traffic.retry import RETRY_OFF, Retry
from gateway.control.blocks.traffic.timeout import Timeout
from gateway.control.blocks.upstream.circuit_breaker import CircuitBreaker
from gateway.control.blocks.upstream.endpoints import Endpoint
from gateway.control.blocks.upstream.fallback import NO_FALLBACK
from gateway.control.blocks.upstream.health import Dns, Ejection, Health, Panic
from gateway.control.blocks.upstream.keep_alive import UpstreamKeepAlive
from gateway.control.blocks.upstream.load_balancing import LoadBalancing, Sticky
from gateway.control.blocks.upstream.retry_budget import RetryBudget
from gateway.control.words import addresses, host_names, values
from gateway.control.words.model import Model, required, setting
from gateway.control.words.values import ONE_OR_MANY, OrOff, choice, number_of

# -- policies, in `defaults` and in routes ---------------------------------------------------------------------------


class Policies(Model):
    """What a route decides and inherits."""

    timeout: Timeout | None = setting(None, "The time budget. Short form: `timeout: 2s`.")
    retry: Annotated[Retry | None, OrOff(RETRY_OFF)] = setting(
        None, "When a request is sent again. Short form: `retry: 2`. `off`: nothing is ever sent twice."
    )
    hedge: Annotated[Hedge | None, OrOff(HEDGE_OFF)] = setting(
        None, "A second copy of a safe request that is not answered soon. Short form: `hedge: p95`. Default and `off`: none."
    )
    limits: RouteLimits | None = setting(None, "What one request may cost.")
    paths: RoutePaths | None = setting(None, "What to do with paths that others may read differently.")
    request_fields: Annotated[FieldEdits | None, OrOff(EDITS_OFF)] = setting(
        None, "Changes to the request headers on the way to the upstream. `off`: none, whatever `defaults` says."
    )
    response_fields: Annotated[FieldEdits | None, OrOff(EDITS_OFF)] = setting(
        None, "Changes to the response headers on the way to the client. `off`: none, whatever `defaults` says."
    )
    rewrite_response: RewriteResponseValue = setting(
        None,
        "Put right what upstreams say of their own addresses, where a prefix is taken off or replaced, and scheme and name. "
        "`on`: in redirects and cookies; `off` (default): not, whatever `defaults` says.",
    )
    upgrades: Upgrades = setting(
        None,
        "Protocols that a connection may be upgraded to, as clients ask for them in `Upgrade`: `[websocket, tcp, SPDY/3.1]`. "
        "Default `[websocket]`; `off`: none.",
    )
    server_timing: ServerTiming | None = setting(
        None,
        "When a response carries `Server-Timing`: `on_request` (default: if it has `X-Server-Timing: 1`), `always`, `off`.",
    )
    access_log: RouteLogSetting = setting(
        None, "Which requests are logged: `{sample: 10%, slow: 1s}`, `off`: none. Default: all."
    )
    priority: Priority | None = setting(
        None, "Who is refused last under load: `critical`, `default` or `sheddable`. Default `default`."
    )
    rate_limit: RateLimits = setting(
        None,
        "How many requests are let through: one limit, or a list of named ones that are checked together. Short form: "
        "`rate_limit: 100/min`. Those of a route replace those of `defaults`; `off`: none.",
    )
    compression: CompressionValue = setting(
        None, "How responses are compressed. `on`: as the defaults say; `off` (default): not, whatever `defaults` says."
    )
    decompress_request: DecompressRequestValue = setting(
        None, "Decode request bodies that come with `Content-Encoding`. `on`: in the default bounds; `off` (default): pass on."
    )


class Defaults(Policies):
    """What every route inherits, field by field."""


class Upstream(Model):
    """A named group of endpoints that serve the same thing."""

    endpoints: tuple[Endpoint, ...] = required("The addresses.", min_length=1, max_length=1024)
    load_balancing: LoadBalancing = setting(
        {}, "Which endpoint takes a request. Short form: `load_balancing: round_robin`. Default: `two_choices`."
    )
    sticky: Annotated[Sticky | None, OrOff(None)] = setting(
        None, "A cookie that keeps a client with one endpoint. Short form: `sticky: NAME`. Default `off`."
    )
    fallback: str | None = setting(None, "Name of the upstream that serves while no endpoint of this one is available.")
    host: addresses.UpstreamHost = setting(
        "preserve", "The `Host` header that is sent: `preserve` (the client's), `endpoint` (that of the URL), or this value."
    )
    keep_alive: UpstreamKeepAlive = setting({}, "Idle connections.")
    max_in_flight: Annotated[UpstreamMaxInFlight | None, OrOff(None)] = setting(
        None, "Most requests at the upstream at a time, and who waits. Short form: `max_in_flight: 200`. Default `off`."
    )
    max_connections: int = setting(1024, "Most connections, per endpoint.", ge=1, le=65_535)
    circuit_breaker: CircuitBreaker = setting(
        {}, "When an endpoint that keeps failing is not asked any more. Short form: `off`, `shadow`."
    )
    tls: UpstreamTls | None = setting(None, "How `https` endpoints are verified.")
    health: Annotated[Health | None, OrOff(None)] = setting(
        None, "Active probes. Short form: `health: /healthz`. Default and `off`: none."
    )
    ejection: Annotated[Ejection | None, OrOff(None)] = setting(
        {}, "Leave endpoints alone for a while whose requests fail in a row, or that say `Retry-After`. `off`: never."
    )
    slow_start: values.Delay = setting(
        "10s", "How long an endpoint that comes back or is new takes to get its full share; `0s`: at once."
    )
    panic: Panic = setting(
        "50%", "When less than this share of the endpoints is healthy, all are used whatever their health. `off`: never."
    )
    dns: Annotated[Dns | None, OrOff(None)] = setting(
        {}, "Look up names again. Short form: `dns: 30s`; `off`: a name is one endpoint, looked up for each connection."
    )
    retry_budget: RetryBudget = setting({}, "What retries may cost. Short form: `retry_budget: 20%`.")


class Match(Model):
    """Which requests a route takes. All conditions must hold."""

    host: Annotated[tuple[host_names.MatchHost, ...] | None, ONE_OR_MANY] = setting(
        None, "`api.example.com`, or `*.example.com` for all its subdomains; one or several. Default: any host.", max_length=256
    )
    path: Annotated[tuple[values.MatchPath, ...], ONE_OR_MANY] = setting(
        "/**",
        "`/a/b` is exact, `{id}` stands for one segment, `**` at the end for any number of further segments; one or several.",
        min_length=1,
        max_length=256,
    )
    scheme: Annotated[str, *choice("http", "https")] | None = setting(
        None, "`http` or `https`, as the client's own connection has it: a trusted proxy's `X-Forwarded-Proto` counts."
    )
    listen: Annotated[tuple[addresses.ListenAddress, ...], ONE_OR_MANY] = setting(
        (), "Addresses of `server.listen`, as they are written there. Default: all."
    )
    methods: tuple[values.Method, ...] = setting((), "Any of these; `GET` brings `HEAD`. Default: all.")
    headers: dict[values.FieldName, values.ValueCondition] = setting(
        {}, "Header ▸ its exact value, `{regex: …}` for the whole value, or `true` for any value."
    )
    query: dict[str, values.ValueCondition] = setting({}, "The same for query parameters, decoded.")
    priority: int = setting(
        0,
        "Higher wins, before all else. Without it the more specific route wins: host, then path, then conditions.",
        ge=-1000,
        le=1000,
    )


class Route(Policies):
    """Which requests, where they go, and under which policies."""

    name: values.Name = required("Name in metrics, logs and messages. Unique.")
    match: Match = required("Which requests the route takes.")
    upstream: str | None = setting(None, "Name of the upstream that serves it.")
    fallback: Annotated[str | None, OrOff(NO_FALLBACK)] = setting(
        None, "Name of the upstream that serves while no endpoint is available. Default: that of the upstream; `off`: none."
    )
    redirect: Redirect | None = setting(None, "Send the client elsewhere. Short form: `redirect: https://…`.")
    respond: Respond | None = setting(None, "Answer here. Short form: `respond: 404`.")
    max_in_flight: Annotated[MaxInFlight | None, OrOff(None)] = setting(
        None, "Most requests of this route at a time, and who waits. Short form: `max_in_flight: 20`. Default `off`."
    )
    strip_prefix: values.StripPrefix = setting(
        False, "Take this prefix off the path; `true`: what stands in `match.path` before the first parameter or `**`."
    )
    rewrite_prefix: RewritePrefix | None = setting(None, "Replace a prefix of the path: `{from: /a, to: /b}`.")


class Config(Model):
    """A gateway configuration."""

    version: Annotated[Literal[1], *number_of(1)] = required("Version of the file format: 1.")
    include: Annotated[tuple[str, ...], ONE_OR_MANY] = setting(
        (), "Further files, folders or patterns such as `routes.d/*.yaml`, read in the order of their names."
    )
    server: Server = setting({}, "The side that clients see.")
    admin: Admin = setting({}, "The admin listener.")
    access_log: Annotated[AccessLog | None, OrOff(None)] = setting({}, "The access log; `off`: none.")
    redis: Redis = setting({}, "Where the counts of rate limits are kept. Short form: `redis: redis://host:6379`.")
    defaults: Defaults = setting({}, "What every route inherits, field by field.")
    upstreams: dict[values.Name, Upstream] = setting({}, "Name ▸ a group of endpoints.")
    routes: tuple[Route, ...] = required("The routes. Their order decides only between equals.", min_length=1)
