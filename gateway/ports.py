"""The doors to the outside, as Protocols: what the core and the data plane may ask of the world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.policies.rate_limit import Rule, Verdict


class Pool(Protocol):
    """The connections of one endpoint, as the snapshot holds it. The data plane knows the concrete class."""

    def retire(self) -> None:
        """No new exchanges: close idle connections now, busy ones when their exchange ends."""

    def sweep(self, now: float) -> None:
        """Close what has been idle for too long; called once a second with the monotonic time."""

    def counts(self) -> dict[str, int]:
        """Connections by state, for `/upstreams`."""


class LogSink(Protocol):
    """Takes one finished exchange's line; must never block and never raise."""

    def record(self, line: bytes) -> None: ...


class Resolver(Protocol):
    """What names stand for."""

    async def resolve(self, name: str) -> tuple[str, ...]:
        """The addresses of a name, IPv4 and IPv6, at least one; in no order. Raises OSError. Waits without bound."""


# -- compression -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """Encodes one body. Used by one thread at a time."""

    block: Callable[[bytes], bytes]
    """The next bytes, encoded so that a decoder can show all of them."""
    finish: Callable[[bytes], bytes]
    """The last bytes (there may be none), and the end of the coded body."""


class ContentDecoder(Protocol):
    """Decodes one body."""

    @property
    def complete(self) -> bool:
        """The coded body may end here."""

    def feed(self, data: bytes, most: int) -> bytes:
        """What these bytes decode to. Raises ValueError for what is not valid, `TooMuchError` for more than `most` bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Coder:
    """One content coding at one level."""

    name: bytes
    """What `Content-Encoding` says."""
    inline: int
    """Bytes up to which encoding is quick enough for the event loop."""
    whole: Callable[[bytes], bytes]
    """A whole body, encoded. Only on the event loop."""
    encoder: Callable[[], Encoder]
    """A new encoder, for any thread."""


# -- rate limits -------------------------------------------------------------------------------------------------------


class CountedLimit(Protocol):
    """What a store must know of a limit."""

    @property
    def id(self) -> bytes:
        """12 hex digits. Limits with the same id share their counts."""

    @property
    def enforce(self) -> bool:
        """It can deny a request; otherwise it is only asked, and charged when it would admit."""


class Tier(Protocol):
    """The settings that hold for a key: those of the limit, or of one of its overrides."""

    @property
    def rule(self) -> Rule:
        """The arithmetic for the counts in process."""

    @property
    def packed(self) -> bytes:
        """The settings as `limit_store.lua` reads them."""


class Check:
    """One limit asked for one key."""

    __slots__ = ("cost", "digest", "limit", "rule", "tier")

    def __init__(self, limit: CountedLimit, tier: Tier, digest: bytes, cost: int) -> None:
        self.limit = limit
        self.tier = tier
        self.rule = tier.rule
        self.digest = digest
        self.cost = cost


def _nobody() -> None:
    pass


class Answers:
    """Who answered a call."""

    LOCAL: Final = 0
    REDIS: Final = 1
    CACHE: Final = 2
    """A denial of the store that still holds."""
    NONE: Final = 3
    """The store is in trouble."""


class LimitCall:
    """All limits of one request, asked at once: either each of them admits and is charged, or none is charged.

    `verdicts` belong to `checks`, in order. A store may replace both by the one check that denied.
    """

    __slots__ = ("abandoned", "checks", "done", "since", "source", "verdicts", "wake")

    def __init__(self, checks: list[Check]) -> None:
        self.checks = checks
        self.verdicts: list[Verdict] = []
        self.source = Answers.LOCAL
        self.done = False
        self.abandoned = False
        """Nobody waits for the answer any more: what has not left yet need not leave."""
        self.since = 0.0
        """When it began to wait, in the store's time."""
        self.wake: Callable[[], None] = _nobody
        """What to call when `done` has become true later."""


class LimitStore(Protocol):
    """Keeps the counts of rate limits."""

    def ask(self, call: LimitCall) -> None:
        """Answer now (`done`), or later and call `wake`. Never raises, never waits."""

    def denies(self, checks: Sequence[Check]) -> bool:
        """Whether it is known here and now that one of these would be denied. Nothing is charged or asked."""

    def forget(self) -> None:
        """The limits have changed: what is remembered of former denials no longer holds."""
