"""What pydantic says of a value, in the operator's words and with a cure."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.control.advice.cures import cure
from gateway.control.advice.places import shape, shown_value, within
from gateway.control.advice.tables import read_table
from gateway.control.json_schema import known_fields
from gateway.control.reading.nodes import Loc, Mapping, Node, Positions, Scalar, Sequence
from gateway.control.reading.problems import Problem, hide_secrets

_PLAIN_TEXTS: Final = {
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "int_parsing_size": "the number is too large",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "bool_parsing": "expected `true` or `false`",
    "bool_type": "expected `true` or `false`",
    "string_type": "expected text",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "dict_type": "expected a mapping (`name: value`)",
    "model_type": "expected a mapping (`name: value`)",
    "tuple_type": "expected a list (`[a, b]`)",
    "string_pattern_mismatch": "not valid here",
}
_SHAPES: Final = {
    ("routes", "*", "match"): "match: {path: /**}",
    ("routes",): "routes: [{name: app, match: {path: /**}, upstream: app}]",
    ("upstreams",): 'upstreams: {app: {endpoints: ["http://127.0.0.1:9000"]}}',
    ("upstreams", "*"): 'app: {endpoints: ["http://127.0.0.1:9000"]}',
    ("upstreams", "*", "health"): "health: {path: /healthz, interval: 5s}",
    ("upstreams", "*", "health", "statuses"): "statuses: [200-399]",
    ("upstreams", "*", "circuit_breaker", "statuses"): "statuses: [500, 502, 503, 504]",
    ("upstreams", "*", "dns"): "dns: 30s",
    ("upstreams", "*", "sticky"): "sticky: SERVERID",
    ("server", "listen", "*", "tls"): "tls: {certificate: tls.crt, key: tls.key}",
    ("upstreams", "*", "tls"): "tls: {ca: ca.pem}",
    ("upstreams", "*", "circuit_breaker"): "circuit_breaker: {failure_rate: 50%}",
    ("upstreams", "*", "ejection"): "ejection: {failures: 5}",
    ("upstreams", "*", "max_in_flight"): "max_in_flight: 200",
    ("server", "max_in_flight"): "max_in_flight: 2000",
    ("routes", "*", "max_in_flight"): "max_in_flight: 20",
    ("routes", "*", "hedge"): "hedge: p95",
    ("routes", "*", "retry"): "retry: 2",
    ("routes", "*", "paths"): "match: {path: /api/**}",
    ("routes", "*", "rate_limit"): "rate_limit: 10/s",
    ("routes", "*", "redirect"): 'redirect: {to: "https://app.example.com", status: 308, keep_path: true}',
    ("routes", "*", "respond"): "respond: {status: 404, body: not here}",
    ("routes", "*", "request_fields"): "request_fields: {set: {X-A: b}}",
    ("routes", "*", "response_fields"): "response_fields: {set: {X-A: b}}",
    ("routes", "*", "rewrite_prefix"): "rewrite_prefix: {from: /api, to: /v1}",
    ("routes", "*", "limits"): "limits: {body: 10MiB}",
    ("routes", "*", "access_log"): "access_log: {sample: 10%}",
    ("routes", "*", "decompress_request"): "decompress_request: on",
    ("routes", "*", "request_fields", "set"): "set: {X-A: b}",
    ("upstreams", "*", "endpoints"): 'endpoints: ["http://127.0.0.1:9000"]',
    ("upstreams", "*", "max_in_flight", "queue"): "queue: 50",
    ("upstreams", "*", "slow_start"): "slow_start: 30s",
    ("server", "trusted_proxies"): "trusted_proxies: [10.0.0.0/8]",
    ("admin",): 'admin: {listen: "127.0.0.1:9900"}',
    ("routes", "*", "upgrades"): "upgrades: [websocket]",
    ("redis",): 'redis: "redis://127.0.0.1:6379"',
    ("server", "timeouts"): "timeouts: {header: 10s, keep_alive: 75s}",
}
"""What a block looks like that has been written in a form that tells nothing of what was meant."""

_BRIEF: Final = frozenset({"connect", "base", "max", "max_wait", "slow"})
"""Times that are mostly written in milliseconds."""
_EXAMPLES: Final = {
    "version": "version: 1",
    "routes": _SHAPES["routes",],
    "name": "name: app",
    "match": "match: {path: /**}",
    "endpoints": 'endpoints: ["http://10.0.0.1:8000"]',
    "url": 'url: "http://10.0.0.1:8000"',
    "address": 'address: ":8443"',
    "certificate": "certificate: tls.crt",
    "key": "key: tls.key",
    "to": 'to: "https://app.example.com"',
    "from": "from: /api",
    "limit": "limit: 10/s",
    "after": "after: p95",
    "cookie": "cookie: SERVERID",
}
"""What a field looks like that is missing."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is explained."""

    data: Any
    """The values as they were written."""
    positions: Positions
    base: Path


@functools.cache
def _reasons() -> dict[tuple[str, ...], str]:
    return {tuple(place.split(".")): reason for place, reason in read_table("bounds.yaml").items()}


def reason_for(loc: Loc) -> str:
    """Why there is a bound at a place; empty where nothing is said."""
    steps = tuple(step for step in shape(loc) if step != "*")
    steps = ("routes", *steps[1:]) if steps[:1] == ("defaults",) else steps
    reasons = _reasons()
    return next((reasons[steps[at:]] for at in range(len(steps)) if steps[at:] in reasons), "")


def explained(error: dict[str, Any], source: Source) -> Problem | None:
    """One pydantic error; None when it only follows from one already reported."""
    positions = source.positions
    kind, loc = str(error["type"]), tuple(error["loc"])
    on_key = bool(loc) and loc[-1] == "[key]"
    loc = loc[:-1] if on_key else loc
    if kind == "missing":
        return _missing(loc, positions)
    node = positions.find(loc)[0]
    if isinstance(node, Scalar) and node.broken:
        return None
    if kind == "too_short" and (not isinstance(node, Sequence) or node.items):
        return None  # each of its entries is reported already
    written = _as_written(loc, positions)
    context = error.get("ctx", {})
    name = next((str(step) for step in reversed(written) if isinstance(step, str)), "")
    message = context.get("message") if kind == "invalid" else _bounds(kind, context, loc) or _PLAIN_TEXTS.get(kind)
    message = message or "not valid here"
    hint = str(context.get("hint", "")) if kind == "invalid" else ""
    if isinstance(node, Scalar) and isinstance(node.value, str) and not node.written:
        hint = _number_hint(node.value, name, loc) or hint
    if isinstance(node, Scalar) and node.written:
        # What stands for `${…}` may be secret, and a hint may quote it.
        hint = f"after `{node.written[:80]}` was replaced" if not node.written.startswith("${file") else ""
    elif not on_key and (not hint or hint.startswith("as text") or (hint.startswith("did you mean") and _listed(node))):
        hint = _hint(kind, written, source, name, context) or hint
    return positions.problem(loc, f"`{name}`: {message}" if name else message, hint, key=on_key)


def example_of(name: str) -> str:
    """What a field looks like; empty for the names that are free."""
    shapes = {place[-1]: shape for place, shape in _SHAPES.items() if place[-1] not in ("*", "statuses")}
    return _EXAMPLES.get(name) or shapes.get(name, "")


def _as_written(loc: Loc, positions: Positions) -> Loc:
    """The steps that are in the file; a single value that stands for a list is no entry of one."""
    written = positions.written_part(loc)
    while written and isinstance(written[-1], int) and not isinstance(positions.find(written[:-1])[0], Sequence):
        written = written[:-1]
    return written


def _number_hint(text: str, name: str, loc: Loc) -> str:
    """What a number without a unit is, where its place tells."""
    if name == "body" and text == "0":
        return "write `body: off` for no limit, or `body: 0B` for no body"
    if (
        len(text) <= 3
        and text.isascii()
        and text.isdigit()
        and 20 <= int(text) < 1000
        and (name in _BRIEF or loc == ("redis", "timeout"))
    ):
        return f"did you mean `{text}ms`?"
    return ""


def _missing(loc: Loc, positions: Positions) -> Problem | None:
    block, name = loc[:-1], str(loc[-1])
    node = positions.find(block)[0]
    if isinstance(node, Scalar) and node.broken:
        return None
    examples = _EXAMPLES | ({"to": "to: /v1"} if "rewrite_prefix" in block else {})
    if "max_in_flight" in block:
        examples["limit"] = "limit: 200"
    hint = f"write `{examples[name]}`" if name in examples else ""
    return positions.problem(block, f"the field `{name}` is missing{within(block, positions)}", hint)


def _listed(node: Node) -> bool:
    """Whether a text has several parts."""
    return isinstance(node, Scalar) and isinstance(node.value, str) and any(mark in node.value for mark in ",|; ")


def _hint(kind: str, loc: Loc, source: Source, name: str, context: dict[str, Any]) -> str:
    """A cure that has been tried out; else what the block looks like."""
    node = source.positions.find(loc)[0]
    if "…" in (value := shown_value(node, name)) or hide_secrets(f"{name}: {value}") != f"{name}: {value}":
        found = ""
    else:
        found = cure(source.data, loc, source.base, off="le" in context or "ge" in context)
    if found:
        return f"write {found}"
    bound = next((context[bound] for bound in ("le", "ge") if bound in context), None)
    if bound is not None:
        return f"write `{name}: {bound}` or {'less' if 'le' in context else 'more'}"
    if kind == "string_type" and isinstance(node, Scalar) and isinstance(node.value, bool):
        return f'as text it is written `"{str(node.value).lower()}"`'
    place = shape(loc)
    place = ("routes", "*", *place[1:]) if place[:1] == ("defaults",) else place
    if place == ("routes", "*", "upstream") and isinstance(node, (Mapping, Sequence)):
        return "a route names one upstream: `upstream: app`; its endpoints stand under `upstreams:` at the top of the file"
    if place in _SHAPES and (kind != "invalid" or context.get("message", "").startswith(("expected", "not a", "a redirect"))):
        return f"write `{_SHAPES[place]}`"
    fields = known_fields(loc) if kind in ("model_type", "dict_type") else []
    return f"its fields are {', '.join(fields[:12])}" if fields else ""


def _bounds(kind: str, context: dict[str, Any], loc: Loc) -> str | None:
    for bound, words in (("ge", "at least"), ("le", "at most"), ("gt", "more than"), ("lt", "less than")):
        if bound in context:
            reason = reason_for(loc) if bound in ("le", "lt") else ""
            return f"must be {words} {context[bound]}" + (f": {reason}" if reason else "")
    if kind in ("too_long", "string_too_long") and "max_length" in context:
        reason = reason_for(loc)
        return f"must not be longer than {context['max_length']}" + (f": {reason}" if reason else "")
    return None
