"""What exchanges say about the health of endpoints, and telling the operator when it changes. Failure paths only."""

from __future__ import annotations

import logging
from random import random
from time import time
from typing import Final

from gateway.endpoints import Endpoint, EndpointGroup
from gateway.headers import retry_after
from gateway.metrics import UpstreamMetrics
from gateway.metrics.upstreams import Standings
from gateway.policies import status_meant
from gateway.policies.health import EndpointState
from gateway.proxy.wire.http1_response import ResponseHead

_REQUESTS_FAULT: Final = (501, 505)
"""The endpoint is well; it was asked for something that it does not do (RFC 9110 15.6)."""
_SERVING: Final = (EndpointState.HEALTHY, EndpointState.SLOW_START)

_log = logging.getLogger("gateway")


def failed(endpoint: Endpoint, metrics: UpstreamMetrics, reason: str, now: float, *, grave: bool = True) -> None:
    """An exchange with the endpoint failed; `reason` is the failure's code. See `EndpointGroup.failed`."""
    if endpoint.group.failed(endpoint, reason, now, random(), grave=grave):
        metrics.ejections[reason] += 1


def answered(endpoint: Endpoint, metrics: UpstreamMetrics, response: ResponseHead, now: float) -> None:
    """The endpoint has answered with status 429 or more."""
    group, status = endpoint.group, status_meant(response.status)
    ejection = group.settings.ejection
    if ejection is not None and status in ejection.statuses:
        failed(endpoint, metrics, f"http_{status}", now)
    elif status >= 500 and status not in _REQUESTS_FAULT:
        failed(endpoint, metrics, f"http_{status}", now, grave=False)
    else:
        endpoint.failures = endpoint.errors = 0
    if status in (429, 503):
        group.rest(endpoint, status, retry_after(response.fields.kept, time()) or 0.0, now)


class Standing:
    """Watches the group of one upstream: a log line per change, and the numbers for metrics."""

    def __init__(self, group: EndpointGroup, metrics: UpstreamMetrics) -> None:
        self._group = group
        self._name = metrics.name
        metrics.standings = self.standings

    def changed(self, endpoint: Endpoint, before: EndpointState) -> None:
        state = endpoint.state
        if EndpointState.BREAKER_OPEN in (state, before):
            return  # its breaker tells, and why
        if state is EndpointState.HEALTHY and before is EndpointState.SLOW_START:
            return
        level = logging.INFO if state in _SERVING else logging.WARNING
        why = f": {endpoint.why}" if endpoint.why else ""
        _log.log(level, "upstream %s: endpoint %s is %s, was %s%s", self._name, endpoint.label, state.value, before.value, why)

    def spared(self, endpoint: Endpoint) -> None:
        _log.warning("upstream %s: endpoint %s fails: %s", self._name, endpoint.label, endpoint.why)

    def panic_changed(self, group: EndpointGroup) -> None:
        if group.panic:
            _log.warning("upstream %s: too few endpoints are healthy: health is ignored (panic)", self._name)
        else:
            _log.info("upstream %s: enough endpoints are healthy again", self._name)

    def standings(self) -> Standings:
        """What a scrape shows. May be called in another thread."""
        group = self._group
        return Standings(
            tuple((one.label, one.state.value, one.state in _SERVING, one.requests) for one in group.endpoints),
            group.panic,
            tuple((one.in_flight, there["open"], there["idle"]) for one in group.endpoints for there in (one.pool.counts(),)),
        )
