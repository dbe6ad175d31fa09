"""One exchange as a line of the access log. Never Authorization, never Cookie, never a body.

A line is one `%` of a template that was made when the configuration was compiled: the names of the fields, and all that a
route fixes, stand in it already. A dict and a JSON encoder cost three times as much per request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from random import random
from time import time
from typing import Final
from urllib.parse import unquote_to_bytes

import orjson

from gateway.access_log import AccessNames, AccessSettings
from gateway.errors import Failed, Failure
from gateway.headers import TOKEN
from gateway.proxy.client import Client
from gateway.proxy.exchange import Exchange, Tries

FLAT: Final = AccessNames()
"""Times in seconds since the epoch, durations in milliseconds."""

OTEL: Final = AccessNames(
    {
        "ts": "timestamp",
        "request_id": "gateway.request_id",
        "client_ip": "client.address",
        "method": "http.request.method",
        "scheme": "url.scheme",
        "host": "server.address",
        "path": "url.path",
        "query": "url.query",
        "proto": "network.protocol.version",
        "status": "http.response.status_code",
        "failure": "error.type",
        "detail": "gateway.detail",
        "flags": "gateway.flags",
        "route": "gateway.route",
        "upstream": "gateway.upstream",
        "upstream_addr": "gateway.upstream.address",
        "attempts": "gateway.attempts",
        "retries": "gateway.retries",
        "attempt_log": "gateway.attempt_log",
        "fallback_for": "gateway.fallback_for",
        "breaker": "gateway.breaker",
        "bytes_in": "http.request.body.size",
        "bytes_out": "http.response.body.size",
        "coding": "gateway.coding",
        "duration_ms": "http.server.request.duration",
        "queue_ms": "gateway.queue.duration",
        "backoff_ms": "gateway.backoff.duration",
        "connect_ms": "gateway.connect.duration",
        "upstream_ms": "gateway.upstream.duration",
        "overhead_ms": "gateway.overhead.duration",
        "ttfb_ms": "gateway.first_byte.duration",
        "user_agent": "user_agent.original",
        "sample_rate": "gateway.sample_rate",
        "slow": "gateway.slow",
        "config": "gateway.config",
        "request_headers": "http.request.header",
        "response_headers": "http.response.header",
    },
    protocol=b"1.%d",
    duration_scale=1.0,
    duration_form=b"%.6f",
)
"""The attributes of OpenTelemetry's HTTP conventions; durations in seconds."""

ECS: Final = AccessNames(
    {
        **OTEL.names,
        "ts": "@timestamp",
        "request_id": "http.request.id",
        "trace_id": "trace.id",
        "span_id": "span.id",
        "client_ip": "client.ip",
        "host": "url.domain",
        "proto": "http.version",
        "failure": "error.code",
        "detail": "error.message",
        "upstream_addr": "gateway.upstream_address",
        "bytes_in": "http.request.body.bytes",
        "bytes_out": "http.response.body.bytes",
        "duration_ms": "event.duration",
        "queue_ms": "gateway.queue_duration",
        "backoff_ms": "gateway.backoff_duration",
        "connect_ms": "gateway.connect_duration",
        "upstream_ms": "gateway.upstream_duration",
        "overhead_ms": "gateway.overhead_duration",
        "ttfb_ms": "gateway.first_byte_duration",
        "request_headers": "gateway.request_headers",
        "response_headers": "gateway.response_headers",
    },
    protocol=b"1.%d",
    time_scale=1000.0,
    time_form=b"%.0f",
    duration_scale=1e9,
    duration_form=b"%.0f",
)
"""The Elastic Common Schema, dotted: milliseconds since the epoch, durations in nanoseconds."""

_NULL: Final = b"null"
REMEMBERED: Final = 256
"""Longest `User-Agent` that is remembered as it is written."""
_UNSAFE: Final = re.compile(rb'["\\\x00-\x1f\x7f-\xff]').search
"""What cannot stand in a JSON text as it is."""
LONGEST_METHOD: Final = 32
LONGEST_TARGET: Final = 1024
LONGEST_DETAIL: Final = 200
"""Bytes that are written of a request that was refused, and of the reason."""
_REQUEST_LIKE: Final = re.compile(
    rb"(" + TOKEN + rb"++) ++((?:/|\*|[A-Za-z][A-Za-z0-9+.\-]*+://)[^\r\n]*+)|([A-Z]++)(?: ++|\Z)"
)
_BEHIND_PATH: Final = re.compile(rb"[?#].*| HTTP/[0-9.]*\Z", re.DOTALL)
_CREDENTIALS: Final = re.compile(rb"^([A-Za-z][A-Za-z0-9+.\-]*+://)[^/]*@")
_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\u2028\u2029]")
"""Valid in JSON, and yet a terminal obeys some of them and some readers take others for the end of a line."""
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?", re.DOTALL)
_FAILURES: Final = {failure: (b'"%b"' % failure.code.encode(), failure.flag.encode()) for failure in Failure}
_NO_FAILURE: Final = (_NULL, b"-")


def line_template(names: AccessNames, route: str | None, config: str) -> bytes:
    """The template of a route's lines, in the order of the values in `access_line`."""
    ms = names.duration_form
    fields = (
        ("ts", names.time_form),
        ("request_id", b'"%b"'),
        ("trace_id", b"%b"),
        ("span_id", b"%b"),
        ("client_ip", b'"%b"'),
        ("method", b'"%b"'),
        ("scheme", b'"%b"'),
        ("host", b'"%b"'),
        ("path", b'"%b"'),
        ("proto", b'"' + names.protocol + b'"'),
        ("status", b"%d"),
        ("failure", b"%b"),
        ("flags", b'"%b"'),
        ("upstream", b"%b"),
        ("upstream_addr", b"%b"),
        ("attempts", b"%d"),
        ("retries", b"%d"),
        ("bytes_in", b"%d"),
        ("bytes_out", b"%d"),
        ("coding", b"%b"),
        ("duration_ms", ms),
        ("queue_ms", ms),
        ("upstream_ms", ms),
        ("overhead_ms", ms),
        ("ttfb_ms", ms),
        ("user_agent", b'"%b"'),
        ("route", fixed(route)),
        ("config", fixed(config)),
    )
    return b"{" + b",".join(key(names, name) + form for name, form in fields) + b"%b}\n"


def refused_template(names: AccessNames, config: str) -> bytes:
    """The template of `refused_line`."""
    fields = (
        ("ts", names.time_form),
        ("request_id", b'"%b"'),
        ("client_ip", b'"%b"'),
        ("method", b"%b"),
        ("scheme", b'"%b"'),
        ("path", b"%b"),
        ("status", b"%d"),
        ("failure", b"%b"),
        ("detail", b"%b"),
        ("flags", b'"%b"'),
        ("config", fixed(config)),
    )
    return b"{" + b",".join(key(names, name) + form for name, form in fields) + b"}\n"


def key(names: AccessNames, name: str) -> bytes:
    """The field's name with what follows it in JSON."""
    return orjson.dumps(names.names.get(name, name)) + b":"


def fixed(value: object) -> bytes:
    """A value that stands in a template."""
    return orjson.dumps(value).replace(b"%", b"%%")


def access_line(x: Exchange, log: AccessSettings, seconds: float, overhead: float) -> bytes | None:
    """The line of a finished exchange that took `seconds`, of which the gateway `overhead`; None when it is not in the sample.

    The query string is left out unless the operator asked for it: it is where secrets hide in URLs.
    """
    failure = x.failure
    extra = b""
    if seconds >= log.slow and x.tunnel is None:
        extra = log.slow_mark
    elif log.share < 1.0 and failure is None and x.status < 500:
        if random() >= log.share:
            return None
        extra = log.sampled
    if log.optional:
        extra += b"".join(_optional(x, log))
    route = x.route
    upstream = x.upstream
    if route is not None and upstream is not route.upstream:
        if upstream is None:
            upstream = route.upstream
        elif route.upstream is not None:
            extra += log.fallback_key + _quoted(route.upstream.name)
    endpoint = x.attempt.endpoint if x.attempt is not None else None
    if endpoint is not None and endpoint.guard is not None:
        extra += log.breaker_key + _quoted(endpoint.guard.state.value)
    tries = x.tries
    if tries is not None:
        extra += _tried(tries, log)
    if x.connect_seconds:
        extra += log.connect % (x.connect_seconds * log.duration_scale)
    head = x.head
    client = x.client
    body = x.request_body
    target = head.target
    if failure is not None and (x.detail or route is None):
        extra += log.detail_key + _quoted((x.detail or failure.title)[:LONGEST_DETAIL])
    if route is None:
        target = shown_target(target)
    at = target.find(b"?")
    if at >= 0:
        target = target[:at]
    if _UNSAFE(target) is not None:
        target = escaped(target)
    agent, trace, span = b"", _NULL, _NULL
    if values := head.fields.values:
        agent = values.get(b"user-agent", b"")
        if agent:
            agent = _agent(agent) if len(agent) <= REMEMBERED else escaped(agent)
        if b"traceparent" in values and (match := _TRACEPARENT.fullmatch(values[b"traceparent"])) is not None:
            trace, span = b'"%b"' % match[1], b'"%b"' % match[2]
    code, flag = _NO_FAILURE if failure is None else _FAILURES[failure]
    scale = log.duration_scale
    return log.line % (
        time() * log.time_scale,
        x.request_id,
        trace,
        span,
        client.peer_text if x.client_ip is None else _address(x.client_ip),
        head.method,
        client.scheme,
        x.host,
        target,
        head.minor,
        x.status,
        code,
        flag,
        _NULL if upstream is None else _quoted(upstream.name),
        _NULL if endpoint is None else _quoted(endpoint.label),
        x.attempts,
        0 if tries is None else tries.retries,
        0 if body is None else body.received,
        x.response_bytes,
        b'"%b"' % x.coding if x.coding else _NULL,
        seconds * scale,
        x.queued * scale,
        (x.upstream_seconds + x.connect_seconds) * scale,
        overhead * scale,
        (x.responded_at - x.started if x.responded_at else seconds) * scale,
        agent,
        extra,
    )


def _tried(tries: Tries, log: AccessSettings) -> bytes:
    waited = log.backoff % (tries.backoff * log.duration_scale) if tries.backoff else b""
    return log.attempts_key + orjson.dumps(tries.log) + waited


def refused_line(client: Client, failed: Failed, request_id: bytes, received: bytes, log: AccessSettings) -> bytes:
    """The line of a connection that was answered before a request could be read from it. `received`: the beginning of what
    it sent."""
    failure = failed.failure
    code, flag = _FAILURES[failure]
    method, target = asked_for(received)
    return log.refused % (
        time() * log.time_scale,
        request_id,
        client.peer_text,
        b'"%b"' % method if method else _NULL,
        client.scheme,
        b'"%b"' % escaped(target) if target else _NULL,
        failure.status,
        code,
        _quoted((failed.detail or failure.title)[:LONGEST_DETAIL]),
        flag,
    )


def asked_for(received: bytes) -> tuple[bytes, bytes]:
    """Method and target, without query, as far as they can be read from what is no valid request.

    Empty for what does not look like a request line: where framing went wrong it may be anything, the content of a body too.
    """
    match = _REQUEST_LIKE.match(received)
    if match is None:
        return b"", b""
    method, target, word = match.groups()
    return (method or word)[:LONGEST_METHOD], shown_target(target or b"")


def shown_target(target: bytes) -> bytes:
    """The target of a refused request as it may be logged: bounded, without query, fragment and credentials."""
    return _CREDENTIALS.sub(rb"\1***@", _BEHIND_PATH.sub(b"", target))[:LONGEST_TARGET]


def escaped(value: bytes) -> bytes:
    """What stands between the quotes of a JSON text: bytes that are not UTF-8 as `\\xff`, controls of terminals escaped."""
    text = orjson.dumps(value.decode("utf-8", "backslashreplace"))[1:-1].decode("utf-8")
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode("utf-8")


@lru_cache(1024)
def _address(address: IPv4Address | IPv6Address) -> bytes:
    return str(address).encode("ascii")


@lru_cache(1024)
def _agent(value: bytes) -> bytes:
    """Remembered: there are few, and to look for what must be escaped in 100 bytes takes four times as long."""
    return escaped(value) if _UNSAFE(value) is not None else value


@lru_cache(4096)
def _quoted(label: str) -> bytes:
    return b'"%b"' % escaped(label.encode("utf-8", "surrogateescape"))


# -- what is off by default --------------------------------------------------------------------------------------------


def _optional(x: Exchange, log: AccessSettings) -> Iterator[bytes]:
    """The query string and the header fields that the operator asked for."""
    if log.query_key:
        query = x.head.target.partition(b"?")[2]
        yield b'%b"%b"' % (log.query_key, escaped(redacted(query, log.redact)))
    if log.request_fields:
        yield b"%b{%b}" % (log.request_fields_key, _fields(x.head.fields.block, log.request_fields, log.redact))
    if log.response_fields and x.answer is not None:
        yield b"%b{%b}" % (log.response_fields_key, _fields(x.answer.fields.block, log.response_fields, log.redact))


def _fields(block: bytes, names: frozenset[bytes], redact: frozenset[bytes]) -> bytes:
    """The members of a JSON object: the fields of these names, of repeated ones a list as one text (RFC 9110 5.3)."""
    found: dict[bytes, bytes] = {}
    for line in block.split(b"\r\n"):
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in names:
            value = value.strip(b" \t")
            before, mark, query = value.partition(b"?")
            if mark:
                value = before + mark + redacted(query, redact)
            found[name] = found[name] + b", " + value if name in found else value
    return b",".join(b'"%b":"%b"' % (name, escaped(value)) for name, value in found.items())


def redacted(query: bytes, names: frozenset[bytes]) -> bytes:
    """The query string with `***` for the values of these parameters, however their names are spelt."""
    if not names or b"=" not in query:
        return query
    return b"&".join(_redacted(pair, names) for pair in query.split(b"&"))


def _redacted(pair: bytes, names: frozenset[bytes]) -> bytes:
    name, mark, _ = pair.partition(b"=")
    decoded = name.replace(b"+", b" ")
    for _ in range(2):  # some services decode twice
        decoded = unquote_to_bytes(decoded)
    return name + b"=***" if mark and decoded.strip().lower() in names else pair
