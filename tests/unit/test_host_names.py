"""Host names as people write them: where they may stand, what they become, and how they are shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.load import load
from gateway.control.reading.problems import ConfigError
from gateway.control.tools.explain import explain, route_table
from gateway.control.words.host_names import ascii_host, with_name

TEXT = """\
version: 1
upstreams:
  app:
    endpoints: ["https://Bücher.example:8443", "http://bücher.example"]
    host: lager.bücher.example:81
routes:
  - name: shop
    match: {host: [BÜCHER.example, "*.straße.example"]}
    upstream: app
"""


def written(folder: Path, text: str = TEXT) -> Path:
    """A configuration."""
    path = folder / "gateway.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text,expected",
    [
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.Example:8080", "xn--bcher-kva.example:8080"),
        ("straße.example", "xn--strae-oqa.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("ｅｘａｍｐｌｅ.com", "example.com"),
        ("Plain_Name.example", "Plain_Name.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("[::1]:80", "[::1]:80"),
        ("", ""),
    ],
)
def test_names_become_what_the_network_knows(text: str, expected: str) -> None:
    """Characters are mapped as browsers do it (UTS 46); what is ASCII stays as it is."""
    assert ascii_host(text) == expected


@pytest.mark.parametrize(
    "text,shown",
    [
        ("xn--bcher-kva.example", "xn--bcher-kva.example (bücher.example)"),
        ("http://a.xn--bcher-kva.example:81", "http://a.xn--bcher-kva.example:81 (a.bücher.example)"),
        ("host `*.xn--bcher-kva.example`", "host `*.xn--bcher-kva.example` (bücher.example)"),
        ("xn--0.example", "xn--0.example"),
        ("plain.example", "plain.example"),
        ("", ""),
    ],
)
def test_both_names_are_shown(text: str, shown: str) -> None:
    """Behind an encoded name stands that of people, if there is one."""
    assert with_name(text) == shown


def test_they_may_stand_wherever_a_host_is_named(tmp_path: Path) -> None:
    """In `match.host`, with a wildcard too, in endpoints, and in `host` of an upstream."""
    config = load(written(tmp_path), {}).config
    upstream = config.upstreams["app"]

    assert config.routes[0].match.host == ("xn--bcher-kva.example", "*.xn--strae-oqa.example")
    assert [one.url.url for one in upstream.endpoints] == ["https://xn--bcher-kva.example:8443", "http://xn--bcher-kva.example"]
    assert upstream.host == "lager.xn--bcher-kva.example:81"


@pytest.mark.parametrize("url", ["http://bücher.example/", "http://xn--bcher-kva.example/"])
def test_explain_takes_and_shows_both(tmp_path: Path, url: str) -> None:
    """The request may name either; the route, its endpoints and its host are shown with both."""
    loaded = load(written(tmp_path), {})
    text = explain(loaded, "GET", url)

    assert "takes it: host `xn--bcher-kva.example` (bücher.example)" in text
    assert "https://xn--bcher-kva.example:8443 (bücher.example) weight 1" in text
    assert "lager.xn--bcher-kva.example:81 (lager.bücher.example)" in text
    assert "host is not `xn--bcher-kva.example` (bücher.example)" in explain(loaded, "GET", "http://other.example/")
    assert "xn--bcher-kva.example (bücher.example)" in route_table(loaded)


@pytest.mark.parametrize("host", ["☃.example", "bü cher.example", "bü..example", "ü" * 64 + ".example", "bü/cher.example"])
def test_what_no_name_may_hold_is_an_error(tmp_path: Path, host: str) -> None:
    """At its place, before anything runs."""
    with pytest.raises(ConfigError) as raised:
        load(written(tmp_path, TEXT.replace("BÜCHER.example", f"'{host}'")), {})

    assert [one.line for one in raised.value.problems] == [8]
    assert "not a host" in raised.value.problems[0].message
