"""Circuit breaker of one endpoint: stop asking what does not answer, ask again carefully, come back gradually.

```
           too many calls failed, or were slow             a probe failed
    closed ───────────────────────────────────▸ open ◂─────────────────────── half_open
      ▴                                          │ open_for, ×2 each time      ▴   │
      │                                          └─────────────────────────────┘   │
      └──────────── ramp: a growing share ◂── as many probes succeeded ────────────┘
```

What is pybreaker's: the states and their transitions, and the interface of the storage.
What is ours, because pybreaker has none: `RateWindow`, a storage that counts failures and slow calls over a sliding window
where pybreaker counts consecutive failures; permits, because pybreaker lets everybody through when half open; a growing
time in the open state; the ramp; and time itself, which is passed in (`now`, monotonic seconds) so that neither the wall clock
nor pybreaker's `reset_timeout` decides anything.

How it is driven: the call itself happens elsewhere and takes its time. Before it the caller takes a *permit*, afterwards it
settles it, on every path, with one of three outcomes. *Succeeded* while closed is an increment in the storage, without
pybreaker: its `call()` costs 1.2 µs, and the closed state would do nothing else with it. Failures, slow calls, and every result
of a probe go through pybreaker's public `call()`, which counts and makes the transitions. *Abandoned*, because the client left
or the gateway itself was short of something, says nothing about the endpoint and only gives the permit back.

A permit is the state object of pybreaker at that time. pybreaker makes a new one at every transition, so a result that comes
late, from before a transition, is known by its permit and does not count.

`admit` and the outcomes must not be called from two threads at once.
"""

from gateway.policies.circuit_breaker.breaker import UNCOUNTED, Breaker
from gateway.policies.circuit_breaker.settings import STATUSES, BreakerSettings, BreakerState, Counts, Forced, Transition
from gateway.policies.circuit_breaker.window import RateWindow

__all__ = [
    "STATUSES",
    "UNCOUNTED",
    "Breaker",
    "BreakerSettings",
    "BreakerState",
    "Counts",
    "Forced",
    "RateWindow",
    "Transition",
]
