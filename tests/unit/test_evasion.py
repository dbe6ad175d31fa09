"""Where dot segments may be forwarded: only where no path with them gets around a route or a prefix."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.load import Loaded, load
from gateway.control.reading.problems import ConfigError
from gateway.control.tools.explain import explain
from gateway.control.tools.trial import RequestError

FORWARD = "paths: {dot_segments: forward}"
S3 = "{name: s3, match: {host: s3.test}, upstream: u, paths: {dot_segments: forward}}"


def made(folder: Path, *routes: str, top: str = "") -> Loaded:
    """A configuration with these routes."""
    file = folder / "gateway.yaml"
    listed = "".join(f"  - {route}\n" for route in routes)
    file.write_text(
        f"version: 1\n{top}\nupstreams: {{u: {{endpoints: ['http://10.0.0.1:1']}}}}\nroutes:\n{listed}", encoding="utf-8"
    )
    return load(file, {})


def problem(folder: Path, *routes: str, top: str = "") -> str:
    """What is wrong with it."""
    with pytest.raises(ConfigError) as caught:
        made(folder, *routes, top=top)
    return "\n".join(f"{one.message} {one.hint}" for one in caught.value.problems)


@pytest.mark.parametrize("path", ["/a/**", "/{bucket}/**", "/{key}", "/a", "/"])
def test_a_path_that_could_be_left_cannot_forward(tmp_path: Path, path: str) -> None:
    """`/a/../b` is not under `/a/` at the upstream, nor is the bucket what stands first."""
    found = problem(tmp_path, f"{{name: r, match: {{path: '{path}'}}, upstream: u, {FORWARD}}}")

    assert f"route `r` matches `{path}`" in found and "only a route whose `match.path` is `/**`" in found


@pytest.mark.parametrize("word", ["strip_prefix: /a", "rewrite_prefix: {from: /a, to: /b}"])
def test_a_prefix_that_could_be_left_cannot_be_replaced(tmp_path: Path, word: str) -> None:
    """`/a/../x` would become `/b/../x`, which is outside what the prefix stands for."""
    assert f"route `r` has `{word.partition(':')[0]}`" in problem(
        tmp_path, f"{{name: r, match: {{}}, upstream: u, {word}, {FORWARD}}}"
    )


EVADED = {
    "same-host": ("host: s3.test, path: /admin/**", S3),
    "parameter": ("host: s3.test, path: '/{tenant}/x'", S3),
    "exact": ("host: s3.test, path: /healthz", S3),
    "priority": ("path: /admin/**, priority: 1", S3),
    "more-exact-host": ("host: a.s3.test, path: /admin/**", S3.replace("s3.test", "'*.s3.test'")),
    "any-host": ("host: api.test, path: /admin/**", S3.replace("host: s3.test", "")),
    "left-to-others": ("path: /admin/**", S3.replace("s3.test", "s3.test, methods: [GET]")),
    "left-by-field": ("path: /admin/**", S3.replace("s3.test", "s3.test, headers: {X-A: true}")),
    "left-by-query": ("path: /admin/**", S3.replace("s3.test", "s3.test, query: {a: '1'}")),
}


@pytest.mark.parametrize("action", ["upstream: u, rate_limit: 1/s", "respond: 403", "redirect: /"])
@pytest.mark.parametrize("match,route", EVADED.values(), ids=EVADED)
def test_no_other_route_can_be_evaded(tmp_path: Path, match: str, route: str, action: str) -> None:
    """A route that takes some paths of the host first would be got around by `/x/../admin`, whatever it does with them."""
    found = problem(tmp_path, f"{{name: admin, match: {{{match}}}, {action}}}", route)

    assert (
        "route `admin` at" in found
        and "could be evaded: a path such as `/x/../" in found
        and "`match.host` of its own" in found
    )


BESIDE = {
    "another-host": "{name: o, match: {host: api.test, path: /admin/**}, upstream: u}",
    "another-domain": "{name: o, match: {host: '*.api.test', path: /admin/**}, upstream: u}",
    "never-for-this-host": "{name: o, match: {path: /admin/**}, upstream: u}",
    "all-paths": "{name: o, match: {host: s3.test, methods: [PUT]}, upstream: u, rate_limit: 1/s}",
    "both": "{name: o, match: {host: s3.test, methods: [PUT]}, upstream: u, paths: {dot_segments: forward}}",
}


@pytest.mark.parametrize("other", BESIDE.values(), ids=BESIDE)
def test_what_no_path_leads_around_may_stand_beside_it(tmp_path: Path, other: str) -> None:
    """Other hosts, routes that never get this host's requests, and routes that ask for no path are no matter of paths."""
    routes = made(tmp_path, other, S3).resolved.routes

    assert [one.blocks["paths"].value.dot_segments for one in routes if one.facts.name == "s3"] == ["forward"]


@pytest.mark.parametrize("top", ["defaults: {paths: {dot_segments: forward}}", "server: {paths: {dot_segments: forward}}"])
def test_what_holds_for_all_has_to_be_right_for_all(tmp_path: Path, top: str) -> None:
    """Written above the routes it is checked for each of them; a route may say otherwise, and one without upstream has none."""
    one = "{name: one, match: {}, upstream: u}"

    assert made(tmp_path, one, top=top).resolved.routes[0].blocks["paths"].value.dot_segments == "forward"
    assert "could be evaded" in problem(tmp_path, one, "{name: r, match: {path: /a}, respond: 404}", top=top)
    assert "matches `/a`" in problem(tmp_path, "{name: two, match: {path: /a}, upstream: u}", top=top)
    made(tmp_path, "{name: two, match: {path: /a}, upstream: u, paths: {dot_segments: reject}}", top=top)


def test_it_has_no_effect_without_an_upstream(tmp_path: Path) -> None:
    """Who answers here forwards nothing."""
    assert "`paths` has no effect" in problem(tmp_path, f"{{name: r, match: {{}}, respond: 404, {FORWARD}}}")


def test_explain_goes_by_the_path_as_sent(tmp_path: Path) -> None:
    """`gateway explain` says which route forwards such a path, and that others are never asked about it."""
    loaded = made(tmp_path, S3, "{name: o, match: {}, upstream: u}")

    assert "→ route `s3`" in explain(loaded, "GET", "http://s3.test/a/../b/%2e%2e//c")
    assert "paths.dot_segments" in explain(loaded, "GET", "http://s3.test/a/./b")
    with pytest.raises(RequestError, match="dot segment"):
        explain(loaded, "GET", "http://other.test/a/../b")
