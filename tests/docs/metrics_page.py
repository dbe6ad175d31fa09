"""The page `docs/metrics.md`, made from the metrics themselves by `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from gateway.metrics.everything import GatewayMetrics
from gateway.metrics.families import Family, HistogramFamily
from gateway.metrics.instruments import BATCH_BUCKETS, OVERHEAD_BUCKETS, PROBE_BUCKETS, REQUEST_BUCKETS, WAIT_BUCKETS
from gateway.metrics.rate_limit import DECIDERS, DECISIONS, StoreMetrics
from gateway.metrics.reloads import ReloadMetrics
from gateway.metrics.routes import KNOWN_METHODS
from gateway.metrics.upstreams import STATES
from gateway.metrics.workers import worker_families

SECTIONS: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    (
        "Requests",
        "Rate, errors and duration, by route.",
        ("gateway_request", "gateway_response", "gateway_rejections", "gateway_overhead"),
    ),
    (
        "Upstreams",
        "Attempts, retries and connections, by upstream.",
        ("gateway_upstream_attempts", "gateway_upstream_d", "gateway_upstream_c", "gateway_upstream_f", "gateway_endpoint_"),
    ),
    ("Retries and hedges", "", ("gateway_retr", "gateway_hedges")),
    ("Health", "", ("gateway_upstream_", "gateway_health", "gateway_dns")),
    ("Circuit breakers", "", ("gateway_breaker",)),
    (
        "Rate limits and their store",
        "The `gateway_redis_…` are there with `redis.url` only.",
        ("gateway_rate_limit", "gateway_redis"),
    ),
    ("Admission", "", ("gateway_concurrency", "gateway_queue", "gateway_shed", "gateway_event_loop")),
    ("Compression", "", ("gateway_compression", "gateway_decompression")),
    ("Configuration", "", ("gateway_config", "gateway_tls")),
    ("Access log", "", ("gateway_access_log",)),
    ("The process", "", ("gateway_",)),
)
"""Title, a sentence, and the beginnings of names. The first that fits has it."""

LABELS: Final = {
    "route": "name of the route; `_unmatched`: no route took the request",
    "method": f"one of {len(KNOWN_METHODS)} known methods, or `OTHER`",
    "code": "status that the client got; 499: the client had gone",
    "reason": "of rejections the failure's code, as in the problem body and in the log; of others a word from a fixed list",
    "source": "whose fault it is: `downstream` (the client), `gateway`, `upstream`",
    "upstream": "name of the upstream",
    "endpoint": "address of the endpoint, as written or as looked up",
    "outcome": "`ok`, `http_5xx`, `cancelled`, or a failure's code",
    "result": "`ok` or what failed; of reloads `success`, `failure`",
    "state": f"of endpoints {', '.join(f'`{state}`' for state in STATES)}; of connections `active`, `idle`",
    "to": "the state that a breaker went to: `open`, `half_open`, `ramping`, `closed`",
    "mode": "`enforce`, or `shadow`: would have refused",
    "limit": "name of the rate limit",
    "decision": ", ".join(f"`{one}`" for one in DECISIONS),
    "store": f"who decided: {', '.join(f'`{one}`' for one in DECIDERS)}",
    "kind": "`timeout`, `connection`, `authentication`, `read_only`, `out_of_memory`, `protocol` or `error`",
    "scope": "`server`, `route` or `upstream`: whose limit it is",
    "name": "of that route or upstream; empty for the server",
    "priority": "`critical`, `default` or `sheddable`",
    "coding": "`zstd`, `br` or `gzip`",
    "certificate": "path of the certificate file",
    "hash": "the first digits of the digest over the configuration",
    "version": "of the gateway",
    "python": "version of the interpreter",
    "worker": "number of the worker, from 0",
}

BUCKETS: Final = (
    ("requests and attempts", REQUEST_BUCKETS),
    ("the gateway's own share, and calls of the store", OVERHEAD_BUCKETS),
    ("waiting for a slot", WAIT_BUCKETS),
    ("probes", PROBE_BUCKETS),
    ("checks in one call (a number, not seconds)", BATCH_BUCKETS),
)

HEAD: Final = """# Metrics

<!-- Made by `make docs` from the code. -->

`GET /metrics` on the admin listener, in the text format of Prometheus or in OpenMetrics, whichever is asked for. With several
workers it is the sum over them, those that have ended too, so that no counter goes back: a gauge of what is in order shows the
least of the workers, a gauge of trouble the most, all others the sum.

Label values come from the configuration or from fixed lists, never from requests: unknown hosts, paths and methods make no
series. Series that are to be expected begin with 0, so that the first event has a rate. When a route or an upstream is taken
out, its series end with the reload. Besides, there are `process_…` and `python_…` of the client library, about
the process that answers.

Whose fault is a 5xx? `gateway_rejections_total` by `source` are those that the gateway made: `gateway` by its own decision,
`upstream` because there was no answer, or not all of one: `http_response_incomplete` and `connection_read_timeout` come
behind a head, whose status is the one that counts. What `gateway_requests_total` has beyond the others, the upstream has
answered itself.

A scrape of 1 000 routes is about 35 000 lines. It is written in slices of half a millisecond, between which requests go on.
"""


def families() -> list[Family]:
    """Every family there is, empty."""
    metrics = GatewayMetrics("")
    metrics.store, metrics.reloads = StoreMetrics(), ReloadMetrics(0.0)
    return [family for family in (*metrics.collect(), *worker_families(())) if isinstance(family, Family)]


def reference() -> str:
    """The page."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield HEAD
    left = families()
    used: set[str] = set()
    for title, sentence, beginnings in SECTIONS:
        here = [family for family in left if family.name.startswith(beginnings)]
        left = [family for family in left if family not in here]
        yield f"## {title}\n"
        if sentence:
            yield f"{sentence}\n"
        yield "| metric | type | labels | what it is |\n|---|---|---|---|"
        for family in here:
            used.update(family.labels)
            labels = ", ".join(f"`{label}`" for label in family.labels)
            suffix = "_total" if family.kind == "counter" else ""
            yield f"| `{family.name}{suffix}` | {family.kind} | {labels} | {family.documentation} |"
        yield ""
    yield "## Labels\n\n| label | values |\n|---|---|"
    yield from (f"| `{label}` | {text} |" for label, text in LABELS.items() if label in used)
    yield "\n## Buckets\n\nUpper bounds in seconds; each histogram has `+Inf`, `_sum` and `_count` besides.\n"
    yield "| of | bounds |\n|---|---|"
    yield from (f"| {what} | {' '.join(f'{bound:g}' for bound in bounds)} |" for what, bounds in BUCKETS)
    histograms = ", ".join(f"`{family.name}`" for family in families() if isinstance(family, HistogramFamily))
    yield f"\nHistograms: {histograms}.\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
