"""The models of `rate_limit:`, and the values in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from pydantic import Field
from pydantic.json_schema import JsonSchemaValue

from gateway.control.words import addresses, units, values
from gateway.control.words.keys import KeyParts
from gateway.control.words.model import Model, required, setting
from gateway.control.words.values import Form, OrOff, choice, invalid, text_value
from gateway.policies.rate_limit import LARGEST_LIMIT

QUOTA_PATTERN: Final = r"^[0-9]+(/[0-9a-z]+)?$"

_QUOTA: Final = re.compile(r"([0-9]{1,99}) ?(?:/ ?([0-9a-z]+))?")
_PERIODS: Final = {
    "s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0,
    "d": 86_400.0, "day": 86_400.0,
}  # fmt: skip


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
    if not limit:
        raise invalid("a limit is at least 1", "to refuse everything, use `respond`")
    if limit > LARGEST_LIMIT:
        raise invalid(
            f"a limit is at most {LARGEST_LIMIT}",
            "`RateLimit-Policy` can say no larger number (RFC 9651, 3.3.1); count in a larger unit, or over a shorter period",
        )
    try:
        return Quota(limit, None if period is None else _parse_period(period))
    except units.UnitError:
        hint = values.did_you_mean(period, _PERIODS)
        raise invalid("the period is `s`, `min`, `h`, `day` or a duration such as `15m`", hint) from None


def _parse_period(text: str) -> float:
    per = _PERIODS.get(text) or units.parse_duration(text)
    if per < 0.1:
        raise invalid("a period is at least `100ms`")
    return per


QuotaValue: TypeAlias = Annotated[
    Quota, *text_value("a number or `100/min`", _parse_quota, type=["integer", "string"], pattern=QUOTA_PATTERN)
]
Period: TypeAlias = Annotated[float, *text_value("a period such as `1m`", _parse_period)]


def _one_or_several(listed: JsonSchemaValue) -> JsonSchemaValue:
    item = next(option["items"] for option in listed.get("anyOf", [listed]) if "items" in option)
    return {"anyOf": [item, listed]}


ONE_OR_SEVERAL: Final = Form(lambda value: (value,) if isinstance(value, (str, dict)) else value, _one_or_several)
"""A single block or text stands for a list of one."""

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
        "`sliding_window`: exact up to a `limit` of 100, approximate above (two counters); `sliding_log`: exact, `limit` at "
        "most 1000; `token_bucket`: GCRA, a steady rate with `burst`.",
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


RateLimits: TypeAlias = Annotated[
    Annotated[tuple[RateLimit, ...], Field(min_length=1, max_length=16)] | None, ONE_OR_SEVERAL, OrOff(())
]
