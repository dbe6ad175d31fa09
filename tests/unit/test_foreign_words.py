"""The tables behind messages: words of other proxies, and the reasons for maxima."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.control.advice.cures import fits
from gateway.control.advice.explain import reason_for
from gateway.control.advice.places import ANY, plain, words
from gateway.control.advice.tables import read_table
from gateway.control.advice.unknown import scope_of, table, unknown_word
from gateway.control.json_schema import json_schema, known_fields
from gateway.control.reading.nodes import Loc, Mapping, Position, Positions, Scalar

BLOCKS: dict[str, Loc] = {
    "top": (),
    "server": ("server",),
    "upstream": ("upstreams", "app"),
    "endpoint": ("upstreams", "app", "endpoints", 0),
    "route": ("routes", 0),
    "match": ("routes", 0, "match"),
    "timeout": ("routes", 0, "timeout"),
    "retry": ("routes", 0, "retry"),
    "rate_limit": ("routes", 0, "rate_limit", 0),
    "health": ("upstreams", "app", "health"),
}

FOREIGN = """\
top: http entryPoints static_resources clusters _format_version services backend frontend consumers endpoints extra_config
server: ssl http2 port certificate client_max_body_size keepalive_timeout worker_processes proxy_protocol trust_proxy
server: entryPoints set_real_ip_from server_tokens timeout-client accept-proxy gracePeriod maxconn forwardedHeaders
upstream: server servers backends nodes targets balance lb_policy leastconn ip_hash hash_on keepalive health_checks healthCheck
upstream: outlier_detection circuit_breakers passHostHeader loadBalancer service_name stick-table zone upstream_host max_fails
endpoint: address host port max_conns max_fails fail_timeout down check inter target maxconn slow_start
route: proxy_pass proxy_read_timeout proxy_connect_timeout proxy_set_header add_header proxy_next_upstream proxy_cache gzip
route: limit_req limit_conn auth_basic rewrite return try_files location service cluster prefix_rewrite retry_policy cors
route: stripPrefix addPrefix rateLimit inFlightReq basicAuth forwardAuth ipWhiteList compress middlewares redirectScheme
route: strip_path preserve_host rate-limiting plugins protocols paths hosts methods jwt key-auth proxy-cache ip-restriction
route: reverse_proxy handle_path encode header_up header_down lb_try_duration file_server basicauth redir request_body
route: uri uris limit-count limit-req proxy-rewrite response-rewrite api-breaker traffic-split proxy-mirror enable_websocket
route: backend url_pattern extra_config output_encoding input_headers qos/ratelimit/router auth/validator is_collection mirror
route: request_headers_to_add weighted_clusters direct_response websocket lua wasm buffering rule use_backend default_backend
match: prefix safe_regex regex hosts server_name pathPrefix header query_params client_ip protocols
timeout: read send connect_timeout per_try total dial
retry: attempts num_retries retry_on per_try_timeout initialInterval
rate_limit: average period sourceCriterion count time_window rejected_code rate requests_per_unit whitelist
health: uri unhealthy_threshold healthy_threshold inter expect http_path
"""
WORDS = [(line.partition(":")[0], word) for line in FOREIGN.splitlines() for word in line.partition(":")[2].split()]


def answer(block: str, word: str) -> str:
    """What is said of an unknown word in a block."""
    place = Position("gateway.yaml", 1, 1)
    return unknown_word((*BLOCKS[block], word), Scalar(place, "5s"), Positions(Mapping(place), {})).hint


@pytest.mark.parametrize("block,word", WORDS)
def test_words_of_other_proxies_are_answered(block: str, word: str) -> None:
    """Whoever brings a word from another proxy learns what it is called here, or what to do instead."""
    hint = answer(block, word)

    assert hint
    assert "known here" not in hint


@pytest.mark.parametrize(
    "spelling",
    ["client_max_body_size", "client-max-body-size", "clientMaxBodySize", "CLIENT_MAX_BODY_SIZE", "client max body size"],
)
def test_spellings_are_one_word(spelling: str) -> None:
    """Snake, kebab and camel case, and blanks, make no difference."""
    assert "`limits: {body: 10MiB}`" in answer("route", spelling)


def test_a_word_of_the_table_is_no_word_of_its_block() -> None:
    """A row for a word that the block has by now would never be asked."""
    stale = [
        (scope, word) for scope, loc in BLOCKS.items() for word in map(plain, known_fields(loc)) if (scope, word) in table()
    ]

    assert stale == []


def test_rows_are_for_blocks_that_there_are() -> None:
    """The name of a block in the table is one that a place of the schema has, and `for` is a word of that block."""
    scopes: dict[str, set[str]] = {}
    for word, places in words().items():
        for place in places:
            scopes.setdefault(scope_of(place), set()).add(word)
    for (scope, _), row in table().items():
        assert not scope or scope in scopes
        assert set(map(plain, row.stands_for.split())) <= scopes.get(scope, set())


def snippets() -> list[str]:
    """Everything in the answers that can be pasted."""
    found = {text for row in read_table("foreign_words.yaml") for text in re.findall(r"`([^`]+)`", row["say"])}
    return sorted(text for text in found if re.match(r"[a-z_]+: ?.", text) and "..." not in text)


@pytest.mark.parametrize("snippet", snippets())
def test_cures_of_the_table_are_right(snippet: str) -> None:
    """What is proposed fits the schema in a place where the word may stand."""
    [(name, value)] = yaml.load(snippet, yaml.BaseLoader).items()
    places: list[Loc] = [
        (
            *(("app" if place[0] == "upstreams" and at == 1 else 0) if step == ANY else step for at, step in enumerate(place)),
            name,
        )
        for place in words().get(plain(name), [])
    ]

    assert any(fits(empty(place), place, converted(value), Path()) for place in places), places


def empty(place: Loc) -> Any:
    """Data in which the place is."""
    if not place:
        return ""
    return [empty(place[1:])] if isinstance(place[0], int) else {place[0]: empty(place[1:])}


def converted(value: Any) -> Any:
    """Values as they are read from a file."""
    if isinstance(value, dict):
        return {key: converted(item) for key, item in value.items()}
    return [converted(item) for item in value] if isinstance(value, list) else {"true": True, "false": False}.get(value, value)


def maxima(node: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The places in the schema that have a maximum, by the names of blocks."""
    found = []
    if isinstance(node, dict):
        if {"maximum", "maxItems", "maxLength"} & node.keys() and path:
            found.append(path)
        for name, inner in node.items():
            if name == "properties":
                found += [place for word, one in inner.items() for place in maxima(resolved(one), (*path, word))]
            elif name in ("anyOf", "allOf", "items", "additionalProperties", "patternProperties"):
                listed = inner if isinstance(inner, list) else list(inner.values()) if name == "patternProperties" else [inner]
                found += [place for one in listed for place in maxima(resolved(one), path)]
    return found


def resolved(node: Any) -> Any:
    """A part of the schema, what it refers to in its place."""
    if isinstance(node, dict) and "$ref" in node:
        return json_schema()["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def test_every_maximum_has_its_reason() -> None:
    """Who is told that a value is too large is told why."""
    places = [(place[0], "app", *place[1:]) if place[0] == "upstreams" else place for place in maxima(json_schema())]

    assert sorted({".".join(place) for place in places if not reason_for(place)}) == []


@pytest.mark.slow
def test_nothing_of_it_is_read_for_a_right_file() -> None:
    """A configuration that is right loads neither the tables nor the code around them."""
    code = (
        "import sys\nfrom gateway.control.load import load\nload('config/minimal.yaml', {})\n"
        "assert not [name for name in sys.modules if 'advice' in name or name.endswith('yaml_mistakes')]\n"
    )
    root = Path(__file__).resolve().parents[2]

    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False, timeout=60).returncode == 0
