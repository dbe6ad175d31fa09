"""Compiling: what was written becomes what the data plane reads, and live state is carried over."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from gateway.control.compile import compile_config, dropped_endpoints
from gateway.control.load import load
from gateway.control.reading.problems import ConfigError
from gateway.control.tools.dump import effective_config
from gateway.endpoints import Endpoint
from gateway.metrics import GatewayMetrics, UpstreamMetrics
from gateway.policies.timeout import TimeoutSettings
from gateway.server_settings import ForwardedFields
from gateway.snapshot import FieldEdits, Redirect, Respond, Rewrite, Route, ServerTiming, Snapshot, UpstreamSettings

UPSTREAMS = "version: 1\nupstreams:\n  users: {endpoints: [http://a:1, http://b]}\n"


class Pool:
    """A pool that only remembers what it was made for."""

    def __init__(self, endpoint: Endpoint, settings: UpstreamSettings, metrics: UpstreamMetrics) -> None:
        self.endpoint = endpoint
        self.settings = settings
        self.metrics = metrics

    def retire(self) -> None:
        """Nothing to close."""

    def sweep(self, now: float) -> None:
        """Nothing is idle."""

    def counts(self) -> dict[str, int]:
        """Nothing to count."""
        return {}


class Compiler:
    """Compiles texts one after the other, with the metrics of one process."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gateway.yaml"
        self.metrics = GatewayMetrics("test")

    def __call__(self, text: str, previous: Snapshot | None = None) -> Snapshot:
        self.path.write_text(text, encoding="utf-8")
        return compile_config(load(self.path, {}), self.metrics, Pool, previous)

    def route(self, route: str, rest: str = "") -> Route:
        """The one route of a configuration."""
        return self(f"{UPSTREAMS}routes:\n  - {{name: r, {route}}}\n{rest}").routes[0]


@pytest.fixture
def compiled(tmp_path: Path) -> Compiler:
    """A compiler in a folder of its own."""
    return Compiler(tmp_path)


def upstream(text: str) -> str:
    """A configuration with this one upstream."""
    return f"version: 1\nupstreams:\n  u: {text}\nroutes:\n  - {{name: r, match: {{}}, upstream: u}}\n"


def test_everything_in_the_server_block_arrives(compiled: Compiler) -> None:
    """Each field of `server` reaches the snapshot, in seconds and bytes."""
    server = compiled(
        UPSTREAMS
        + """
routes: [{name: r, match: {}, upstream: users}]
server:
  listen: ["127.0.0.1:0", "[::1]:80", ":81", "unix:/run/g.sock"]
  name: edge
  trusted_proxies: [10.0.0.0/8]
  limits: {headers: 1KiB, header_count: 9, target: 2KiB, response_headers: 3KiB, connections: 4,
           requests_per_connection: 5, tunnels: 6}
  timeouts: {header: 1s, body_idle: 2s, write_stall: 3s, keep_alive: 4s, drain: 5s, drain_delay: 6s}
  forwarded: both
  paths: {encoded_slash: reject, double_slash: reject}
  request_id: {header: X-Trace}
  budget_field: X-Left
"""
    )
    settings = server.server
    assert [str(listener) for listener in settings.listeners] == ["127.0.0.1:0", "[::1]:80", ":81", "unix:/run/g.sock"]
    assert settings.name == "edge"
    assert settings.trusted_proxies
    limits, timeouts = settings.limits, settings.timeouts
    assert (limits.headers, limits.header_count, limits.target, limits.response_headers) == (1024, 9, 2048, 3072)
    assert (limits.connections, limits.requests_per_connection, limits.tunnels) == (4, 5, 6)
    assert (timeouts.header, timeouts.body_idle, timeouts.write_stall) == (1.0, 2.0, 3.0)
    assert (timeouts.keep_alive, timeouts.drain, timeouts.drain_delay) == (4.0, 5.0, 6.0)
    assert settings.forwarded is ForwardedFields.BOTH
    assert not settings.encoded_slash
    assert not settings.double_slash
    assert (server.names.request_id, server.names.request_id_line) == (b"x-trace", b"X-Trace: ")
    assert (server.names.budget, server.names.budget_line) == (b"x-left", b"X-Left: ")


def test_the_default_name_is_random_but_one_per_process(compiled: Compiler) -> None:
    """Without a name the gateway makes one up, and keeps it across reloads."""
    text = upstream("{endpoints: [http://a]}")

    name = compiled(text).server.name

    assert re.fullmatch(r"gateway-[0-9a-f]{6}", name)
    assert compiled(text).server.name == name


@pytest.mark.parametrize(
    "url,expected",
    [
        ("http://Example.com", ("http://example.com", "example.com", 80, "", False, b"example.com")),
        ("http://a:80", ("http://a", "a", 80, "", False, b"a")),
        ("https://a", ("https://a", "a", 443, "", True, b"a")),
        ("https://a:8443", ("https://a:8443", "a", 8443, "", True, b"a:8443")),
        ("http://[0:0::1]:8000", ("http://[::1]:8000", "::1", 8000, "", False, b"[::1]:8000")),
        ("http://my_app:8000", ("http://my_app:8000", "my_app", 8000, "", False, b"my_app:8000")),
        ("unix:/run/app.sock", ("unix:/run/app.sock", "", 0, "/run/app.sock", False, b"localhost")),
    ],
)
def test_endpoints(compiled: Compiler, url: str, expected: tuple[str, str, int, str, bool, bytes]) -> None:
    """An endpoint's URL becomes host, port or path, and the authority that `Host` may carry."""
    endpoint = compiled(upstream(f"{{endpoints: ['{url}']}}")).upstreams[0].group.endpoints[0]

    shown = (endpoint.url, endpoint.host, endpoint.port, endpoint.path, endpoint.tls, endpoint.authority)
    assert shown == expected


@pytest.mark.parametrize("written,host", [("preserve", None), ("endpoint", b""), ("app.internal", b"app.internal")])
def test_upstream_host(compiled: Compiler, written: str, host: bytes | None) -> None:
    """`host` says which Host header the upstream gets."""
    assert compiled(upstream(f"{{endpoints: [http://a], host: {written}}}")).upstreams[0].host == host


def test_upstream_settings(compiled: Compiler) -> None:
    """Connection settings arrive, and the pool is made with them."""
    text = "{endpoints: [{url: http://a, weight: 3}], keep_alive: {idle: 1s, max_idle: 2}, max_connections: 3}"

    made = compiled(upstream(text)).upstreams[0]

    assert (made.settings.idle_timeout, made.settings.max_idle, made.settings.max_connections) == (1.0, 2, 3)
    assert made.settings.tls is None
    assert made.group.endpoints[0].weight == 3
    pool = made.group.endpoints[0].pool
    assert isinstance(pool, Pool)
    endpoint = made.group.endpoints[0]
    assert (pool.endpoint, pool.settings, pool.metrics) == (endpoint, made.settings, compiled.metrics.upstream("u"))


def test_upstream_tls(compiled: Compiler) -> None:
    """Certificates are verified unless `verify: false` is written, and TLS is at least 1.2."""
    safe = compiled(upstream("{endpoints: [https://a]}")).upstreams[0].settings.tls
    unsafe = compiled(upstream("{endpoints: [https://a], tls: {verify: false}}")).upstreams[0].settings.tls

    assert safe is not None
    assert unsafe is not None
    assert (safe.verify_mode, safe.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert safe.minimum_version == ssl.TLSVersion.TLSv1_2
    assert (unsafe.verify_mode, unsafe.check_hostname) == (ssl.CERT_NONE, False)


# -- routes ----------------------------------------------------------------------------------------------------------


def test_what_a_route_inherits(compiled: Compiler) -> None:
    """A route takes built-in defaults, over them `defaults`, over them its own, field by field."""
    bare = compiled.route("match: {}, upstream: users")
    rest = "defaults: {timeout: {request: 9s, connect: 2s}, limits: {body: 1KiB}, server_timing: always, access_log: off}\n"
    inherited = compiled.route("match: {}, upstream: users", rest)
    own = compiled.route("match: {}, upstream: users, timeout: {request: 4s, attempt: 1s}, limits: {body: off}", rest)

    assert bare == Route("r", bare.metrics, bare.upstream, retry=bare.retry, access_log=bare.access_log)
    assert inherited.timeout == TimeoutSettings(9.0, 9.0, 2.0, 300.0)
    assert (inherited.max_body, inherited.server_timing, inherited.access_log) == (1024, ServerTiming.ALWAYS, None)
    assert own.timeout == TimeoutSettings(4.0, 1.0, 1.0, 300.0)
    assert own.max_body == -1


def test_body_limit_of_the_server(compiled: Compiler) -> None:
    """`server.limits.body` holds where neither the route nor `defaults` says."""
    assert compiled.route("match: {}, upstream: users", "server: {limits: {body: 2KiB}}\n").max_body == 2048
    rest = "server: {limits: {body: 2KiB}}\ndefaults: {limits: {body: 3KiB}}\n"
    assert compiled.route("match: {}, upstream: users", rest).max_body == 3072


def test_upgrades(compiled: Compiler) -> None:
    """WebSocket is allowed unless `off` is written; a route can allow it again."""
    assert compiled.route("match: {}, upstream: users").upgrades == {b"websocket"}
    assert compiled.route("match: {}, upstream: users, upgrades: off").upgrades == frozenset()
    again = compiled.route("match: {}, upstream: users, upgrades: [websocket, SPDY/3.1]", "defaults: {upgrades: off}\n")
    assert again.upgrades == {b"websocket", b"spdy/3.1"}


@pytest.mark.parametrize(
    "path,rewrite,expected",
    [
        ("/a/**", "strip_prefix: true", Rewrite(b"/a", b"")),
        ("/a/b/{id}/c", "strip_prefix: true", Rewrite(b"/a/b", b"")),
        ("/a/b/**", "strip_prefix: /a", Rewrite(b"/a", b"")),
        ("/a/b/**", "strip_prefix: /a/", Rewrite(b"/a", b"")),
        ("/\u00fc b/**", "strip_prefix: true", Rewrite(b"/%C3%BC%20b", b"")),
        ("/a/**", "strip_prefix: false", None),
        ("/a/**", "rewrite_prefix: {from: /a, to: /v2/b}", Rewrite(b"/a", b"/v2/b")),
        ("/a/**", "rewrite_prefix: {from: /a/, to: /}", Rewrite(b"/a", b"")),
        ("/**", "rewrite_prefix: {from: /, to: /v2}", Rewrite(b"", b"/v2")),
    ],
)
def test_prefixes(compiled: Compiler, path: str, rewrite: str, expected: Rewrite | None) -> None:
    """Prefixes are whole segments, kept without their final slash, percent-encoded as clients send them."""
    assert compiled.route(f"match: {{path: '{path}'}}, upstream: users, {rewrite}").rewrite == expected


@pytest.mark.parametrize(
    "written,expected",
    [
        ("/b", Redirect(307, b"/b", keep_path=False, keep_query=False)),
        ("{to: https://x/, status: 308, keep_path: true}", Redirect(308, b"https://x", keep_path=True, keep_query=True)),
        ("{to: /b/, keep_query: true}", Redirect(307, b"/b/", keep_path=False, keep_query=True)),
    ],
)
def test_redirects(compiled: Compiler, written: str, expected: Redirect) -> None:
    """A redirect keeps the query when it keeps the path, and joins the two with one slash."""
    assert compiled.route(f"match: {{path: /a}}, redirect: {written}").redirect == expected


def test_responses(compiled: Compiler) -> None:
    """A fixed answer is encoded in advance; without a body it has no content type."""
    full = compiled.route("match: {}, respond: {status: 503, body: 'h\u00e4', fields: {Retry-After: 5}}").respond
    empty = compiled.route("match: {}, respond: 404").respond

    assert full == Respond(503, "h\u00e4".encode(), (b"Content-Type: text/plain; charset=utf-8", b"Retry-After: 5"))
    assert empty == Respond(404, b"", ())


@pytest.mark.parametrize(
    "defaults,route,expected",
    [
        ("", "", None),
        ("", "{set: {A: 1}, add: {B: 2}, remove: [C]}", FieldEdits(frozenset({b"a", b"c"}), (b"A: 1", b"B: 2"))),
        ("{set: {A: 1, B: 2}}", "{set: {b: 3}}", FieldEdits(frozenset({b"a", b"b"}), (b"A: 1", b"b: 3"))),
        ("{set: {A: 1}}", "{remove: [a]}", FieldEdits(frozenset({b"a"}), ())),
        ("{remove: [A, B]}", "{remove: [C]}", FieldEdits(frozenset({b"c"}), ())),
        ("{remove: [A]}", "{set: {A: 1}}", FieldEdits(frozenset({b"a"}), (b"A: 1",))),
        ("{add: {A: 1}}", "{add: {B: 2}}", FieldEdits(frozenset(), (b"A: 1", b"B: 2"))),
        ("{set: {A: 1}, remove: [B]}", "off", None),
    ],
)
def test_field_edits(compiled: Compiler, defaults: str, route: str, expected: FieldEdits | None) -> None:
    """Changes to headers are merged by name, the route's own over `defaults`; `off` leaves none."""
    rest = f"defaults: {{request_fields: {defaults}}}\n" if defaults else ""

    made = compiled.route("match: {}, upstream: users" + (f", request_fields: {route}" if route else ""), rest)

    assert made.request_edits == expected
    assert made.response_edits is None


def test_the_router_finds_routes(compiled: Compiler) -> None:
    """The compiled router leads to the compiled routes, and the snapshot knows which headers matter."""
    snapshot = compiled(
        UPSTREAMS
        + "routes:\n"
        + "  - {name: a, match: {path: '/a/{id}', headers: {X-V: '2'}, query: {q: true}}, upstream: users}\n"
        + "  - {name: b, match: {}, upstream: users}\n"
    )
    found = snapshot.router.match(b"", b"/a/7", b"GET", {b"x-v": b"2"}.get, lambda: {b"q": b""})
    other = snapshot.router.match(b"", b"/a/7", b"GET", {b"x-v": b"3"}.get, lambda: {b"q": b""})

    assert getattr(found, "value", None) is snapshot.routes[0]
    assert getattr(other, "value", None) is snapshot.routes[1]
    assert snapshot.match_fields == {b"x-v", b"user-agent", b"traceparent"}
    assert snapshot.unmatched.name == "_unmatched"


# -- carried over ----------------------------------------------------------------------------------------------------


def test_unchanged_endpoints_are_carried_over(compiled: Compiler) -> None:
    """An endpoint keeps its pool and its load while its URL, weight and connection settings are the same."""
    old = compiled(upstream("{endpoints: [http://a, http://b], load_balancing: round_robin}"))
    new = compiled(upstream("{endpoints: [http://b, http://a, http://c], load_balancing: round_robin}"), old)

    assert new.upstreams[0].group.endpoints[:2] == old.upstreams[0].group.endpoints[::-1]
    assert dropped_endpoints(old, new) == []
    assert new.upstreams[0].settings is old.upstreams[0].settings


@pytest.mark.parametrize(
    "changed",
    ["{endpoints: [http://b]}", "{endpoints: [{url: http://a, weight: 2}]}", "{endpoints: [http://a], max_connections: 7}"],
)
def test_changed_endpoints_are_not(compiled: Compiler, changed: str) -> None:
    """Another URL, weight or connection setting is another endpoint; the old one is to be retired."""
    old = compiled(upstream("{endpoints: [http://a]}"))
    new = compiled(upstream(changed), old)

    assert new.upstreams[0].group.endpoints[0] is not old.upstreams[0].group.endpoints[0]
    assert dropped_endpoints(old, new) == list(old.upstreams[0].group.endpoints)


def test_tls_settings_are_carried_over(compiled: Compiler) -> None:
    """The TLS context is kept while its settings and files are the same, so connections are not dropped by a reload."""
    old = compiled(upstream("{endpoints: [https://a]}"))
    same = compiled(upstream("{endpoints: [https://a], load_balancing: round_robin}"), old)
    other = compiled(upstream("{endpoints: [https://a], tls: {verify: false}}"), same)

    assert same.upstreams[0].group.endpoints == old.upstreams[0].group.endpoints
    assert other.upstreams[0].group.endpoints != old.upstreams[0].group.endpoints


def test_counters_survive(compiled: Compiler) -> None:
    """Metrics are kept by name across reloads."""
    text = upstream("{endpoints: [http://a]}")

    assert compiled(text).routes[0].metrics is compiled(text).routes[0].metrics


# -- certificates ----------------------------------------------------------------------------------------------------

openssl = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(openssl is None, reason="makes its certificates with the openssl command")


def make_certificate(folder: Path, name: str) -> None:
    """A self-signed certificate and its key, encrypted with `hunter2` when the name says so."""
    secret = ["-passout", "pass:hunter2"] if name == "encrypted" else ["-nodes"]
    command = [
        str(openssl),
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-subj",
        "/CN=localhost",
    ]
    files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.crt")]
    subprocess.run([*command, *secret, *files], check=True, capture_output=True)


def listener(tls: str) -> str:
    """A configuration with one TLS listener."""
    route = "{name: r, match: {}, respond: 204}"
    return f"version: 1\nserver:\n  listen:\n    - address: ':8443'\n      tls: {{{tls}}}\nroutes: [{route}]\n"


@needs_openssl
def test_listener_tls(compiled: Compiler, tmp_path: Path) -> None:
    """A listener's certificate is loaded, with the password from a file, and old TLS versions are refused."""
    make_certificate(tmp_path, "encrypted")
    (tmp_path / "pass").write_text("hunter2\n", encoding="utf-8")

    tls = "certificate: encrypted.crt, key: encrypted.key, key_password_file: pass, min_version: 1.3"
    context = compiled(listener(tls)).server.listeners[0].tls

    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3


@needs_openssl
@pytest.mark.parametrize(
    "tls,message",
    [
        ("certificate: a.crt, key: b.key", "`key`: `{}/b.key` is not the key of"),
        ("certificate: a.key, key: a.key", "`certificate`: `{}/a.key` holds no usable certificate"),
        ("certificate: a.crt, key: a.crt", "`key`: `{}/a.crt` holds no usable private key"),
        ("certificate: encrypted.crt, key: encrypted.key", "there is no password"),
        ("certificate: encrypted.crt, key: encrypted.key, key_password: wrong", "the password does not fit"),
        ("certificate: a.crt, key: a.key, key_password_file: none", "`key_password_file`: cannot read"),
        ("certificate: a.crt, key: none", "`key`: cannot read"),
    ],
)
def test_unusable_certificates(compiled: Compiler, tmp_path: Path, tls: str, message: str) -> None:
    """A certificate, key or password that does not fit is an error at its line, before anything is started."""
    for name in ("a", "b", "encrypted"):
        make_certificate(tmp_path, name)
    with pytest.raises(ConfigError) as caught:
        compiled(listener(tls))

    assert len(caught.value.problems) == 1
    problem = caught.value.problems[0]
    assert problem.line == 5
    assert message.format(tmp_path) in problem.message
    assert "wrong" not in str(caught.value)


@needs_openssl
def test_a_renewed_certificate_is_a_change(compiled: Compiler, tmp_path: Path) -> None:
    """New content in the same file makes new connections."""
    make_certificate(tmp_path, "ca")
    text = upstream("{endpoints: [https://a], tls: {ca: ca.crt}}")
    old = compiled(text)
    make_certificate(tmp_path, "ca")

    assert compiled(text, old).upstreams[0].group.endpoints[0] is not old.upstreams[0].group.endpoints[0]


# -- shown to operators ----------------------------------------------------------------------------------------------


def test_the_dump_hides_secrets(compiled: Compiler) -> None:
    """The effective configuration shows every default, and header values as asterisks: they may be credentials."""
    text = (
        UPSTREAMS
        + "routes: [{name: r, match: {headers: {X: {regex: a+}}}, upstream: users, request_fields: {set: {K: hunter2}}}]\n"
    )
    compiled.path.write_text(text, encoding="utf-8")

    dumped = effective_config(load(compiled.path, {}))

    assert "hunter2" not in str(dumped)
    assert dumped["routes"][0]["request_fields"]["set"] == {"K": "***"}
    assert dumped["routes"][0]["timeout"]["request"] == 15.0
    assert dumped["upstreams"]["users"]["endpoints"][0]["url"] == "http://a:1"
