"""`health:`, `ejection:`, `panic:` and `dns:` as operators write them: short forms, mistakes, and what explain says."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.blocks.upstream.health import ejection_settings, probe_settings
from gateway.control.load import Loaded, load
from gateway.control.reading.problems import ConfigError
from gateway.control.schema import Upstream
from gateway.control.tools.explain import explain


def loaded(folder: Path, settings: str, url: str = "http://users:1") -> Loaded:
    """A configuration whose one upstream has these settings."""
    path = folder / "gateway.yaml"
    routes = "routes:\n  - {name: r, match: {}, upstream: u}\n"
    path.write_text(f"version: 1\nupstreams:\n  u: {{endpoints: ['{url}'], {settings}}}\n{routes}", encoding="utf-8")
    return load(path, {})


def upstream(folder: Path, settings: str) -> Upstream:
    """An upstream with these settings."""
    return loaded(folder, settings).config.upstreams["u"]


def test_defaults(tmp_path: Path) -> None:
    """No probes; ejection, slow start, panic and lookups as documented."""
    made = upstream(tmp_path, "")

    assert probe_settings(made.health, made.host) is None
    ejection = ejection_settings(made.ejection)
    assert ejection is not None
    assert (ejection.failures, sorted(ejection.statuses), ejection.base, ejection.longest) == (5, [502, 503, 504], 30.0, 300.0)
    assert ejection.errors == 50
    assert (made.panic, made.slow_start) == (0.5, 10.0)
    assert made.dns is not None
    assert made.dns.interval == 30.0


def test_short_forms_and_off(tmp_path: Path) -> None:
    """A path, a duration, and `off` wherever it means something."""
    made = upstream(tmp_path, "health: /healthz, dns: 5s, ejection: 'off', panic: 'off', slow_start: 0s")

    probe = probe_settings(made.health, made.host)
    assert probe is not None
    assert (probe.target, probe.interval, probe.timeout, probe.statuses) == ("/healthz", 5.0, 1.0, ((200, 399),))
    assert (probe.thresholds.fall, probe.thresholds.rise) == (3, 2)
    assert made.dns is not None
    assert made.dns.interval == 5.0
    assert ejection_settings(made.ejection) is None
    assert made.panic == 0.0
    off = upstream(tmp_path, "health: 'off', dns: 'off'")
    assert (off.health, off.dns) == (None, None)


def test_statuses(tmp_path: Path) -> None:
    """Single statuses and ranges, both ends included."""
    made = upstream(tmp_path, "health: {statuses: [204, 301-302]}, ejection: {statuses: [500-502, 429]}")

    probe, ejection = probe_settings(made.health, made.host), ejection_settings(made.ejection)
    assert probe is not None
    assert ejection is not None
    assert probe.statuses == ((204, 204), (301, 302))
    assert sorted(ejection.statuses) == [429, 500, 501, 502]


@pytest.mark.parametrize(
    "settings,message",
    [
        ("health: {path: healthz}", "a path starts with `/`"),
        ("health: {statuses: [2xx]}", "did you mean `200-299`?"),
        ("health: {statuses: [399-200]}", "did you mean `200-399`?"),
        ("health: {statuses: []}", "must not be empty"),
        ("health: {interval: 1ms}", "between `100ms` and `1h`"),
        ("health: {intervall: 1s}", "did you mean `interval`?"),
        ("health: {type: udp}", "expected `http` or `tcp`"),
        ("health: {type: tcp, path: /x}", "`path` has no effect with `type: tcp`"),
        ("health: {headers: {Host: x}}", "use `host` of `health`"),
        ("health: {headers: {Content-Length: 1}}", "it is about the framing"),
        ("health: {host: 'a b'}", "expected a host name"),
        ("health: {fall: 0}", "must be at least 1"),
        ("ejection: {base: 10m}", "`base` is longer than `max`"),
        ("ejection: {max_ejected: 0%}", "more than `0%`"),
        ("ejection: {max_ejected: 50}", "did you mean `50%`?"),
        ("panic: 150%", "more than `100%`"),
    ],
)
def test_mistakes(tmp_path: Path, settings: str, message: str) -> None:
    """Each mistake is told with its place, and with what was meant where that can be seen."""
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, settings)

    (problem,) = caught.value.problems
    assert message in f"{problem.message} {problem.hint}"
    assert problem.line == 3


def test_dns_without_a_name_is_a_mistake(tmp_path: Path) -> None:
    """Written for addresses it would do nothing; turned off it may stay."""
    for url in ("http://10.0.0.1:1", "http://[::1]:1", "unix:/run/x.sock"):
        with pytest.raises(ConfigError, match=r"`dns` has no effect"):
            loaded(tmp_path, "dns: 5s", url)
        loaded(tmp_path, "dns: 'off'", url)


def test_explain_says_what_holds(tmp_path: Path) -> None:
    """Each setting with its origin."""
    text = explain(loaded(tmp_path, "health: {path: /healthz, fall: 4}, panic: 'off'"), "GET", "/")
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}

    assert "GET /healthz, every 5s for 1s; fall 4, rise 2" in rows["health"]
    assert rows["health"].endswith("gateway.yaml:3")
    assert "after 5 failures in a row, for 30s, 5m at most; 50% of the endpoints at most" in rows["ejection"]
    assert rows["ejection"].endswith("default")
    assert (rows["slow_start"].split()[1:], rows["panic"].split()[1:2]) == (["10s", "default"], ["off"])
    assert rows["dns"].split()[1:] == ["every", "30s", "default"]
