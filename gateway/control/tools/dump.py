"""The effective configuration as data, for the admin listener: every default filled in, every secret hidden."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, SecretStr

from gateway.control.blocks.traffic.retry import Hedge
from gateway.control.effective import Edits, Retries, effective
from gateway.control.load import Loaded
from gateway.control.words.addresses import Address, EndpointUrl
from gateway.control.words.values import Condition

HIDDEN = "***"


def effective_config(loaded: Loaded) -> dict[str, Any]:
    """The configuration with defaults merged into the routes. Times in seconds, sizes in bytes; values of headers that are
    set are hidden, because they may be credentials."""
    config = loaded.config
    dumped = {
        name: _plain(getattr(config, name))
        for name in ("version", "include", "server", "admin", "access_log", "redis", "upstreams")
    }
    dumped["routes"] = [_route(loaded, index) for index in range(len(config.routes))]
    return {"hash": loaded.hash, **dumped}


def _route(loaded: Loaded, index: int) -> dict[str, Any]:
    route, values = loaded.config.routes[index], effective(loaded.config, index)
    written = _plain(route)
    return {
        **{name: value for name, value in written.items() if value is not None},
        "timeout": {name: getattr(values, name).value for name in ("request", "attempt", "connect", "idle")},
        "retry": _retry(values.retry.value),
        "hedge": _hedge(values.hedge.value),
        "limits": {"body": values.max_body.value},
        "request_fields": _edits(values.request_edits),
        "response_fields": _edits(values.response_edits),
        "upgrades": list(values.upgrades.value),
        "server_timing": values.server_timing.value,
        "access_log": {name: getattr(values.access_log, name).value for name in ("on", "sample", "slow")},
        "priority": values.priority.value,
        "rate_limit": [_plain(limit) for limit in values.rate_limit.value],
    }


def _retry(retries: Retries | None) -> dict[str, Any] | None:
    if retries is None:
        return None
    return {
        "max_retries": retries.max_retries.value,
        "on": list(retries.on.value),
        "backoff": {"base": retries.base.value, "max": retries.max.value},
        "replay": retries.replay.value,
        "idempotency_key": retries.idempotency_key.value,
    }


def _hedge(hedge: Hedge | None) -> dict[str, Any] | None:
    return None if hedge is None else {"after": hedge.after.seconds or str(hedge.after), "max": hedge.max}


def _edits(edits: Edits) -> dict[str, Any]:
    return {
        "set": dict.fromkeys(edits.set, HIDDEN),
        "add": {name: HIDDEN for name, _ in edits.add},
        "remove": [removed.value for removed in edits.remove],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return HIDDEN
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
