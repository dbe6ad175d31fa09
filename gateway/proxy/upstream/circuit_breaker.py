"""The circuit breakers of endpoints: whom they belong to, and what follows from their changes.

`policies/circuit_breaker` decides. What an endpoint shows of its breaker (`breaker_open`, `guard`, `permit`) is written here
when the breaker changes, so that a request on the healthy path looks at two attributes and asks nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Final, TypeAlias

from gateway.endpoints import Endpoint, EndpointGroup
from gateway.metrics.circuit_breaker import BreakerMetrics
from gateway.policies import NEVER
from gateway.policies.circuit_breaker import Breaker, BreakerSettings, BreakerState, Transition
from gateway.snapshot import Snapshot, Upstream

_log = logging.getLogger("gateway")

_HALF_OPEN: Final = BreakerState.HALF_OPEN
Tell: TypeAlias = "Callable[[EndpointBreaker], None]"


class EndpointBreaker:
    """The breaker of one endpoint. It outlives a reload that leaves its settings as they were."""

    __slots__ = ("_following", "_metrics", "breaker", "endpoint", "tell", "upstream", "version")

    def __init__(self, upstream: Upstream, endpoint: Endpoint, settings: BreakerSettings, tell: Tell | None = None) -> None:
        self.breaker = Breaker(settings, self._changed)
        self.tell = tell
        """Who tells the other workers what this one has found out."""
        self.version = 0
        """Of what the workers have agreed upon about the endpoint; 0: nothing yet."""
        self._following = False
        self.bind(upstream, endpoint)

    def bind(self, upstream: Upstream, endpoint: Endpoint) -> None:
        """Speak for this endpoint from now on."""
        self.upstream = upstream.name
        self.endpoint = endpoint
        self._metrics: BreakerMetrics = upstream.metrics.breaker
        self._metrics.states[endpoint.label] = self.breaker.state.value
        endpoint.breaker = self.breaker
        self._changed(None)

    def unbind(self) -> None:
        """The endpoint is without a breaker from now on, or gone."""
        endpoint = self.endpoint
        endpoint.breaker = endpoint.guard = endpoint.permit = None
        if endpoint.breaker_open:
            endpoint.breaker_open = False
            endpoint.group.refresh(monotonic())
            _note_times(endpoint.group)
        self._metrics.states.pop(endpoint.label, None)
        self._metrics.forced.pop(endpoint.label, None)

    def _changed(self, transition: Transition | None) -> None:
        breaker, endpoint = self.breaker, self.endpoint
        self._metrics.forced[endpoint.label] = breaker.forced is not None
        endpoint.guard = breaker if breaker.guarded else None
        endpoint.permit = breaker.permit
        if endpoint.breaker_open is not breaker.blocked:
            endpoint.breaker_open = breaker.blocked
            endpoint.group.refresh(monotonic())
        _note_times(endpoint.group)
        if transition is None:
            return
        if self._following:
            # It is counted and logged where it was found out.
            self._metrics.states[endpoint.label] = transition.after.value
        else:
            self._metrics.changed(endpoint.label, transition.after.value)
            _log.log(
                logging.WARNING if transition.after is BreakerState.OPEN else logging.INFO,
                "circuit breaker of %s at %s%s: %s → %s: %s%s",
                self.upstream,
                endpoint.label,
                "" if breaker.settings.enforce else " (shadow)",
                transition.before.value,
                transition.after.value,
                transition.reason,
                f", for {transition.lasts:.1f} s" if transition.lasts else "",
            )
            # What comes of results. All other transitions are made by time, in each worker by itself.
            found_out = transition.after is BreakerState.OPEN or transition.before is _HALF_OPEN
            if self.tell is not None and breaker.forced is None and found_out:
                self.tell(self)

    def follow(self, state: BreakerState, until: float, reason: str, trips: int, version: int) -> None:
        """The workers have agreed upon this: see `Breaker.follow`."""
        if version <= self.version:
            return
        self.version = version
        self._following = True
        try:
            self.breaker.follow(state, until, monotonic(), reason, trips)
        finally:
            self._following = False


def _note_times(group: EndpointGroup) -> None:
    """When the next of the open breakers probes, and what to tell those who are refused."""
    reopens_at = retry_at = NEVER
    group.shut = False
    for endpoint in group.endpoints:
        breaker = endpoint.breaker
        if breaker is not None and endpoint.breaker_open:
            group.shut = True
            if breaker.state is _HALF_OPEN:
                retry_at = 0.0
            else:
                reopens_at = min(reopens_at, breaker.due)
    group.reopens_at = reopens_at
    group.retry_at = min(retry_at, reopens_at)


class Breakers:
    """All breakers of a worker, by upstream and endpoint."""

    __slots__ = ("_known", "_seen", "_tell")

    def __init__(self) -> None:
        self._tell: Tell | None = None
        self._known: dict[tuple[str, str], EndpointBreaker] = {}
        self._seen: list[tuple[Endpoint, ...]] = []
        """The endpoints of each upstream when they were last looked at."""

    def __iter__(self) -> Iterator[EndpointBreaker]:
        return iter(self._known.values())

    def share(self, tell: Tell) -> None:
        """From now on, tell what is found out."""
        self._tell = tell
        for one in self._known.values():
            one.tell = tell

    def find(self, upstream: str, endpoint: str) -> EndpointBreaker | None:
        """The breaker of an endpoint, by its label."""
        return self._known.get((upstream, endpoint))

    def apply(self, snapshot: Snapshot) -> None:
        """The breakers that the upstreams of `snapshot` want; those whose settings are the same go on as they are."""
        before, self._known = self._known, {}
        self._seen = [upstream.group.endpoints for upstream in snapshot.upstreams]
        for upstream in snapshot.upstreams:
            settings = upstream.circuit_breaker
            if settings is None:
                continue
            for endpoint in upstream.group.endpoints:
                key = (upstream.name, endpoint.label)
                known = before.pop(key, None)
                same = known is not None and known.breaker.settings == settings
                if known is not None and not (same and known.endpoint is endpoint):
                    known.unbind()
                if known is None or not same:
                    known = EndpointBreaker(upstream, endpoint, settings, self._tell)
                else:
                    known.bind(upstream, endpoint)
                self._known[key] = known
        for gone in before.values():
            gone.unbind()

    def tick(self, snapshot: Snapshot, now: float) -> None:
        """Once a second: let time have its say where no request asks, and equip endpoints that DNS has brought."""
        if any(upstream.group.endpoints is not seen for upstream, seen in zip(snapshot.upstreams, self._seen, strict=True)):
            self.apply(snapshot)
        for one in self._known.values():
            if now >= one.breaker.due:
                one.breaker.advance(now)
