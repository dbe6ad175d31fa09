"""`health:`, `ejection:`, `slow_start:`, `panic:` and `dns:` of an upstream ▸ what works with them."""

from __future__ import annotations

from gateway.control.blocks.upstream.health import Ejection
from gateway.control.schema import Upstream
from gateway.control.words.addresses import EndpointUrl
from gateway.endpoints import Endpoint
from gateway.headers import parse_address
from gateway.policies.ejection import EjectionSettings
from gateway.policies.health import AvailabilitySettings, Thresholds
from gateway.snapshot import ProbeSettings


def probe_settings(upstream: Upstream) -> ProbeSettings | None:
    """How the endpoints are asked; None: not at all."""
    health = upstream.health
    if health is None:
        return None
    fixed = "" if upstream.host in ("preserve", "endpoint") else upstream.host
    return ProbeSettings(
        tcp=health.type == "tcp",
        target=health.path,
        host=health.host or fixed,
        fields=tuple(health.headers.items()),
        interval=health.interval,
        timeout=health.timeout,
        thresholds=Thresholds(health.fall, health.rise),
        statuses=health.statuses,
        body=(health.body or "").encode("utf-8"),
    )


def ejection_settings(ejection: Ejection | None) -> EjectionSettings | None:
    """When endpoints are ejected; None: never."""
    if ejection is None:
        return None
    return EjectionSettings(
        failures=ejection.failures,
        statuses=frozenset(status for low, high in ejection.statuses for status in range(low, high + 1)),
        errors=ejection.errors,
        base=ejection.base,
        longest=max(ejection.base, ejection.max),
        max_ejected=ejection.max_ejected,
    )


def availability(upstream: Upstream) -> AvailabilitySettings:
    """How the group deals with endpoints that are not healthy."""
    return AvailabilitySettings(panic=upstream.panic, slow_start=upstream.slow_start)


def is_name(url: EndpointUrl) -> bool:
    """The host is a name that can stand for several addresses."""
    return not url.path and parse_address(url.host) is None


def endpoint_at(name: Endpoint, address: str) -> Endpoint:
    """The endpoint for one of the addresses that the host of `name` stands for. It has no pool yet."""
    return Endpoint(
        name.url,
        host=name.host,
        port=name.port,
        path="",
        tls=name.tls,
        weight=name.weight,
        backup=name.backup,
        authority=name.authority,
        address=address,
    )
