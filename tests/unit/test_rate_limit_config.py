"""`rate_limit:` and `redis:` in the file: short forms, what is refused and where, what they become."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.compile import compile_config
from gateway.control.load import Loaded, load
from gateway.control.reading.problems import ConfigError
from gateway.control.tools.dump import effective_config
from gateway.control.tools.explain import explain
from gateway.metrics import GatewayMetrics
from gateway.policies.rate_limit import Algorithm
from gateway.snapshot import Limit, RedisSettings, Snapshot

BASE = """\
version: 1
{top}
upstreams: {{u: {{endpoints: ["http://127.0.0.1:9001"]}}}}
routes:
  - name: r
    match: {{path: "/u/{{id}}"}}
    upstream: u
    {route}
  - name: other
    match: {{path: "/o"}}
    upstream: u
"""


class Config:
    """A file with these blocks."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "g.yaml"

    def load(self, route: str = "", top: str = "") -> Loaded:
        """Load it."""
        self.path.write_text(BASE.format(route=route, top=top), encoding="utf-8")
        return load(self.path, {})

    def snapshot(self, route: str = "", top: str = "") -> Snapshot:
        """Compile it."""

        def no_pool(*facts: object) -> object:
            return facts

        return compile_config(self.load(route, top), GatewayMetrics("0"), no_pool)  # type: ignore[arg-type]

    def limits(self, route: str = "", top: str = "", index: int = 0) -> tuple[Limit, ...]:
        """The limits of a route."""
        return self.snapshot(route, top).routes[index].rate_limit or ()

    def problems(self, route: str = "", top: str = "") -> list[tuple[str, str]]:
        """What is wrong, with the text it points at."""
        with pytest.raises(ConfigError) as caught:
            self.load(route, top)
        return [(one.source[one.column - 1 : one.column - 1 + one.length], one.text) for one in caught.value.problems]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A file of its own."""
    return Config(tmp_path)


@pytest.mark.parametrize(
    "written,limit,per",
    [
        ("100/min", 100, 60.0),
        ("5/s", 5, 1.0),
        ("10/15m", 10, 900.0),
        ("{limit: 10, per: 15m}", 10, 900.0),
        ("{limit: 1000/day}", 1000, 86_400.0),
        ("[{limit: 7/250ms}]", 7, 0.25),
        ("{limit: 3, per: hour}", 3, 3600.0),
    ],
)
def test_short_and_long_forms(config: Config, written: str, limit: int, per: float) -> None:
    """A limit by client address needs no more than a number and a period."""
    (found,) = config.limits(f"rate_limit: {written}")

    assert (found.tier.settings.limit, found.tier.settings.per) == (limit, per)
    assert found.tier.settings.algorithm is Algorithm.SLIDING_WINDOW
    assert found.name == "default"
    assert found.plain


def test_a_route_replaces_the_limits_of_defaults_and_can_turn_them_off(config: Config) -> None:
    """A list replaces a list; `off` leaves none."""
    top = "defaults: {rate_limit: 100/min}"

    assert [limit.tier.settings.limit for limit in config.limits("", top)] == [100]
    assert [limit.tier.settings.limit for limit in config.limits("rate_limit: 5/s", top)] == [5]
    assert config.snapshot("rate_limit: off", top).routes[0].rate_limit is None
    assert config.snapshot("rate_limit: {limit: 5/s, mode: off}", top).routes[0].rate_limit is None


def test_a_limit_of_defaults_is_one_for_all_routes_and_a_limit_of_a_route_its_own(config: Config) -> None:
    """Inherited limits share their counts; equal limits on two routes do not."""
    top = "defaults: {rate_limit: 100/min}"

    assert config.limits("", top)[0].id == config.limits("", top, index=1)[0].id
    assert config.limits("rate_limit: 100/min", top)[0].id != config.limits("", top, index=1)[0].id


def test_counts_go_on_when_only_the_number_changes(config: Config) -> None:
    """The id of the counts holds algorithm and period, not the limit: those counts would mean something else."""
    base = config.limits("rate_limit: 100/min")[0].id

    assert config.limits("rate_limit: 200/min")[0].id == base
    assert config.limits("rate_limit: 100/h")[0].id != base
    assert config.limits("rate_limit: {limit: 100/min, algorithm: token_bucket}")[0].id != base


def test_the_share_of_a_gateway_is_for_a_store_outside_only(config: Config) -> None:
    """Without a store nothing is divided."""
    redis = "redis: {url: 'redis://h', expected_instances: 4}"

    assert config.limits("rate_limit: 100/min", redis)[0].tier.rule.capacity == 25
    assert config.limits("rate_limit: 100/min", "redis: {expected_instances: 4}")[0].tier.rule.capacity == 100


@pytest.mark.parametrize(
    "route,at,words",
    [
        ("rate_limit: 100", "100", "period is missing"),
        ("rate_limit: 0/min", "0/min", "at least 1; to refuse everything"),
        ("rate_limit: 1000000000000000/day", "1000000000000000/day", "`RateLimit-Policy` can say no larger number"),
        ("rate_limit: {limit: 5/min, overrides: {192.0.2.1: 1000000000000000}}", "1000000000000000", "at most 999999999999999"),
        ("rate_limit: 5/mim", "5/mim", "did you mean `min`"),
        ("rate_limit: 5/10ms", "5/10ms", "at least `100ms`"),
        ("rate_limit: {limit: 5/min, per: 1m}", "per", "already"),
        ("rate_limit: {limit: 5/min, burst: 3}", "burst", "token_bucket"),
        ("rate_limit: {limit: 1001/min, algorithm: sliding_log}", "1001/min", "at most 1000"),
        ("rate_limit: {limit: 1/min, candidate: {limit: 2000, algorithm: sliding_log}}", "2000", "at most 1000"),
        ("rate_limit: {limit: 5/min, algorithm: token_buckt}", "token_buckt", "did you mean `token_bucket`"),
        ("rate_limit: {limit: 5/min, key: clientip}", "clientip", "did you mean `client_ip`"),
        ("rate_limit: {limit: 5/min, key: 'client_ip:x'}", "'client_ip:x'", "stands alone"),
        ("rate_limit: {limit: 5/min, key: 'header:'}", "'header:'", "name is missing"),
        ("rate_limit: {limit: 5/min, key: 'header:Host'}", "'header:Host'", "use `host`"),
        ("rate_limit: {limit: 5/min, key: 'header:Connection'}", "'header:Connection'", "connection"),
        ("rate_limit: {limit: 5/min, key: 'header:X-Forwarded-For'}", "'header:X-Forwarded-For'", "use `client_ip`"),
        ("rate_limit: {limit: 5/min, key: [host, host]}", "host", "twice"),
        ("rate_limit: {limit: 5/min, key: 'path:idd'}", "'path:idd'", "did you mean `id`"),
        ("rate_limit: {limit: 5/min, cost: 6}", "6", "never admitted"),
        ("rate_limit: {limit: 5/min, cost: 3, overrides: {192.0.2.1: 2}}", "3", "override of `192.0.2.1`"),
        ("rate_limit: {limit: 5/min, cost: {header: X-C}}", "cost", "`max` is missing"),
        ("rate_limit: {limit: 5/min, cost: {max: 3}}", "max", "no effect"),
        ("rate_limit: {limit: 50/min, cost: {header: X-C, max: 3, default: 5}}", "cost", "between"),
        ("rate_limit: {limit: 5/min, overrides: {1.2.3: 4}}", "1.2.3", "client address"),
        ("rate_limit: {limit: 5/min, overrides: {10.0.0.0/8: 4}}", "10.0.0.0/8", "exempt.cidrs"),
        ("rate_limit: {limit: 5/min, key: [host, method], overrides: {a: 4}}", "a", "joined by `|`"),
        ("rate_limit: {limit: 5/min, overrides: {192.0.2.1: 4}, exempt: {keys: [192.0.2.1]}}", "192.0.2.1", "no effect"),
        ("rate_limit: {limit: 5/min, exempt: {cidrs: [10.0.0.0/33]}}", "10.0.0.0/33", ""),
        ("rate_limit: {limit: 5/min, mode: shadw}", "shadw", "did you mean `shadow`"),
        ("rate_limit: [{limit: 5/min}, {limit: 6/min}]", "{", "needs a `name`"),
        ("rate_limit: [{name: a, limit: 5/min}, {name: a, limit: 6/h}]", "a", "same name is number 1"),
        ("rate_limit: [{limt: 5}]", "limt", "did you mean `limit`"),
        ("rate_limit: {limit: 5/min, canddate: 6/min}", "canddate", "did you mean `candidate`"),
    ],
)
def test_what_is_refused_and_where(config: Config, route: str, at: str, words: str) -> None:
    """Each mistake is reported at its place, in words that say what to write."""
    problems = config.problems(route)

    assert any(shown == at and words in text for shown, text in problems), problems


@pytest.mark.parametrize(
    "top,at,words",
    [
        ("redis: {url: 'http://x'}", "'http://x'", "expected `redis://`"),
        ("redis: {url: 'redis://a,b'}", "'redis://a,b'", "redis+cluster://"),
        ("redis: {url: 'redis+sentinel://a'}", "'redis+sentinel://a'", "name of the master"),
        ("redis: {url: 'redis+cluster://a/3'}", "'redis+cluster://a/3'", "only database 0"),
        ("redis: {url: 'redis://a/x'}", "'redis://a/x'", "database number"),
        ("redis: {url: 'redis://a?timeout=3'}", "'redis://a?timeout=3'", "fields of `redis:`"),
        ("redis: {url: 'redis://a', timeout: 5s}", "5s", "at most `1s`"),
        ("redis: {url: 'redis://a', ca: x.pem}", "ca", "rediss://"),
        ("redis: {url: 'redis://a', password_file: nowhere}", "*******", "cannot read"),
        ("redis: {url: 'redis://a', timeuot: 5s}", "timeuot", "did you mean `timeout`"),
    ],
)
def test_what_is_refused_of_the_store(config: Config, top: str, at: str, words: str) -> None:
    """The same for the store."""
    problems = config.problems("", top)

    assert any(shown == at and words in text for shown, text in problems), problems


@pytest.mark.parametrize(
    "url,settings",
    [
        ("redis://h", RedisSettings("redis", (("h", 6379),), shown="redis://h:6379")),
        ("rediss://u:p%40@h:1/2", RedisSettings("redis", (("h", 1),), tls=True, database=2, username="u", password="p@", shown="rediss://h:1/2")),
        ("unix:///run/r.sock", RedisSettings("unix", path="/run/r.sock", shown="unix:///run/r.sock")),
        ("redis+sentinel://a,b:1/m/3", RedisSettings("sentinel", (("a", 26379), ("b", 1)), service="m", database=3, shown="redis+sentinel://a:26379,b:1/m/3")),
        ("redis+cluster://:p@a,[::1]:7", RedisSettings("cluster", (("a", 6379), ("::1", 7)), password="p", shown="redis+cluster://a:6379,[::1]:7")),
    ],
)  # fmt: skip
def test_store_urls(config: Config, url: str, settings: RedisSettings) -> None:
    """One server, TLS, a socket, sentinels, a cluster; credentials are percent-encoded."""
    assert config.snapshot("", f"redis: '{url}'").redis == settings


def test_without_a_url_counts_are_kept_in_process(config: Config) -> None:
    """An empty URL, such as an unset variable, is no store."""
    assert config.snapshot("", 'redis: {url: "${REDIS_URL:-}"}').redis is None


def test_the_password_of_the_store_is_shown_nowhere(config: Config, tmp_path: Path) -> None:
    """Neither in the effective configuration nor in the settings' repr nor in an error about another field."""
    loaded = config.load("", "redis: 'redis://u:hunter2@h'")
    (tmp_path / "secret").write_text("hunter2\n", encoding="utf-8")
    settings = config.snapshot("", "redis: {url: 'redis://h', password_file: secret}").redis

    assert settings is not None
    assert settings.password == "hunter2"
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(effective_config(loaded))
    assert "hunter2" not in str(config.problems("", "redis: {url: 'redis://u:hunter2@h', timeout: 5s}"))


def test_explain_shows_limits_and_keys(config: Config) -> None:
    """Which limits a request is asked for, by which key, and where they are written."""
    route = (
        "rate_limit: [{name: tenant, limit: 5/s, key: ['header:X-Tenant', 'path:id'], missing: deny, candidate: 6/s},"
        " {name: c, limit: 9/s, mode: shadow}]"
    )
    text = explain(config.load(route), "GET", "/u/7", ["X-Tenant: acme"])
    rows = [" ".join(line.split()) for line in text.splitlines()]

    assert any(row.startswith("rate_limit.tenant 5 per 1s, sliding_window") and row.endswith("g.yaml:8") for row in rows), text
    assert "rate_limit.tenant.key header:x-tenant = 'acme' and path:id = '7'" in rows
    assert "rate_limit.tenant.candidate 6 per 1s, only counted" in rows
    assert "header:x-tenant is missing: denied" in explain(config.load(route), "GET", "/u/7")
    assert any(row.startswith("rate_limit.c 9 per 1s, sliding_window (exact), shadow") for row in rows)


def test_the_fields_that_limits_read_are_kept_by_the_reader(config: Config) -> None:
    """Only fields that something asks for are looked at."""
    route = "rate_limit: [{limit: 5/s, key: ['header:X-Tenant', 'cookie:sid'], cost: {header: X-Cost, max: 5}}]"

    assert config.snapshot(route).match_fields - {b"user-agent", b"traceparent"} == {b"x-tenant", b"cookie", b"x-cost"}
