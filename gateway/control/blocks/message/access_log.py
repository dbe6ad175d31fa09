"""The block `access_log:`, at the top of the file and in routes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, PlainValidator, ValidationInfo, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from gateway.control.words import units, values
from gateway.control.words.model import Model, setting
from gateway.control.words.values import choice, invalid, text_value

SECRET_FIELDS: Final = frozenset(
    (
        "authorization",
        "cookie",
        "proxy-authorization",
        "set-cookie",
        "x-api-key",
        "x-auth-token",
        "x-csrf-token",
        "x-amz-security-token",
    )
)
"""Header fields that are credentials."""

REDACTED: Final = (
    "access_token", "api_key", "apikey", "auth", "code", "id_token", "jwt", "key", "password", "refresh_token", "secret", "sig",
    "signature", "token", "x-amz-credential", "x-amz-security-token", "x-amz-signature",
)  # fmt: skip
"""Query parameters that are credentials in most services."""

BUILT_IN_SLOW: Final = 1.0
"""Seconds."""


def _resolve_file(value: Any, info: ValidationInfo) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 4096:
        raise invalid("expected the path of a file, or `-`")
    return value if value == "-" else str(Path((info.context or {}).get("base", Path()), value))


def _parse_logged(value: Any) -> str:
    if not isinstance(value, str):
        raise invalid("expected a header name")
    name = values.parse_field_name(value).lower()
    if name in SECRET_FIELDS:
        raise invalid("this header holds credentials and is never logged")
    return name


def _parse_parameter(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 128:
        raise invalid("expected the name of a query parameter")
    return value.lower()


def _parse_sample(text: str) -> float:
    share = units.parse_percent(text)
    if not 0 < share <= 1:
        raise units.UnitError("must be more than `0%` and at most `100%`; `access_log: off` logs nothing")
    return share


LogFile: TypeAlias = Annotated[str, PlainValidator(_resolve_file), WithJsonSchema({"type": "string", "minLength": 1})]
LoggedField: TypeAlias = Annotated[str, PlainValidator(_parse_logged), WithJsonSchema({"type": "string", "minLength": 1})]
Parameter: TypeAlias = Annotated[str, PlainValidator(_parse_parameter), WithJsonSchema({"type": "string", "minLength": 1})]
Sample: TypeAlias = Annotated[float, *text_value("a percentage such as `10%`", _parse_sample, pattern=units.PERCENT_PATTERN)]


class LoggedFields(Model):
    """Header fields that are written to the access log. Those that hold credentials never are."""

    request: tuple[LoggedField, ...] = setting((), "Request headers, as the client sent them.", max_length=32)
    response: tuple[LoggedField, ...] = setting((), "Response headers, as the upstream sent them.", max_length=32)


class AccessLog(Model):
    """One JSON line per request."""

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


class RouteLog(Model):
    """Which requests of a route are logged. Those that fail or are slow always are."""

    enabled: bool = setting(True, "`false` logs nothing, as `access_log: off` does.")
    sample: Sample | None = setting(None, "Share of the requests that is logged if nothing is wrong with them. Default `100%`.")
    slow: values.Duration | None = setting(None, "How long a request takes that is slow. Default `1s`.")


ROUTE_LOG_OFF: Final = RouteLog(enabled=False)
"""What `off` stands for."""


class OnOrOff:
    """Annotation: `true` stands for an empty block, `false` and `off` for none."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if value is False or value == values.OFF:
                return ROUTE_LOG_OFF
            if value is True or value == "on":
                return inner({})
            if isinstance(value, str):
                raise invalid("expected `true`, `off` or a block such as `{sample: 10%}`")
            return inner(value)

        return core_schema.no_info_wrap_validator_function(validate, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "boolean"}, {"const": values.OFF}, handler(schema)]}


RouteLogSetting: TypeAlias = Annotated[RouteLog | None, OnOrOff()]
