"""Which rate limits a request would be asked for, and by which key."""

from __future__ import annotations

from typing import Final

from gateway.control.blocks.traffic.rate_limit import RateLimit
from gateway.control.blocks.traffic.rate_limit_compile import candidate_settings, in_words, settings_of
from gateway.control.effective import effective
from gateway.control.load import Loaded
from gateway.control.matches import Request
from gateway.control.words.keys import Part

_LONGEST: Final = 40

Row = tuple[str, str, str]


def limit_rows(loaded: Loaded, index: int, request: Request, parameters: tuple[tuple[str, bytes], ...]) -> list[Row]:
    """Name, value and place of every limit of route number `index`, for this request."""
    found = effective(loaded.config, index).rate_limit
    if not found.value:
        place = "default" if found.origin is None else str(loaded.positions.at(found.origin))
        return [("rate_limit", "off", place)]
    assert found.origin is not None
    rows: list[Row] = []
    for number, limit in enumerate(found.value):
        place = str(loaded.positions.at((*found.origin, number)))
        shared = ", shared by all routes that inherit it" if found.origin[0] == "defaults" else ""
        mode = "" if limit.mode == "enforce" else f", {limit.mode}"
        name = f"rate_limit.{limit.name}"
        rows.append((name, f"{in_words(settings_of(limit))}, {limit.algorithm}{mode}{shared}", place))
        rows.append((f"{name}.key", _key(loaded, index, limit, request, dict(parameters)), ""))
        cost = limit.cost.header or limit.cost.query
        if cost or limit.cost.default != 1:
            rows.append(
                (f"{name}.cost", f"{cost}, {limit.cost.min} to {limit.cost.max}" if cost else str(limit.cost.default), "")
            )
        if limit.candidate is not None:
            rows.append((f"{name}.candidate", f"{in_words(candidate_settings(limit, limit.candidate))}, only counted", ""))
    rows.append(_where(loaded))
    return rows


def _where(loaded: Loaded) -> tuple[str, str, str]:
    """Who counts."""
    config, written = loaded.config, loaded.positions.written
    if config.redis.url.scheme or config.server.workers == 1:
        return "rate_limit counts", str(config.redis.url) or "in process", str(written(("redis", "url")) or "default")
    return "rate_limit counts", "in the supervisor, for all workers", str(written(("server", "workers")) or "default")


def _key(loaded: Loaded, index: int, limit: RateLimit, request: Request, parameters: dict[str, bytes]) -> str:
    parts = []
    for part in limit.key:
        if part.kind == "client_ip":
            parts.append("client_ip (of the connection, or what a trusted proxy says)")
            continue
        value = _value(part, loaded.config.routes[index].name, request, parameters)
        if value is None:
            effect = {"share": "one count for all such requests", "skip": "not limited", "deny": "denied"}[limit.missing]
            parts.append(f"{part} is missing: {effect}")
        elif part.kind == "constant":
            parts.append(str(part))
        else:
            shown = repr(value[:_LONGEST])[1:] + ("…" if len(value) > _LONGEST else "")
            parts.append(f"{part} = {shown}")
    return " and ".join(parts)


def _value(part: Part, route: str, request: Request, parameters: dict[str, bytes]) -> bytes | None:
    name = part.name.encode("utf-8")
    if part.kind == "header":
        return request.headers.get(name)
    if part.kind == "query":
        return request.query.get(name)
    if part.kind == "cookie":
        pairs = (pair.strip().partition(b"=") for pair in request.headers.get(b"cookie", b"").split(b";"))
        return next((value for found, _, value in pairs if found == name), None)
    if part.kind == "path":
        return parameters.get(part.name)
    return {"host": request.host, "method": request.method, "route": route.encode("ascii")}.get(part.kind, name)
