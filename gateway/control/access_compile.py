"""What `access_log:` means for a route, as templates; and the lines of `gateway explain` about it."""

from __future__ import annotations

from typing import Any, Final

import orjson

from gateway.access_log import AccessNames, AccessSettings
from gateway.control.access import AccessLog
from gateway.control.effective import Value, effective_log
from gateway.control.schema import Config
from gateway.control.units import format_duration
from gateway.proxy.access_log.line import ECS, FLAT, OTEL, key, line_template, refused_template

FORMATS: Final[dict[str, AccessNames]] = {"flat": FLAT, "otel": OTEL, "ecs": ECS}


def access_settings(config: Config, index: int | None, config_hash: str) -> AccessSettings | None:
    """The settings of route number `index` (None: of what no route takes); None when nothing is logged of it."""
    values = effective_log(config, index)
    if not values.on.value and index is not None:
        return None
    written = config.access_log or AccessLog()
    names = FORMATS[written.format]
    route = config.routes[index] if index is not None else None
    share = values.sample.value
    return AccessSettings(
        line=line_template(names, route.name if route else None, config_hash),
        refused=refused_template(names, config_hash),
        time_scale=names.time_scale,
        duration_scale=names.duration_scale,
        share=share,
        slow=values.slow.value,
        sampled=b"," + key(names, "sample_rate") + orjson.dumps(share),
        slow_mark=b"," + key(names, "slow") + b"true",
        fallback_key=b"," + key(names, "fallback_for"),
        breaker_key=b"," + key(names, "breaker"),
        attempts_key=b"," + key(names, "attempt_log"),
        backoff=b"," + key(names, "backoff_ms") + names.duration_form,
        optional=written.query or bool(written.headers.request or written.headers.response),
        query_key=b"," + key(names, "query") if written.query else b"",
        redact=frozenset(name.encode("utf-8") for name in written.redact),
        request_fields_key=b"," + key(names, "request_headers"),
        request_fields=frozenset(name.encode("ascii") for name in written.headers.request),
        response_fields_key=b"," + key(names, "response_headers"),
        response_fields=frozenset(name.encode("ascii") for name in written.headers.response),
    )


def fields_logged(config: Config) -> set[bytes]:
    """Lower-case names of request fields whose values the access log needs at hand."""
    return {b"user-agent", b"traceparent"} if config.access_log is not None else set()


def access_rows(config: Config, index: int) -> list[tuple[str, str, Value[Any]]]:
    """Setting, what it says, and its value with the place it was written at, for `gateway explain`."""
    values = effective_log(config, index)
    if config.access_log is None:
        return [("access_log", "off", Value(False, ("access_log",)))]
    if not values.on.value:
        return [("access_log", "off", values.on)]
    share = f"{values.sample.value * 100:g}%"
    return [
        ("access_log.sample", share if share == "100%" else f"{share}, and what fails or is slow", values.sample),
        ("access_log.slow", format_duration(values.slow.value), values.slow),
    ]
