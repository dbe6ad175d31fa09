"""The block `max_in_flight:` of the server, of upstreams and of routes.

It becomes a gate. A gate lives as long as its name: a reload gives it other settings, and nobody is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, TypeAlias

from gateway.control.blocks.block import Asked, Block, Making, RouteFacts, Row, UpstreamFacts
from gateway.control.blocks.server.overload import shown_lag
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.words import values
from gateway.control.words.inherit import BUILT_IN, Resolved
from gateway.control.words.model import Model, made_of, required, setting
from gateway.control.words.units import format_duration
from gateway.control.words.values import OrOff, invalid, text_value
from gateway.errors import Failure
from gateway.gates import Gate
from gateway.metrics import GatewayMetrics
from gateway.policies.adaptive_limit import AdaptiveSettings
from gateway.policies.max_in_flight import RANKS, MaxInFlightSettings
from gateway.snapshot import GateSettings, Route

Key: TypeAlias = tuple[str, str]
"""Scope (`server`, `upstream`, `route`) and name."""

_QUEUEING: Final = (Failure.CONCURRENCY_LIMIT, Failure.QUEUE_FULL, Failure.QUEUE_TIMEOUT)

SHARE_PATTERN: Final = r"^[0-9]{1,3}(\.[0-9]+)?%$"
_SHARE: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)%")


def _parse_share(text: str) -> float:
    match = _SHARE.fullmatch(text)
    if match is None:
        raise invalid("expected a share such as `95%`")
    share = float(match[1]) / 100
    if not 0.01 <= share <= 1:
        raise invalid("a share is between `1%` and `100%`")
    return share


Share: TypeAlias = Annotated[float, *text_value("a share such as `95%`", _parse_share, pattern=SHARE_PATTERN)]


class Queue(Model):
    """Requests that wait for a slot. Who cannot be served in time is refused, not served."""

    short_form = ("size", {"type": "integer"})

    size: int = setting(100, "How many may wait; more are 503, the lowest priority first.", ge=1, le=100_000)
    max_wait: values.Duration = setting("100ms", "How long one may wait; then 503. Its own budget counts too.")


class Shares(Model):
    """How much of the limit a priority may fill. What is above it is kept for the higher ones, where a route has them."""

    default: Share = setting("95%", "For `default`.")
    sheddable: Share = setting("90%", "For `sheddable`.")


class Adaptive(Model):
    """The limit rises while answers come in time, and falls when they are late or say that there are too many requests."""

    min: int = setting(10, "Never less.", ge=1, le=1_000_000)
    max: int = setting(200, "Never more.", ge=1, le=1_000_000)
    latency: values.Duration = setting("1s", "An answer that takes longer is late.")
    backoff: Share = setting("90%", "What is left of the limit when too many answers are bad.")
    tolerance: Annotated[float, *text_value("a share such as `10%`", _parse_share, pattern=SHARE_PATTERN)] = setting(
        "10%", "How many answers may be bad: late, 429, 503, 504, or none."
    )


class MaxInFlight(Model):
    """How many requests may be in flight at once, per worker, and how many wait."""

    short_form = ("limit", {"type": "integer"})

    limit: int = required("Requests in flight.", ge=1, le=1_000_000)
    queue: Annotated[Queue | None, OrOff(None)] = setting({}, "The queue; `off`: none. Short form: `queue: 50`.")
    shares: Shares = setting({}, "How much of the limit a priority may fill.")


class UpstreamMaxInFlight(MaxInFlight):
    """How many requests may be at the upstream at once, per worker, and how many wait."""

    limit: int | None = setting(  # type: ignore[assignment]
        None, "Requests in flight. With `adaptive`: those to begin with.", ge=1, le=1_000_000
    )
    adaptive: Annotated[Adaptive | None, OrOff(None)] = setting(None, "Find the limit by how the upstream answers.")


def check_limit(limit: MaxInFlight | None, loc: Loc, positions: Positions) -> Iterator[Problem]:
    """What is wrong with a limit although each of its fields is right."""
    if limit is None:
        return
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


def settings_of(written: MaxInFlight, ranks: Iterable[int]) -> tuple[MaxInFlightSettings, AdaptiveSettings | None]:
    """The settings; a share is kept only for ranks that there are."""
    highest = min(ranks, default=0)
    shares = tuple(
        1.0 if rank <= highest else share for rank, share in enumerate((1.0, written.shares.default, written.shares.sheddable))
    )
    adaptive = None
    limit = written.limit
    if isinstance(written, UpstreamMaxInFlight) and written.adaptive is not None:
        adaptive = made_of(written.adaptive, AdaptiveSettings)
        limit = limit or written.adaptive.min
    assert limit is not None
    queue = written.queue
    return MaxInFlightSettings(
        limit=limit,
        queue=0 if queue is None else queue.size,
        max_wait=0.0 if queue is None else queue.max_wait,
        shares=(shares[0], shares[1], shares[2]),
    ), adaptive


def make_gates(
    limits: Mapping[Key, tuple[MaxInFlight, frozenset[int]]], metrics: GatewayMetrics, previous: Iterable[GateSettings]
) -> dict[Key, GateSettings]:
    """The gates of a configuration: those there were, as long as they are named the same."""
    known = {(one.gate.metrics.scope, one.gate.metrics.name): one.gate for one in previous}
    made: dict[Key, GateSettings] = {}
    for key, (written, ranks) in limits.items():
        settings, adaptive = settings_of(written, ranks)
        made[key] = GateSettings(known.get(key) or Gate(settings, adaptive, metrics.gate(*key)), settings, adaptive)
    return made


def _compile(found: Resolved[MaxInFlight | None], facts: RouteFacts, making: Making) -> dict[str, Any]:
    """Its own gate, and all that a request passes, the widest first: who waits at one holds no slot that is scarcer."""
    if facts.upstream is None:
        return {"gate": None, "gates": ()}
    own = making.gate("route", facts.name)
    gates = (making.gate("server", ""), own, making.gate("upstream", facts.upstream))
    return {"gate": own, "gates": tuple(gate for gate in gates if gate is not None)}


def _rows(found: Resolved[MaxInFlight | None], facts: RouteFacts, asked: Asked) -> list[Row]:
    """Every limit that the request passes, and when it is shed."""
    server, priority = asked.file["server"], asked.priority.value
    assert facts.upstream is not None
    places: tuple[tuple[Key, Loc], ...] = (
        (("server", ""), ("server", "max_in_flight")),
        (("route", facts.name), (*facts.loc, "max_in_flight")),
        (("upstream", facts.upstream), ("upstreams", facts.upstream, "max_in_flight")),
    )
    rows: list[Row] = []
    for key, loc in places:
        place = str(asked.positions.written(loc) or BUILT_IN)
        text = _in_words(*asked.in_flight[key], priority) if key in asked.in_flight else "off"
        rows.append((f"max_in_flight.{key[0]}", text, place))
    lag = getattr(server.value.overload, priority, None)
    shown = "never" if lag is None else f"event loop late by {shown_lag(lag)}"
    return [*rows, ("shed when", shown, str(asked.positions.written(("server", "overload", priority)) or BUILT_IN))]


def _in_words(written: MaxInFlight, ranks: frozenset[int], priority: str) -> str:
    settings, adaptive = settings_of(written, ranks)
    room = settings.rooms(settings.limit)[RANKS.index(priority)]
    text = f"{settings.limit} per worker"
    if adaptive is not None:
        text = f"{adaptive.min} to {adaptive.max} per worker, adaptive to {format_duration(adaptive.latency)}"
    elif room < settings.limit:
        text += f", of which {room} for {priority}"
    return text + (f", {settings.queue} wait for {format_duration(settings.max_wait)}" if settings.queue else ", no queue")


def _foresee(route: Route) -> tuple[Failure, ...]:
    return _QUEUEING if route.gates else ()


BLOCK: Final = Block[RouteFacts](
    "max_in_flight", forwards=True, check_written=check_limit, compile=_compile, rows=_rows, foresee=_foresee
)


def _compile_upstream(found: Resolved[UpstreamMaxInFlight | None], facts: UpstreamFacts, making: Making) -> dict[str, Any]:
    return {"gate": making.gate("upstream", facts.name)}


UPSTREAM_BLOCK: Final = Block[UpstreamFacts]("max_in_flight", check_written=check_limit, compile=_compile_upstream)
