"""`load_balancing:`, `sticky:`, `backup:` and `fallback:` in the file: what is refused and where, and what they become."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from gateway.control.compile import compile_config
from gateway.control.load import Loaded, load
from gateway.control.reading.problems import ConfigError
from gateway.control.tools.dump import effective_config
from gateway.metrics import GatewayMetrics
from gateway.policies.load_balancing import Algorithm, BalancingSettings
from gateway.request_key import KeyPart
from gateway.snapshot import Snapshot

BASE = """\
version: 1
upstreams:
  u: {{endpoints: [http://10.0.0.1, http://10.0.0.2], {upstream}}}
  {more}
routes:
  - {{name: r, match: {{path: "/u/{{id}}"}}, upstream: u, {route}}}
"""


class Config:
    """A file with these blocks."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "g.yaml"

    def load(self, upstream: str = "", more: str = "", route: str = "") -> Loaded:
        """Load it."""
        self.path.write_text(BASE.format(upstream=upstream, more=more, route=route), encoding="utf-8")
        return load(self.path, {})

    def snapshot(self, upstream: str = "", more: str = "", route: str = "") -> Snapshot:
        """Compile it."""

        def no_pool(*facts: object) -> object:
            return facts

        return compile_config(self.load(upstream, more, route), GatewayMetrics("0"), no_pool)  # type: ignore[arg-type]

    def problems(self, upstream: str = "", more: str = "", route: str = "") -> list[tuple[str, str]]:
        """What is wrong, with the text it points at."""
        with pytest.raises(ConfigError) as caught:
            self.load(upstream, more, route)
        return [(one.source[one.column - 1 : one.column - 1 + one.length], one.text) for one in caught.value.problems]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A file of its own."""
    return Config(tmp_path)


@pytest.mark.parametrize(
    "written,settings",
    [
        ("", BalancingSettings()),
        ("load_balancing: round_robin", BalancingSettings(Algorithm.ROUND_ROBIN)),
        ("load_balancing: least_in_flight", BalancingSettings(Algorithm.LEAST_IN_FLIGHT)),
        ("load_balancing: {algorithm: latency, decay: 30s}", BalancingSettings(Algorithm.LATENCY, decay=30.0)),
        (
            "load_balancing: {algorithm: consistent_hash, key: host, bounded_load: 2}",
            BalancingSettings(Algorithm.CONSISTENT_HASH, 2.0),
        ),
        (
            'load_balancing: {algorithm: consistent_hash, key: host, bounded_load: "off"}',
            BalancingSettings(Algorithm.CONSISTENT_HASH, math.inf),
        ),
    ],
)
def test_short_and_long_forms(config: Config, written: str, settings: BalancingSettings) -> None:
    """The algorithm alone, or a block with what belongs to it."""
    assert config.snapshot(written).upstreams[0].group.settings.balancing == settings


def test_a_key_notes_the_fields_it_needs(config: Config) -> None:
    """Only fields that something reads are kept of a request: those of keys and cookies are."""
    key = "load_balancing: {algorithm: consistent_hash, key: [header:X-Tenant, 'path:id', client_ip]}, sticky: s"

    snapshot = config.snapshot(key)

    affinity = snapshot.upstreams[0].affinity
    assert affinity is not None and affinity.sticky is not None
    assert affinity.key == ((KeyPart.HEADER, b"x-tenant"), (KeyPart.PATH, b"id"), (KeyPart.CLIENT_IP, b""))
    assert {b"x-tenant", b"cookie"} <= snapshot.match_fields
    assert config.snapshot().upstreams[0].affinity is None


@pytest.mark.parametrize(
    "written,at,text",
    [
        ("load_balancing: two_choises", "two_choises", "did you mean `two_choices`?"),
        ("load_balancing: consistent_hash", "consistent_hash", "`consistent_hash` needs a `key`"),
        ("load_balancing: {key: host}", "key", "`key` has no effect with `two_choices`"),
        ("load_balancing: {bounded_load: 2}", "bounded_load", "it belongs to `algorithm: consistent_hash`"),
        ("load_balancing: {algorithm: round_robin, decay: 1s}", "decay", "it belongs to `algorithm: latency`"),
        ("load_balancing: {algorithm: consistent_hash, key: host, bounded_load: 0.9}", "0.9", "1"),
        ("load_balancing: {algorithm: consistent_hash, key: 'header:'}", "'header:'", "a name is missing"),
        ("load_balancing: {algorithm: consistent_hash, key: 'constant:x'}", "'constant:x'", "nothing is spread by it"),
        ("load_balancing: {algorithm: consistent_hash, key: 'path:idd'}", "'path:idd'", "did you mean `id`?"),
        ("load_balancing: {algorithm: consistent_hash, key: header:X-Forwarded-For}", "header:X-Forwarded-For", "client_ip"),
        ("sticky: 'a b'", "'a b'", "the name of a cookie"),
        ("sticky: {cookie: 'a;b'}", "'a;b'", "the name of a cookie"),
        ("sticky: {cookie: a, path: '/x; Domain=evil'}", "'/x; Domain=evil'", "the path of a cookie"),
        ("sticky: {cookie: a, same_site: none, secure: false}", "secure", "browsers refuse"),
        ("sticky: {cookie: a, secret_key: x, secret_key_file: y}", "secret_key_file", "only one of them"),
        ("sticky: {cookie: a, secret_key_file: nowhere}", "*******", "cannot read"),
        ("fallback: x", "x", "there is no upstream of this name"),
        ("fallback: u", "u", "`u` ▸ `u`"),
    ],
)
def test_what_is_wrong_is_said_where_it_stands(config: Config, written: str, at: str, text: str) -> None:
    """One problem, at the very word, in words that help."""
    ((place, message),) = config.problems(written)

    assert place == at
    assert text in message


def test_not_all_endpoints_are_backups(config: Config) -> None:
    """Somebody must be the first."""
    ((_, text),) = config.problems(more="b: {endpoints: [{url: http://b, backup: true}]}")

    assert "all endpoints are backups" in text


def test_two_upstreams_do_not_share_a_cookie(config: Config) -> None:
    """Each would overwrite that of the other in the browser."""
    ((at, text),) = config.problems("sticky: s", "b: {endpoints: [http://b], sticky: {cookie: s}}")

    assert at == "s"
    assert "the upstream `u` sets the same cookie" in text
    config.load("sticky: s", "b: {endpoints: [http://b], sticky: {cookie: s, path: /b}}")


def test_fallbacks_that_go_in_a_circle_are_refused_once(config: Config) -> None:
    """The whole circle is named, at its first member; who only leads into it is not to blame."""
    more = """a: {endpoints: [http://a], fallback: b}
  b: {endpoints: [http://b], fallback: c}
  c: {endpoints: [http://c], fallback: a}"""

    ((at, text),) = config.problems("fallback: a", more)

    assert at == "b"
    assert "`a` ▸ `b` ▸ `c` ▸ `a`" in text


@pytest.mark.parametrize(
    "route,text",
    [("fallback: u", "the upstream of the route itself"), ("fallback: bb", "there is no upstream of this name")],
)
def test_the_fallback_of_a_route_is_checked(config: Config, route: str, text: str) -> None:
    """It is another upstream, and there is one of that name."""
    ((_, message),) = config.problems(more="b: {endpoints: [http://b]}", route=route)

    assert text in message


def test_a_route_without_upstream_has_no_fallback(config: Config) -> None:
    """There is nothing that could be replaced."""
    more = "b: {endpoints: [http://b]}"
    config.load(more=more)
    text = config.path.read_text(encoding="utf-8") + "  - {name: x, match: {path: /x}, respond: 404, fallback: b}\n"
    config.path.write_text(text, encoding="utf-8")

    with pytest.raises(ConfigError) as caught:
        load(config.path, {})

    assert [one.message for one in caught.value.problems] == ["`fallback` has no effect in a route without `upstream`"]


def test_fallbacks_are_resolved(config: Config) -> None:
    """Each upstream knows its own, wherever that stands in the file; a route may have another one, or none."""
    more = "b: {endpoints: [http://b], fallback: c}\n  c: {endpoints: [http://c]}"
    snapshot = config.snapshot("fallback: b", more)
    u, b, c = snapshot.upstreams

    assert (u.fallback, b.fallback, c.fallback) == (b, c, None)
    assert snapshot.routes[0].fallback is b
    assert (config.snapshot("fallback: b", more, "fallback: c").routes[0].fallback or b).name == "c"
    assert config.snapshot("fallback: b", more, 'fallback: "off"').routes[0].fallback is None


def test_the_secret_is_not_shown(config: Config) -> None:
    """Neither the effective configuration nor the settings' text holds it."""
    written = "sticky: {cookie: s, secret_key: very-secret}"

    assert "very-secret" not in str(effective_config(config.load(written)))
    assert "secret" not in repr(config.snapshot(written).upstreams[0].group.settings)


def test_values_of_a_cookie_differ_between_upstreams(config: Config) -> None:
    """The same address in two upstreams has two values, so that a cookie of one means nothing to the other."""
    u, b = config.snapshot("sticky: s", "b: {endpoints: [http://10.0.0.1], sticky: t}").upstreams

    assert not set(u.group.by_cookie) & set(b.group.by_cookie)
    assert len(u.group.by_cookie) == 2
