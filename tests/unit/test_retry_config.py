"""`retry:`, `hedge:` and `retry_budget:` in the file: short forms, inheritance, what is refused and where, what they become."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.blocks.traffic.retry import longest_back_off
from gateway.control.compile import compile_config
from gateway.control.load import Loaded, load
from gateway.control.reading.problems import ConfigError
from gateway.control.tools.dump import effective_config
from gateway.control.tools.explain import explain
from gateway.metrics import GatewayMetrics
from gateway.policies.hedge import HedgeSettings
from gateway.policies.retry import BudgetSettings, Cause, RetrySettings
from gateway.proxy.exchange import Tries
from gateway.snapshot import Route, Snapshot

BASE = """\
version: 1
defaults: {{{defaults}}}
upstreams: {{u: {{endpoints: ["http://127.0.0.1:9001"], {upstream}}}}}
routes:
  - {{name: r, match: {{path: /r}}, upstream: u, {route}}}
"""


class Config:
    """A file with these fields."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "g.yaml"

    def load(self, route: str = "", defaults: str = "", upstream: str = "") -> Loaded:
        """Load it."""
        self.path.write_text(BASE.format(route=route, defaults=defaults, upstream=upstream), encoding="utf-8")
        return load(self.path, {})

    def snapshot(self, route: str = "", defaults: str = "", upstream: str = "", previous: Snapshot | None = None) -> Snapshot:
        """Compile it."""

        def no_pool(*facts: object) -> object:
            return facts

        loaded = self.load(route, defaults, upstream)
        return compile_config(loaded, GatewayMetrics("0"), no_pool, previous)  # type: ignore[arg-type]

    def route(self, route: str = "", defaults: str = "") -> Route:
        """The route."""
        return self.snapshot(route, defaults).routes[0]

    def settings(self, route: str = "", defaults: str = "") -> RetrySettings:
        """Its retries, which are not off."""
        retry = self.route(route, defaults).retry
        assert retry is not None
        return retry.settings

    def problems(self, route: str = "", defaults: str = "", upstream: str = "") -> list[tuple[str, str]]:
        """What is wrong, with the text it points at."""
        with pytest.raises(ConfigError) as caught:
            self.load(route, defaults, upstream)
        return [(one.source[one.column - 1 : one.column - 1 + one.length], one.text) for one in caught.value.problems]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Files to write."""
    return Config(tmp_path)


def test_the_default_is_one_retry(config: Config) -> None:
    """Nothing written: one retry on connect, reset, timeout, 502, 503 and 504; a budget; no hedging."""
    snapshot = config.snapshot()
    retry = snapshot.routes[0].retry

    assert retry is not None and retry.settings == RetrySettings()
    assert snapshot.upstreams[0].retry_budget.settings == BudgetSettings()
    assert snapshot.routes[0].hedge is None


@pytest.mark.parametrize(
    "route,defaults,expected",
    [
        ("retry: 3", "", RetrySettings(max_retries=3)),
        ("retry: 0", "", RetrySettings(max_retries=0)),
        ("retry: {on: 503}", "", RetrySettings(causes=frozenset(), statuses=frozenset({503}))),
        ("retry: {on: [reset, 429]}", "", RetrySettings(causes=frozenset({Cause.RESET}), statuses=frozenset({429}))),
        ("retry: {on: [5xx]}", "", RetrySettings(causes=frozenset(), statuses=frozenset(range(500, 600)))),
        ("retry: {on: invalid}", "", RetrySettings(causes=frozenset({Cause.INVALID}), statuses=frozenset())),
        ("retry: {replay: 1MiB}", "", RetrySettings(replay=1 << 20)),
        ("retry: {replay: off}", "", RetrySettings(replay=0)),
        ("retry: {idempotency_key: true}", "retry: 2", RetrySettings(max_retries=2, idempotency_key=True)),
        ("retry: {max_retries: 4}", "retry: {replay: 1KiB}", RetrySettings(max_retries=4, replay=1024)),
        ("retry: {replay: 1KiB}", "retry: off", RetrySettings(replay=1024)),
        ("", "retry: 2", RetrySettings(max_retries=2)),
    ],
)
def test_what_is_written_and_inherited(config: Config, route: str, defaults: str, expected: RetrySettings) -> None:
    """Each field comes from the route, else from `defaults`, else it is built in."""
    assert config.settings(route, defaults) == expected


@pytest.mark.parametrize("route,defaults", [("retry: off", ""), ("", "retry: off"), ("retry: off", "retry: 5")])
def test_off(config: Config, route: str, defaults: str) -> None:
    """`off` turns off what is inherited."""
    assert config.route(route, defaults).retry is None


def test_the_back_off_is_full_jitter(config: Config) -> None:
    """Between 0 and twice as much as before, up to `max`: one strategy per route, asked with the number of the attempt."""
    retry = config.route("retry: {max_retries: 5, backoff: {base: 100ms, max: 300ms}}").retry
    assert retry is not None
    tries = Tries()
    for number, most in ((1, 0.1), (2, 0.2), (3, 0.3), (5, 0.3)):
        tries.attempt_number = number
        waits = [retry.wait(tries) for _ in range(300)]
        assert 0 <= min(waits) < most * 0.2
        assert most * 0.8 < max(waits) <= most


@pytest.mark.parametrize(
    "route,expected",
    [("", 0.025), ("retry: 3", 0.175), ("retry: 10", 0.025 + 0.05 + 0.1 + 0.2 + 6 * 0.25), ("retry: 0", 0.0)],
)
def test_the_longest_back_off(config: Config, route: str, expected: float) -> None:
    """What all waits of a request come to at worst."""
    assert longest_back_off(config.load(route).resolved.routes[0].blocks["retry"].value) == pytest.approx(expected)


@pytest.mark.parametrize(
    "written,expected",
    [
        ("hedge: 50ms", HedgeSettings(after=0.05)),
        ("hedge: p95", HedgeSettings(quantile=0.95)),
        ("hedge: {after: p99.9, max: 2}", HedgeSettings(quantile=0.999, most=2)),
    ],
)
def test_hedge(config: Config, written: str, expected: HedgeSettings) -> None:
    """A time or a percentile, and how many copies."""
    hedge = config.route(written).hedge
    assert hedge is not None
    assert (hedge.settings.after, hedge.settings.most) == (expected.after, expected.most)
    assert hedge.settings.quantile == pytest.approx(expected.quantile)


def test_hedge_off(config: Config) -> None:
    """`off` turns off what is inherited."""
    assert config.route("hedge: off", "hedge: p95").hedge is None
    assert config.route("", "hedge: p95").hedge is not None


@pytest.mark.parametrize(
    "written,expected",
    [
        ("retry_budget: 50%", BudgetSettings(ratio=0.5)),
        ("retry_budget: {min_per_second: 0.5, window: 30s}", BudgetSettings(min_per_second=0.5, window=30.0)),
    ],
)
def test_budget(config: Config, written: str, expected: BudgetSettings) -> None:
    """A share, or its parts."""
    assert config.snapshot(upstream=written).upstreams[0].retry_budget.settings == expected


def test_workers_share_what_is_beyond_the_ratio(config: Config) -> None:
    """However many workers there are, an upstream sees `min_per_second` retries beyond the share of its requests."""

    def no_pool(*facts: object) -> object:
        return facts

    snapshot = compile_config(config.load(), GatewayMetrics("0"), no_pool, workers=4)  # type: ignore[arg-type]

    assert snapshot.upstreams[0].retry_budget.settings == BudgetSettings(0.2, 2.5, 0.1)


def test_the_budget_survives_a_reload(config: Config) -> None:
    """What is spent is spent, as long as the settings are the same."""
    first = config.snapshot()
    same = config.snapshot(route="retry: 5", previous=first)
    other = config.snapshot(upstream="retry_budget: 10%", previous=first)

    assert same.upstreams[0].retry_budget is first.upstreams[0].retry_budget
    assert other.upstreams[0].retry_budget is not first.upstreams[0].retry_budget


@pytest.mark.parametrize(
    "route,at,text",
    [
        ("retry: 11", "11", "10"),
        ("retry: {max_retrys: 1}", "max_retrys", "did you mean `max_retries`?"),
        ("retry: {on: [conect]}", "conect", "did you mean `connect`?"),
        ("retry: {on: [600]}", "600", "a status from 400 to 599"),
        ("retry: {on: [200]}", "200", "a status from 400 to 599"),
        ("retry: {on: []}", "on", "must not be empty"),
        ("retry: {on: [503, 503]}", "503", "stands twice"),
        ("retry: {replay: 2MiB}", "2MiB", "at most `1MiB`"),
        ("retry: {backoff: {base: 0s}}", "0s", "between `1ms` and `60s`"),
        ("retry: {backoff: {base: 1s}}", "1s", "longer than `max` (250ms)"),
        ("retry: {backoff: {max: 10ms}}", "10ms", "longer than `max` (10ms)"),
        ("retry: {idempotency_key: true}, request_fields: {remove: [idempotency-key]}", "idempotency-key", "relies on this"),
        ("hedge: p30", "p30", "at least `p50`"),
        ("hedge: 50", "50", "did you mean `50s`?"),
        ("hedge: {max: 1}", "hedge", "after"),
        ("hedge: {after: p95, max: 4}", "4", "3"),
    ],
)
def test_what_is_refused_in_a_route(config: Config, route: str, at: str, text: str) -> None:
    """Each mistake is shown where it is."""
    ((found, message),) = config.problems(route)
    assert found.startswith(at)
    assert text in message


def test_an_inherited_mistake_is_told_once(config: Config) -> None:
    """A back-off in `defaults` is one problem, however many routes inherit it."""
    assert len(config.problems(defaults="retry: {backoff: {base: 2s}}")) == 1


@pytest.mark.parametrize(
    "upstream,at,text",
    [
        ("retry_budget: 0.2", "0.2", "did you mean `20%`?"),
        ("retry_budget: {ratio: 120%}", "120%", "more than `100%`"),
        ("retry_budget: {window: 5m}", "5m", "between `100ms` and `60s`"),
        ("retry_budget: {min_per_second: -1}", "-1", "0"),
    ],
)
def test_what_is_refused_in_an_upstream(config: Config, upstream: str, at: str, text: str) -> None:
    """The budget is always there, and bounded."""
    ((found, message),) = config.problems(upstream=upstream)
    assert (found, text in message) == (at, True)


def test_without_an_upstream_there_is_nothing_to_retry(tmp_path: Path) -> None:
    """A route that answers here has no retries to set."""
    path = tmp_path / "g.yaml"
    path.write_text("version: 1\nroutes: [{name: r, match: {}, respond: 204, retry: 2, hedge: p95}]\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, {})

    assert [one.text for one in caught.value.problems] == [
        "`retry` has no effect in a route with `respond`",
        "`hedge` has no effect in a route with `respond`",
    ]


def lines(text: str) -> dict[str, str]:
    """The rows of an explanation, blanks reduced."""
    rows = [row.split("  ", 1) for row in (line.strip() for line in text.splitlines()) if "  " in row]
    return {name: " ".join(rest.split()) for name, rest in rows}


def test_explain(config: Config) -> None:
    """What holds, where it is written, what it means for the method, and what it may cost."""
    loaded = config.load("retry: {max_retries: 3, idempotency_key: true}, hedge: p95", upstream="retry_budget: 12.5%")
    get, post = lines(explain(loaded, "GET", "/r")), lines(explain(loaded, "POST", "/r"))

    assert get["retry.max_retries"] == f"3 {config.path}:5"
    assert get["retry.on"] == "connect, reset, timeout, 502, 503, 504 default"
    assert get["retry of this method"] == "yes"
    assert post["retry of this method"] == "only if nothing was sent, or with an `Idempotency-Key`"
    assert get["retry back-off in all"] == "at most 175ms"
    assert get["retry_budget"] == f"12.5% of the requests + 10/s, saved up for 100ms {config.path}:3"
    assert get["hedge"].startswith("one more copy after p95, from the retry budget; needs a second endpoint")
    assert post["hedge"].startswith("not for this method")


def test_explain_off(config: Config) -> None:
    """What is off is one line."""
    rows = lines(explain(config.load("retry: off, hedge: off"), "GET", "/r"))

    assert rows["retry"] == f"off {config.path}:5"
    assert rows["hedge"] == f"off {config.path}:5"


def test_the_effective_configuration(config: Config) -> None:
    """The admin listener shows what holds, in seconds and bytes."""
    (route,) = effective_config(config.load("retry: 2, hedge: {after: p95}"))["routes"]
    assert route["retry"] == {
        "max_retries": 2,
        "on": ["connect", "reset", "timeout", "502", "503", "504"],
        "backoff": {"base": 0.025, "max": 0.25},
        "replay": 65536,
        "idempotency_key": False,
    }
    assert route["hedge"] == {"after": "p95", "max": 1}
    (route,) = effective_config(config.load("retry: off"))["routes"]
    assert (route["retry"], route["hedge"]) == (None, None)
