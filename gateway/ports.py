"""The doors to the outside, as Protocols: what the core and the data plane may ask of the world."""

from __future__ import annotations

from typing import Any, Protocol


class Pool(Protocol):
    """The connections of one endpoint, as the snapshot holds it. The data plane knows the concrete class."""

    def retire(self) -> None:
        """No new exchanges: close idle connections now, busy ones when their exchange ends."""

    def sweep(self, now: float) -> None:
        """Close what has been idle for too long; called once a second with the monotonic time."""

    def counts(self) -> dict[str, int]:
        """Connections by state, for `/upstreams`."""


class LogSink(Protocol):
    """Takes one finished exchange's record; must never block and never raise."""

    def record(self, entry: dict[str, Any]) -> None: ...
