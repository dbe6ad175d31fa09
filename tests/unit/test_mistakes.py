"""Mistakes that people make: each is one message, at its line, with its cause and a cure that can be pasted."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.checks import notes
from gateway.control.load import load
from gateway.control.reading.problems import ConfigError, Problem, render_text

GOOD = """\
version: 1
server:
  listen: ["127.0.0.1:8080"]
admin: {listen: "127.0.0.1:9900"}
upstreams:
  app:
    endpoints: [http://127.0.0.1:9000]
routes:
  - name: all
    match: {path: /**}
    upstream: app
"""
LINES = {
    "listen": '  listen: ["127.0.0.1:8080"]',
    "admin": 'admin: {listen: "127.0.0.1:9900"}',
    "endpoints": "    endpoints: [http://127.0.0.1:9000]",
    "name": "  - name: all",
    "match": "    match: {path: /**}",
    "upstream": "    upstream: app",
    "app": "  app:",
    "upstreams": "upstreams:",
    "routes": "routes:",
    "version": "version: 1",
}
"""Parts of the file that a mistake can take the place of."""


def found(folder: Path, text: str) -> list[Problem]:
    """What is wrong with a file."""
    path = folder / "gateway.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    return list(caught.value.problems)


def with_line(name: str, line: str) -> str:
    """The file with another line in place of this one, or (`+name`) behind it."""
    old = LINES[name.removeprefix("+")]
    return GOOD.replace(f"{old}\n", f"{old}\n{line}\n" if name.startswith("+") else f"{line}\n", 1)


ROUTE = [
    ("timeout: 5sec", "`5s`"),
    ("timeout: 5 seconds", "`5s`"),
    ("timeout: 30000", "`30s`"),
    ("timeout: 1.5m", "`1m30s`"),
    ("timeout: PT5S", "`5s`"),
    ("timeout: 1d", "`24h`"),
    ("timeout: 0", "none can be off; the longest is a day; did you mean `24h`?"),
    ("timeout: {idle: off}", "none can be off"),
    ("timeout: {read: 5s}", "`attempt`"),
    ("timeout: [5s]", "write `timeout: 5s`"),
    ("timeout: 5s;", "write `timeout: 5s`"),
    ("timeout:5s", "a blank is missing behind `timeout:`; write `timeout: 5s`"),
    ("timeout 5s", "a colon is missing behind the key; write `timeout: 5s`"),
    ('timeout: "5s', 'the quote `"` is not closed; write `"5s"`'),
    ("timeout\uff1a 5s", "write `:`: `timeout: 5s`"),
    ("timeout: 5\u00a0s", "a no-break space (U+00A0)"),
    ("limits: {body: 10485760}", "`10MiB`"),
    ("limits: {body: 1.5MiB}", "`1536KiB`"),
    ("limits: {body: unlimited}", "write `body: off`"),
    ("limits: 10MiB", "write `limits: {body: 10MiB}`"),
    ("rate_limit: 10r/s", "write `rate_limit: 10/s`"),
    ("rate_limit: 100rps", "write `rate_limit: 100/s`"),
    ("rate_limit: 10 per second", "write `rate_limit: 10/s`"),
    ("rate_limit: {limit: 10}", "write `10/min`"),
    ("rate_limit: {limit: 10/s, key: $binary_remote_addr}", "write `key: client_ip`"),
    ("rate_limit: {limit: 10/s, key: X-Tenant}", "write `key: header:X-Tenant`"),
    ("rate-limit: 10/s", "did you mean `rate_limit`?"),
    ("retry: 99", "must be at most 10: each is one more request"),
    ("retry: false", "write `retry: off`"),
    ("retry: {attempts: 3}", "`max_retries: 2`"),
    ('retry: {on: "connect, 503"}', "write `on: [connect, 503]`"),
    ("retry: {backoff: 100ms}", "write `backoff: {base: 100ms}`"),
    ("compression: yes", "write `compression: on`"),
    ("compression: [gzip, br]", "write `compression: {codings: [gzip, br]}`"),
    ("access_log: {sample: 0.1}", "`10%`"),
    ('access_log: "false"', "write `access_log: off`"),
    ("hedge: 95%", "write `hedge: p95`"),
    ("priority: high", "write `priority: critical`"),
    ("max_in_flight: 1k", "write `max_in_flight: 1000`"),
    ("max_in_flight: unlimited", "write `max_in_flight: off`"),
    ("server_timing: true", "write `server_timing: always`"),
    ("upgrades: websocket", "write `upgrades: [websocket]`"),
    ("websocket: true", "`upgrades: [websocket]`"),
    ("strip_prefix: /api/**", "write `/api`"),
    ("rewrite_prefix: /v1", "write `rewrite_prefix: {from: /, to: /v1}`"),
    ("request_headers: {set: {X-A: b}}", "`request_fields: {set: {X-A: b}}`"),
    ("request_fields: {X-A: b}", "`set: {X-A: b}`"),
    ("response_fields: {remove: Server}", "write `remove: [Server]`"),
    ("basic_auth: users.htpasswd", "authentication is not offered"),
    ("cors: {allow_origin: '*'}", "CORS is not offered"),
    ("lua: script.lua", "there are no scripts"),
    ("mirror: shadow", "requests are not mirrored"),
    ("connect: 3s", "it belongs into `timeout` of a route: `timeout: {connect: 3s}`"),
    ("circuit_breaker: off", "it belongs to an upstream"),
    ("health: /healthz", "it belongs into an upstream: `health: /healthz`"),
    ("host: a.example.com", "`match: {host: app.example.com, path: /**}`"),
    ("timeout: 5s\n    timeout: 6s", "first on line 12"),
    ("timeout: >5s", 'write `">5s"`'),
    ("timeout: \u20145s", "(U+2014) in place of `-`"),
    ("time\u200bout: 5s", "a zero-width space (U+200B), which is invisible"),
    ("respond: 404", "a route has only one of them"),
    ("gzip: on", "`compression: on`"),
    ("enabled: false", "there is no such switch"),
    ("limits: {body: a: b}", 'write `"a: b"`'),
]


@pytest.mark.parametrize("line,says", ROUTE)
def test_mistakes_in_a_route(tmp_path: Path, line: str, says: str) -> None:
    """A line too many at the end of a route."""
    one_message(tmp_path, with_line("+upstream", f"    {line}"), 12 + line.count("\n"), says)


ELSEWHERE = [
    ("match", "    match: {path: /api/*}", 10, "write `/api/**`"),
    ("match", "    match: {path: api/**}", 10, "write `/api/**`"),
    ("match", '    match: {path: "~ ^/api/(v1|v2)"}', 10, "write `path: [/api/v1/**, /api/v2/**]`"),
    ("match", '    match: {path: "/u/{id:[0-9]+}"}', 10, 'write `"/u/{id}"`'),
    ("match", '    match: {path: "https://a.example.com/x"}', 10, "`match: {host: a.example.com, path: /x}`"),
    ("match", '    match: {path: "/a?b=1"}', 10, '`match: {path: /a, query: {b: "1"}}`'),
    ("match", "    match: {path: /users/{id}}", 10, 'write it in quotes: `"/users/{id}"`'),
    ("match", "    match: {path:/**}", 10, "write `path: /**`"),
    ("match", "    match: /api/**", 10, 'write `match: {path: "/api/**"}`'),
    ("match", "    match: {path: \u201c/**\u201d}", 10, 'a typographic quote (U+201C); write a straight `"`: `"/**"`'),
    ("match", "    match: {path: /**, methods: GET}", 10, "write `methods: [GET]`"),
    ("match", "    match: {path: /**, method: GET}", 10, "write `methods: [GET]`"),
    ("match", "    match: {path: /**, methods: [get]}", 10, "did you mean `GET`?"),
    ("match", "    match: {path: /**, methods: [ANY]}", 10, "without `methods` all are taken"),
    ("match", '    match: {host: "a.example.com:8443", path: /**}', 10, "did you mean `a.example.com`?"),
    ("match", '    match: {host: "https://a.example.com"}', 10, "write `a.example.com`"),
    ("match", "    match: {host: .example.com}", 10, 'write `"*.example.com"`'),
    ("match", "    match: {host: *.example.com}", 10, 'write `"*.example.com"`'),
    ("match", "    path: /**", 10, "it goes into `match`"),
    ("match", "    match:\n    path: /**", 11, "`path` belongs into `match` on line 10"),
    ("match", "  - match: {path: /**}", 10, "this belongs to route `all` above; write two blanks in place of `- `"),
    ("upstream", "    upstream:", 11, "write `upstream: app`"),
    ("upstream", "    upstream: App", 11, "did you mean `app`?"),
    ("upstream", "    upstream: [app]", 11, "write `upstream: app`"),
    ("upstream", "    upstream: http://127.0.0.1:9000", 11, "a URL is an endpoint of an upstream"),
    ("upstream", "    upstream:\u00a0app", 11, "a no-break space (U+00A0)"),
    ("upstream", "\u00a0\u00a0\u00a0\u00a0upstream: app", 11, "a no-break space (U+00A0)"),
    ("upstream", "\tupstream: app", 11, "a tab; indent with blanks"),
    ("upstream", "     upstream: app", 11, "`    upstream: app`"),
    ("upstream", "upstream: app", 11, "indent it by 4 blanks"),
    ("upstream", "    upstream: ${NONE}", 11, "`${NONE:-default}`"),
    ("upstream", "    proxy_pass: http://127.0.0.1:9000", 11, "`upstream: app`"),
    ("upstream", "    redirect: a.example.com", 11, "write `redirect: https://a.example.com`"),
    ("upstream", "    respond: 200 OK", 11, "write `respond: 200`"),
    ("upstream", "    redirect: https://a$request_uri", 11, 'write `redirect: {to: "https://a", keep_path: true}`'),
    ("upstream", "    upstream: !app", 11, "a text that begins with `!` needs quotes"),
    ("upstream", "    upstream: &app", 11, "a text that begins with `&` needs quotes"),
    ("upstream", "    upstream: {{ app }}", 11, "`{{…}}` is not replaced here"),
    ("match", "    match: {path: /a /b}", 10, "write `path: [/a, /b]`"),
    ("match", '    match: {path: "/a(/.*)?"}', 10, "write `/a/**`"),
    ("match", '    match: {path: "/{a,b}/c"}', 10, "write `path: [/a/c, /b/c]`"),
    ("match", "    match: {path: /**, methods: [get, post]}", 10, "did you mean `GET`?"),
    ("match", '    match: {headers: "X-A: b"}', 10, "write `headers: {X-A: b}`"),
    ("+endpoints", "    circuit_breaker: {threshold: 5}", 8, "`circuit_breaker: {failure_rate: 50%"),
    ("+endpoints", "    max_in_flight: {max: 10}", 8, "`limit: 200`"),
    ("+endpoints", "    dns: 0", 8, "write `dns: off`"),
    ("+endpoints", "    panic: false", 8, "write `panic: off`"),
    ("+admin", "tcp: {listen: ':5432'}", 5, "no TCP or UDP streams"),
    ("upstream", "    respond: hello", 11, "write `respond: {body: hello}`"),
    ("name", '  - name: "all of it!"', 9, "write `name: all-of-it`"),
    ("endpoints", "    endpoint: [http://127.0.0.1:9000]", 7, "did you mean `endpoints`?"),
    ("endpoints", "    backends: [http://127.0.0.1:9000]", 7, "it is called `endpoints` here"),
    ("endpoints", "    endpoints: http://127.0.0.1:9000", 7, "write `endpoints: [http://127.0.0.1:9000]`"),
    ("endpoints", "    endpoints: [127.0.0.1:9000]", 7, "`http://127.0.0.1:9000`"),
    ("endpoints", "    endpoints: [{host: 127.0.0.1, port: 9000}]", 7, 'an endpoint is a URL: `{url: "http://10.0.0.1:8000"'),
    ("endpoints", "    endpoints: [http://127.0.0.1:9000/v1/]", 7, "`rewrite_prefix: {from: /, to: /v1}`"),
    ("endpoints", "    endpoints: [http://$USERS_HOST:9000]", 7, "`http://${USERS_HOST}:9000`"),
    (
        "endpoints",
        '    endpoints: [{url: "http://a:1", max_fails: 3, fail_timeout: 10s}]',
        7,
        "`ejection: {failures: 3, base: 10s}`",
    ),
    ("endpoints", "    endpoints: [grpc://127.0.0.1:9000]", 7, "gRPC is not spoken"),
    ("endpoints", "  endpoints: [http://127.0.0.1:9000]", 7, "`endpoints` belongs into `app` on line 6"),
    ("+endpoints", "    load_balancing: least_conn", 8, "write `load_balancing: least_in_flight`"),
    ("+endpoints", "    load_balancing: ip_hash", 8, "write `load_balancing: {algorithm: consistent_hash, key: client_ip}`"),
    ("+endpoints", "    health: http://127.0.0.1/healthz", 8, "write `health: /healthz`"),
    ("+endpoints", "    panic: 0.3", 8, "`30%`"),
    ("+endpoints", "    circuit_breaker: {failure_rate: 50}", 8, "`50%`"),
    ("+endpoints", "    keep_alive: 60s", 8, "write `keep_alive: {idle: 60s}`"),
    ("+endpoints", "    dns: false", 8, "write `dns: off`"),
    ("+endpoints", "    timeout: 5s", 8, "it belongs to a route, or to `defaults`"),
    ("listen", "  listen: 8080", 3, "did you mean `:8080`?"),
    ("listen", '  listen: "443 ssl"', 3, "tls: {certificate: tls.crt, key: tls.key}}]`"),
    ("listen", '  listen: "*:80"', 3, 'write `":80"`'),
    ("listen", '  listen: {address: "127.0.0.1:80"}', 3, "write `listen: [{address: 127.0.0.1:80}]`"),
    ("+listen", "  http2: true", 4, "HTTP/2, HTTP/3 and gRPC are not spoken"),
    ("+listen", "  tls: {certificate: tls.crt, key: tls.key}", 4, "belongs to an entry of `server.listen`"),
    ("+listen", "  trusted_proxies: [lb.internal]", 4, "write its addresses, as `10.0.0.5` or `10.0.0.0/8`"),
    ("+listen", "  trusted_proxies: 10.0.0.0/8", 4, "write `trusted_proxies: [10.0.0.0/8]`"),
    ("+listen", "  workers: 100", 4, "must be at most 64: each is a process"),
    ("admin", "admin: off", 4, "write `admin: {listen: off}`"),
    ("admin", 'admin: ":9900"', 4, 'write `admin: {listen: ":9900"}`'),
    ("+admin", "workers: 4", 5, "it belongs into `server`: `server: {workers: 4}`"),
    ("+admin", "timeout: 5s", 5, "`defaults: {timeout: 15s}`"),
    ("+admin", "redis: 127.0.0.1:6379", 5, "write `redis: redis://127.0.0.1:6379`"),
    ("upstreams", "upstream:", 5, "did you mean `upstreams`?"),
    ("app", "  - name: app", 5, "write `app:` in place of `- name: app`"),
    ("routes", "  routes:", 8, "begin it in the first column"),
    ("version", "version: 2", 1, "write `version: 1`"),
    ("version", "# a comment", 2, "write `version: 1`"),
]


@pytest.mark.parametrize("name,line,number,says", ELSEWHERE)
def test_mistakes_elsewhere(tmp_path: Path, name: str, line: str, number: int, says: str) -> None:
    """A line that is wrong in place of a right one, or behind it."""
    one_message(tmp_path, with_line(name, line), number, says)


WHOLE = [
    ("", 1, "`gateway init FILE` writes one"),
    ("http:\n  routers:\n    r: {rule: x, service: s}\nentryPoints: {web: {address: ':80'}}\n", 1, "this looks like Traefik"),
    ("server {\n  listen 80;\n  location / { proxy_pass http://a; }\n}\n", 1, "this looks like a configuration of nginx"),
    ("frontend web\n  bind :80\n  default_backend app\n", 1, "this looks like a configuration of HAProxy"),
    (
        "version: 1\nupstreams: {app: {endpoints: ['http://a']}}\nroutes:\n  all:\n    match: {path: /**}\n    upstream: app\n",
        3,
        "`routes` is a list; write `- name: all` in place of `all:`",
    ),
    (
        GOOD
        + "  - &x\n    name: b\n    match: {path: /b}\n    upstream: app\n  - <<: *x\n    name: c\n    match: {path: /c}\n",
        16,
        "merge keys",
    ),
]


@pytest.mark.parametrize("text,number,says", WHOLE)
def test_files_that_are_wrong_as_a_whole(tmp_path: Path, text: str, number: int, says: str) -> None:
    """A file of another program, or of another shape, is one mistake."""
    one_message(tmp_path, text, number, says)


def one_message(folder: Path, text: str, number: int, says: str) -> None:
    """Nothing but this is said, on one line."""
    problems = found(folder, text)

    assert [(problem.line, says in problem.text) for problem in problems] == [(number, True)], render_text(problems)
    assert "\n" not in problems[0].text


def test_the_file_itself_is_right(tmp_path: Path) -> None:
    """What the mistakes are made in has none."""
    path = tmp_path / "gateway.yaml"
    path.write_text(GOOD, encoding="utf-8")
    loaded = load(path, {})

    assert notes(loaded.resolved, loaded.positions) == []


@pytest.mark.parametrize(
    "line,number,says",
    [
        ("  spare: {endpoints: ['http://127.0.0.1:9001']}", 8, "upstream `spare` is used by no route"),
        ("    fallback: spare\n  spare: {endpoints: ['http://127.0.0.1:9001']}", 0, ""),
    ],
)
def test_unused_upstreams_are_noted(tmp_path: Path, line: str, number: int, says: str) -> None:
    """An upstream that neither a route nor a fallback leads to is no mistake, but worth a note."""
    path = tmp_path / "gateway.yaml"
    path.write_text(with_line("+endpoints", line), encoding="utf-8")
    loaded = load(path, {})
    said = notes(loaded.resolved, loaded.positions)

    assert [f"{path}:{number}: note: {says}" in note for note in said] == ([True] if says else [])


def test_parameters_of_other_programs_are_noted(tmp_path: Path) -> None:
    """`:id` in a path stands for itself."""
    path = tmp_path / "gateway.yaml"
    path.write_text(with_line("match", "    match: {path: /users/:id}"), encoding="utf-8")
    loaded = load(path, {})

    assert "a parameter is written `{id}`" in notes(loaded.resolved, loaded.positions)[0]


def test_a_mistake_does_not_hide_another(tmp_path: Path) -> None:
    """What is below a misspelled word is looked at as if it were right, and what a word stands for is not missing besides."""
    text = (
        GOOD.replace("upstreams:", "upstream:").replace("endpoints: [http:", "endpoints: [htp:").replace("name: all", "id: all")
    )

    assert [problem.line for problem in found(tmp_path, text)] == [5, 7, 9]

    text = GOOD.replace("upstream: app", "upstream: apq") + "extra: 1\n"
    assert [problem.line for problem in found(tmp_path, text)] == [11, 12]


@pytest.mark.parametrize(
    "line",
    [
        "limits: ${X}",
        "access_log: ${X}",
        "token: hunter2",
        "key_password: [hunter2]",
        "x: 'http://u:hunter2@a'",
        "retry: ${X}",
    ],
)
def test_cures_do_not_show_secrets(tmp_path: Path, line: str) -> None:
    """A cure quotes no value from outside and none that may be a secret."""
    path = tmp_path / "gateway.yaml"
    path.write_text(with_line("+upstream", f"    {line}"), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(path, {"X": "hunter2"})

    assert all("hunter2" not in problem.text for problem in caught.value.problems)


def test_a_file_of_something_else_is_not_told_word_by_word(tmp_path: Path) -> None:
    """The first hundred unknown words of a block are; each costs a search for what was meant, and nobody reads thousands."""
    problems = found(tmp_path, GOOD + "".join(f"word{number}: 1\n" for number in range(5000)))

    assert len(problems) == 101
    assert [one.message for one in problems if "more unknown" in one.message] == ["4900 more unknown fields"]
