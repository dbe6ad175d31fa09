"""What a configuration lets us foresee of its metrics: series that are shown before they are first counted, and certificates.

A series that begins with 1 has no rate for its first event, and what has never been seen cannot be alerted on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Final

from gateway.control.blocks.registry import ROUTE_BLOCKS, UPSTREAM_BLOCKS
from gateway.control.schema import Config
from gateway.control.words.x509 import certificates, expires
from gateway.errors import Failure
from gateway.metrics import GatewayMetrics
from gateway.snapshot import Route, Snapshot

_FORWARDING: Final = (
    Failure.DEADLINE,
    Failure.ATTEMPT_TIMEOUT,
    Failure.NO_ENDPOINT,
    Failure.REFUSED,
    Failure.TERMINATED,
    Failure.CONNECT_TIMEOUT,
)
"""What can befall any request that is forwarded. Each block knows what else there is because of it."""
_NOWHERE: Final = (Failure.ROUTE_NOT_FOUND, Failure.METHOD_NOT_ALLOWED, Failure.MISDIRECTED, Failure.BAD_REQUEST)

_log = logging.getLogger("gateway")


def foresee(metrics: GatewayMetrics, snapshot: Snapshot, config: Config) -> None:
    """Announce the series of `snapshot`, which has been compiled from `config` and runs from now on."""
    methods = [written.match.methods for written in config.routes]
    # Behind them stand the routes of `redirect_to_https`, which take any.
    methods += [()] * (len(snapshot.routes) - len(methods))
    for route, served in zip(snapshot.routes, methods, strict=True):
        reasons = tuple(_reasons(route))
        codes = tuple(_codes(route, reasons))
        route.metrics.expect(served or ("GET",), codes, tuple(failure.code for failure in reasons))
    metrics.route(snapshot.unmatched.name).expect(("GET",), (404,), (failure.code for failure in _NOWHERE))
    metrics.certificates = dict(_expiries(config))


def _codes(route: Route, reasons: Iterable[Failure]) -> Iterator[int]:
    if route.redirect is not None:
        yield route.redirect.status
    elif route.respond is not None:
        yield route.respond.status
    else:
        yield from (200, 500, 502, 503, 504)
    yield from (failure.status for failure in reasons if failure.status == 429)


def _reasons(route: Route) -> Iterator[Failure]:
    if route.upstream is not None:
        yield from _FORWARDING
    for foresees in (*(block.foresee for block in ROUTE_BLOCKS), *(block.foresee for block in UPSTREAM_BLOCKS)):
        yield from foresees(route)


def _expiries(config: Config) -> Iterator[tuple[str, float]]:
    """Of each file that we show to somebody: path, and when the first certificate in it expires."""
    shown = [entry.certificate for listen in config.server.listen for entry in listen.certificates]
    shown += [one.tls.certificate for one in config.upstreams.values() if one.tls is not None and one.tls.certificate]
    for path in dict.fromkeys(shown):
        try:
            yield str(path), min(map(expires, certificates(path)))
        except (OSError, ValueError) as error:
            _log.warning("cannot tell when `%s` expires: %s", path, error)
