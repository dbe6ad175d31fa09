"""What is pasted from other programs, or written by habit: one message, and a cure that passes when it is pasted."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.control.checks import notes
from gateway.control.load import load
from tests.unit.test_mistakes import GOOD, found, one_message, with_line

PASTED = [
    ("+upstream", "    timeout: {request: 5s, connect 1s}", 12, "    timeout: {request: 5s, connect: 1s}"),
    ("+upstream", "    timeout: {request: 5s; connect: 1s}", 12, "    timeout: {request: 5s, connect: 1s}"),
    ("+upstream", "    timeout: {request=5s}", 12, "    timeout: {request: 5s}"),
    ("+upstream", "    timeout server 30s", 12, "    timeout: {request: 30s}"),
    ("+upstream", "    timeout: {connect: 500}", 12, "    timeout: {connect: 500ms}"),
    ("+upstream", "    retry: {backoff: {base: 100, max: 1s}}", 12, "    retry: {backoff: {base: 100ms, max: 1s}}"),
    ("+upstream", "    max_in_flight: {limit: 10, queue: 1s}", 12, "    max_in_flight: {limit: 10, queue: {max_wait: 1s}}"),
    ("+upstream", "    rewrite_prefix: {/: /v1}", 12, "    rewrite_prefix: {from: /, to: /v1}"),
    ("+upstream", "    compression: {level: 6}", 12, "    compression: {levels: {gzip: 6}}"),
    ("+upstream", "    paths: {dot_segments: allow}", 12, "    paths: {dot_segments: forward}"),
    ("+upstream", "    upgrades: [ws]", 12, "    upgrades: [websocket]"),
    ("+upstream", "    request_fields: {add: [{name: X-A, value: b}]}", 12, "    request_fields: {add: {X-A: b}}"),
    ("+upstream", "    request_fields: {set: {X-A: true}}", 12, '    request_fields: {set: {X-A: "true"}}'),
    ("match", "    match: Host(`a.example.com`) && PathPrefix(`/x`)", 10, '    match: {host: a.example.com, path: "/x/**"}'),
    ("match", "    match: {path: {type: PathPrefix, value: /api}}", 10, '    match: {path: "/api/**"}'),
    ("match", "    match: [{path: /a/**}, {path: /b/**}]", 10, '    match: {path: ["/a/**", "/b/**"]}'),
    ("match", "    match: {path: /**, headers: [{name: X-Env, value: a}]}", 10, "    match: {path: /**, headers: {X-Env: a}}"),
    ("match", "    match: {headers: {X-Env: [a, b]}}", 10, '    match: {headers: {X-Env: {regex: "a|b"}}}'),
    ("match", "    match: {path: *}", 10, "    match: {path: /**}"),
    ("match", '    "match": {"path": "/**"},', 10, '    "match": {"path": "/**"}'),
    ("upstream", "    redirect: 301 https://a.example.com", 11, "    redirect: {to: https://a.example.com, status: 301}"),
    ("upstream", "    respond: {body: {ok: true}}", 11, """    respond: {body: '{"ok": true}'}"""),
    ("upstream", "    upstream: app:9000", 11, "    upstream: app"),
    ("upstream", "    upstream: app@docker", 11, "    upstream: app"),
    ("upstream", "    upstream: app.default.svc.cluster.local", 11, "    upstream: app"),
    ("name", "  -name: all", 9, "  - name: all"),
    ("name", "  * name: all", 9, "  - name: all"),
    ("name", "  name: all", 9, "  - name: all"),
    ("app", "  app", 6, "  app:"),
    ("version", "version 1", 1, "version: 1"),
    ("listen", "  listen: 8080:80", 3, '  listen: ":80"'),
    (
        "listen",
        "  listen: [{address: ':80', redirect_to_https: 301}]",
        3,
        "  listen: [{address: ':80', redirect_to_https: true}]",
    ),
    ("+listen", "  workers: max", 4, "  workers: auto"),
    ("+listen", "  trusted_proxies: [10.*]", 4, "  trusted_proxies: [10.0.0.0/8]"),
    ("+listen", "  workers: ${env:NO_SUCH:-2}", 4, "  workers: ${NO_SUCH:-2}"),
    ("admin", "admin: 9900", 4, "admin: {listen: 127.0.0.1:9900}"),
    ("+admin", "access_log: stdout", 5, 'access_log: {file: "-"}'),
    ("+admin", "redis: {url: http://a:6379}", 5, "redis: {url: redis://a:6379}"),
    ("endpoints", "    endpoints: ['http://a:1,http://b:2']", 7, "    endpoints: [http://a:1, http://b:2]"),
    ("endpoints", "    endpoints: [http://::1:9000]", 7, '    endpoints: ["http://[::1]:9000"]'),
    ("endpoints", "    endpoints: []", 7, '    endpoints: ["http://127.0.0.1:9000"]'),
    ("endpoints", "    endpoints:\n      - app: 9000", 8, "    endpoints:\n      - http://app:9000"),
    ("+endpoints", "    health: GET /healthz", 8, "    health: /healthz"),
    ("+endpoints", "    max_in_flight: {limit: 10, queue: true}", 8, "    max_in_flight: {limit: 10, queue: 50}"),
    ("+endpoints", "    slow_start: true", 8, "    slow_start: 30s"),
    ("+endpoints", "    load_balancing: random two", 8, "    load_balancing: two_choices"),
]


@pytest.mark.parametrize("place,line,number,cured", PASTED)
def test_the_cure_is_said_and_passes(tmp_path: Path, place: str, line: str, number: int, cured: str) -> None:
    """One message at the right line; the file with the cured line is valid."""
    problems = found(tmp_path, with_line(place, line))
    (said,) = problems
    path = tmp_path / "gateway.yaml"
    path.write_text(with_line(place, cured), encoding="utf-8")
    load(path, {})

    assert said.line == number
    quoted = said.hint.replace("write `", "did you mean `").partition("did you mean `")[2]
    assert quoted.rpartition("`")[0].strip().strip("- ") in cured or said.hint.endswith("with `:-` before the default")


SAID = [
    ("+upstream", "    proxy_pass http://127.0.0.1:9000;", 12, "a line of another program, `proxy_pass`"),
    ("+upstream", "    retry: {methods: [POST]}", 12, "`idempotency_key: true`"),
    ("+upstream", "    rate_limit: {requests_per_second: 10}", 12, "it is called `limit` here, with its period"),
    ("+upstream", "    rate_limit: {limit: 10/s, key: path}", 12, "write `path:NAME`"),
    ("+upstream", "    nginx.ingress.kubernetes.io/proxy-body-size: 10m", 12, "`limits: {body: 10MiB}`"),
    ("+upstream", "    traefik.http.routers.a.rule: Host(`a`)", 12, "routes are not read from labels"),
    ("+upstream", "    limits: {body: 0}", 12, "`body: off` for no limit"),
    ("+upstream", "    rewrite_prefix: {prefix: /api, replacement: /}", 12, "it is `from` and `to`"),
    ("+upstream", "    request_fields:\n      set:\n      X-A: b", 14, "indent it by 8 blanks, two more than `set`"),
    ("upstream", "    redirect: {to: 'https://$host$request_uri'}", 11, "redirect_to_https: true"),
    ("upstream", "    backendRefs: [{name: app, port: 80}]", 11, "it is the name of an upstream"),
    ("match", "    match: {path: /**, host: _}", 10, "without `host` any is taken"),
    ("match", "    match: {path: /**, host: *}", 10, "without `host` any is taken"),
    ("match", "    matches: [{path: {type: Exact, value: /a}}]", 10, "a route has one match"),
    ("name", "  - all:", 9, "write `name: all`"),
    ("app", "app:", 6, "indent it by 2 blanks, and what stands below it too"),
    ("listen", "  listen: [{address: ':80', redirect: https}]", 3, "it is `redirect_to_https: true`"),
    ("listen", "  listen:\n    - ':8080'\n    tls: {certificate: a, key: b}", 5, "write `- address: ':8080'` there"),
    ("+listen", "  trusted_proxies: true", 4, "write `trusted_proxies: [10.0.0.0/8]`"),
    ("+listen", "  workers: ${WORKERS:4}", 4, "write `${WORKERS:-default}`"),
    ("admin", "admin: {token: ''}", 4, "must not be empty"),
    ("admin", "admin: {token: $ADMIN_TOKEN}", 4, "`token: ${NAME}`"),
    ("admin", "admin: {password: x}", 4, "`token_file: admin.token`"),
    ("admin", "admin: {tls: {certificate: a, key: b}}", 4, "the admin listener speaks plain HTTP"),
    ("+admin", "defaults: {match: {path: /**}}", 5, "each route has its own `match`"),
    ("+endpoints", "    livenessProbe: {httpGet: {path: /healthz}}", 8, "`health: {path: /healthz"),
    ("+endpoints", "    health: {path: /a, periodSeconds: 10}", 8, "`interval: 10s`"),
    ("+endpoints", "    max_in_flight: {limit: 10, queue: {size: 5, timeout: 1s}}", 8, "`max_wait: 100ms`"),
]


@pytest.mark.parametrize("place,line,number,says", SAID)
def test_what_has_no_cure_of_its_own_is_said(tmp_path: Path, place: str, line: str, number: int, says: str) -> None:
    """One message that says what it is called here, or why there is no such thing."""
    one_message(tmp_path, with_line(place, line), number, says)


@pytest.mark.parametrize(
    "text,number,says",
    [
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {gateway.yaml: x}\n", 1, "an object of Kubernetes"),
        ("gateway:\n  version: 1\n  routes: []\n", 1, "take out the line `gateway:`"),
        ("services: {a: {image: a}}\nnetworks: {}\nvolumes: {}\n", 2, "this looks like Docker Compose"),
        ("```yaml\n" + GOOD + "```\n", 1, "a fence of Markdown"),
        ("$ cat gateway.yaml\n" + GOOD, 1, "a line of a terminal"),
        ("version: 1\n<<<<<<< HEAD\nroutes: []\n=======\n", 2, "a mark of a merge"),
        ("{\n  // what\n  'version': 1\n}\n", 2, "write `# what`"),
    ],
)
def test_whole_files(tmp_path: Path, text: str, number: int, says: str) -> None:
    """What comes with the file from elsewhere is one mistake."""
    one_message(tmp_path, text, number, says)


@pytest.mark.parametrize(
    "place,line,says",
    [
        ("+upstream", "    request_fields: {set: {X-Real-IP: $remote_addr}}", "`$remote_addr` is sent as it stands"),
        ("+upstream", "    request_fields: {set: {X-Real-IP: '%[src]'}}", "`%[src]` is sent as it stands"),
        ("match", '    match: {path: "/users/[0-9]+"}', "`[0-9]+` stands for itself; a parameter is written `{id}`"),
    ],
)
def test_what_stands_for_itself_is_noted(tmp_path: Path, place: str, line: str, says: str) -> None:
    """Variables and regular expressions of other programs are valid text, and hardly what was meant."""
    path = tmp_path / "gateway.yaml"
    path.write_text(with_line(place, line), encoding="utf-8")
    loaded = load(path, {})

    assert any(says in note for note in notes(loaded.resolved, loaded.positions))
