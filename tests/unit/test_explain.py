"""`explain`: which route takes a request, why the others do not, and where each value comes from."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.control.load import Loaded, load
from gateway.control.tools.explain import explain, route_table
from gateway.control.tools.trial import RequestError

TEXT = """\
version: 1
server: {paths: {double_slash: reject}}
defaults:
  timeout: {request: 9s}
  request_fields: {set: {X-Env: prod}}
upstreams:
  users: {endpoints: [http://127.0.0.1:9001]}
routes:
  - name: user
    match: {host: api.example.com, path: "/users/{id}", methods: [GET], headers: {X-V: "2"}}
    upstream: users
    timeout: 2s
  - {name: new, match: {host: api.example.com, path: /users, methods: [POST]}, upstream: users}
  - {name: moved, match: {path: /old/**}, redirect: https://new.example.com}
  - {name: rest, match: {path: /users/**, query: {q: true}, priority: -1}, upstream: users}
"""


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    """A configuration with one route for each reason not to match."""
    path = tmp_path / "g.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return load(path, {})


def line(text: str, start: str) -> str:
    """The line that starts with these words, blanks reduced."""
    return next(" ".join(one.split()) for one in text.splitlines() if one.strip().startswith(start))


def test_the_route_and_every_reason(loaded: Loaded) -> None:
    """Each route is listed with its place and every condition that does not hold."""
    text = explain(loaded, "GET", "https://api.example.com/users/7?q=1", ["x-v: 2"])

    path = loaded.path
    assert f"→ route `user` ({path}:9), upstream `users`" in text
    assert "takes it: host `api.example.com`, path `/users/{id}`, method GET, header `x-v`" in line(text, "> user")
    assert line(text, "new").endswith("path is not `/users`; method is not POST")
    assert line(text, "moved").endswith("path is not `/old/**`")
    assert line(text, "rest").endswith("matches too, but `user` has a higher priority")


def test_every_value_and_its_place(loaded: Loaded) -> None:
    """What holds is listed with the line it was written on, or as a default."""
    text = explain(loaded, "GET", "https://api.example.com/users/7", ["X-V: 2"])

    path = loaded.path
    assert line(text, "parameter id") == "parameter id '7'"
    assert line(text, "timeout.request") == f"timeout.request 2s {path}:12"
    assert line(text, "timeout.attempt") == f"timeout.attempt 2s {path}:12 (the budget around it)"
    assert line(text, "timeout.connect") == f"timeout.connect 2s {path}:12 (the budget around it)"
    assert line(text, "timeout.idle") == "timeout.idle 5m default"
    assert line(text, "request_fields.set") == f"request_fields.set X-Env {path}:5"
    assert line(text, "endpoint 1") == f"endpoint 1 http://127.0.0.1:9001 weight 1 {path}:7"


@pytest.mark.parametrize(
    "method,url,verdict",
    [
        ("GET", "https://api.example.com/users", "405: the path is served, but not with this method; Allow: POST"),
        ("GET", "/nothing", "404: no route takes it"),
        ("HEAD", "/old/x", "route `moved`"),
    ],
)
def test_other_verdicts(loaded: Loaded, method: str, url: str, verdict: str) -> None:
    """Where no route takes the request, the answer is told."""
    assert verdict in explain(loaded, method, url)


def test_why_not(loaded: Loaded) -> None:
    """Missing and different values are told apart, without showing them."""
    text = explain(loaded, "GET", "/users/7", ["Host: api.example.com", "X-V: hunter2"])

    assert line(text, "user").endswith("header `x-v` has another value")
    assert line(text, "rest").endswith("query `q` is missing")
    assert "hunter2" not in text


def test_the_host_comes_from_the_url_or_the_header(loaded: Loaded) -> None:
    """An absolute URL wins over `Host`, as in the data plane."""
    assert "route `user`" in explain(loaded, "GET", "http://api.example.com:8080/users/7", ["Host: x", "X-V: 2"])


@pytest.mark.parametrize(
    "url,message",
    [
        ("ftp://a/b", "not a URL"),
        ("http:///b", "not a URL"),
        ("users", "starts with `/`"),
        ("/a b", "percent-encoded"),
        ("/\u00fc", "percent-encoded"),
        ("http://a:x/", "not a URL"),
        ("http://[::1/", "not a URL"),
        ("http://a,b/", "answered 400 before routing: the Host is not valid"),
        ("/a/../b", "answered 400 before routing"),
        ("/a//b", "answered 400 before routing"),
    ],
)
def test_what_is_no_request(loaded: Loaded, url: str, message: str) -> None:
    """A URL that is none, or is refused before routing, is said to be."""
    with pytest.raises(RequestError, match=message):
        explain(loaded, "GET", url)


def test_what_is_no_header(loaded: Loaded) -> None:
    """A header has a name and a colon."""
    with pytest.raises(RequestError, match="is not a header"):
        explain(loaded, "GET", "/", ["nonsense"])


@given(st.text(max_size=30), st.text(max_size=8), st.text(max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_request_is_explained_or_refused(loaded: Loaded, url: str, method: str, header: str) -> None:
    """No command line fails in another way."""
    with contextlib.suppress(RequestError):
        assert explain(loaded, method, url, [header, f"a: {header}"])


def test_the_table_of_routes(loaded: Loaded) -> None:
    """Routes are listed in the order in which they are tried."""
    rows = [row.split()[0] for row in route_table(loaded).splitlines()]

    assert rows == ["NAME", "new", "user", "moved", "rest"]


@pytest.mark.parametrize(
    "more,where",
    [
        ("", "in process"),
        ("server: {workers: 3}\n", "in the supervisor, for all workers"),
        ("server: {workers: auto}\n", "in the supervisor, for all workers"),
        ("server: {workers: 3}\nredis: {url: redis://127.0.0.1}\n", "redis://127.0.0.1"),
    ],
)
def test_who_counts_rate_limits(tmp_path: Path, more: str, where: str) -> None:
    """One process itself, several in their supervisor, or Redis."""
    path = tmp_path / "gateway.yaml"
    path.write_text("version: 1\nroutes: [{name: all, match: {}, respond: 204, rate_limit: 1/s}]\n" + more, encoding="utf-8")
    (line,) = [line for line in explain(load(path), "GET", "http://x/", []).splitlines() if "rate_limit counts" in line]

    assert line.split("rate_limit counts")[1].strip().startswith(where)
