"""The block `redis:`: where the counts of rate limits are kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias
from urllib.parse import unquote

from pydantic import SecretStr

from gateway.control.reading.nodes import Positions
from gateway.control.reading.problems import Problem
from gateway.control.words import values
from gateway.control.words.model import Model, made_of, setting
from gateway.control.words.values import invalid, text_value
from gateway.snapshot import RedisSettings

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
    if path and (
        not (path.isascii() and path.isdigit() and len(path) <= 4) or int(path) > 9999 or (kind == "cluster" and int(path))
    ):
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


def redis_settings(redis: Redis) -> RedisSettings | None:
    """The store outside the process; None without one. Raises ValueError when the password file cannot be read."""
    url = redis.url
    if not url.scheme:
        return None
    return made_of(
        url,
        RedisSettings,
        ca=str(redis.ca) if redis.ca is not None else "",
        username=redis.username or url.username,
        password=redis.secret("password") or url.password,
        timeout=redis.timeout,
        prefix=redis.prefix.encode("ascii"),
        shown=str(url),
    )


def check_redis(redis: Redis, positions: Positions) -> Iterator[Problem]:
    """What is wrong with the store although each field is right."""
    given = [bool(redis.url.password), redis.password is not None, redis.password_file is not None]
    if sum(given) > 1:
        where = "password_file" if redis.password_file is not None else "password"
        yield positions.problem(("redis", where), "the password stands in more than one place", key=True)
    if redis.url.username and redis.username is not None:
        yield positions.problem(("redis", "username"), "the URL holds a user too: only one of them", key=True)
    if redis.ca is not None:
        if not redis.url.tls:
            yield positions.problem(("redis", "ca"), "`ca` has no effect without TLS", "TLS is `rediss://`", key=True)
        elif not redis.ca.is_file():
            yield positions.problem(("redis", "ca"), "`ca`: there is no such file")
    if redis.timeout > 1:
        yield positions.problem(("redis", "timeout"), "every request would wait that long: at most `1s`")
    if redis.password_file is not None:
        try:
            redis_settings(redis)
        except ValueError as error:
            yield positions.problem(("redis", "password_file"), str(error))
