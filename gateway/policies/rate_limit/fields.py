"""What the client is told of its limits."""

from __future__ import annotations

from math import ceil

from gateway.policies.rate_limit.settings import MICROSECONDS, Algorithm, LimitSettings, Verdict


def seconds_up(microseconds: int) -> int:
    """Whole seconds, rounded up: who waits that long has waited long enough."""
    return -(-microseconds // MICROSECONDS)


def policy_item(name: str, settings: LimitSettings) -> bytes:
    """One item of `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers): quota and window in whole seconds."""
    window = ceil(settings.per)
    burst = b";burst=%d" % settings.capacity if settings.algorithm is Algorithm.TOKEN_BUCKET else b""
    return b'"%b";q=%d;w=%d%b' % (name.encode("ascii"), settings.limit, window, burst)


def legacy_lines(limit: int, verdict: Verdict) -> bytes:
    """`X-RateLimit-*`; `Reset` is in seconds from now."""
    remaining, reset, _ = verdict
    return b"X-RateLimit-Limit: %d\r\nX-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n" % (
        limit,
        remaining,
        seconds_up(reset),
    )
