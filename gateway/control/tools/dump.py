"""The effective configuration as data, for the admin listener: every default filled in, every secret hidden."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, SecretStr

from gateway.control.blocks.registry import ROUTE_BLOCKS
from gateway.control.load import Loaded
from gateway.control.resolved import ResolvedRoute
from gateway.control.words.addresses import Address, EndpointUrl
from gateway.control.words.inherit import Policy
from gateway.control.words.model import HIDDEN
from gateway.control.words.values import Condition


def effective_config(loaded: Loaded) -> dict[str, Any]:
    """The configuration with defaults merged into the routes. Times in seconds, sizes in bytes; values of headers that are
    set are hidden, because they may be credentials."""
    config = loaded.config
    names = ("version", "include", "server", "admin", "access_log", "redis", "upstreams")
    dumped = {name: _plain(getattr(config, name)) for name in names}
    return {"hash": loaded.hash, **dumped, "routes": [_route(route) for route in loaded.resolved.routes]}


def _route(route: ResolvedRoute) -> dict[str, Any]:
    dumped = {name: _plain(getattr(route.written, name)) for name in ("name", "match", "upstream")}
    for block in ROUTE_BLOCKS:
        found = route.blocks[block.name]
        dumped[block.name] = _plain(found.value) if block.dump is None else block.dump(found)
    inherited = type(route.written).__mro__[1].model_fields  # type: ignore[attr-defined]
    return {name: value for name, value in dumped.items() if value is not None or name in inherited}


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, Policy) and value is value.off:
        return None
    if isinstance(value, BaseModel):
        return {field.alias or name: _plain(getattr(value, name)) for name, field in type(value).model_fields.items()}
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Address):
        return str(value)
    if isinstance(value, EndpointUrl):
        return value.url
    if isinstance(value, Condition):
        return value.shown
    return value if isinstance(value, (int, float, str, bool)) or value is None else str(value)
