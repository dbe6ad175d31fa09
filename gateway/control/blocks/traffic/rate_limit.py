"""The blocks `rate_limit:` and `redis:` of the configuration, and the values in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import unquote

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SecretStr
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from gateway.control.words import addresses, units, values
from gateway.control.words.keys import KeyParts
from gateway.control.words.model import Model, required, setting
from gateway.control.words.values import choice, invalid, text_value
from gateway.policies.rate_limit import LARGEST_LIMIT

QUOTA_PATTERN: Final = r"^[0-9]+(/[0-9a-z]+)?$"

_QUOTA: Final = re.compile(r"([0-9]{1,12}) ?(?:/ ?([0-9a-z]+))?")
_PERIODS: Final = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minute": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
    "d": 86_400.0,
    "day": 86_400.0,
}


@dataclass(frozen=True, slots=True)
class Quota:
    """`100`, or `100/min` with its period in seconds."""

    limit: int
    per: float | None

    def __str__(self) -> str:
        return str(self.limit) if self.per is None else f"{self.limit}/{units.format_duration(self.per)}"


def _parse_quota(text: str) -> Quota:
    match = _QUOTA.fullmatch(text)
    if match is None:
        raise invalid("expected a number, or one with a period such as `100/min`")
    limit, period = int(match[1]), match[2]
    if not 1 <= limit <= LARGEST_LIMIT:
        raise invalid(f"a limit is between 1 and {LARGEST_LIMIT}", "to refuse everything, use `respond`" if not limit else "")
    if period is None:
        return Quota(limit, None)
    per = _PERIODS.get(period)
    if per is None:
        try:
            per = units.parse_duration(period)
        except units.UnitError:
            hint = values.did_you_mean(period, _PERIODS)
            raise invalid("the period is `s`, `min`, `h`, `day` or a duration such as `15m`", hint) from None
    if per < _SHORTEST:
        raise invalid("a period is at least `100ms`")
    return Quota(limit, per)


_SHORTEST: Final = 0.1


def _parse_period(text: str) -> float:
    per = _PERIODS.get(text) or units.parse_duration(text)
    if per < _SHORTEST:
        raise units.UnitError("a period is at least `100ms`")
    return per


QuotaValue: TypeAlias = Annotated[
    Quota, *text_value("a number or `100/min`", _parse_quota, type=["integer", "string"], pattern=QUOTA_PATTERN)
]
Period: TypeAlias = Annotated[float, *text_value("a period such as `1m`", _parse_period)]


class OneOrSeveral:
    """Annotation: a single block or text stands for a list of one."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def listed(value: Any) -> Any:
            return (value,) if isinstance(value, (str, dict)) else value

        return core_schema.no_info_before_validator_function(listed, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        listed = handler(schema)
        item = next(option["items"] for option in listed.get("anyOf", [listed]) if "items" in option)
        return {"anyOf": [item, listed]}


# -- rate_limit --------------------------------------------------------------------------------------------------------

_QUOTA_SCHEMA: Final[JsonSchemaValue] = {"type": ["integer", "string"], "pattern": QUOTA_PATTERN}


class Cost(Model):
    """How much of the limit a request takes: from a request field, within bounds."""

    short_form = ("default", {"type": "integer"})

    header: values.FieldName | None = setting(None, "Request header that says it, as a whole number.")
    query: str | None = setting(None, "Query parameter that says it.", min_length=1, max_length=128)
    default: int = setting(1, "Where the request does not say, or says no number.", ge=1, le=LARGEST_LIMIT)
    min: int = setting(1, "Less counts as this.", ge=0, le=LARGEST_LIMIT)
    max: int | None = setting(None, "More counts as this. Needed with `header` and `query`.", ge=1, le=LARGEST_LIMIT)


class Override(Model):
    """Another limit for one key."""

    short_form = ("limit", {"type": "integer"})

    limit: int = required("Units per `per` of the limit around it.", ge=1, le=LARGEST_LIMIT)
    burst: int | None = setting(None, "Depth of the bucket, with `token_bucket`.", ge=1, le=LARGEST_LIMIT)


class Exempt(Model):
    """Requests that a limit does not count."""

    cidrs: tuple[addresses.Network, ...] = setting((), "Client addresses and ranges.")
    keys: tuple[str, ...] = setting((), "Values of the key; those of a combined key joined by `|`.")


class Candidate(Model):
    """A limit that is evaluated beside the live one and only counted: to try out a change."""

    short_form = ("limit", _QUOTA_SCHEMA)

    limit: QuotaValue = required("As in the limit around it.")
    per: Period | None = setting(None, "Default: as in the limit around it.")
    burst: int | None = setting(None, "Depth of the bucket, with `token_bucket`.", ge=1, le=LARGEST_LIMIT)
    algorithm: Annotated[str, *choice("sliding_window", "sliding_log", "token_bucket")] | None = setting(
        None, "Default: as in the limit around it."
    )


class RateLimit(Model):
    """One limit: so many requests per period and key."""

    short_form = ("limit", _QUOTA_SCHEMA)

    name: values.Name = setting("default", "Name in response headers, problems and metrics. Unique on a route.")
    limit: QuotaValue = required("`100` with `per`, or `100/min`.")
    per: Period | None = setting(None, "The period, `100ms` to `24h`.")
    burst: int | None = setting(
        None, "With `token_bucket`: how much may come at once. Default: as `limit`.", ge=1, le=LARGEST_LIMIT
    )
    algorithm: Annotated[str, *choice("sliding_window", "sliding_log", "token_bucket")] = setting(
        "sliding_window",
        "`sliding_window`: two counters, approximate; `sliding_log`: exact, `limit` at most 1000; "
        "`token_bucket`: GCRA, a steady rate with `burst`.",
    )
    key: KeyParts = setting(
        ("client_ip",),
        "What is counted by: `client_ip` (IPv6 by /64), `host`, `method`, `route`, `header:NAME`, `query:NAME`, "
        "`cookie:NAME`, `path:PARAMETER`, `constant:TEXT`, or a list of these.",
        min_length=1,
        max_length=8,
    )
    missing: Annotated[str, *choice("share", "skip", "deny")] = setting(
        "share", "For requests without a part of the key: `share` one count, `skip` the limit, or `deny` with 429."
    )
    cost: Cost = setting({}, "How much a request takes: a number, or from a request field. Default 1.")
    overrides: dict[str, Override] = setting(
        {}, "Value of the key ▸ another limit. Values of a combined key are joined by `|`."
    )
    exempt: Exempt = setting({}, "Requests that are not counted.")
    mode: Annotated[str, *choice("enforce", "shadow", "off")] = setting(
        "enforce", "`enforce`; `shadow`: evaluated and counted, but nothing is refused; `off`."
    )
    candidate: Candidate | None = setting(None, "A limit to try out beside this one: only counted.")
    on_store_error: Annotated[str, *choice("local", "allow", "deny")] = setting(
        "local",
        "While Redis is in trouble: `local` counts in process with `limit` ÷ `redis.expected_instances`, `allow`, or `deny` "
        "with 503.",
    )
    headers: Annotated[str, *choice("draft", "legacy", "none")] = setting(
        "draft", "Response headers: `RateLimit-Policy` and `RateLimit` (IETF draft), `X-RateLimit-*`, or none."
    )


# -- redis -------------------------------------------------------------------------------------------------------------

_SCHEMES: Final = ("redis", "unix", "redis+sentinel", "redis+cluster")
_NODE: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")
_SERVICE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """The store of rate limits: one server, a group behind sentinels, or a cluster. Empty `scheme`: none."""

    scheme: str = ""
    tls: bool = False
    nodes: tuple[tuple[str, int], ...] = ()
    path: str = ""
    database: int = 0
    service: str = ""
    username: str = ""
    password: str = ""

    def __str__(self) -> str:
        """The URL without credentials."""
        if not self.scheme:
            return ""
        if self.path:
            return f"unix://{self.path}"
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes)
        scheme = {"redis": "redis", "sentinel": "redis+sentinel", "cluster": "redis+cluster"}[self.scheme]
        if self.tls:
            scheme = scheme.replace("redis", "rediss", 1)
        service = f"/{self.service}" if self.service else ""
        return f"{scheme}://{hosts}{service}" + (f"/{self.database}" if self.database else "")


def _parse_store(text: str) -> StoreUrl:
    if not text:
        return StoreUrl()
    scheme, separator, rest = text.partition("://")
    tls = scheme.startswith("rediss")
    plain = scheme.replace("rediss", "redis", 1)
    if not separator or plain not in _SCHEMES or len(text) > 2048 or not text.isprintable():
        hint = values.did_you_mean(scheme, (*_SCHEMES, "rediss", "rediss+sentinel", "rediss+cluster")) if separator else ""
        raise invalid(
            "expected `redis://`, `rediss://`, `unix://`, `redis+sentinel://` or `redis+cluster://` and an address", hint
        )
    if plain == "unix":
        if not rest.startswith("/"):
            raise invalid("a Unix socket is written `unix:///path`")
        return StoreUrl("unix", path=rest)
    if "?" in rest or "#" in rest:
        raise invalid("options are fields of `redis:`, not of the URL")
    credentials, _, location = rest.rpartition("@")
    username, _, password = credentials.partition(":")
    hosts, _, path = location.partition("/")
    kind = plain.removeprefix("redis").removeprefix("+") or "redis"
    nodes = tuple(_node(host, 26379 if kind == "sentinel" else 6379) for host in hosts.split(","))
    if kind == "redis" and len(nodes) > 1:
        raise invalid("several addresses need `redis+cluster://` or `redis+sentinel://`")
    service = ""
    if kind == "sentinel":
        service, _, path = path.partition("/")
        if _SERVICE.fullmatch(service) is None:
            raise invalid("behind the sentinels stands the name of the master: `redis+sentinel://host:26379/mymaster`")
    if path and (not path.isdigit() or int(path) > 9999 or (kind == "cluster" and int(path))):
        raise invalid("a cluster has only database 0" if kind == "cluster" else "behind the address stands a database number")
    return StoreUrl(kind, tls, nodes, "", int(path or 0), service, unquote(username), unquote(password))


def _node(text: str, port: int) -> tuple[str, int]:
    match = _NODE.fullmatch(text)
    if match is None or not 0 < int(match[3] or port) < 65536:
        raise invalid("an address is `host` or `host:port`")
    return match[1] or match[2], int(match[3] or port)


StoreAddress: TypeAlias = Annotated[
    StoreUrl,
    *text_value(
        "a URL such as `redis://host:6379/0`", _parse_store, pattern=r"^(rediss?(\+(sentinel|cluster))?://.+|unix:///.+)?$"
    ),
]


class Redis(Model):
    """Where the counts of rate limits are kept, so that they hold across all gateways. Without it each gateway counts alone."""

    short_form = ("url", {"type": "string"})

    url: StoreAddress = setting(
        "",
        "`redis://host:6379/0`, `rediss://…` (TLS), `unix:///path`, `redis+sentinel://host:26379,host:26379/mymaster/0`, "
        "`redis+cluster://host:6379,host:6379`. Empty: counts are kept in process.",
    )
    username: str | None = setting(None, "User, if not in the URL.", max_length=256)
    password: SecretStr | None = setting(None, "Password, if not in the URL. Better: `password_file`.")
    password_file: values.FilePath | None = setting(None, "File that holds the password.")
    ca: values.FilePath | None = setting(None, "PEM file of the authorities to trust with TLS. Default: those of the system.")
    timeout: values.Duration = setting("20ms", "How long a check may take; then `on_store_error` of the limit decides.")
    expected_instances: int = setting(
        1, "How many gateways share the limits: with `on_store_error: local` each takes this part of them.", ge=1, le=10_000
    )
    prefix: str = setting("gateway", "What all keys begin with.", pattern=r"^[A-Za-z0-9._:-]{1,64}$")
