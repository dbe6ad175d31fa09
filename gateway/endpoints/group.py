"""The endpoints of an upstream and the group that they form: who may take an exchange, and who takes the next one.

`available` is computed when something changes (`refresh`), not per request: on the healthy path a pick costs what the
balancer costs. What depends on time alone (an ejection that ends, a slow start) is looked at when `due` has come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from hashlib import blake2b
from typing import Final, Protocol

from gateway.endpoints.settings import DEFAULT, GroupSettings
from gateway.errors import Failed
from gateway.policies import NEVER
from gateway.policies.circuit_breaker import Breaker
from gateway.policies.ejection import in_a_row, lasts, most_ejected, too_many
from gateway.policies.health import REST_429, AvailabilitySettings, EndpointState, least_healthy, ramp, rests
from gateway.policies.load_balancing import (
    Algorithm,
    Balancer,
    average_latency,
    balancer,
    decayed_latency,
    points_per_weight,
    sticky_value,
)
from gateway.ports import Pool

RAMP_STEP: Final = 1.0
"""Seconds between two steps of a slow start."""
_SERVING: Final = frozenset({EndpointState.HEALTHY, EndpointState.SLOW_START, EndpointState.RESTING})
"""With a share above 0."""


@dataclass(slots=True, eq=False, repr=False)
class Endpoint:
    """One address of an upstream. Settings are fixed; load, health and the pool are live. Instants are monotonic seconds."""

    url: str
    """As it was written, normalised."""
    _: KW_ONLY
    host: str
    """As it was written: a name or an address. TLS asks for it."""
    port: int
    path: str
    """Unix socket path, or empty."""
    tls: bool
    weight: int
    authority: bytes
    """What `Host` says when the upstream does not preserve the client's."""
    backup: bool = False
    """Takes exchanges only while too few others can."""
    address: str = ""
    """Where to connect to: the host, or the address that its name stands for."""
    label: str = field(init=False)
    """Unique in the group; for people, logs and metrics."""
    id: bytes = field(init=False)
    """Stands for the address where nobody needs to know it; the same in every gateway."""
    requests: int = 0
    """Sent to it so far: one per attempt."""
    failed: int = 0
    """Attempts so far that failed by its fault, error answers included."""
    last_failure: str = ""
    failed_at: float = 0.0
    """When that was."""
    spared: str = ""
    """Why it is not ejected although it fails."""
    cookie: bytes = b""
    """What the cookie of its group says for it; empty where no cookie keeps clients."""
    in_flight: int = 0
    latency: float = 0.0
    """Average seconds to a response head, where the upstream balances by latency; 0: nothing known."""
    latency_at: float = 0.0
    """When it was last brought up to date."""
    pool: Pool = field(init=False)
    group: EndpointGroup = field(init=False)
    """The one that new requests use."""

    failures: int = 0
    """Grave failures in a row (connection, 502, 503, 504). A 500 neither counts here nor ends the row."""
    errors: int = 0
    """Failures in a row of every kind, those such as 500 included."""
    ejected_until: float = 0.0
    """When the last ejection ends or ended."""
    ejections: int = 0
    """In a row."""
    ejected_for: str = ""
    up: bool = True
    """What active probes say; true without them."""
    probe_says: str = ""
    rest_until: float = 0.0
    """Until when it asked to be left alone."""
    resting_share: float = 1.0
    """What it gets of its weight meanwhile."""
    breaker_open: bool = False
    """The breaker admits nothing: it is open, or its probes are all on their way. Whoever sets it refreshes the group."""
    breaker: Breaker | None = None
    """Learns what became of each attempt."""
    guard: Breaker | None = None
    """The breaker while it must be asked for a permit: None on the healthy path, where `permit` is good."""
    permit: object = None
    """What an attempt must bring back when it is settled, so that the breaker knows of what time it speaks."""
    ramp_since: float = -NEVER
    """When it came back."""

    state: EndpointState = EndpointState.HEALTHY
    since: float = 0.0
    """Of the state."""
    share: float = 1.0
    """What it gets of its weight now: 0 to 1."""

    def __post_init__(self) -> None:
        self.label = f"{self.url} ({self.address})" if self.address else self.url
        self.id = blake2b(self.label.encode("utf-8"), digest_size=16).digest()
        self.address = self.address or self.host

    @property
    def why(self) -> str:
        """What led to the state, in words; empty for an endpoint of which nothing bad is known."""
        if self.state is EndpointState.UNHEALTHY:
            return self.probe_says
        if self.state is EndpointState.EJECTED:
            return self.ejected_for
        if self.errors and self.spared:
            return f"{self.errors} failures in a row, the last: {self.last_failure}; {self.spared}"
        return "Retry-After" if self.state is EndpointState.RESTING else ""

    def judged(self, now: float, settings: AvailabilitySettings) -> EndpointState:
        """The state it is in from now on; `share` is set with it."""
        self.share = 1.0
        if self.breaker_open:
            return EndpointState.BREAKER_OPEN
        if not self.up:
            return EndpointState.UNHEALTHY
        if now < self.ejected_until:
            return EndpointState.EJECTED
        if now < self.rest_until:
            self.share = self.resting_share
            return EndpointState.RESTING
        # A breaker has a way back of its own.
        if self.state in (EndpointState.UNHEALTHY, EndpointState.EJECTED) or (
            self.state is EndpointState.RESTING and not self.resting_share
        ):
            self.ramp_since = now
        self.share = ramp(settings, self.ramp_since, now)
        return EndpointState.HEALTHY if self.share == 1.0 else EndpointState.SLOW_START

    def changes_at(self, now: float) -> float:
        """When time alone may change its state or share."""
        if self.state is EndpointState.EJECTED:
            return self.ejected_until
        if self.state is EndpointState.RESTING:
            return self.rest_until
        return now + RAMP_STEP if self.state is EndpointState.SLOW_START else NEVER


class GroupWatcher(Protocol):
    """Is told of what changes in a group. Must not raise; the group is whole again when it is called."""

    def changed(self, endpoint: Endpoint, before: EndpointState) -> None:
        """The endpoint is in another state than before."""

    def spared(self, endpoint: Endpoint) -> None:
        """The endpoint keeps failing and is not ejected."""

    def panic_changed(self, group: EndpointGroup) -> None:
        """`group.panic` has changed."""


class EndpointGroup:
    """The endpoints of one upstream and the balancer over those that are available."""

    __slots__ = (
        "_balancer", "_points_per_weight", "available", "by_cookie", "due", "endpoints", "fit", "panic", "refusal",
        "reopens_at", "retry_at", "settings", "shut", "timed", "watcher",
    )  # fmt: skip

    def __init__(self, endpoints: Sequence[Endpoint], settings: GroupSettings = DEFAULT, now: float = 0.0) -> None:
        self.settings = settings
        self.endpoints: tuple[Endpoint, ...] = ()
        """All of them."""
        self.timed = settings.balancing.algorithm is Algorithm.LATENCY
        """Wants to be told how long attempts take (`observe`)."""
        self.available: tuple[Endpoint, ...] = ()
        """Those that take exchanges now."""
        self.by_cookie: dict[bytes, Endpoint] = {}
        """Of these, by what the cookie says that keeps a client."""
        self.fit = True
        """At least one of these is available for its own health's sake, not in panic: no fallback is needed."""
        self.panic = False
        """Too few are healthy: health is ignored."""
        self.due = NEVER
        """When time alone may change something: then `refresh` is called."""
        self.watcher: GroupWatcher | None = None
        self.reopens_at = NEVER
        """When the first of the open breakers will probe."""
        self.retry_at = NEVER
        """When a client that was refused by the breakers may try again."""
        self.shut = False
        """Breakers have a part in it when no endpoint is available."""
        self.refusal: tuple[int, Failed] | None = None
        """What such clients are told, and in how many seconds it says that they may try again."""
        self._balancer: Balancer
        self._points_per_weight = 1.0
        self._hold(endpoints, now)

    def _hold(self, endpoints: Sequence[Endpoint], now: float) -> None:
        self.endpoints = tuple(endpoints)
        self._points_per_weight = points_per_weight([endpoint.weight for endpoint in endpoints])
        self.refresh(now)

    def take_over(self, watcher: GroupWatcher) -> None:
        """New requests use this group from now on."""
        self.watcher = watcher
        for endpoint in self.endpoints:
            endpoint.group = self

    # -- who is available ---------------------------------------------------------------------------------------------

    def refresh(self, now: float) -> None:
        """Something that decides about availability or weight has changed, or `due` has come."""
        changed: list[tuple[Endpoint, EndpointState]] = []
        for endpoint in self.endpoints:
            before = endpoint.state
            state = endpoint.judged(now, self.settings.availability)
            if state is not before:
                endpoint.state = state
                endpoint.since = now
                changed.append((endpoint, before))
        panicked = self.panic
        self.available = self._chosen()
        if self.available:
            weights = [endpoint.weight * endpoint.share for endpoint in self.available]
            ids = [endpoint.id for endpoint in self.available]
            self._balancer = balancer(self.settings.balancing, weights, ids, self._points_per_weight)
        if self.settings.secret:
            for endpoint in self.available:
                endpoint.cookie = sticky_value(self.settings.secret, endpoint.id)
            self.by_cookie = {endpoint.cookie: endpoint for endpoint in self.available}
        self.due = min((endpoint.changes_at(now) for endpoint in self.endpoints), default=NEVER)
        if self.watcher is not None:
            for endpoint, before in changed:
                self.watcher.changed(endpoint, before)
            if self.panic is not panicked:
                self.watcher.panic_changed(self)

    def _chosen(self) -> tuple[Endpoint, ...]:
        """Healthy endpoints that are no backups; with too few of them the backups too; with too few still, panic."""
        primaries = [endpoint for endpoint in self.endpoints if not endpoint.backup]
        least = least_healthy(self.settings.availability, len(primaries or self.endpoints))
        chosen = _fit(primaries, least)
        if len(chosen) < max(1, least):
            chosen += _fit([endpoint for endpoint in self.endpoints if endpoint.backup], least - len(chosen))
        self.fit = bool(chosen)
        # An open breaker is obeyed even in panic: it knows best when to try again.
        closed = [endpoint for endpoint in self.endpoints if not endpoint.breaker_open]
        self.panic = len(chosen) < least and bool(closed)
        if self.panic:
            chosen = [endpoint for endpoint in closed if not endpoint.backup] or closed
            for endpoint in chosen:
                endpoint.share = 1.0
        return tuple(chosen)

    def pick(self, chance: float, failed: Endpoint | None = None, key: bytes | None = None) -> Endpoint | None:
        """The endpoint for the next attempt; another one than `failed` where there is one; None when none is available.

        `chance` is uniform in [0, 1). `key` is what consistent hashing goes by, if the request has it.
        """
        available = self.available
        if len(available) < 2:
            return available[0] if available else None
        avoid = available.index(failed) if failed is not None and failed in available else -1
        return available[self._balancer.pick(available, chance, avoid, key)]

    def observe(self, endpoint: Endpoint, seconds: float, now: float, *, failed: bool) -> None:
        """An attempt on `endpoint` took so long to its response head, or to its failure."""
        elapsed = now - endpoint.latency_at
        decay = self.settings.balancing.decay
        endpoint.latency = average_latency(endpoint.latency, seconds, elapsed, decay, failed=failed)
        endpoint.latency_at = now

    def tick(self, now: float) -> None:
        """Once a second: what was observed loses weight, and ejections and slow starts come to an end."""
        if self.due <= now:
            self.refresh(now)
        if self.timed:
            for endpoint in self.endpoints:
                endpoint.latency = decayed_latency(endpoint.latency, now - endpoint.latency_at, self.settings.balancing.decay)
                endpoint.latency_at = now

    # -- what changes it -----------------------------------------------------------------------------------------------

    def failed(self, endpoint: Endpoint, why: str, now: float, chance: float, *, grave: bool = True) -> float:
        """An exchange with `endpoint` has failed; not `grave`: with an answer such as 500. Seconds of the ejection, or 0.

        Whoever calls this sets `errors` and `failures` to 0 when an exchange succeeds; without errors there are no failures.
        """
        endpoint.errors += 1
        endpoint.failures += grave
        endpoint.failed += 1
        endpoint.last_failure, endpoint.failed_at = why, now
        settings = self.settings.ejection
        if settings is None or not too_many(settings, endpoint.failures, endpoint.errors) or now < endpoint.ejected_until:
            endpoint.spared = ""
            return 0.0
        out = sum(other.state in (EndpointState.UNHEALTHY, EndpointState.EJECTED) for other in self.endpoints)
        if out >= most_ejected(settings, len(self.endpoints)):
            self._spare(endpoint, out)
            return 0.0
        failures, endpoint.failures, endpoint.errors = endpoint.errors, 0, 0
        endpoint.ejections = in_a_row(settings, endpoint.ejections, endpoint.ejected_until, now)
        seconds = lasts(settings, endpoint.ejections, chance)
        endpoint.ejected_until = now + seconds
        endpoint.ejected_for = f"{failures} failures in a row, the last: {why}"
        self.refresh(now)
        return seconds

    @staticmethod
    def cut(endpoint: Endpoint, why: str, now: float) -> None:
        """A body has ended too early, behind a head that counted as success: it is shown, and nothing is decided by it."""
        endpoint.failed += 1
        endpoint.last_failure, endpoint.failed_at = why, now

    def _spare(self, endpoint: Endpoint, out: int) -> None:
        """It fails as others that are ejected, and goes on: with it too few would be left."""
        known, among = endpoint.spared, len(self.endpoints)
        which = "it is the last one" if out >= among - 1 else f"{out} of {among} are out, as `ejection.max_ejected` allows"
        endpoint.spared = f"not ejected: {which}"
        if not known and self.watcher is not None:
            self.watcher.spared(endpoint)

    def rest(self, endpoint: Endpoint, status: int, retry_after: float, now: float) -> None:
        """`endpoint` has answered 429 or 503 and said `Retry-After`: less for it, or nothing while there are others."""
        seconds = rests(retry_after)
        # Not per response: one that rests already says the same again and again.
        if self.settings.ejection is None or not seconds or now < endpoint.rest_until:
            return
        endpoint.rest_until = now + seconds
        endpoint.resting_share = REST_429 if status == 429 else 0.0
        self.refresh(now)

    def probed(self, endpoint: Endpoint, why: str, now: float, *, up: bool) -> None:
        """The probes of `endpoint` have come to a verdict."""
        endpoint.up = up
        endpoint.probe_says = why
        endpoint.failures = endpoint.errors = 0
        self.refresh(now)

    def replace(self, endpoints: Sequence[Endpoint], now: float) -> None:
        """Other endpoints from now on; see `introduce`."""
        for endpoint in endpoints:
            endpoint.group = self
        self._hold(endpoints, now)


def _fit(endpoints: Sequence[Endpoint], least: int) -> list[Endpoint]:
    """Those that are healthy; with fewer than `least`, also those that have asked to be left alone."""
    fit = [endpoint for endpoint in endpoints if endpoint.state in _SERVING and endpoint.share]
    if len(fit) < max(1, least):
        for endpoint in endpoints:
            if endpoint.state is EndpointState.RESTING and not endpoint.share:
                endpoint.share = 1.0
                fit.append(endpoint)
    return fit


def introduce(endpoints: Sequence[Endpoint], before: Sequence[Endpoint], now: float, *, probed: bool) -> None:
    """Endpoints have come by a reload or an answer of DNS. Those that are new get their share bit by bit, `probed` ones after
    their first probe; at once when all are new."""
    known = set(before)
    if known.isdisjoint(endpoints):
        return
    for endpoint in endpoints:
        if endpoint not in known:
            endpoint.ramp_since = endpoint.since = now
            if probed:
                endpoint.up = False
                endpoint.probe_says = "not probed yet"
