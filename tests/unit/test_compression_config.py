"""`compression:` and `decompress_request:` as operators write them: short forms, mistakes, what check and explain say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.control.compile import compile_config
from gateway.control.load import Loaded, load
from gateway.control.reading.problems import ConfigError
from gateway.control.tools.explain import explain
from gateway.metrics import GatewayMetrics
from gateway.policies.compression import Breach
from gateway.policies.decompress_request import DecompressRequestSettings
from gateway.snapshot import Compression, Route


def loaded(folder: Path, route: str = "", defaults: str = "") -> Loaded:
    """A configuration with one route."""
    path = folder / "gateway.yaml"
    path.write_text(
        f"version: 1\ndefaults: {{{defaults}}}\nupstreams: {{u: {{endpoints: ['http://10.0.0.1:1']}}}}\n"
        f"routes: [{{name: r, match: {{}}, upstream: u, {route}}}]\n",
        encoding="utf-8",
    )
    return load(path, {})


def snapshot(found: Loaded) -> Route:
    """That route, compiled."""

    def no_pool(*facts: object) -> object:
        return facts

    return compile_config(found, GatewayMetrics("0"), no_pool).routes[0]  # type: ignore[arg-type]


def compiled(folder: Path, route: str = "", defaults: str = "") -> Compression | None:
    """The compression of that route."""
    return snapshot(loaded(folder, route, defaults)).compression


def test_nothing_is_compressed_unless_written(tmp_path: Path) -> None:
    """Without the block, and with `off` whatever is inherited, there is none."""
    assert compiled(tmp_path) is None
    assert compiled(tmp_path, "compression: off", "compression: on") is None
    assert compiled(tmp_path, "compression: false", "compression: {min_size: 1KiB}") is None


def test_on_stands_for_the_defaults(tmp_path: Path) -> None:
    """`on`, `true` and an inherited block are the documented values."""
    for route, defaults in (("compression: on", ""), ("compression: true", ""), ("", "compression: on")):
        made = compiled(tmp_path, route, defaults)
        assert made is not None
        settings = made.settings
        assert (settings.codings, settings.min_size, settings.breach) == ((b"zstd", b"br", b"gzip"), 1024, Breach.SET_COOKIE)
        assert (settings.opt_out, settings.refuse) == (b"x-no-compression", False)


def test_a_route_inherits_field_by_field(tmp_path: Path) -> None:
    """What the route says wins, level by level too; a list replaces a list."""
    defaults = "compression: {codings: [zstd, gzip], min_size: 2KiB, levels: {zstd: 3, gzip: 6}, opt_out: X-Plain}"
    found = loaded(tmp_path, "compression: {codings: gzip, levels: {zstd: 5}, not_acceptable: 406}", defaults)
    made = snapshot(found).compression

    assert made is not None
    assert (made.settings.codings, made.settings.min_size) == ((b"gzip",), 2048)
    assert (made.settings.opt_out, made.settings.refuse) == (b"x-plain", True)
    assert [coder.name for coder, _ in made.coders] == [b"gzip"]
    text = explain(found, "GET", "http://a/")
    assert "gzip level 6" in text
    assert "2KiB" in text


@pytest.mark.parametrize(
    "accept, outcome",
    [
        ("br;q=0.5, gzip", "gzip, if the response is of a type and size to compress"),
        ("deflate", "none: its Accept-Encoding asks for none that is offered"),
        ("identity;q=0", "406: it accepts nothing that is offered"),
        (None, "none: it has no Accept-Encoding"),
    ],
)
def test_explain_says_what_a_request_would_get(tmp_path: Path, accept: str | None, outcome: str) -> None:
    """The negotiation of that very request, and each setting."""
    headers = [] if accept is None else [f"Accept-Encoding: {accept}"]
    text = explain(loaded(tmp_path, "compression: {not_acceptable: 406}"), "GET", "http://a/", headers)

    assert outcome in text
    assert "zstd level 1, br level 4, gzip level 1" in text


@pytest.mark.parametrize(
    "settings, message",
    [
        ("compression: {codings: [gzp]}", "did you mean `gzip`?"),
        ("compression: {codings: []}", "must not be empty"),
        ("compression: {levels: {zstd: 20}}", "must be at most 19"),
        ("compression: {levels: {br: 12}}", "must be at most 11"),
        ("compression: {levels: {gzip: 0}}", "must be at least 1"),
        ("compression: {min_size: 1k}", "1KiB"),
        ("compression: {types: [json]}", "expected a media type"),
        ("compression: {types: ['text/html; charset=utf-8']}", "parameters such as `charset` are not looked at"),
        ("compression: {breach: cookie}", "set_cookie"),
        ("compression: {minsize: 1KiB}", "did you mean `min_size`?"),
        ("compression: {not_acceptable: 415}", "406"),
        ("decompress_request: {max_ratio: 0}", "must be at least 1"),
        ("decompress_request: {size: 1MiB}", "max_size"),
    ],
)
def test_mistakes_are_told_in_words(tmp_path: Path, settings: str, message: str) -> None:
    """Each with what was expected."""
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, settings)

    assert message in str(raised.value)


def test_decoding_of_requests(tmp_path: Path) -> None:
    """Off unless written; `on` is 10 MiB and 100 to 1; inherited field by field; explain says so."""
    assert snapshot(loaded(tmp_path)).decompress_request is None
    assert snapshot(loaded(tmp_path, "decompress_request: on")).decompress_request == DecompressRequestSettings(10 << 20, 100)
    found = loaded(tmp_path, "decompress_request: {max_ratio: 20}", "decompress_request: {max_size: 1MiB}")
    assert snapshot(found).decompress_request == DecompressRequestSettings(1 << 20, 20)
    assert "up to 1MiB, 20:1" in explain(found, "POST", "http://a/")
    assert snapshot(loaded(tmp_path, "decompress_request: off", "decompress_request: on")).decompress_request is None


def test_check_says_which_coding_cannot_be_offered(tmp_path: Path) -> None:
    """A library that is missing is no error: the coding is not offered, and check names it with the place."""
    loaded(tmp_path, "compression: on")
    run = "import sys, runpy; sys.modules['brotli'] = None; sys.argv[0:] = ['gateway', *sys.argv[1:]]; "
    command = [
        sys.executable,
        "-c",
        run + "runpy.run_module('gateway', run_name='__main__')",
        "check",
        str(tmp_path / "gateway.yaml"),
    ]

    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60, check=False)

    assert done.returncode == 0
    said = done.stdout + done.stderr
    assert "gateway.yaml:4: note: `br` is not offered: brotli is not installed (extra `compression`)" in said
    assert "`zstd` is not offered" not in said
