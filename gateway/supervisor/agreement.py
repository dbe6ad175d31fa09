"""What the workers have found out about endpoints, in one order for all: the first verdict counts, those that it meets follow.

Pure: words in, words out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

MOST: Final = 10_000
"""Endpoints that are remembered; names in DNS bring new ones for ever."""
HEAD_START: Final = 0.5
"""Seconds by which the worker that opened a breaker probes before the others. So one set of probes goes out, not one per
worker, unless that worker has no requests."""

OPEN: Final = "open"


@dataclass(frozen=True, slots=True)
class _Agreed:
    """The last word about an endpoint."""

    version: int
    base: int
    """The version that it was said after."""
    origin: int
    word: dict[str, Any]


class Agreement:
    """Words are `upstream, endpoint, state, until, reason, trips, version`: the state is `open` or one that admits; `until` is
    a monotonic instant; `version` is the last that whoever speaks has heard of, 0 for nothing."""

    def __init__(self) -> None:
        self._agreed: OrderedDict[tuple[str, str], _Agreed] = OrderedDict()
        self._version = 0

    def said(self, origin: int, word: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """Worker `origin` says this. What holds now, with the `base` it was said after ▸ whether that is news for the others.

        `origin` must hear it either way.
        """
        key = (word["upstream"], word["endpoint"])
        known = self._agreed.get(key)
        base = word["version"]
        if known is not None and not self._fits(known, origin, base, word):
            return self._heard(known), False
        self._version += 1
        agreed = self._agreed[key] = _Agreed(self._version, base, origin, word)
        self._agreed.move_to_end(key)
        if len(self._agreed) > MOST:
            self._agreed.popitem(last=False)
        return self._heard(agreed), True

    @staticmethod
    def _fits(known: _Agreed, origin: int, base: int, word: dict[str, Any]) -> bool:
        if base == known.version:
            return True
        if origin == known.origin and base == known.base:
            return True  # its next one, said before it heard that the first was agreed upon
        return base == 0 and (word["state"] == OPEN) != (known.word["state"] == OPEN)

    @staticmethod
    def _heard(agreed: _Agreed) -> dict[str, Any]:
        return agreed.word | {"version": agreed.version, "base": agreed.base, "until": agreed.word["until"] + HEAD_START}

    def open(self) -> Iterator[dict[str, Any]]:
        """What a worker that starts must hear."""
        for agreed in self._agreed.values():
            if agreed.word["state"] == OPEN:
                yield self._heard(agreed)

    def forget(self, upstreams: Collection[str]) -> None:
        """The breakers of these upstreams are new ones."""
        for key in [key for key in self._agreed if key[0] in upstreams]:
            del self._agreed[key]
