"""`rate_limit:` ▸ what the data plane asks per request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from ipaddress import ip_network
from typing import Any

from gateway.control.blocks.block import Making, RouteFacts
from gateway.control.blocks.server.redis import Redis
from gateway.control.blocks.traffic.rate_limit_model import Candidate, Override, RateLimit
from gateway.control.words.inherit import Resolved
from gateway.control.words.keys import Part, compiled_key
from gateway.control.words.units import format_duration
from gateway.headers import Networks
from gateway.metrics.rate_limit import CANDIDATE_OUTCOMES, OUTCOMES, SHADOW_OUTCOMES, LimitMetrics
from gateway.policies.rate_limit import (
    Algorithm,
    CostSettings,
    Headers,
    KeyDigest,
    LimitSettings,
    Missing,
    OnStoreError,
    policy_item,
    rule_of,
)
from gateway.request_key import KeyPart
from gateway.snapshot import Limit, LimitTier

_STEADY = frozenset({KeyPart.CLIENT_IP, KeyPart.HOST, KeyPart.ROUTE, KeyPart.CONSTANT})


def settings_of(limit: RateLimit) -> LimitSettings:
    """The numbers of a limit."""
    return LimitSettings(limit.limit.limit, limit.limit.per or limit.per or 0.0, Algorithm(limit.algorithm), limit.burst or 0)


def override_settings(limit: RateLimit, override: Override) -> LimitSettings:
    """The numbers of an override; the rest is as in the limit around it."""
    return replace(settings_of(limit), limit=override.limit, burst=override.burst or 0)


def candidate_of(limit: RateLimit, candidate: Candidate) -> RateLimit:
    """A candidate as a limit of its own; what it does not say is as in the limit around it."""
    live = settings_of(limit)
    algorithm = candidate.algorithm or limit.algorithm
    burst = (candidate.burst or live.burst or None) if algorithm == Algorithm.TOKEN_BUCKET.value else None
    numbers = {"limit": candidate.limit, "per": candidate.per or live.per, "burst": burst, "algorithm": algorithm}
    return limit.model_copy(update={**numbers, "name": f"{limit.name}.candidate", "mode": "shadow", "overrides": {}})


def most_cost(limit: RateLimit) -> int:
    """The most that a request can take."""
    return max(limit.cost.default, limit.cost.max or 0)


def key_value(key: Sequence[Part], written: str) -> list[bytes]:
    """The parts of a key as an operator writes its value. Raises ValueError."""
    texts = written.split("|") if len(key) > 1 else [written]
    if len(texts) != len(key):
        raise ValueError(f"the key has {len(key)} parts: write their values joined by `|`")
    return [_part_value(part, text) for part, text in zip(key, texts, strict=True)]


def _part_value(part: Part, text: str) -> bytes:
    """One part of a key as the data plane sees it. Raises ValueError."""
    if part.kind != "client_ip":
        return (part.name if part.kind == "constant" else text).encode("utf-8")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("the key is a client address, such as `192.0.2.7` or `2001:db8:1:2::/64`") from None
    if network.version == 4:
        if network.prefixlen != 32:
            raise ValueError("one address, not a range; for ranges there is `exempt.cidrs`")
        return network.network_address.packed
    if network.prefixlen not in (64, 128):
        raise ValueError("IPv6 clients are counted by /64: write `2001:db8:1:2::/64`")
    return network.network_address.packed[:8]


def limit_id(scope: str, name: str, settings: LimitSettings) -> bytes:
    """What the counts of a limit are kept under. Other numbers go on with the same counts; another algorithm or period does
    not, since its counts mean something else."""
    text = "\0".join((scope, name, settings.algorithm.value, repr(settings.per)))
    return blake2b(text.encode("utf-8"), digest_size=6).hexdigest().encode("ascii")


def compile_limits(found: Resolved[tuple[RateLimit, ...]], facts: RouteFacts, making: Making) -> dict[str, Any]:
    """The limits of a route. Those of `defaults` are each one limit for all routes that inherit it."""
    redis: Redis = making.file["redis"].value
    # The gateways that cannot see each other while the store is in trouble.
    share = making.workers * (redis.expected_instances if redis.url.scheme else 1)
    scope = facts.name if found.origin is not None and found.origin[: len(facts.loc)] == facts.loc else ""
    limits: list[Limit] = []
    for limit in found.value:
        if limit.mode == "off":
            continue
        enforce = limit.mode == "enforce"
        counted = making.metrics.limit(facts.name, limit.name, OUTCOMES if enforce else SHADOW_OUTCOMES)
        limits.append(_limit(limit, scope, share, counted, candidate=False))
        if limit.candidate is not None:
            tried = candidate_of(limit, limit.candidate)
            counted = making.metrics.limit(facts.name, tried.name, CANDIDATE_OUTCOMES)
            limits.append(_limit(tried, scope, share, counted, candidate=True))
    return {"rate_limit": tuple(limits) or None, "limit_template": _template(limits)}


def _template(limits: list[Limit]) -> bytes | None:
    if not limits or not all(limit.plain and limit.enforce and limit.headers is Headers.DRAFT for limit in limits):
        return None
    policies = b", ".join(limit.tier.policy for limit in limits)
    return b"RateLimit-Policy: %b\r\nRateLimit: %b\r\n" % (policies, b", ".join(limit.item + b";r=%d;t=%d" for limit in limits))


def _limit(limit: RateLimit, scope: str, share: int, counted: LimitMetrics, *, candidate: bool) -> Limit:
    settings, cost = settings_of(limit), limit.cost
    digest = KeyDigest([str(part) for part in limit.key])
    overrides = {
        digest.many(key_value(limit.key, written)): _tier(limit, override_settings(limit, override), share)
        for written, override in limit.overrides.items()
    }
    field = None
    if cost.header is not None:
        field = (KeyPart.HEADER, cost.header.lower().encode("ascii"))
    elif cost.query is not None:
        field = (KeyPart.QUERY, cost.query.encode("utf-8"))
    exempt_keys = frozenset(digest.many(key_value(limit.key, written)) for written in limit.exempt.keys)
    plain = not (overrides or field or exempt_keys or limit.exempt.cidrs)
    enforce = limit.mode == "enforce"
    return Limit(
        name=limit.name,
        id=limit_id(scope, limit.name, settings),
        enforce=enforce,
        candidate=candidate,
        tier=_tier(limit, settings, share),
        overrides=overrides,
        key=compiled_key(limit.key),
        digest=digest,
        missing=Missing(limit.missing),
        cost=CostSettings(cost.default, cost.min, cost.max or cost.default),
        cost_field=field,
        exempt_networks=Networks(limit.exempt.cidrs),
        exempt_keys=exempt_keys,
        plain=plain,
        steady=plain and all(KeyPart(part.kind) in _STEADY for part in limit.key),
        by_client=any(part.kind == KeyPart.CLIENT_IP.value for part in limit.key),
        on_store_error=OnStoreError(limit.on_store_error),
        headers=Headers(limit.headers) if enforce else Headers.NONE,
        item=b'"%b"' % limit.name.encode("ascii"),
        reached=f"the limit `{limit.name}` ({in_words(settings)}) is reached",
        metrics=counted,
    )


def _tier(limit: RateLimit, settings: LimitSettings, share: int) -> LimitTier:
    local = settings.share(share, most_cost(limit)) if share > 1 else settings
    return LimitTier(
        settings=settings,
        rule=rule_of(local),
        packed=settings.packed(enforce=limit.mode == "enforce"),
        policy=policy_item(limit.name, settings),
        near=-(-settings.capacity // 5),
    )


def in_words(settings: LimitSettings) -> str:
    """`100 per 1m`, with the burst of a token bucket."""
    burst = f", burst {settings.capacity}" if settings.algorithm is Algorithm.TOKEN_BUCKET else ""
    return f"{settings.limit} per {format_duration(settings.per)}{burst}"
