"""`circuit_breaker:` in the file: short forms, what is refused and where, what it becomes, how it is explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.blocks.upstream.circuit_breaker import breaker_settings
from gateway.control.load import Loaded, load
from gateway.control.reading.problems import ConfigError
from gateway.control.tools.explain import explain
from gateway.policies import NEVER
from gateway.policies.circuit_breaker import STATUSES, BreakerSettings

BASE = """\
version: 1
upstreams:
  u:
    endpoints: ["http://127.0.0.1:9001"]
    {breaker}
routes: [{{name: r, match: {{path: "/**"}}, upstream: u}}]
"""


def loaded(folder: Path, breaker: str = "") -> Loaded:
    """A file with this breaker."""
    path = folder / "g.yaml"
    path.write_text(BASE.format(breaker=breaker and f"circuit_breaker: {breaker}"), encoding="utf-8")
    return load(path, {})


def settings(folder: Path, breaker: str = "") -> BreakerSettings | None:
    """What it becomes."""
    return breaker_settings(loaded(folder, breaker).config.upstreams["u"].circuit_breaker)


def test_it_is_on_by_default(tmp_path: Path) -> None:
    """Nothing written: the settings of the policy."""
    assert settings(tmp_path) == BreakerSettings()


@pytest.mark.parametrize("written", ["off", "{mode: off}", "{mode: off, window: 30s}"])
def test_off(tmp_path: Path, written: str) -> None:
    """`off` is off, in either form."""
    assert settings(tmp_path, written) is None


def test_shadow(tmp_path: Path) -> None:
    """`shadow` is everything but refusals."""
    assert settings(tmp_path, "shadow") == BreakerSettings(enforce=False)


def test_every_field(tmp_path: Path) -> None:
    """Units are resolved: shares, seconds, statuses."""
    written = (
        "{failure_rate: 12.5%, slow_call: 250ms, slow_rate: 80%, window: 1m, min_requests: 7, open_for: 500ms, "
        "max_open_for: 1h, probes: 5, ramp: 0s, statuses: [503, 599], mode: enforce}"
    )
    assert settings(tmp_path, written) == BreakerSettings(
        failure_rate=0.125, slow_call=0.25, slow_rate=0.8, window=60.0, min_requests=7, open_for=0.5, max_open_for=3600.0,
        probes=5, ramp=0.0, statuses=frozenset({503, 599}), enforce=True,
    )  # fmt: skip


def test_without_slow_call_nothing_is_slow(tmp_path: Path) -> None:
    """And the usual statuses are one object for all."""
    found = settings(tmp_path, "{statuses: [504, 503, 502, 500]}")

    assert found is not None
    assert found.slow_call == NEVER
    assert found.statuses is STATUSES


@pytest.mark.parametrize(
    "written,pointed,words",
    [
        ("{failure_rate: 0%}", "0%", "more than `0%`"),
        ("{failure_rate: 50}", "50", "did you mean `50%`?"),
        ("{failure_rate: 101%}", "101%", "more than `100%`"),
        ("{window: 500ms}", "500ms", "between `1s` and `1h`"),
        ("{open_for: 0s}", "0s", "between `100ms` and `24h`"),
        ("{open_for: 10m}", "10m", "longer than `max_open_for` (5m)"),
        ("{max_open_for: 1s}", "1s", "longer than `max_open_for` (1s)"),
        ("{slow_rate: 50%}", "slow_rate", "no effect without `slow_call`"),
        ("{min_requests: 0}", "0", "1"),
        ("{probes: 101}", "101", "100"),
        ("{statuses: [404]}", "404", "500"),
        ("{mode: on}", "on", "`enforce`, `shadow` or `off`"),
        ("shadwo", "shadwo", "did you mean `shadow`?"),
        ("{failure_rat: 50%}", "failure_rat", "did you mean `failure_rate`?"),
    ],
)
def test_what_is_refused(tmp_path: Path, written: str, pointed: str, words: str) -> None:
    """The message points at the value and says what would be right."""
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, written)
    (problem,) = caught.value.problems

    assert problem.source[problem.column - 1 : problem.column - 1 + problem.length] == pointed
    assert words in f"{problem.text} {problem.hint}"


@pytest.mark.parametrize(
    "written,words",
    [
        ("", ["opens when 50% of 20 calls or more in 10s failed", "5s, doubling to 5m", "3 probes, then a ramp of 10s"]),
        ("off", ["circuit_breaker", "off"]),
        ("{mode: shadow, slow_call: 1s}", ["shadow: nothing is refused", "opens when 50% took 1s or longer"]),
    ],
)
def test_it_is_explained(tmp_path: Path, written: str, words: list[str]) -> None:
    """In words, with the place of every value."""
    text = explain(loaded(tmp_path, written), "GET", "/")

    assert [word for word in words if word not in text] == []
