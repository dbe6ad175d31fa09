"""Facts of a request in `request_fields` and `response_fields`: what is one, what is text, what is wrong, what it becomes."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.compile import compile_config
from gateway.control.load import load
from gateway.control.reading.problems import ConfigError
from gateway.control.tools.explain import explain
from gateway.control.words.facts import facts_in, parts_of
from gateway.headers import FIELD_VALUE, visible
from gateway.metrics import GatewayMetrics
from gateway.snapshot import Fact, FieldEdits, FieldPart

NEL = '{"report_to":"default","max_age":31536000,"failure":{"fraction":{"a":1}}}'
REPORT_TO = '{"group":"default","max_age":10886400,"endpoints":[{"url":"https://a.example/r"}]}'


def folder_with(folder: Path, route: str = "", defaults: str = "", path: str = "/users/{id}/**", other: str = "") -> Path:
    """A configuration; `defaults` stands on line 2, the route from line 5 on."""
    file = folder / "gateway.yaml"
    file.write_text(
        f"version: 1\ndefaults: {{{defaults}}}\nupstreams: {{u: {{endpoints: ['http://10.0.0.1:1']}}}}\nroutes:\n"
        f"  - {{name: users, match: {{path: '{path}'}}, upstream: u,\n     {route}}}\n{other}",
        encoding="utf-8",
    )
    return file


def problems(folder: Path, **written: str) -> list[tuple[int, str, str]]:
    """Line, message and hint of all that is wrong."""
    with pytest.raises(ConfigError) as raised:
        load(folder_with(folder, **written), {})
    return [(one.line, one.message, one.hint) for one in raised.value.problems]


def edits(folder: Path, route: str, defaults: str = "") -> FieldEdits | None:
    """The compiled changes to the request's fields."""

    def no_pool(*facts: object) -> object:
        return facts

    loaded = load(folder_with(folder, route, defaults), {})
    return compile_config(loaded, GatewayMetrics("0"), no_pool).routes[0].request_edits  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value,words",
    [
        ("{client_ip}", ["client_ip"]),
        ("ip={client_ip};route={route}", ["client_ip", "route"]),
        ("{path.id}", ["path.id"]),
        ("{path.größe}", ["path.größe"]),
        ("{{client_ip}}", []),
        ("{{{client_ip}}}", []),
        ('{"ip":"{client_ip}"}', ["client_ip"]),
        ('{"a":{client_ip}}', ["client_ip"]),
        ("{}", []),
        ("{0}", []),
        ("{ host }", []),
        ("{host", []),
        ("host}", []),
        ("${HOST}", ["HOST"]),
        (NEL, []),
        (REPORT_TO, []),
        ("{nonsense}", ["nonsense"]),
    ],
)
def test_a_word_in_braces_is_a_fact_and_all_else_is_text(value: str, words: list[str]) -> None:
    """JSON, as in `NEL` and `Report-To`, stands as it is; a word in double braces is text."""
    assert facts_in(value) == words


@pytest.mark.parametrize(
    "value,parts",
    [
        ("plain", (b"X: plain\r\n",)),
        (NEL, (f"X: {NEL}\r\n".encode(),)),
        ("{{host}}", (b"X: {host}\r\n",)),
        ("{route}/{{route}}", (b"X: users/{route}\r\n",)),
        ("{host}", (b"X: ", (Fact.HOST, ""), b"\r\n")),
        ("a {client_ip}/{path.id} ü", (b"X: a ", (Fact.CLIENT_IP, ""), b"/", (Fact.PATH, "id"), " ü\r\n".encode())),
        ("{{{method}}}", (b"X: {{method}}\r\n",)),
    ],
)
def test_a_value_is_compiled_once(value: str, parts: tuple[FieldPart, ...]) -> None:
    """Text is encoded, facts are named; what the configuration itself knows is text: the name of the route."""
    assert parts_of("X", value, "users") == parts


def test_lines_without_facts_are_as_ever(tmp_path: Path) -> None:
    """Only from the first line with a fact on are there parts: a route without any has none, and lines keep their order."""
    assert edits(tmp_path, "request_fields: {set: {X-A: a, X-B: '{route}'}}") == FieldEdits(
        frozenset({b"x-a", b"x-b"}), (b"X-A: a", b"X-B: users")
    )
    assert edits(tmp_path, "request_fields: {set: {X-A: a, X-B: '{host}'}, add: {X-B: c}}") == FieldEdits(
        frozenset({b"x-a", b"x-b"}), (b"X-A: a",), (b"X-B: ", (Fact.HOST, ""), b"\r\n", b"X-B: c\r\n")
    )


def test_what_compression_asks_the_upstream_for_stands_beside_facts(tmp_path: Path) -> None:
    """`accept_encoding: identity` adds its line and takes none away; an operator's own line holds."""
    compression = "compression: {accept_encoding: identity}"
    made = edits(tmp_path, f"{compression}, request_fields: {{set: {{X: '{{host}}'}}}}")
    own = edits(tmp_path, f"{compression}, request_fields: {{set: {{X: '{{host}}', Accept-Encoding: '{{path.id}}'}}}}")

    parts = (b"X: ", (Fact.HOST, ""), b"\r\n")
    assert made == FieldEdits(frozenset({b"x", b"accept-encoding"}), (b"Accept-Encoding: identity",), parts)
    assert own is not None and own.lines == ()


@pytest.mark.parametrize(
    "word,message,hint",
    [
        (
            "client_id",
            "`{client_id}` is no fact of a request",
            "did you mean `client_ip`? as text it is written `{{client_id}}`",
        ),
        ("path.idd", "the path of the route has no parameter `idd`", "did you mean `id`?"),
        ("path.zzz", "the path of the route has no parameter `zzz`", ""),
        ("path", "`{path}` is no fact of a request", "as text it is written `{{path}}`"),
    ],
)
@pytest.mark.parametrize("block", ["request_fields: {set", "response_fields: {add"])
def test_an_unknown_fact_is_found_before_it_runs(tmp_path: Path, block: str, word: str, message: str, hint: str) -> None:
    """The place of the value, what there is, and how the same is written as text."""
    ((line, found, told),) = problems(tmp_path, route=f"{block}: {{X-A: 'a {{{word}}}'}}}}")

    assert line == 6 and message in found
    assert told.endswith(hint)
    if "no fact" in message:
        assert "`{client_ip}`, `{request_id}`, `{route}`, `{host}`, `{scheme}`, `{method}` or `{path.NAME}`" in found


def test_what_defaults_tell_each_route_must_have(tmp_path: Path) -> None:
    """An unknown fact in `defaults` is said once, there; a parameter that a route lacks, at the path of that route."""
    defaults = "request_fields: {set: {X-Id: '{path.id}'}}"
    other = "  - {name: other, match: {path: /x}, upstream: u}\n  - {name: away, match: {path: /y}, redirect: /x}\n"
    lacking = problems(tmp_path, defaults=defaults, route="limits: {}", other=other)
    unknown = problems(tmp_path, defaults="response_fields: {set: {X: '{nobody}'}}", route="limits: {}", other=other)

    message = "`{path.id}`: the path of the route has no parameter `id`"
    assert lacking == [(7, message, "`X-Id` of `defaults.request_fields` tells it")]
    assert [line for line, _, _ in unknown] == [2]


def test_every_path_of_the_route_must_have_the_parameter(tmp_path: Path) -> None:
    """A route for several paths binds only the parameters that are in all of them."""
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "version: 1\nupstreams: {u: {endpoints: ['http://10.0.0.1:1']}}\nroutes:\n"
        "  - {name: r, match: {path: ['/a/{id}', '/b/{id}/{x}']}, upstream: u,\n"
        "     request_fields: {set: {X-Id: '{path.id}', X-X: '{path.x}'}}}\n"
    )
    with pytest.raises(ConfigError) as raised:
        load(file, {})

    assert [one.message for one in raised.value.problems] == ["`{path.x}`: the path of the route has no parameter `x`"]


def test_explain_shows_the_facts_of_the_request(tmp_path: Path) -> None:
    """What the command knows of the request is shown; the rest of the value may be a credential and is not."""
    route = "request_fields: {set: {X-A: 'secret {path.id} {method}', X-B: '{client_ip}', X-C: plain}}"
    text = explain(load(folder_with(tmp_path, route), {}), "GET", "https://a.example/users/a%20b/x")
    shown = [line.split("set  ")[1].rsplit("  ", 1)[0].strip() for line in text.splitlines() if "request_fields.set" in line]

    assert shown == ["X-A: {path.id} = a%20b, {method} = GET", "X-B: {client_ip}", "X-C"]
    assert "secret" not in text


@given(st.binary(max_size=20))
def test_any_bytes_become_a_harmless_value(value: bytes) -> None:
    """Neither line breaks nor blanks nor anything else that a field cannot hold or would lose; and it can be undone."""
    shown = visible(value)

    assert FIELD_VALUE.fullmatch(shown) is not None and shown.isascii() and not set(shown) & set(b" \t\r\n\0")
    assert unquote_to_bytes(shown) == value
