"""Loading: positions, `${…}`, includes, and every error at once at its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.control.load import MAX_FILE, Loaded, load
from gateway.control.reading.problems import ConfigError, Problem, render_github, render_json, render_text

BASE = """\
version: 1
upstreams:
  users: {endpoints: ["http://127.0.0.1:9001"]}
  orders: {endpoints: ["http://127.0.0.1:9002"]}
routes:
"""
ROUTE = "  - {name: all, match: {path: /**}, upstream: users}\n"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes files into a folder of their own and returns the path of the last."""

    def write(text: str, name: str = "gateway.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems(path: Path, environ: dict[str, str] | None = None) -> list[Problem]:
    """What is wrong with a file; it must be wrong."""
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    return list(caught.value.problems)


def only(path: Path, environ: dict[str, str] | None = None) -> Problem:
    """The one thing that is wrong with a file."""
    found = problems(path, environ)
    assert len(found) == 1, render_text(found)
    return found[0]


def under(problem: Problem) -> str:
    """The text that the marker underlines."""
    return problem.source[problem.column - 1 : problem.column - 1 + problem.length]


# -- YAML ------------------------------------------------------------------------------------------------------------


def test_yaml_1_2(write: Write) -> None:
    """`on` is a word, `012` is twelve, `1:30` and `1.10` are text: none of the surprises of YAML 1.1."""
    text = (
        BASE
        + "  - {name: on, match: {path: /**, headers: {X-A: 1:30, X-B: 1.10, X-C: no},\n     priority: 012}, upstream: users}\n"
    )
    config = load(write(text), {}).config

    assert config.routes[0].name == "on"
    assert config.routes[0].match.priority == 12
    assert [condition.shown for condition in config.routes[0].match.headers.values()] == ["`1:30`", "`1.10`", "`no`"]


def test_duplicate_keys(write: Write) -> None:
    """A key that stands twice is an error that names the first place."""
    problem = only(write(BASE + ROUTE + "version: 1\n"))

    assert (problem.line, problem.column) == (7, 1)
    assert "`version` stands twice; first on line 1" in problem.message


@pytest.mark.parametrize(
    "text,message",
    [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("- a\n", "expected a mapping"),
        ("just text\n", "expected a mapping"),
        ("a: [\n", "not valid YAML"),
        ("a: \tb: c\n", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", "a second document"),
        ("a: !!python/object:os.system x\n", "is not allowed"),
        ("a: !secret x\n", "is not allowed"),
        ("a: &x [*x]\n", "contains itself"),
        ("a: *x\n", "has no anchor before it"),
        ("? [a]\n: b\n", "a key must be plain text"),
        ("? *x\n: b\n", "a key cannot be an alias"),
        (f"? {'k' * 1025}\n: b\n", "a key has at most 1024 characters"),
        ("a: " + "[" * 40 + "]" * 40, "nested deeper than"),
        ('a: "\\0"\n', "NUL"),
        ("a: \x07\n", "not valid YAML"),
        ("<<: {a: b}\n", "merge keys"),
    ],
)
def test_what_is_not_taken_as_yaml(write: Write, text: str, message: str) -> None:
    """Broken or dangerous YAML is one clear error, never a traceback."""
    assert any(message in problem.message for problem in problems(write(text)))


def test_aliases_cannot_explode(write: Write) -> None:
    """Aliases of aliases are counted as often as they stand for something."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 12)]

    assert any("aliases included" in problem.message for problem in problems(write("\n".join(lines))))


def test_an_alias_is_its_anchor(write: Write) -> None:
    """Anchors and aliases may be used, and errors point to where the value was written."""
    text = BASE + "  - {name: a, match: {path: /a}, upstream: users, timeout: &t {request: 2s, attempt: 3s}}\n"
    text += "  - {name: b, match: {path: /b}, upstream: users, timeout: *t}\n"

    assert {problem.line for problem in problems(write(text))} == {6}


def test_unreadable_files(tmp_path: Path, write: Write) -> None:
    """A file that is missing, too large or no text is one line, not a traceback."""
    assert "No such file" in only(tmp_path / "none.yaml").message
    assert "cannot read" in only(tmp_path).message
    large = write("#" * (MAX_FILE + 1))
    assert "larger than 8MiB" in only(large).message
    large.write_bytes(b"a: b\nc: \xff\n")
    assert (only(large).line, only(large).column) == (2, 4)


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "route,marked,message",
    [
        ("{name: a, match: {path: /}, upstrem: users, upstream: users}", "upstrem", "did you mean `upstream`?"),
        ("{name: a, match: {path: /}, upstream: user}", "user", "did you mean `users`?"),
        ("{A, timeout: 5}", "5", "did you mean `5s`?"),
        (
            "{A, timeout: {request: 1s, attempt: 2s}}",
            "2s",
            "longer than `request` (1s)",
        ),
        ("{A, timeout: {connect: 20s}}", "20s", "longer than `request` (15s)"),
        ("{name: a, match: {path: /, methods: [get]}, upstream: users}", "get", "did you mean `GET`?"),
        ("{name: a, match: {path: /, host: 'a.com:80'}, upstream: users}", "'a.com:80'", "did you mean `a.com`?"),
        ("{name: a, match: {path: a}, upstream: users}", "a", "a path starts with '/'"),
        ("{name: a, match: {path: /a/**/b}, upstream: users}", "/a/**/b", "'**' can only be the last segment"),
        ("{name: a, match: {path: /, headers: {X: {regex: '('}}}, upstream: users}", "X", "not a regular expression"),
        ("{name: a, match: {path: /, headers: {X: false}}, upstream: users}", "false", "expected a value"),
        ("{A, server_timing: allways}", "allways", "did you mean `always`?"),
        ("{A, upgrades: [websockets]}", "websockets", "did you mean `websocket`?"),
        ("{A, upgrades: [tcp, 'a b']}", "'a b'", "a protocol is a name as clients send it"),
        ("{A, upgrades: [SPDY/]}", "SPDY/", "a protocol is a name as clients send it"),
        ("{A, upgrades: [H2C]}", "H2C", "would pass every policy by"),
        ("{A, access_log: perhaps}", "perhaps", "expected `true`, `off` or a block such as `{sample: 10%}`"),
        ("{A, retries: {}}", "retries", "it is `retry` of a route"),
        ("{name: a b, match: {path: /}, upstream: users}", "a b", "a name is 1 to 64"),
        ("{name: a, match: {path: /}}", "{", "does nothing"),
        ("{A, respond: 204}", "respond", "only one of them"),
        ("{name: a, match: {path: /}, redirect: /b, strip_prefix: /x}", "strip_prefix", "no effect"),
        ("{name: a, match: {path: /b/**}, upstream: users, strip_prefix: /x}", "/x", "does not start with this prefix"),
        ("{name: a, match: {path: /bar}, upstream: users, strip_prefix: /b}", "/b", "does not start with this prefix"),
        ("{name: a, match: {path: '/{x}/b'}, upstream: users, strip_prefix: true}", "true", "nothing to strip"),
        ("{name: a, match: {path: /b}, upstream: users, rewrite_prefix: {from: /c, to: /d}}", "/c", "does not start with"),
        ("{name: a, match: {path: /}, redirect: {to: /b, status: 304}}", "304", "expected `301`"),
        ("{name: a, match: {path: /}, redirect: 'javascript:x'}", "'javascript:x'", "a redirect leads to"),
        ("{name: a, match: {path: /}, redirect: {to: '/b?c', keep_path: true}}", "'/b?c'", "behind a query"),
        ("{name: a, match: {path: /}, redirect: /}", "/", "leads to itself"),
        ("{name: a, match: {path: /}, respond: {status: 204, body: x}}", "body", "has no body"),
        ("{name: a, match: {path: /}, respond: {status: 99}}", "99", "must be at least 200"),
        (
            "{A, request_fields: {set: {Host: x}}}",
            "Host",
            "use `host` of the upstream",
        ),
        (
            "{A, request_fields: {remove: [Connection]}}",
            "Connection",
            "one connection",
        ),
        (
            "{A, response_fields: {add: {Content-Length: 1}}}",
            "Content-Length",
            "message ends",
        ),
        (
            "{A, request_fields: {set: {X-Forwarded-For: x}}}",
            "X-Forwarded-For",
            "trusted_proxies",
        ),
        ("{A, request_fields: {set: {X: a, x: b}}}", "x", "stands twice"),
        ("{A, request_fields: {set: {'X Y': a}}}", "'X Y'", "not a header name"),
        (
            '{A, request_fields: {set: {X: "a\\r\\nB: c"}}}',
            '"a\\r\\nB: c"',
            "line break",
        ),
        ("{A, limits: {body: 10}}", "10", "did you mean `10B`?"),
        ("{A, limits: }", "limits", "has no value"),
        ("{A, limits: 5}", "5", "expected a mapping"),
        ("{name: true, match: {path: /}, upstream: users}", "true", "as text it is written"),
    ],
)
def test_errors_in_a_route(write: Write, route: str, marked: str, message: str) -> None:
    """An error stands at the value or key that is wrong and says what to write instead."""
    text = route.replace("{A,", "{name: a, match: {path: /}, upstream: users,")
    problem = only(write(f"{BASE}  - {text}\n"))

    assert problem.line == 6
    assert under(problem) == marked
    assert message in problem.text


@pytest.mark.parametrize(
    "block,message",
    [
        ("server: {listen: ['8080']}", "did you mean `:8080`?"),
        ("server: {listen: ['a:99999']}", "a port is at most 65535"),
        ("server: {listen: ['[::g]:1']}", "not an IPv6 address"),
        ("server: {listen: [':80', ':80']}", "already listened on"),
        ("server: {listen: [{address: ':80', tls: {certificate: none.crt, key: none.key}}]}", "cannot read"),
        ("server: {trusted_proxies: [10.1.0.0/8]}", "did you mean `10.0.0.0/8`?"),
        ("server: {limits: {headers: 10B}}", "must be between `1KiB` and `1MiB`"),
        ("server: {limits: {connections: 1.5}}", "expected a whole number"),
        ("server: {timeouts: {header: 0s}}", "longer than zero"),
        ("server: {forwarded: x-forwarded}", "did you mean `x_forwarded`?"),
        ("server: {request_id: {header: Cookie}}", "meaning of its own"),
        ("server: {name: 1a}", "starts with a letter"),
        ("redsi: {url: 'redis://x'}", "unknown field `redsi`"),
        ("admin: {listen: true}", "expected an address"),
        ("defaults: {timeout: {request: 1s, attempt: 2s}}", "longer than `request` (1s)"),
        ("defaults: {request_fields: {set: {X: a}, remove: [x]}}", "removed and set"),
    ],
)
def test_errors_elsewhere(write: Write, block: str, message: str) -> None:
    """The same holds for every other block."""
    problem = only(write(BASE + ROUTE + block + "\n"))

    assert problem.line == 7
    assert message in problem.text


@pytest.mark.parametrize(
    "upstream,message",
    [
        ("{endpoints: [127.0.0.1:1]}", "did you mean `http://127.0.0.1:1`?"),
        ("{endpoints: ['http://a/b']}", "use `strip_prefix` or `rewrite_prefix`"),
        ("{endpoints: ['http://a/']}", "remove the final `/`"),
        ("{endpoints: ['http://u:p@a']}", "no user or password"),
        ("{endpoints: ['ftp://a']}", "not an endpoint"),
        ("{endpoints: ['unix:a.sock']}", "absolute"),
        ("{endpoints: ['http://a', 'http://A:80']}", "already listed as number 1"),
        ("{endpoints: []}", "must not be empty"),
        ("{endpoints: [{url: 'http://a', weight: 0}]}", "must be at least 1"),
        ("{}", "the field `endpoints` is missing in `upstreams.x`"),
        ("{endpoints: ['http://a'], host: 'a b'}", "expected `preserve`, `endpoint` or a host name"),
        ("{endpoints: ['http://a'], tls: {verify: false}}", "no endpoint is `https`"),
        ("{endpoints: ['https://a'], tls: {verify: false, ca: x}}", "no effect with `verify: false`"),
        ("{endpoints: ['https://a'], tls: {ca: none.pem}}", "cannot read"),
        ("{endpoints: ['https://a'], tls: {key: none.pem}}", "needs a `certificate`"),
        ("{endpoints: ['https://a'], tls: {certificate: a, key_password: b, key_password_file: c}}", "only one of them"),
        ("{endpoints: ['http://a'], load_balancing: round-robin}", "did you mean `round_robin`?"),
    ],
)
def test_errors_in_an_upstream(write: Write, upstream: str, message: str) -> None:
    """The same holds for upstreams."""
    problem = only(write(BASE.replace("routes:", f"  x: {upstream}\nroutes:") + ROUTE))

    assert problem.line == 5
    assert message in problem.text


def test_all_errors_at_once_in_order(write: Write) -> None:
    """Everything wrong is reported in one run, by line."""
    text = BASE + "  - {name: a, match: {path: x}, upstream: users}\n  - {name: b}\nextra: 1\n"

    assert [problem.line for problem in problems(write(text))] == [6, 7, 7, 8]


def test_two_routes_of_one_name(write: Write) -> None:
    """A name names one route; the error tells the other place."""
    path = write(
        BASE + "  - {name: a, match: {path: /a}, upstream: users}\n  - {name: a, match: {path: /b}, upstream: users}\n"
    )

    assert f"{path}:6" in only(path).message


def test_inherited_budgets_are_cut_not_refused(write: Write) -> None:
    """A route may set only `timeout: 1s`, however long the inherited parts are."""
    load(
        write(BASE + "  - {name: a, match: {path: /a}, upstream: users, timeout: 1s}\ndefaults: {timeout: {attempt: 5s}}\n"), {}
    )


# -- routes that can never win ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first,second",
    [
        ("match: {path: /a}", "match: {path: /a}"),
        ("match: {path: '/a/{x}'}", "match: {path: '/a/{y}'}"),
        ("match: {path: /a, methods: [GET]}", "match: {path: /a, methods: [HEAD]}"),
        ("match: {path: /**, priority: 1}", "match: {path: /a, host: a.com}"),
        ("match: {host: '*.a.com', path: '/{x}', priority: 5}", "match: {host: b.a.com, path: /a, methods: [GET]}"),
        ("match: {path: /a, headers: {X: true}}", "match: {path: /a, headers: {x: '1'}}"),
        ("match: {path: /a/**, priority: 1}", "match: {path: /a}"),
    ],
)
def test_hidden_routes_are_errors(write: Write, first: str, second: str) -> None:
    """A route that another always beats is an error that names the other and its place."""
    path = write(f"{BASE}  - {{name: one, {first}, upstream: users}}\n  - {{name: two, {second}, upstream: users}}\n")

    problem = only(path)

    assert problem.line == 7
    assert f"route `two` is never reached: `one` at {path}:6" in problem.message


@pytest.mark.parametrize(
    "first,second",
    [
        ("match: {path: /**}", "match: {path: /a}"),
        ("match: {path: /a, methods: [GET]}", "match: {path: /a}"),
        ("match: {path: /a, headers: {X: '1'}}", "match: {path: /a, headers: {X: '2'}}"),
        ("match: {path: '/a/{x}', priority: 1}", "match: {path: /a/}"),
        ("match: {host: '*.a.com', priority: 1}", "match: {host: a.com}"),
        ("match: {path: /a, query: {x: '1'}, priority: 1}", "match: {path: /a}"),
    ],
)
def test_reachable_routes_are_not(write: Write, first: str, second: str) -> None:
    """A route that wins for some request is no error."""
    load(write(f"{BASE}  - {{name: one, {first}, upstream: users}}\n  - {{name: two, {second}, upstream: users}}\n"), {})


# -- ${…} ------------------------------------------------------------------------------------------------------------


def name_of(loaded: Loaded) -> str | None:
    """The server name, which these tests set."""
    return loaded.config.server.name


@pytest.mark.parametrize(
    "written,value",
    [
        ("${NAME}", "edge"),
        ("x-${NAME}-y", "x-edge-y"),
        ("${NONE:-fallback}", "fallback"),
        ("${EMPTY:-fallback}", "fallback"),
        ("${NAME:-fallback}", "edge"),
        ("${NAME:?needed}", "edge"),
        ("'${NAME}'", "edge"),
    ],
)
def test_environment(write: Write, written: str, value: str) -> None:
    """Variables are replaced in values, with defaults as in a shell."""
    path = write(BASE + ROUTE + f"server:\n  name: {written}\n")

    assert name_of(load(path, {"NAME": "edge", "EMPTY": ""})) == value


@pytest.mark.parametrize(
    "written,message",
    [
        ("${NONE}", "`NONE` is not set"),
        ("${NONE:?tell me who I am}", "tell me who I am"),
        ("${EMPTY:?}", "it is required"),
        ("${a b}", "not a reference"),
        ("${NAME:=x}", "not a reference"),
        ("'${NAME'", "without `}`"),
        ("${file:/nowhere/at/all}", "cannot read"),
    ],
)
def test_environment_that_is_missing(write: Write, written: str, message: str) -> None:
    """A reference that leads nowhere is an error at its place."""
    problem = only(write(BASE + ROUTE + f"server:\n  name: {written}\n"), {"EMPTY": "", "NAME": "x"})

    assert problem.line == 8
    assert message in problem.text


def test_a_literal_reference(write: Write) -> None:
    """`$${` is a literal `${`."""
    text = BASE + '  - {name: a, match: {path: /}, respond: {body: "$${X}"}}\n'

    respond = load(write(text), {}).config.routes[0].respond
    assert respond is not None
    assert respond.body == "${X}"


def test_a_variable_cannot_inject_yaml(write: Write) -> None:
    """What a variable holds is one value, never structure."""
    problem = only(write(BASE + ROUTE + "server:\n  name: ${NAME}\n"), {"NAME": "a, limits: {body: 1B}"})

    assert "a server name" in problem.message


def test_references_inside_braces_need_quotes(write: Write) -> None:
    """YAML reads `{` in `{a: ${B}}` as a mapping; the error says what to do."""
    assert "quotes" in only(write(BASE + ROUTE + "server: {name: ${NAME}}\n")).hint


def test_a_file_as_value(write: Write) -> None:
    """`${file:…}` is the text of a file beside the configuration, without its final line break."""
    write("edge-7\n", "name.txt")

    assert name_of(load(write(BASE + ROUTE + "server: {name: '${file:name.txt}'}\n"), {})) == "edge-7"


@given(
    st.sampled_from(["name", "budget_field", "forwarded", "listen", "trusted_proxies", "limits"]),
    st.text("sk-\n :{[", min_size=3),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_errors_never_show_what_a_variable_holds(write: Write, field: str, noise: str) -> None:
    """A value from the environment may be a secret: no error text holds it."""
    secret = f"hunter2{noise}"
    path = write(BASE + ROUTE + f"server: {{{field}: '${{SECRET}}'}}\n")
    try:
        load(path, {"SECRET": secret})
    except ConfigError as error:
        for shown in (str(error), render_json(error.problems), render_github(error.problems)):
            assert "hunter2" not in shown


@pytest.mark.parametrize(
    "line",
    [
        "server: {listen: [{address: ':1', tls: {certificate: none, key: none, key_password: hunter2}}]}",
        "server: {listen: [{address: ':1', tls: {key_password: hunter2, certificat: none}}]}",
        "server: {key_password: 'hunter2', x: [}",
        "x: http://admin:hunter2@host",
    ],
)
def test_source_lines_do_not_show_secrets(write: Write, line: str) -> None:
    """The source line under an error has asterisks where a secret stands."""
    assert "hunter2" not in render_text(problems(write(BASE + ROUTE + line + "\n")))


def test_of_a_long_line_the_beginning_is_shown(write: Write) -> None:
    """A file in one line (JSON) with many mistakes is shown in part each time, and credentials that are cut are covered."""
    line = (
        "{version: 1, routes: 1, unknown: http://"
        + "s3cret" * 2000
        + "@host, "
        + ", ".join(f"a{i}: 1" for i in range(500))
        + "}"
    )
    found = problems(write(line))

    assert len(found) > 100
    assert max(len(problem.source) for problem in found) <= 160
    assert {problem.source for problem in found} == {"{version: 1, routes: 1, unknown: http://" + "*" * 120}


# -- includes --------------------------------------------------------------------------------------------------------

INCLUDED = "routes:\n  - {name: %s, match: {path: /%s}, upstream: users}\n"


@pytest.mark.parametrize("include", ["routes.d", "[routes.d/*.yaml]", "[routes.d/b.yaml, routes.d/a.yaml]"])
def test_includes_in_the_order_of_their_names(write: Write, include: str) -> None:
    """Files, folders and patterns are read sorted by name, behind the main file; hidden files are not."""
    write(INCLUDED % ("b", "b"), "routes.d/b.yaml")
    write(INCLUDED % ("a", "a"), "routes.d/a.yaml")
    write("nonsense", "routes.d/.hidden.yaml")

    loaded = load(write(BASE + ROUTE + f"include: {include}\n"), {})

    assert [route.name for route in loaded.config.routes] == ["all", "a", "b"]
    assert [file.name for file in loaded.files] == ["gateway.yaml", "a.yaml", "b.yaml"]
    assert loaded.positions.at(("routes", 2, "name")).file.endswith("b.yaml")


def test_an_included_file_can_bring_upstreams(write: Write) -> None:
    """Routes and upstreams of all files are one set."""
    write("upstreams:\n  more: {endpoints: ['http://a']}\n" + INCLUDED.replace("users", "more") % ("b", "b"), "more.yaml")

    assert set(load(write(BASE + ROUTE + "include: more.yaml\n"), {}).config.upstreams) == {"users", "orders", "more"}


def test_errors_in_included_files_stand_there(write: Write) -> None:
    """An error names the file it is in, and every file is checked in the same run."""
    a = write(INCLUDED % ("a", "a") + "server: {}\n", "a.yaml")
    b = write("upstreams: {users: {endpoints: ['http://b']}}\n" + INCLUDED % ("all", "b"), "b.yaml")
    main = write(BASE + ROUTE + "include: [a.yaml, b.yaml]\n")

    found = problems(main)

    assert [(problem.file, problem.line) for problem in found] == [(str(a), 3), (str(b), 1), (str(b), 3)]
    assert "only `routes` and `upstreams`" in found[0].message
    assert f"already defined at {main}:3" in found[1].message
    assert f"at {main}:6" in found[2].message


def test_a_missing_include(write: Write) -> None:
    """A file that is named must exist; a pattern may match nothing."""
    assert "no such file" in only(write(BASE + ROUTE + "include: [none.yaml]\n")).message
    load(write(BASE + ROUTE + "include: ['none.d/*.yaml']\n"), {})


# -- the result ------------------------------------------------------------------------------------------------------


def test_the_hash_is_that_of_the_values(write: Write) -> None:
    """Comments and layout do not change the hash; values do, those of variables too."""
    text = BASE + ROUTE + "server: {name: '${NAME}'}\n"
    first = load(write(text), {"NAME": "a"}).hash

    assert load(write("# comment\n" + text), {"NAME": "a"}).hash == first
    assert load(write(text), {"NAME": "b"}).hash != first
    assert len(first) == 12


def test_renderings(write: Write) -> None:
    """Problems are shown for people, as JSON and as annotations."""
    path = write(BASE + "  - {name: a, match: {path: /}, upstrem: users, upstream: users}\n")
    found = problems(path)

    assert render_text(found).splitlines() == [
        f"{path}:6:33: error: unknown field `upstrem` in route `a`; did you mean `upstream`?",
        "     6 |   - {name: a, match: {path: /}, upstrem: users, upstream: users}",
        "       |                                 ^^^^^^^",
    ]
    assert json.loads(render_json(found))["problems"][0]["hint"] == "did you mean `upstream`?"
    assert render_github(found).startswith(f"::error file={path},line=6,col=33::unknown field")


def test_an_error_cannot_steer_the_terminal(write: Write) -> None:
    """Control characters from a file are not printed."""
    text = render_text(problems(write(BASE + ROUTE + '"\\e[31mred\\u202e": 1\n')))

    assert "\x1b" not in text
    assert "\u202e" not in text


# -- anything at all -------------------------------------------------------------------------------------------------

words = st.sampled_from(
    [
        "version",
        "routes",
        "upstreams",
        "server",
        "match",
        "path",
        "name",
        "upstream",
        "endpoints",
        "listen",
        "tls",
        "timeout",
        "headers",
        "regex",
        "set",
        "include",
        "limits",
        "body",
        "off",
        "/**",
        "http://a",
        "1",
        "5s",
        ":80",
        "${X}",
        "redirect",
        "respond",
    ]
)
documents = st.recursive(
    words | st.text(max_size=8) | st.integers() | st.booleans() | st.none() | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4),
    max_leaves=20,
)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_are_a_configuration_or_an_error(tmp_path: Path, content: bytes) -> None:
    """No file content raises anything but ConfigError, and every error can be shown."""
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path, {})

    assert render_text(caught.value.problems)


def outcome_of(path: Path) -> Loaded | ConfigError:
    """What loading comes to."""
    try:
        return load(path, {})
    except ConfigError as error:
        return error


@pytest.mark.slow
@given(documents)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
def test_any_document_is_a_configuration_or_an_error(tmp_path: Path, document: object) -> None:
    """No YAML document raises anything but ConfigError."""
    path = tmp_path / "any.yaml"
    values = document if isinstance(document, dict) else {"routes": document}
    path.write_text(yaml.safe_dump({"version": 1, **values}), encoding="utf-8")
    outcome = outcome_of(path)
    assert isinstance(outcome, Loaded) or render_text(outcome.problems)
