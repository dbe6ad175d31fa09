"""The counts of rate limits in process: bounded memory, constant time, oldest keys leave first.

It is the store of a gateway without Redis, and stands in for Redis while that is in trouble. The clock is monotonic.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from time import monotonic_ns
from typing import Any, Final

from gateway.policies.rate_limit import Rule, Verdict
from gateway.ports import Check, LimitCall

SWEEP: Final = 2_000
"""Keys that one sweep looks at, at most: about a millisecond."""


class Table(OrderedDict[bytes, Any]):
    """The states of one limit by key; the key charged longest ago stands first."""

    __slots__ = ("rule",)

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule


class LocalStore:
    """See the module's docstring. `capacity` is in keys; a key of a `sliding_log` counts for more (`Rule.weight`)."""

    __slots__ = ("_tables", "capacity", "weight")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.weight = 0
        self._tables: dict[bytes, Table] = {}

    def ask(self, call: LimitCall) -> None:
        """See `LimitStore`."""
        call.verdicts = self.decide(call.checks, monotonic_ns() // 1000)
        call.done = True

    def forget(self) -> None:
        """See `LimitStore`: no denials are remembered here."""

    def resize(self, capacity: int) -> None:
        """Keep at most so many keys from now on."""
        self.capacity = capacity

    def decide(self, checks: Sequence[Check], now: int) -> list[Verdict]:
        """Ask all, then charge all that admit, or none when one that is enforced denies. `now` in microseconds."""
        tables = self._tables
        asked: list[tuple[Check, Rule, Table, Any, float]] = []
        denied = False
        for check in checks:
            limit = check.limit
            rule = check.tier.rule
            table = tables.get(limit.id)
            if table is None:
                table = tables[limit.id] = Table(rule)
            state = table.get(check.digest)
            if state is None:
                state = rule.fresh(now)
            room = rule.room(state, now)
            if check.cost > room and limit.enforce:
                denied = True
            asked.append((check, rule, table, state, room))
        verdicts: list[Verdict] = []
        for check, rule, table, state, before in asked:
            cost = check.cost
            if cost > before:
                left = int(before) if before > 0 else 0
                verdicts.append((left, rule.wait(state, left + 1, now), rule.wait(state, cost, now)))
            elif denied or not cost:
                left = int(before) if before > 0 else 0
                verdicts.append((left, rule.wait(state, left + 1 if left < rule.capacity else left, now), 0))
            else:
                rule.charge(state, cost, now)
                digest = check.digest
                if digest in table:
                    table.move_to_end(digest)
                else:
                    self._insert(table, digest, state, now)
                left = int(before - cost)
                verdicts.append((left, rule.wait(state, left + 1, now), 0))
        return verdicts

    def peek(self, check: Check) -> Verdict:
        """What the limit would say, with nothing charged."""
        return self.decide([Check(check.limit, check.tier, check.digest, 0)], monotonic_ns() // 1000)[0]

    def reset(self, limit_id: bytes, digest: bytes) -> bool:
        """Forget a key; whether there was one."""
        table = self._tables.get(limit_id)
        if table is None or table.pop(digest, None) is None:
            return False
        self.weight -= table.rule.weight
        return True

    def sweep(self) -> None:
        """Drop keys whose state says nothing any more; called once a second."""
        now = monotonic_ns() // 1000
        left = SWEEP
        for table in self._tables.values():
            left -= self._drop_over(table, now, left)

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))

    def _insert(self, table: Table, digest: bytes, state: Any, now: int) -> None:
        table[digest] = state
        self.weight += table.rule.weight
        self._drop_over(table, now, 2)
        while self.weight > self.capacity:
            # Who fills the store loses keys: a flood at one limit does not push out those of another.
            victim = table if len(table) * len(self._tables) * 2 > len(self) else max(self._tables.values(), key=len)
            victim.popitem(last=False)
            self.weight -= victim.rule.weight

    def _drop_over(self, table: Table, now: int, most: int) -> int:
        dropped = 0
        while dropped < most and table:
            digest = next(iter(table))
            if not table.rule.over(table[digest], now):
                break
            del table[digest]
            self.weight -= table.rule.weight
            dropped += 1
        return dropped
