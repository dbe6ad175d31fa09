"""Routing: which route takes a request, and the paths that are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.router import (
    AmbiguousPathError,
    Found,
    Match,
    MethodNotAllowed,
    Router,
    Unmatched,
    normalise_path,
    rank,
    split_path,
)

NO_FIELDS: Mapping[bytes, bytes] = {}


def find(
    router: Router[int],
    path: bytes,
    *,
    host: bytes = b"",
    method: bytes = b"GET",
    fields: Mapping[bytes, bytes] = NO_FIELDS,
    query: Mapping[bytes, bytes] = NO_FIELDS,
) -> Found[int] | MethodNotAllowed | Unmatched:
    """Look a request up."""
    return router.match(host, path, method, fields.get, lambda: query)


def value_of(result: Found[int] | MethodNotAllowed | Unmatched) -> int | None:
    """The number of the route, or None."""
    return result.value if isinstance(result, Found) else None


def table(*matches: Match) -> Router[int]:
    """A router whose values are the places in the file."""
    return Router((match, index) for index, match in enumerate(matches))


# -- against a naive matcher -----------------------------------------------------------------------------------------

segment = st.sampled_from(["a", "b", "c", "{x}", "{y}"])


@st.composite
def patterns(draw: st.DrawFn) -> str:
    """A path pattern out of few segments, so that patterns overlap."""
    segments = draw(st.lists(segment, max_size=3))
    for number, one in enumerate(segments):
        if one.startswith("{"):
            segments[number] = f"{{p{number}}}"
    end = draw(st.sampled_from(["", "**", "none"]))
    if end != "none" or not segments:
        segments.append("" if end == "none" else end)
    return "/" + "/".join(segments)


conditions = st.lists(
    st.tuples(st.sampled_from([b"x", b"y"]), st.sampled_from([None, re.compile(b"1")])),
    max_size=2,
    unique_by=lambda pair: pair[0],
).map(tuple)
matches = st.builds(
    Match,
    host=st.sampled_from(["", "a.com", "*.com", "*.a.com", "b.a.com"]),
    path=patterns(),
    methods=st.sets(st.sampled_from([b"GET", b"POST"]), max_size=2).map(frozenset),
    headers=conditions,
    query=conditions,
    priority=st.sampled_from([0, 0, 0, 1]),
)
paths = st.lists(st.sampled_from([b"a", b"b", b"c", b"z", b""]), max_size=4).map(lambda parts: b"/" + b"/".join(parts))
values = st.dictionaries(st.sampled_from([b"x", b"y"]), st.sampled_from([b"1", b"2"]))


def fits_host(pattern: str, host: str) -> bool:
    """Whether a host pattern takes a host, by definition."""
    if not pattern:
        return True
    return host.endswith(pattern[1:]) and host != pattern[2:] if pattern.startswith("*.") else host == pattern


def fits_path(pattern: str, path: str) -> bool:
    """Whether a path pattern takes a path, by a regular expression."""
    expression = ""
    for part in pattern[1:].split("/"):
        if part == "**":
            expression += "(/.*)?" if expression else "(/.*)"
        else:
            expression += "/" + ("[^/]+" if part.startswith("{") else re.escape(part))
    return re.fullmatch(expression, path) is not None


def holds(wanted: tuple[tuple[bytes, re.Pattern[bytes] | None], ...], given_: Mapping[bytes, bytes]) -> bool:
    """Whether all conditions hold."""
    return all(name in given_ and (pattern is None or pattern.fullmatch(given_[name])) for name, pattern in wanted)


@given(
    st.lists(matches, min_size=1, max_size=8),
    st.sampled_from(["", "a.com", "b.a.com", "c.com", "com", "x.y"]),
    paths,
    st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT"]),
    values,
    values,
)
def test_the_router_agrees_with_a_naive_matcher(
    listed: list[Match], host: str, path: bytes, method: bytes, fields: dict[bytes, bytes], query: dict[bytes, bytes]
) -> None:
    """The result is that of trying every route in the order of rank, one by one."""
    result = find(table(*listed), path, host=host.encode(), method=method, fields=fields, query=query)

    expected: int | None = None
    allow: set[bytes] = set()
    for index in sorted(range(len(listed)), key=lambda at: rank(listed[at], at)):
        match = listed[index]
        methods = match.methods | ({b"HEAD"} if b"GET" in match.methods else set())
        if not (fits_host(match.host, host) and fits_path(match.path, path.decode())):
            continue
        if not (holds(match.headers, fields) and holds(match.query, query)):
            continue
        if methods and method not in methods:
            allow |= methods
            continue
        expected = index
        break
    assert value_of(result) == expected
    if expected is None and allow:
        assert isinstance(result, MethodNotAllowed)
        assert set(result.allow) == allow
    if isinstance(result, Unmatched):
        assert result.host_known == any(fits_host(match.host, host) for match in listed)


# -- rules -----------------------------------------------------------------------------------------------------------


def test_literal_before_parameter_before_rest() -> None:
    """The more specific path wins, whatever the order in the file."""
    router = table(Match(path="/**"), Match(path="/users/**"), Match(path="/users/{id}"), Match(path="/users/me"))

    assert [value_of(find(router, path)) for path in (b"/users/me", b"/users/7", b"/users/7/x", b"/else")] == [3, 2, 1, 0]


def test_rest_takes_its_own_prefix() -> None:
    """`/a/**` takes `/a` and `/a/` too, but not `/ab`."""
    router = table(Match(path="/a/**"))

    assert [value_of(find(router, path)) for path in (b"/a", b"/a/", b"/a/b/c", b"/ab")] == [0, 0, 0, None]


def test_an_exact_path_is_exact() -> None:
    """`/a` and `/a/` are two paths, and a parameter never stands for nothing."""
    assert value_of(find(table(Match(path="/a")), b"/a/")) is None
    assert value_of(find(table(Match(path="/a/")), b"/a/")) == 0
    assert value_of(find(table(Match(path="/a/{id}")), b"/a/")) is None


def test_hosts_exact_then_longer_wildcard_then_any() -> None:
    """The host decides before the path."""
    router = table(
        Match(path="/very/specific"), Match(host="*.example.com"), Match(host="*.eu.example.com"), Match(host="api.example.com")
    )

    hosts = (b"api.example.com", b"x.eu.example.com", b"x.example.com", b"example.com")
    assert [value_of(find(router, b"/very/specific", host=host)) for host in hosts] == [3, 2, 1, 0]


def test_a_less_specific_host_still_serves_other_paths() -> None:
    """A known host whose routes do not fit falls back to the wildcard and to any host."""
    router = table(Match(path="/**"), Match(host="api.example.com", path="/only"))

    assert value_of(find(router, b"/else", host=b"api.example.com")) == 0


def test_priority_beats_everything() -> None:
    """A higher priority wins over a more specific host and path."""
    router = table(Match(host="a.com", path="/x"), Match(path="/**", priority=1))

    assert value_of(find(router, b"/x", host=b"a.com")) == 1


def test_parameters_are_bound() -> None:
    """A match tells what its parameters stand for."""
    result = find(table(Match(path="/u/{id}/f/{file}")), b"/u/7/f/a.txt")

    assert isinstance(result, Found)
    assert result.parameters == (("id", b"7"), ("file", b"a.txt"))


def test_get_brings_head() -> None:
    """A route for GET serves HEAD too (RFC 9110 9.3.2)."""
    assert value_of(find(table(Match(methods=frozenset({b"GET"}))), b"/", method=b"HEAD")) == 0


def test_another_method_is_405_with_all_that_is_allowed() -> None:
    """Where only the method is wrong, `Allow` lists the methods of every route for the path (RFC 9110 15.5.6)."""
    router = table(Match(path="/a", methods=frozenset({b"GET"})), Match(path="/{x}", methods=frozenset({b"PUT"})))

    result = find(router, b"/a", method=b"DELETE")

    assert isinstance(result, MethodNotAllowed)
    assert result.allow == (b"GET", b"HEAD", b"PUT")


def test_a_wider_route_takes_what_a_narrower_one_does_not_allow() -> None:
    """A method list is a condition: the next route that fits takes the request."""
    router = table(Match(path="/a", methods=frozenset({b"GET"})), Match(path="/**"))

    assert value_of(find(router, b"/a", method=b"DELETE")) == 1


def test_conditions_on_the_whole_value() -> None:
    """A pattern is for the whole value, not for a part of it."""
    router = table(Match(headers=((b"x", re.compile(b"v[0-9]")),)))

    assert value_of(find(router, b"/", fields={b"x": b"v1"})) == 0
    assert value_of(find(router, b"/", fields={b"x": b"v12"})) is None


def test_unknown_hosts_are_told_from_unknown_paths() -> None:
    """Where no route is for the host, that is another answer than where none is for the path (RFC 9110 15.5.20)."""
    router = table(Match(host="a.com", path="/a"))

    unknown, known = find(router, b"/a", host=b"b.com"), find(router, b"/b", host=b"a.com")

    assert isinstance(unknown, Unmatched)
    assert not unknown.host_known
    assert isinstance(known, Unmatched)
    assert known.host_known


@pytest.mark.parametrize("path", ["a", "", "/**/a", "/a{b}", "/{a}/{a}", "/{}", "/{1}", "/a*", "/./a", "/a/..", "//a", "/{a}b"])
def test_invalid_patterns(path: str) -> None:
    """A path pattern that cannot mean what it says is refused."""
    with pytest.raises(ValueError, match=r"\w"):
        split_path(path)


# -- normalisation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw,normal",
    [
        (b"/a/b", b"/a/b"),
        (b"/a%2fb", b"/a/b"),
        (b"/a\\b", b"/a/b"),
        (b"/a//b", b"/a/b"),
        (b"/%61", b"/a"),
        (b"/%2561", b"/%61"),
        (b"/a/", b"/a/"),
        (b"/...", b"/..."),
        (b"/a..b", b"/a..b"),
        (b"/", b"/"),
    ],
)
def test_paths_are_normalised_once(raw: bytes, normal: bytes) -> None:
    """Paths are matched decoded once, with one kind of slash and no empty segments."""
    assert normalise_path(raw) == normal


@pytest.mark.parametrize(
    "raw",
    [
        b"/..", b"/.", b"/a/../b", b"/a/./b", b"/%2e%2e/b", b"/.%2E", b"/a/..;x=1/b", b"/..;", b"/a/%2e%2e%2fb", b"/a\\..\\b",
        b"/a%00", b"/a/%c0%ae%c0%ae/", b"/%c0%afa", b"/a/..%5cb", b"/a//..", b"/..%2f", b"/%2e",
    ],
)  # fmt: skip
def test_ambiguous_paths_are_refused(raw: bytes) -> None:
    """Dot segments in any disguise, NUL and overlong UTF-8 are never routed."""
    with pytest.raises(AmbiguousPathError):
        normalise_path(raw)


@pytest.mark.parametrize("raw", [b"/a%2Fb", b"/a%5Cb", b"/a\\b"])
def test_encoded_slashes_can_be_refused(raw: bytes) -> None:
    """With `encoded_slash: reject` an encoded slash or a backslash is no path."""
    with pytest.raises(AmbiguousPathError):
        normalise_path(raw, encoded_slash=False)


@pytest.mark.parametrize("raw", [b"/a//b", b"//a", b"/a/%2Fb"])
def test_double_slashes_can_be_refused(raw: bytes) -> None:
    """With `double_slash: reject` an empty segment is no path."""
    with pytest.raises(AmbiguousPathError):
        normalise_path(raw, double_slash=False)


raw_paths = st.lists(
    st.sampled_from(
        [b"/", b"//", b".", b"..", b"a", b"%2e", b"%2F", b"%5c", b"\\", b";", b"%", b"%zz", b"%00", b"%c0%ae", b"?", b"~"]
    ),
    max_size=8,
).map(lambda parts: b"/" + b"".join(parts))


@given(raw_paths | st.binary(max_size=20).map(lambda tail: b"/" + tail))
def test_no_normal_path_leaves_its_place(raw: bytes) -> None:
    """Whatever was sent, a normalised path has no dot or empty segments, no backslash and no NUL."""
    try:
        path = normalise_path(raw)
    except AmbiguousPathError:
        return
    segments = path[1:].split(b"/")
    assert path.startswith(b"/")
    assert not {b".", b".."} & {part.partition(b";")[0] for part in segments}
    assert b"" not in segments[:-1]
    assert b"\\" not in path
    assert b"\0" not in path


@given(raw_paths)
def test_the_fast_path_says_the_same_as_the_slow_one(raw: bytes) -> None:
    """Plain paths are returned as they are; escaping one character of them changes nothing."""
    try:
        path = normalise_path(raw)
    except AmbiguousPathError:
        return
    if path == raw and b"a" in path:
        assert normalise_path(raw.replace(b"a", b"%61", 1)) == path
