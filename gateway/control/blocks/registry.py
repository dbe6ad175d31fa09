"""The blocks there are. All that is done with a configuration walks these two lists, in this order."""

from __future__ import annotations

from typing import Final

from gateway.control.blocks import tls
from gateway.control.blocks.action import redirect, respond, rewrite_prefix
from gateway.control.blocks.block import Block, RouteFacts, UpstreamFacts
from gateway.control.blocks.message import (
    access_log,
    compression,
    decompress_request,
    fields,
    limits,
    paths,
    rewrite_response,
    server_timing,
    upgrades,
)
from gateway.control.blocks.traffic import hedge, max_in_flight, priority, rate_limit, retry, timeout
from gateway.control.blocks.upstream import (
    circuit_breaker,
    endpoints,
    fallback,
    health,
    keep_alive,
    load_balancing,
    retry_budget,
)

ROUTE_BLOCKS: Final[tuple[Block[RouteFacts], ...]] = (
    redirect.BLOCK,
    respond.BLOCK,
    fallback.ROUTE_BLOCK,
    *rewrite_prefix.BLOCKS,
    timeout.BLOCK,
    retry.BLOCK,
    hedge.BLOCK,
    limits.BLOCK,
    paths.BLOCK,
    *fields.BLOCKS,
    rewrite_response.BLOCK,
    upgrades.BLOCK,
    server_timing.BLOCK,
    access_log.BLOCK,
    compression.BLOCK,
    decompress_request.BLOCK,
    priority.BLOCK,
    max_in_flight.BLOCK,
    rate_limit.BLOCK,
)
"""The fields of a route but for those that say what it is: name, match, upstream."""

UPSTREAM_BLOCKS: Final[tuple[Block[UpstreamFacts], ...]] = (
    endpoints.ENDPOINTS,
    *load_balancing.BLOCKS,
    fallback.UPSTREAM_BLOCK,
    endpoints.HOST,
    *health.BLOCKS,
    circuit_breaker.BLOCK,
    *keep_alive.BLOCKS,
    max_in_flight.UPSTREAM_BLOCK,
    tls.BLOCK,
    retry_budget.BLOCK,
)
"""The fields of an upstream."""
