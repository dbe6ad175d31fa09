"""Rate limits: how much of a quota is left, when more of it is, and what the client is told.

Three algorithms behind one settings type. All count in whole microseconds and in units of cost, and none looks at anything
but its own state: the shells (`proxy/rate_limit_store/local.py` and its Lua twin) keep the state and agree to the last bit.

- `sliding_window`, up to a limit of 100: the times of what was admitted. Exact: never more than the limit in any window, and
  who keeps the limit is never refused. Two counters cannot do that for small limits: under `1/s`, the request of the last
  window has some weight until the end of this one, and leaves room for a whole one only then.
- `sliding_window`, above: two counters, this window's and the last one's, weighted by how much of that still overlaps.
  Approximate: it takes the last window's requests as evenly spread. A client that times its requests against that gets at most
  twice the limit in one window of its choosing; Poisson traffic is within 1 %.
- `sliding_log`: the times of what was admitted, for limits up to 1000. Memory grows with the limit.
- `token_bucket`: GCRA, kept as the level of a leaky bucket: `burst` at once, and `limit` per `per` in the long run.

A request asks all its limits; when one denies, none is charged. So denials are free: who is over a limit and keeps asking is
admitted as soon as there is room.
"""

from gateway.policies.rate_limit.algorithms import (
    ExactWindow,
    Rule,
    SlidingWindow,
    converted,
    rule_of,
)
from gateway.policies.rate_limit.fields import legacy_lines, policy_item, seconds_up
from gateway.policies.rate_limit.keys import CostSettings, KeyDigest
from gateway.policies.rate_limit.settings import (
    LARGEST_EXACT,
    LARGEST_LIMIT,
    LARGEST_LOG,
    MICROSECONDS,
    Algorithm,
    Headers,
    LimitSettings,
    Missing,
    OnStoreError,
    Verdict,
    unpacked_settings,
)

__all__ = [
    "LARGEST_EXACT",
    "LARGEST_LIMIT",
    "LARGEST_LOG",
    "MICROSECONDS",
    "Algorithm",
    "CostSettings",
    "ExactWindow",
    "Headers",
    "KeyDigest",
    "LimitSettings",
    "Missing",
    "OnStoreError",
    "Rule",
    "SlidingWindow",
    "Verdict",
    "converted",
    "legacy_lines",
    "policy_item",
    "rule_of",
    "seconds_up",
    "unpacked_settings",
]
