"""Under which limits on what is in flight a request would stand."""

from __future__ import annotations

from gateway.control.blocks.traffic.max_in_flight import shown_lag
from gateway.control.concurrency_compile import limits, ranks_at, settings_of
from gateway.control.effective import effective
from gateway.control.load import Loaded
from gateway.control.reading.nodes import Loc
from gateway.control.words.units import format_duration
from gateway.policies.concurrency import RANKS

Row = tuple[str, str, str]


def concurrency_rows(loaded: Loaded, index: int) -> list[Row]:
    """Name, value and place: the priority, every limit that the request passes, and when it is shed."""
    config = loaded.config
    route = config.routes[index]
    if route.upstream is None:
        return []
    priority = effective(config, index).priority
    place = "default" if priority.origin is None else str(loaded.positions.at(priority.origin))
    field = config.server.priority_field
    trusted = f" ({field} of trusted peers counts first)" if field is not None else ""
    rows: list[Row] = [("priority", f"{priority.value}{trusted}", place)]
    places: tuple[tuple[str, str, Loc], ...] = (
        ("server", "", ("server", "max_in_flight")),
        ("route", route.name, ("routes", index, "max_in_flight")),
        ("upstream", route.upstream, ("upstreams", route.upstream, "max_in_flight")),
    )
    written = limits(config)
    rank = RANKS.index(priority.value)
    for scope, name, loc in places:
        if (scope, name) not in written:
            rows.append((f"max_in_flight.{scope}", "off", str(loaded.positions.written(loc) or "default")))
            continue
        settings, adaptive = settings_of(written[scope, name], ranks_at(config, (scope, name)))
        text = f"{settings.limit} per worker"
        if adaptive is not None:
            text = f"{adaptive.min} to {adaptive.max} per worker, adaptive to {format_duration(adaptive.latency)}"
        elif settings.rooms(settings.limit)[rank] < settings.limit:
            text += f", of which {settings.rooms(settings.limit)[rank]} for {priority.value}"
        text += f", {settings.queue} wait for {format_duration(settings.max_wait)}" if settings.queue else ", no queue"
        rows.append((f"max_in_flight.{scope}", text, str(loaded.positions.at(loc))))
    lag = {"default": config.server.overload.default, "sheddable": config.server.overload.sheddable}.get(priority.value)
    loc = ("server", "overload", priority.value)
    shown = "never" if lag is None else f"event loop late by {shown_lag(lag)}"
    rows.append(("shed when", shown, str(loaded.positions.written(loc) or "default")))
    return rows
