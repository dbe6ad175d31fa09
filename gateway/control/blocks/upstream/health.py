"""The blocks of an upstream that say which endpoints are used: `health:`, `ejection:`, `slow_start:`, `panic:` and `dns:`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, TypeAlias

from pydantic import Field, PlainValidator, WithJsonSchema

from gateway.control.blocks.block import Asked, Block, Making, Row, UpstreamFacts, line, slot
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.words import addresses, units, values
from gateway.control.words.addresses import EndpointUrl
from gateway.control.words.inherit import Resolved
from gateway.control.words.model import Model, made_of, setting
from gateway.control.words.units import format_duration
from gateway.control.words.values import OrOff, choice, duration_within, invalid, text_value
from gateway.endpoints import Endpoint
from gateway.headers import HOP_BY_HOP, parse_address
from gateway.policies.ejection import EjectionSettings
from gateway.policies.health import Thresholds
from gateway.snapshot import ProbeSettings

_STATUS: Final = re.compile(r"([1-5][0-9]{2})(?: ?- ?([1-5][0-9]{2}))?")
_PATH: Final = re.compile(r"/[!-~]*")


def _parse_statuses(value: Any) -> tuple[int, int]:
    match = _STATUS.fullmatch(str(value)) if isinstance(value, (str, int)) else None
    if match is None:
        wild = re.fullmatch(r"([1-5])xx", str(value), re.IGNORECASE)
        raise invalid(
            "expected a status such as `200` or a range such as `200-399`",
            f"did you mean `{wild[1]}00-{wild[1]}99`?" if wild else "",
        )
    low, high = int(match[1]), int(match[2] or match[1])
    if low > high:
        raise invalid("the range is empty", f"did you mean `{high}-{low}`?")
    return low, high


def _parse_path(text: str) -> str:
    if len(text) > 2048 or _PATH.fullmatch(text) is None or "#" in text:
        raise invalid("a path starts with `/` and is printable ASCII, percent-encoded where needed; a query may follow")
    return text


StatusRange: TypeAlias = Annotated[
    tuple[int, int],
    PlainValidator(_parse_statuses),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 100, "maximum": 599},
                {"type": "string", "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$"},
            ]
        }
    ),
]
StatusRanges: TypeAlias = Annotated[tuple[StatusRange, ...], Field(min_length=1, max_length=32)]
ProbePath: TypeAlias = Annotated[str, *text_value("a path such as `/healthz`", _parse_path, pattern="^/")]
Panic: TypeAlias = Annotated[values.Share, OrOff(0.0)]
Interval: TypeAlias = Annotated[float, *duration_within("100ms", "1h")]
"""Seconds, 0.1 to 3600."""


class Health(Model):
    """Active probes: each endpoint is asked at intervals whether it is well, by every worker."""

    short_form = ("path", {"type": "string", "pattern": "^/"})

    type: Annotated[str, *choice("http", "tcp")] = setting(
        "http", "`http`: GET the path; `tcp`: open a connection (with TLS for `https` endpoints) and close it."
    )
    path: ProbePath = setting("/", "What is asked for; a query may follow.")
    host: addresses.HostName | None = setting(
        None, "`Host` of the probe. Default: `host` of the upstream where it is a name, else that of the endpoint's URL."
    )
    headers: dict[values.FieldName, values.FieldValue] = setting({}, "Further headers of the probe.", max_length=64)
    interval: Interval = setting("5s", "From one probe to the next, plus or minus 20 %; a fifth of it while in doubt.")
    timeout: Interval = setting("1s", "For the whole probe.")
    statuses: StatusRanges = setting(("200-399",), "Statuses that mean well: `200`, or ranges such as `200-399`.")
    body: str | None = setting(None, "Text that the first 64 KiB of the body must contain.", min_length=1, max_length=1024)
    fall: int = setting(3, "Failed probes in a row after which the endpoint is unhealthy.", ge=1, le=100)
    rise: int = setting(2, "Successful probes in a row after which it is healthy again.", ge=1, le=100)


class Ejection(Model):
    """Passive ejection: an endpoint whose requests fail in a row is left alone for a while."""

    failures: int = setting(5, "Failures in a row: no response, or one of `statuses`.", ge=1, le=1000)
    statuses: StatusRanges = setting(
        ("502-504",), "Statuses that count as failures. 500 is not among them: it is mostly about the request."
    )
    errors: int = setting(
        50, "Failures and answers of 500 and more (but 501 and 505) in a row that eject too; `0`: none do.", ge=0, le=10_000
    )
    base: values.Duration = setting("30s", "How long the first ejection lasts; the n-th in a row n times as long.")
    max: values.Duration = setting("5m", "How long an ejection lasts at most.")
    max_ejected: values.Share = setting(
        "50%", "Share of the endpoints that may be ejected: rounded down, at least one, never the last."
    )


class Dns(Model):
    """Endpoints whose host is a name: each address that it stands for becomes an endpoint of its own."""

    short_form = ("interval", {"type": "string", "pattern": units.DURATION_PATTERN})

    interval: Interval = setting(
        "30s", "How often names are looked up again. The system's resolver does not say how long an answer holds."
    )


def _check_health(health: Health, loc: Loc, positions: Positions) -> Iterator[Problem]:
    for name in ("path", "host", "headers", "statuses", "body"):
        if health.type == "tcp" and positions.written((*loc, name)) is not None:
            yield positions.problem((*loc, name), f"`{name}` has no effect with `type: tcp`", key=True)
    for name in health.headers:
        place = (*loc, "headers", name)
        if name.lower() == "host":
            yield positions.problem(place, "use `host` of `health`", key=True)
        elif name.lower() == "content-length" or name.lower().encode("ascii") in HOP_BY_HOP:
            yield positions.problem(place, f"a probe cannot have `{name}`: it is about the framing", key=True)


def _check_ejection(ejection: Ejection, loc: Loc, positions: Positions) -> Iterator[Problem]:
    if ejection.base > ejection.max:
        yield positions.problem(loc, "`base` is longer than `max`")


def _check_dns(found: Resolved[Dns | None], facts: UpstreamFacts, positions: Positions) -> Iterator[Problem]:
    if found.value is not None and found.origin is not None and not any(map(is_name, facts.urls)):
        yield positions.problem(found.origin, "`dns` has no effect: no endpoint has a name as its host", key=True)


def probe_settings(health: Health | None, host: str) -> ProbeSettings | None:
    """How the endpoints are asked; None: not at all."""
    if health is None:
        return None
    fixed = "" if host in ("preserve", "endpoint") else host
    return made_of(
        health,
        ProbeSettings,
        tcp=health.type == "tcp",
        target=health.path,
        host=health.host or fixed,
        fields=tuple(health.headers.items()),
        thresholds=Thresholds(health.fall, health.rise),
        body=(health.body or "").encode("utf-8"),
    )


def ejection_settings(ejection: Ejection | None) -> EjectionSettings | None:
    """When endpoints are ejected; None: never."""
    if ejection is None:
        return None
    return made_of(
        ejection,
        EjectionSettings,
        statuses=frozenset(status for low, high in ejection.statuses for status in range(low, high + 1)),
        longest=max(ejection.base, ejection.max),
    )


def is_name(url: EndpointUrl) -> bool:
    """The host is a name that can stand for several addresses."""
    return not url.path and parse_address(url.host) is None


def endpoint_at(name: Endpoint, address: str) -> Endpoint:
    """The endpoint for one of the addresses that the host of `name` stands for. It has no pool yet."""
    return Endpoint(
        name.url,
        host=name.host,
        port=name.port,
        path="",
        tls=name.tls,
        weight=name.weight,
        backup=name.backup,
        authority=name.authority,
        address=address,
    )


def _compile_health(found: Resolved[Health | None], facts: UpstreamFacts, making: Making) -> dict[str, Any]:
    return {"probe": probe_settings(found.value, facts.host)}


def _probes_in_words(health: Health | None) -> str:
    if health is None:
        return "off"
    what = "connect" if health.type == "tcp" else f"GET {health.path}"
    times = f"every {format_duration(health.interval)} for {format_duration(health.timeout)}"
    return f"{what}, {times}; fall {health.fall}, rise {health.rise}"


def _ejection_in_words(ejection: Ejection | None) -> str:
    if ejection is None:
        return "off"
    times = f"for {format_duration(ejection.base)}, {format_duration(ejection.max)} at most"
    return f"after {ejection.failures} failures in a row, {times}; {ejection.max_ejected:.0%} of the endpoints at most"


def _rows_dns(found: Resolved[Dns | None], facts: UpstreamFacts, asked: Asked) -> list[Row]:
    if not any(map(is_name, facts.urls)):
        return []
    text = "off" if found.value is None else f"every {format_duration(found.value.interval)}"
    return [("dns", text, found.place(asked.positions))]


BLOCKS: Final = (
    Block[UpstreamFacts]("health", check_written=_check_health, compile=_compile_health, rows=line("health", _probes_in_words)),
    Block[UpstreamFacts]("ejection", check_written=_check_ejection, rows=line("ejection", _ejection_in_words)),
    Block[UpstreamFacts]("slow_start", rows=line("slow_start", lambda seconds: format_duration(seconds) if seconds else "off")),
    Block[UpstreamFacts]("panic", rows=line("panic", lambda share: f"below {share:.0%}" if share else "off")),
    Block[UpstreamFacts](
        "dns", check=_check_dns, compile=slot("dns_interval", lambda dns: 0.0 if dns is None else dns.interval), rows=_rows_dns
    ),
)
