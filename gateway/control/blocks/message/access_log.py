"""The block `access_log:`, at the top of the file and in routes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import orjson
from pydantic import PlainValidator, ValidationInfo, WithJsonSchema

from gateway.access_log import AccessNames, AccessSettings
from gateway.control.blocks.block import Asked, Block, Blocks, Making, RouteFacts, Row
from gateway.control.words import units, values
from gateway.control.words.file_rights import FileRights
from gateway.control.words.inherit import Policy, Resolved
from gateway.control.words.model import Model, setting
from gateway.control.words.units import format_duration
from gateway.control.words.values import OrOff, choice, invalid, switched, text_value
from gateway.proxy.access_log.line import ECS, FLAT, OTEL, key, line_template, refused_template

SECRET_FIELDS: Final = (
    "authorization", "cookie", "proxy-authorization", "set-cookie", "x-amz-security-token", "x-api-key", "x-auth-token",
    "x-csrf-token",
)  # fmt: skip
"""Header fields that are credentials."""

REDACTED: Final = (
    "access_token", "api_key", "apikey", "auth", "code", "id_token", "jwt", "key", "password", "refresh_token", "secret", "sig",
    "signature", "token", "x-amz-credential", "x-amz-security-token", "x-amz-signature",
)  # fmt: skip
"""Query parameters that are credentials in most services."""


_NO_FILES: Final = frozenset({"stdout", "stderr", "console", "json", "combined", "common", "syslog"})
"""What other programs call destinations and formats."""


def _resolve_file(value: Any, info: ValidationInfo) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 4096:
        raise invalid("expected the path of a file, or `-`")
    if value.lower() in _NO_FILES:
        raise invalid("this would be a file of this name: standard output is `-`", 'write `access_log: {file: "-"}`')
    return value if value == "-" else str(Path((info.context or {}).get("base", Path()), value))


def _parse_logged(text: str) -> str:
    name = values.parse_field_name(text).lower()
    if name in SECRET_FIELDS:
        raise invalid("this header holds credentials and is never logged")
    return name


def _parse_parameter(text: str) -> str:
    if not 1 <= len(text) <= 128:
        raise invalid("expected the name of a query parameter")
    return text.lower()


def _parse_sample(text: str) -> float:
    share = units.parse_percent(text)
    if not 0 < share <= 1:
        raise units.UnitError("must be more than `0%` and at most `100%`; `access_log: off` logs nothing")
    return share


LogFile: TypeAlias = Annotated[str, PlainValidator(_resolve_file), WithJsonSchema({"type": "string", "minLength": 1})]
LoggedField: TypeAlias = Annotated[str, *text_value("a header name", _parse_logged, minLength=1)]
Parameter: TypeAlias = Annotated[str, *text_value("the name of a query parameter", _parse_parameter, minLength=1)]
Sample: TypeAlias = Annotated[float, *text_value("a percentage such as `10%`", _parse_sample, pattern=units.PERCENT_PATTERN)]


class LoggedFields(Model):
    """Header fields that are written to the access log. Those that hold credentials never are."""

    request: tuple[LoggedField, ...] = setting((), "Request headers, as the client sent them.", max_length=32)
    response: tuple[LoggedField, ...] = setting((), "Response headers, as the upstream sent them.", max_length=32)


class AccessLog(FileRights):
    """One JSON line per request. `mode` (default `0640`), `owner` and `group` are those of the file."""

    short_form = ("file", {"type": "string"})

    file: LogFile = setting("-", "File to append to, opened anew on SIGUSR1; `-`: standard output.")
    format: Annotated[str, *choice("flat", "otel", "ecs")] = setting(
        "flat", "Names of the fields: short ones, those of OpenTelemetry, or those of the Elastic Common Schema."
    )
    query: bool = setting(False, "Log the query string too. It often holds secrets.")
    redact: tuple[Parameter, ...] = setting(
        REDACTED, "Query parameters whose values are written as `***`. A list replaces the built-in one.", max_length=256
    )
    headers: LoggedFields = setting({}, "Header fields to log.")


class RouteLog(Policy):
    """Which requests of a route are logged. Those that fail or are slow always are."""

    # Whoever writes the block wants a log.
    nearest = frozenset({"enabled"})

    enabled: bool = setting(True, "`false` logs nothing, as `access_log: off` does.")
    sample: Sample = setting("100%", "Share of the requests that is logged if nothing is wrong with them. Default `100%`.")
    slow: values.Duration = setting("1s", "How long a request takes that is slow. Default `1s`.")


ROUTE_LOG_OFF: Final = RouteLog(enabled=False)
"""What `off` stands for."""


RouteLogSetting: TypeAlias = Annotated[RouteLog | None, OrOff(ROUTE_LOG_OFF), switched("{sample: 10%}")]


FORMATS: Final[dict[str, AccessNames]] = {"flat": FLAT, "otel": OTEL, "ecs": ECS}


def access_settings(chosen: RouteLog, name: str | None, making: Making) -> AccessSettings:
    """How requests of a route are logged; without a name: those that no route takes."""
    written: AccessLog = making.file["access_log"].value or AccessLog()
    names, share = FORMATS[written.format], chosen.sample
    return AccessSettings(
        line=line_template(names, name, making.config_hash),
        refused=refused_template(names, making.config_hash),
        time_scale=names.time_scale,
        duration_scale=names.duration_scale,
        connect=b"," + key(names, "connect_ms") + names.duration_form,
        backoff=b"," + key(names, "backoff_ms") + names.duration_form,
        share=share,
        slow=chosen.slow,
        sampled=b"," + key(names, "sample_rate") + orjson.dumps(share),
        slow_mark=b"," + key(names, "slow") + b"true",
        detail_key=b"," + key(names, "detail"),
        fallback_key=b"," + key(names, "fallback_for"),
        breaker_key=b"," + key(names, "breaker"),
        attempts_key=b"," + key(names, "attempt_log"),
        optional=written.query or bool(written.headers.request or written.headers.response),
        query_key=b"," + key(names, "query") if written.query else b"",
        redact=frozenset(name.encode("utf-8") for name in written.redact),
        request_fields_key=b"," + key(names, "request_headers"),
        request_fields=frozenset(name.encode("ascii") for name in written.headers.request),
        response_fields_key=b"," + key(names, "response_headers"),
        response_fields=frozenset(name.encode("ascii") for name in written.headers.response),
    )


def _compile(found: Resolved[RouteLog], facts: RouteFacts, making: Making) -> dict[str, Any]:
    return {"access_log": access_settings(found.value, facts.name, making) if found.value.enabled else None}


def fields_logged(file: Blocks) -> Iterator[bytes]:
    """Lower-case names of request fields whose values the access log needs at hand."""
    if file["access_log"].value is not None:
        yield from (b"user-agent", b"traceparent")


def _rows(found: Resolved[RouteLog], facts: RouteFacts, asked: Asked) -> list[Row]:
    top = asked.file["access_log"]
    if top.value is None or not found.value.enabled:
        return [("access_log", "off", (top if top.value is None else found).place(asked.positions))]
    share = f"{found.value.sample * 100:g}%"
    sampled = share if share == "100%" else f"{share}, and what fails or is slow"
    return [
        ("access_log.sample", sampled, found["sample"].place(asked.positions)),
        ("access_log.slow", format_duration(found.value.slow), found["slow"].place(asked.positions)),
    ]


def _dump(found: Resolved[RouteLog]) -> dict[str, Any]:
    return {"on": found.value.enabled, "sample": found.value.sample, "slow": found.value.slow}


BLOCK: Final = Block[RouteFacts]("access_log", RouteLog(), compile=_compile, rows=_rows, dump=_dump)
