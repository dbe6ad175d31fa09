"""The blocks `health:`, `ejection:` and `dns:` of an upstream, and the values in them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeAlias

from pydantic import Field, PlainValidator, WithJsonSchema

from gateway.control.words import addresses, units, values
from gateway.control.words.model import Model, setting
from gateway.control.words.values import choice, invalid, text_value

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


def _parse_share(text: str) -> float:
    share = units.parse_percent(text)
    if not 0 < share <= 1:
        raise units.UnitError("must be more than `0%` and at most `100%`")
    return share


def _parse_panic(text: str) -> float:
    return 0.0 if text == values.OFF else _parse_share(text)


def _parse_interval(text: str) -> float:
    seconds = units.parse_duration(text)
    if not 0.1 <= seconds <= 3600:
        raise units.UnitError("must be between `100ms` and `1h`")
    return seconds


_SHARE_PATTERN: Final = r"^[0-9.]+%$"

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
Share: TypeAlias = Annotated[float, *text_value("a share such as `50%`", _parse_share, pattern=_SHARE_PATTERN)]
Panic: TypeAlias = Annotated[float, *text_value("a share such as `50%`, or `off`", _parse_panic, pattern=r"^off$|^[0-9.]+%$")]
Interval: TypeAlias = Annotated[float, *text_value("a duration such as `5s`", _parse_interval, pattern=units.DURATION_PATTERN)]
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
        50,
        "Failures and answers of 500 and more (but 501 and 505) in a row that eject too; `0`: none do.",
        ge=0,
        le=10_000,
    )
    base: values.Duration = setting("30s", "How long the first ejection lasts; the n-th in a row n times as long.")
    max: values.Duration = setting("5m", "How long an ejection lasts at most.")
    max_ejected: Share = setting("50%", "Share of the endpoints that may be ejected, rounded up; the last one never is.")


class Dns(Model):
    """Endpoints whose host is a name: each address that it stands for becomes an endpoint of its own."""

    short_form = ("interval", {"type": "string", "pattern": units.DURATION_PATTERN})

    interval: Interval = setting(
        "30s", "How often names are looked up again. The system's resolver does not say how long an answer holds."
    )
