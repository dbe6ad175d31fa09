"""Endpoints that are new in a group, by a reload or an answer of DNS."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.endpoints.group import Endpoint


def introduce(endpoints: Sequence[Endpoint], before: Sequence[Endpoint], now: float, *, probed: bool) -> None:
    """Those that are new get their share bit by bit, `probed` ones after their first probe; at once when all are new."""
    known = set(before)
    if known.isdisjoint(endpoints):
        return
    for endpoint in endpoints:
        if endpoint not in known:
            endpoint.ramp_since = endpoint.since = now
            if probed:
                endpoint.up = False
                endpoint.probe_says = "not probed yet"
