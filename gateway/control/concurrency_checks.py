"""What is wrong with limits on what is in flight although each of their fields is right."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.control.blocks.traffic.max_in_flight import MaxInFlight, UpstreamMaxInFlight, shown_lag
from gateway.control.effective import effective
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.schema import Config
from gateway.control.words.units import format_duration


def check_concurrency(config: Config, positions: Positions) -> Iterator[Problem]:
    """Everything that is wrong with `max_in_flight`, `overload` and `priority_field`."""
    server = config.server
    if server.max_in_flight is not None:
        yield from _limit(("server", "max_in_flight"), server.max_in_flight, positions)
    for name, upstream in config.upstreams.items():
        if upstream.max_in_flight is not None:
            yield from _limit(("upstreams", name, "max_in_flight"), upstream.max_in_flight, positions)
    for index, route in enumerate(config.routes):
        if route.max_in_flight is not None:
            loc: Loc = ("routes", index, "max_in_flight")
            yield from _limit(loc, route.max_in_flight, positions)
            queue, budget = route.max_in_flight.queue, effective(config, index).request.value
            if queue is not None and queue.max_wait > budget:
                message = f"`max_wait` ({format_duration(queue.max_wait)}) is longer than the budget of the request"
                hint = f"`timeout.request` is {format_duration(budget)}"
                yield positions.problem((*loc, "queue", "max_wait"), message, hint)
    if server.overload.sheddable > server.overload.default:
        written = "sheddable" if positions.find(("server", "overload", "sheddable"))[2] else "default"
        yield positions.problem(
            ("server", "overload", written),
            f"`sheddable` ({shown_lag(server.overload.sheddable)}) is shed before `default` "
            f"({shown_lag(server.overload.default)}): its limit is the lower one",
        )
    if server.priority_field is not None and not server.trusted_proxies:
        yield positions.problem(
            ("server", "priority_field"),
            "`priority_field` has no effect without `trusted_proxies`: nobody else is believed",
            key=True,
        )


def _limit(loc: Loc, limit: MaxInFlight | UpstreamMaxInFlight, positions: Positions) -> Iterator[Problem]:
    if limit.shares.sheddable > limit.shares.default:
        written = "sheddable" if positions.find((*loc, "shares", "sheddable"))[2] else "default"
        yield positions.problem((*loc, "shares", written), "the share of `sheddable` is at most that of `default`")
    if not isinstance(limit, UpstreamMaxInFlight):
        return
    adaptive = limit.adaptive
    if adaptive is None:
        if limit.limit is None:
            yield positions.problem(loc, "`limit` is missing", "write `max_in_flight: 200`, or add `adaptive`")
        return
    if adaptive.min > adaptive.max:
        yield positions.problem((*loc, "adaptive", "min"), f"`min` ({adaptive.min}) is more than `max` ({adaptive.max})")
    elif limit.limit is not None and not adaptive.min <= limit.limit <= adaptive.max:
        yield positions.problem(
            (*loc, "limit"), f"the limit to begin with lies between `min` ({adaptive.min}) and `max` ({adaptive.max})"
        )
    if adaptive.backoff > 0.99:
        yield positions.problem((*loc, "adaptive", "backoff"), "with more than `99%` the limit would hardly fall")
