"""The counts of rate limits in process: bounded memory, constant time, oldest keys leave first.

It is the store of a gateway without Redis, and stands in for Redis while that is in trouble. The clock is monotonic.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from time import monotonic_ns
from typing import Any, Final

from gateway.policies.rate_limit import MICROSECONDS, Rule, Verdict, converted
from gateway.ports import Check, LimitCall

SWEEP: Final = 2_000
"""Keys that one sweep looks at, at most: about a millisecond."""


class Table(OrderedDict[bytes, Any]):
    """The states of one limit by key; the key charged longest ago stands first."""

    __slots__ = ("removed", "rule")

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule
        self.removed = 0
        """How many states have left: what was found before may be gone."""


class Counter:
    """A check and the state that it found last."""

    __slots__ = ("cost", "digest", "removed", "rule", "state", "table")

    def __init__(self, check: Check, table: Table) -> None:
        self.cost = check.cost
        self.digest = check.digest
        self.rule = check.rule
        self.table = table
        self.state: Any = None
        self.removed = -1


class LocalStore:
    """A `LimitStore` in this process. `capacity` is in keys; a key of a `sliding_log` counts for more (`Rule.weight`)."""

    __slots__ = ("_tables", "capacity", "weight")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.weight = 0
        self._tables: dict[bytes, Table] = {}

    def ask(self, call: LimitCall) -> None:
        call.verdicts = self.decide(call.checks, monotonic_ns() // 1000)
        call.done = True

    def denies(self, checks: Sequence[Check]) -> bool:
        now = monotonic_ns() // 1000
        for check in checks:
            table = self._tables.get(check.limit.id)
            state = None if table is None else table.get(check.digest)
            if state is None:
                continue
            rule = check.rule
            if type(state) is not rule.form:
                state = converted(rule, state, now)
            if check.cost > rule.room(state, now):
                return True
        return False

    def forget(self) -> None:
        """Nothing: no denials are remembered here."""

    def resize(self, capacity: int) -> None:
        """Keep at most so many keys from now on."""
        self.capacity = capacity

    def counters(self, checks: Sequence[Check]) -> list[Counter]:
        """The checks with their place in this store, for `admit`."""
        return [Counter(check, self._table(check)) for check in checks]

    def admit(self, counters: Sequence[Counter], now: int) -> list[int] | None:
        """Charge all if each key was charged before and admits: the units left of each, and the seconds until one more.

        None, with nothing charged, in all other cases: then `decide` has the answer. `now` in microseconds, costs not 0.
        """
        last = counters[-1]
        # All but the last are asked; the last is asked and charged in one step, and what was asked can then be charged.
        for counter in counters:
            table = counter.table
            if counter.removed != table.removed or counter.state is None:
                counter.state = table.get(counter.digest)
                counter.removed = table.removed
                if type(counter.state) is not counter.rule.form:
                    counter.state = None
                    return None
            if counter is not last and counter.rule.room(counter.state, now) < counter.cost:
                return None
        taken = last.rule.take(last.state, last.cost, now)
        if taken is None:
            return None
        last.table.move_to_end(last.digest)
        if len(counters) == 1:
            return [taken[0], -(-taken[1] // MICROSECONDS)]
        numbers: list[int] = []
        for counter in counters:
            if counter is not last:
                took = counter.rule.take(counter.state, counter.cost, now)
                assert took is not None
                counter.table.move_to_end(counter.digest)
                numbers += (took[0], -(-took[1] // MICROSECONDS))
        numbers += (taken[0], -(-taken[1] // MICROSECONDS))
        return numbers

    def _table(self, check: Check) -> Table:
        table = self._tables.get(check.limit.id)
        if table is None:
            table = self._tables[check.limit.id] = Table(check.rule)
        return table

    def decide(self, checks: Sequence[Check], now: int) -> list[Verdict]:
        """Ask all, then charge all that admit, or none when one that is enforced denies. `now` in microseconds."""
        asked: list[tuple[Check, Rule, Table, Any, float]] = []
        denied = False
        for check in checks:
            limit = check.limit
            rule = check.rule
            table = self._table(check)
            state = table.get(check.digest)
            if state is None:
                state = rule.fresh(now)
            elif type(state) is not rule.form:
                # The size of the limit has changed. What was found before is no longer what counts.
                state = table[check.digest] = converted(rule, state, now)
                table.removed += 1
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
                taken = rule.take(state, cost, now)
                assert taken is not None
                digest = check.digest
                if digest in table:
                    table.move_to_end(digest)
                else:
                    self._insert(table, digest, state, now)
                verdicts.append((*taken, 0))
        return verdicts

    def reset(self, limit_id: bytes, digest: bytes) -> bool:
        """Forget a key; whether there was one."""
        table = self._tables.get(limit_id)
        if table is None or table.pop(digest, None) is None:
            return False
        table.removed += 1
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
            victim.removed += 1
            self.weight -= victim.rule.weight

    def _drop_over(self, table: Table, now: int, most: int) -> int:
        dropped = 0
        while dropped < most and table:
            digest = next(iter(table))
            if not table.rule.over(table[digest], now):
                break
            del table[digest]
            table.removed += 1
            self.weight -= table.rule.weight
            dropped += 1
        return dropped
