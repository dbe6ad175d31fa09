"""The block `load_balancing:` of an upstream."""

from __future__ import annotations

from typing import Annotated

from gateway.control import values
from gateway.control.keys import KeyParts
from gateway.control.model import Model, setting
from gateway.control.units import format_duration
from gateway.control.values import OrOff, choice
from gateway.policies.load_balancing import Algorithm

_ALGORITHMS = tuple(algorithm.value for algorithm in Algorithm)


class LoadBalancing(Model):
    """Which endpoint takes a request."""

    short_form = ("algorithm", {"enum": list(_ALGORITHMS)})

    algorithm: Annotated[str, *choice(*_ALGORITHMS)] = setting(
        "two_choices",
        "`two_choices`: the less loaded of two drawn at random; `round_robin`: in turn; `least_in_flight`: the least loaded of "
        "all; `latency`: of two, the one that answers sooner under its load; `consistent_hash`: by `key`. All by weight.",
    )
    key: KeyParts | None = setting(
        None,
        "With `consistent_hash`: requests with the same key go to the same endpoint. `client_ip`, `host`, `header:NAME`, "
        "`query:NAME`, `cookie:NAME`, `path:PARAMETER`, or a list of these. A request without it is balanced by `two_choices`.",
        min_length=1,
        max_length=8,
    )
    bounded_load: Annotated[float | None, OrOff(None)] = setting(
        1.25,
        "With `consistent_hash`: how far an endpoint may exceed its share of all that is in flight, before its keys go to the "
        "next one. `off`: without bound.",
        ge=1.0,
        le=100.0,
    )
    decay: values.Duration = setting("10s", "With `latency`: how long a slow answer is remembered (to 1/e).")


def balancing_in_words(balancing: LoadBalancing) -> str:
    """`consistent_hash by header:x-tenant, at most 1.25 × its share`."""
    if balancing.algorithm == "latency":
        return f"latency, decay {format_duration(balancing.decay)}"
    if balancing.algorithm != "consistent_hash":
        return balancing.algorithm
    bound = "unbounded" if balancing.bounded_load is None else f"at most {balancing.bounded_load:g} × its share"
    return f"consistent_hash by {' and '.join(str(part) for part in balancing.key or ())}, {bound}"
