"""The blocks `server:` and `admin:`."""

from __future__ import annotations

from typing import Annotated

from pydantic import SecretStr

from gateway.control.blocks.traffic.max_in_flight import MaxInFlight, Overload
from gateway.control.words import addresses, values
from gateway.control.words.model import Model, required, setting
from gateway.control.words.values import OneOrMany, OrOff, choice


class ListenTls(Model):
    """The certificate a listener shows."""

    certificate: values.FilePath = required("PEM file with the certificate and the chain behind it.")
    key: values.FilePath = required("PEM file with the private key.")
    key_password: SecretStr | None = setting(None, "Password of the private key. Better: `key_password_file`.")
    key_password_file: values.FilePath | None = setting(None, "File that holds the password of the private key.")
    min_version: Annotated[str, *choice("1.2", "1.3")] = setting("1.2", "Oldest TLS version that is accepted: `1.2` or `1.3`.")


class Listen(Model):
    """One address to listen on."""

    short_form = ("address", {"type": "string"})

    address: addresses.ListenAddress = required("`host:port`, `:8080` (all interfaces), `[::1]:80` or `unix:/path`.")
    tls: ListenTls | None = setting(None, "Serve HTTPS here.")


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
    tunnels: int = setting(1_000, "Most upgraded connections (WebSocket) at a time.", ge=0, le=1_000_000)
    upload_rate: values.BodySize = setting(
        "240B",
        "Bytes per second a client must upload on average, after a grace of 5 s beyond `body_idle`; less is 408. `off`: any.",
    )
    rate_limit_keys: int = setting(
        100_000,
        "Most keys of rate limits that are counted in process, at about 300 bytes each; the oldest leave first.",
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

    Dot segments (`..`) are always refused with 400; path parameters (`;a=b`) never count when routes are matched.
    """

    encoded_slash: Annotated[str, *choice("match", "reject")] = setting(
        "match", "`match`: `%2F` and `\\` count as `/` when routes are matched; `reject`: such a path is 400."
    )
    double_slash: Annotated[str, *choice("match", "reject")] = setting(
        "match", "`match`: `//` counts as `/` when routes are matched; `reject`: such a path is 400."
    )


class RequestId(Model):
    """The id that ties together the log lines of one request."""

    header: values.OwnFieldName = setting("X-Request-ID", "Header that carries it; a trusted peer's value is kept.")


class Server(Model):
    """The side that clients see."""

    listen: Annotated[tuple[Listen, ...], OneOrMany()] = setting(
        ({"address": ":8080"},), "Where to listen.", min_length=1, max_length=64
    )
    name: values.ServerName | None = setting(
        None, "Our name in `Via` and `Proxy-Status`; must differ between gateways behind one another. Default: random."
    )
    trusted_proxies: tuple[addresses.Network, ...] = setting(
        (), "Addresses and ranges of proxies in front of us. Only they are believed about client address, id and time budget."
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


class Admin(Model):
    """The second listener: health, metrics and configuration. Keep it off the public network."""

    listen: Annotated[addresses.ListenAddress | None, OrOff(None)] = setting(
        "127.0.0.1:9900", "Address of the admin listener; `off`: none."
    )
    token: SecretStr | None = setting(None, "What requests that change something must bring. Better: `token_file`.")
    token_file: values.FilePath | None = setting(
        None, "File that holds the token for requests that change something. Without a token nothing can be changed."
    )
