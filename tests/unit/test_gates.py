"""A gate: the limiter of `max_in_flight`, whose settings change under it."""

from __future__ import annotations

from gateway.gates import Gate
from gateway.metrics.max_in_flight import MaxInFlightMetrics
from gateway.policies.adaptive_limit import AdaptiveSettings
from gateway.policies.max_in_flight import MaxInFlightSettings


def gate(limit: int, adaptive: AdaptiveSettings | None = None) -> Gate:
    """A gate of an upstream."""
    return Gate(MaxInFlightSettings(limit), adaptive, MaxInFlightMetrics("upstream", "app"))


def test_a_reload_changes_the_limit_and_loses_nobody() -> None:
    """What is in flight stays counted, and the metrics go on to show this gate."""
    one = gate(2)
    one.in_flight = 2
    one.apply(MaxInFlightSettings(1), None)

    assert (one.limit, one.in_flight) == (1, 2)
    assert one.metrics.live is one


def test_a_limit_that_was_found_survives_other_settings() -> None:
    """An adaptive limit goes on from where it is, within its new bounds; with the settings it had it is the one it was."""
    one = gate(10, AdaptiveSettings(1, 100))
    found = one.adaptive
    assert found is not None
    found.limit = 40
    one.apply(MaxInFlightSettings(10), AdaptiveSettings(1, 100))

    assert one.adaptive is found
    assert one.limit == 40
    one.apply(MaxInFlightSettings(10), AdaptiveSettings(1, 30))
    assert one.limit == 30
    one.apply(MaxInFlightSettings(10), None)
    assert (one.limit, one.shown()["adaptive"]) == (10, False)
