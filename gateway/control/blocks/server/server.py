"""The blocks `server:` and `admin:`."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Iterator
from typing import Annotated

from pydantic import SecretStr

from gateway.control.blocks.message.paths import DotSegments
from gateway.control.blocks.server.listen import Listen, check_listen, listener
from gateway.control.blocks.server.overload import Overload, shown_lag
from gateway.control.blocks.traffic.max_in_flight import MaxInFlight, check_limit
from gateway.control.reading.nodes import Positions
from gateway.control.reading.problems import Problem
from gateway.control.words import addresses, values
from gateway.control.words.file_rights import FileRights
from gateway.control.words.model import Model, made_of, setting
from gateway.control.words.values import ONE_OR_MANY, OrOff, choice
from gateway.headers import Networks
from gateway.policies.overload import OverloadSettings
from gateway.server_settings import ForwardedFields, Limits, Listener, Names, ServerSettings
from gateway.server_settings import ServerTimeouts as ServerTimeoutsSnapshot


class ServerLimits(Model):
    """What one client connection or message may cost. Each limit has its own answer and metric."""

    headers: values.HeaderSize = setting("32KiB", "Largest request header section; more is 431.")
    header_count: int = setting(128, "Most request header fields; more is 431.", ge=8, le=4096)
    target: values.HeaderSize = setting("8KiB", "Longest request target (path and query); more is 414.")
    response_headers: values.HeaderSize = setting("64KiB", "Largest response header section of an upstream; more is 502.")
    body: values.BodySize | None = setting(
        None, "Largest request body where neither route nor `defaults` says; more is 413. Default `10MiB`; `off`: no limit."
    )
    connections: int = setting(10_000, "Most client connections at a time.", ge=1, le=1_000_000)
    requests_per_connection: int = setting(
        10_000, "Requests after which a client connection is closed.", ge=1, le=1_000_000_000
    )
    tunnels: int = setting(1_000, "Most upgraded connections (WebSocket and the like) at a time.", ge=0, le=1_000_000)
    upload_rate: values.BodySize = setting(
        "240B",
        "Bytes per second a client must upload on average, after a grace of 5 s beyond `body_idle`; less is 408. `off`: any.",
    )
    rate_limit_keys: int = setting(
        100_000,
        "Most keys of rate limits that are counted in process, at about 300 bytes each; the oldest leave first. A key that "
        "uses up a limit of 20 to 100 takes 400 bytes to 1 KiB; one of a `sliding_log` counts for several.",
        ge=100,
        le=100_000_000,
    )


class ServerTimeouts(Model):
    """Time limits of client connections and of shutdown."""

    header: values.Duration = setting("10s", "For a request head to arrive; more is 408.")
    body_idle: values.Duration = setting("30s", "Longest silence inside a request body; more is 408.")
    write_stall: values.Duration = setting("30s", "Longest time a client may not read; then the connection is closed.")
    keep_alive: values.Duration = setting("75s", "How long an idle client connection is kept.")
    drain: values.Delay = setting("25s", "How long a shutdown waits for requests in flight.")
    drain_delay: values.Delay = setting("0s", "How long a shutdown keeps accepting while it reports not ready.")


class Reload(Model):
    """When the file is read again. SIGHUP, `POST /reload` and `gateway reload` always do."""

    watch: bool = setting(True, "Reload when the content of the files changes; they are looked at once a second.")


class Paths(Model):
    """What to do with paths that others may read differently.

    Path parameters (`;a=b`) never count when routes are matched.
    """

    encoded_slash: Annotated[str, *choice("match", "reject")] = setting(
        "match", "`match`: `%2F` and `\\` count as `/` when routes are matched; `reject`: such a path is 400."
    )
    double_slash: Annotated[str, *choice("match", "reject")] = setting(
        "match", "`match`: `//` counts as `/` when routes are matched; `reject`: such a path is 400."
    )
    dot_segments: DotSegments = setting(
        "reject", "Paths with `.` or `..` segments, where neither route nor `defaults` says: `reject` (400) or `forward`."
    )


class RequestId(Model):
    """The id that ties together the log lines of one request."""

    header: values.OwnFieldName = setting("X-Request-ID", "Header that carries it; a trusted peer's value is kept.")


class Server(Model):
    """The side that clients see."""

    listen: Annotated[tuple[Listen, ...], ONE_OR_MANY] = setting(
        ({"address": ":8080"},), "Where to listen.", min_length=1, max_length=64
    )
    name: values.ServerName | None = setting(
        None, "Our name in `Via` and `Proxy-Status`; must differ between gateways behind one another. Default: random."
    )
    trusted_proxies: tuple[addresses.Network, ...] = setting(
        (),
        "Addresses and ranges of proxies in front of us; `unix`: those that come by a Unix socket. Only they are believed "
        "about client address, scheme, id and time budget.",
    )
    limits: ServerLimits = setting({}, "What one connection or message may cost.")
    timeouts: ServerTimeouts = setting({}, "Time limits of client connections and of shutdown.")
    forwarded: Annotated[str, *choice("x_forwarded", "forwarded", "both", "off")] = setting(
        "x_forwarded", "Which headers tell upstreams about the client: `X-Forwarded-*`, `Forwarded` (RFC 7239), both or none."
    )
    workers: Annotated[int | None, OrOff(None, "auto")] = setting(
        1,
        "Processes that serve: a number, or `auto`: one per processor. Limits, metrics and reloads are common to all of them.",
        ge=1,
        le=64,
    )
    reload: Reload = setting({}, "When the file is read again.")
    paths: Paths = setting({}, "What to do with paths that others may read differently.")
    request_id: RequestId = setting({}, "The id that ties together the log lines of one request.")
    max_in_flight: Annotated[MaxInFlight | None, OrOff(None)] = setting(
        None, "Most requests on their way to any upstream at a time. Default `off`: what `limits.connections` lets in."
    )
    overload: Overload = setting({}, "How late the event loop may be before requests are refused.")
    priority_field: Annotated[values.OwnFieldName | None, OrOff(None)] = setting(
        None, "Header in which trusted peers say the priority of a request, in place of the route's. Default `off`."
    )
    budget_field: values.OwnFieldName = setting(
        "X-Request-Timeout-Ms",
        "Header that tells upstreams how many milliseconds are left; trusted peers may shorten ours by it.",
    )


class Admin(FileRights):
    """The second listener: health, metrics and configuration. Keep it off the public network."""

    listen: Annotated[addresses.ListenAddress | None, OrOff(None)] = setting(
        "127.0.0.1:9900", "Address of the admin listener; `off`: none."
    )
    token: SecretStr | None = setting(None, "What requests that change something must bring. Better: `token_file`.")
    token_file: values.FilePath | None = setting(
        None, "File that holds the token for requests that change something. Without a token nothing can be changed."
    )


def check_server(server: Server, positions: Positions) -> Iterator[Problem]:
    """What is wrong although each field is right."""
    yield from check_listen(server.listen, positions)
    yield from check_limit(server.max_in_flight, ("server", "max_in_flight"), positions)
    overload = server.overload
    if overload.sheddable > overload.default:
        written = "sheddable" if positions.find(("server", "overload", "sheddable"))[2] else "default"
        yield positions.problem(
            ("server", "overload", written),
            f"`sheddable` ({shown_lag(overload.sheddable)}) is shed before `default` "
            f"({shown_lag(overload.default)}): its limit is the lower one",
        )
    if server.priority_field is not None and not server.trusted_proxies:
        message = "`priority_field` has no effect without `trusted_proxies`: nobody else is believed"
        yield positions.problem(("server", "priority_field"), message, key=True)


@functools.cache
def process_name() -> str:
    """The pseudonym of a gateway that has none in its file."""
    return f"gateway-{secrets.token_hex(3)}"


def server_settings(server: Server, previous: tuple[Listener, ...]) -> ServerSettings:
    """What it becomes. A listener that is the same as before keeps its TLS context. Raises `tls.TlsError` and OSError."""
    known = {listener: listener for listener in previous}
    return ServerSettings(
        listeners=tuple(listener(listen, known) for listen in server.listen),
        name=server.name or process_name(),
        trusted_proxies=Networks(server.trusted_proxies),
        limits=made_of(server.limits, Limits, upload_rate=max(0, server.limits.upload_rate)),
        timeouts=made_of(server.timeouts, ServerTimeoutsSnapshot),
        forwarded=ForwardedFields(server.forwarded),
        overload=made_of(server.overload, OverloadSettings),
        encoded_slash=server.paths.encoded_slash == "match",
        double_slash=server.paths.double_slash == "match",
    )


def field_names(server: Server) -> Names:
    """The names of fields that an operator can choose."""
    request_id, budget = server.request_id.header.encode("ascii"), server.budget_field.encode("ascii")
    priority = (server.priority_field or "").lower().encode("ascii")
    return Names(request_id.lower(), budget.lower(), request_id + b": ", budget + b": ", priority)
