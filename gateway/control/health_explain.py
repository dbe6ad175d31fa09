"""Health in words: the rows of `gateway explain` for an upstream, and what is wrong although each field is right."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.control.blocks.upstream.health import Health
from gateway.control.health_compile import is_name
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.schema import Upstream
from gateway.control.words.units import format_duration
from gateway.headers import HOP_BY_HOP


def health_rows(loc: Loc, upstream: Upstream, positions: Positions) -> list[tuple[str, str, str]]:
    """Name, value and origin of what holds for the health of an upstream's endpoints."""
    ejection, dns = upstream.ejection, upstream.dns
    ejected = "off"
    if ejection is not None:
        times = f"for {format_duration(ejection.base)}, {format_duration(ejection.max)} at most"
        ejected = f"after {ejection.failures} failures in a row, {times}; {ejection.max_ejected:.0%} of the endpoints at most"
    rows = [("health", _probes(upstream.health)), ("ejection", ejected)]
    rows.append(("slow_start", format_duration(upstream.slow_start) if upstream.slow_start else "off"))
    rows.append(("panic", f"below {upstream.panic:.0%}" if upstream.panic else "off"))
    if any(is_name(endpoint.url) for endpoint in upstream.endpoints):
        rows.append(("dns", "off" if dns is None else f"every {format_duration(dns.interval)}"))
    return [(name, value, str(positions.written((*loc, name)) or "default")) for name, value in rows]


def _probes(health: Health | None) -> str:
    if health is None:
        return "off"
    what = "connect" if health.type == "tcp" else f"GET {health.path}"
    times = f"every {format_duration(health.interval)} for {format_duration(health.timeout)}"
    return f"{what}, {times}; fall {health.fall}, rise {health.rise}"


def check_health(loc: Loc, upstream: Upstream, positions: Positions) -> Iterator[Problem]:
    """Everything that is wrong with the health of an upstream."""
    health, ejection = upstream.health, upstream.ejection
    if health is not None:
        for name in ("path", "host", "headers", "statuses", "body"):
            place = (*loc, "health", name)
            if health.type == "tcp" and positions.written(place) is not None:
                yield positions.problem(place, f"`{name}` has no effect with `type: tcp`", key=True)
        for name in health.headers:
            place = (*loc, "health", "headers", name)
            if name.lower() == "host":
                yield positions.problem(place, "use `host` of `health`", key=True)
            elif name.lower() == "content-length" or name.lower().encode("ascii") in HOP_BY_HOP:
                yield positions.problem(place, f"a probe cannot have `{name}`: it is about the framing", key=True)
    if ejection is not None and ejection.base > ejection.max:
        yield positions.problem((*loc, "ejection"), "`base` is longer than `max`")
    named = any(is_name(endpoint.url) for endpoint in upstream.endpoints)
    if upstream.dns is not None and not named and positions.written((*loc, "dns")) is not None:
        yield positions.problem((*loc, "dns"), "`dns` has no effect: no endpoint has a name as its host", key=True)
