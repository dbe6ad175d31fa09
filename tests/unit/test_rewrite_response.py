"""What an upstream says of its own addresses, as the client has to see it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.rewrite_response import (
    Addresses,
    RewriteResponseSettings,
    client_cookie,
    client_lines,
    client_location,
    client_path,
)

STRIPPED = Addresses(b"/shop", b"", b"https", b"app.example.com", b"http", (b"app.example.com", b"10.0.0.1:8000"))
REPLACED = replace(STRIPPED, outer=b"/billing", inner=b"/v2")
ADDED = replace(STRIPPED, outer=b"", inner=b"/app")
SAME = replace(STRIPPED, outer=b"", inner=b"")
ON = RewriteResponseSettings()


@pytest.mark.parametrize(
    "addresses,path,expected",
    [
        (STRIPPED, b"/login", b"/shop/login"),
        (STRIPPED, b"/", b"/shop/"),
        (STRIPPED, b"/a//b/", b"/shop/a//b/"),
        (STRIPPED, b"/shopping", b"/shop/shopping"),
        (STRIPPED, b"/a%2Fb%20c", b"/shop/a%2Fb%20c"),
        (STRIPPED, b"/shop", None),
        (STRIPPED, b"/shop/login", None),
        (STRIPPED, b"/%73hop/login", None),
        (REPLACED, b"/v2", b"/billing"),
        (REPLACED, b"/v2/", b"/billing/"),
        (REPLACED, b"/v2/a", b"/billing/a"),
        (REPLACED, b"/%762/a", b"/billing/a"),
        (REPLACED, b"/v2x/a", None),
        (REPLACED, b"/V2/a", None),
        (REPLACED, b"/v2%2Fa", None),
        (REPLACED, b"/", None),
        (REPLACED, b"/billing/a", None),
        (ADDED, b"/app/a", b"/a"),
        (ADDED, b"/app/", b"/"),
        (ADDED, b"/app", b"/"),
        (ADDED, b"/a", None),
        (ADDED, b"/app//evil.example", None),
        (ADDED, b"/app/\\evil.example", None),
        (ADDED, b"/app/\t/evil.example", None),
        (SAME, b"/a", None),
        (replace(STRIPPED, outer=b"/a", inner=b"/a/b"), b"/a/b/c", b"/a/c"),
        (replace(STRIPPED, outer=b"/a/b", inner=b"/a"), b"/a/c", b"/a/b/c"),
        (replace(STRIPPED, outer=b"/a/b", inner=b"/a"), b"/a/b/c", None),
        (replace(STRIPPED, outer=b"/a/b", inner=b"/v"), b"/a%2Fb/c", None),
        (replace(STRIPPED, outer=b"/caf%C3%A9"), b"/caf%c3%a9/x", None),
        (replace(STRIPPED, outer=b"/caf%C3%A9"), b"/x", b"/caf%C3%A9/x"),
    ],
)
def test_a_path_gets_the_prefix_that_the_client_sees(addresses: Addresses, path: bytes, expected: bytes | None) -> None:
    """Whole segments, however they are encoded; what is inside of the client's prefix already stays, and none leads away."""
    assert client_path(path, addresses) == expected


@pytest.mark.parametrize(
    "value",
    [
        b"login",
        b"../x",
        b"./",
        b"?page=2",
        b"#top",
        b"",
        b"mailto:a@b.example",
        b"http:/login",
        b"http:login",
        b"/\\evil.example",
    ],
)
def test_relative_references_stay(value: bytes) -> None:
    """What the client resolves against its own URL is right as it is, and what is none of ours is not read."""
    assert client_location(value, STRIPPED) is None


@pytest.mark.parametrize(
    "value,expected",
    [
        (b"/login?next=/a#b", b"/shop/login?next=/a#b"),
        (b"/login#/shop", b"/shop/login#/shop"),
        (b"/?a", b"/shop/?a"),
        (b"/shop?a", None),
        (b"/a?b=http://10.0.0.1:8000/", b"/shop/a?b=http://10.0.0.1:8000/"),
        (b"http://app.example.com/a", b"https://app.example.com/shop/a"),
        (b"HTTP://App.Example.COM:80/a", b"https://app.example.com/shop/a"),
        (b"http://10.0.0.1:8000/a?b#c", b"https://app.example.com/shop/a?b#c"),
        (b"http://10.0.0.1:8000", b"https://app.example.com/shop/"),
        (b"http://10.0.0.1:8000?x", b"https://app.example.com/shop/?x"),
        (b"https://app.example.com:443/a", b"https://app.example.com/shop/a"),
        (b"https://app.example.com/shop/a", None),
        (b"http://app.example.com/shop/a", b"https://app.example.com/shop/a"),
        (b"//app.example.com/a", b"//app.example.com/shop/a"),
        (b"//10.0.0.1:8000/a", b"//app.example.com/shop/a"),
        (b"http://app.example.com:8080/a", None),
        (b"http://10.0.0.1:8001/a", None),
        (b"http://other.example/a", None),
        (b"http://app.example.com.evil.example/a", None),
        (b"http://user@app.example.com/a", None),
        (b"http://app.example.com\\@evil.example/a", None),
        (b"//evil.example/a", None),
        (b"///evil.example/a", None),
        (b"ftp://app.example.com/a", None),
    ],
)
def test_locations_lead_back_to_the_client_s_address(value: bytes, expected: bytes | None) -> None:
    """A URL of the upstream's own gets the client's scheme, authority and prefix; one of another authority keeps its bytes."""
    assert client_location(value, STRIPPED) == expected


@pytest.mark.parametrize(
    "client,upstream,value,expected",
    [
        (b"http", b"http", b"https://app.example.com/a", b"https://app.example.com/shop/a"),
        (b"http", b"http", b"https://10.0.0.1:8000/a", b"https://app.example.com/shop/a"),
        (b"http", b"https", b"https://10.0.0.1:8000/a", b"http://app.example.com/shop/a"),
        (b"http", b"https", b"https://app.example.com/a", b"https://app.example.com/shop/a"),
        (b"https", b"http", b"http://app.example.com/a", b"https://app.example.com/shop/a"),
    ],
)
def test_services_can_send_clients_to_https(client: bytes, upstream: bytes, value: bytes, expected: bytes) -> None:
    """HTTP becomes the client's scheme; HTTPS stays where it is meant, or such a redirect would go round for ever."""
    addresses = replace(STRIPPED, scheme=client, upstream_scheme=upstream)

    assert client_location(value, addresses) == expected


def test_a_client_without_a_name_for_us_gets_a_path() -> None:
    """A request of HTTP/1.0 without Host has no authority to go back to; its path does not lead away."""
    nameless = replace(STRIPPED, authority=b"")

    assert client_location(b"http://10.0.0.1:8000/a?b", nameless) == b"/shop/a?b"
    assert client_location(b"http://10.0.0.1:8000//evil.example", replace(nameless, outer=b"")) is None


def test_without_a_prefix_scheme_and_authority_are_put_right() -> None:
    """A route that passes paths on as they are still has an upstream that does not know its name."""
    assert client_location(b"http://10.0.0.1:8000/a", SAME) == b"https://app.example.com/a"
    assert client_location(b"https://app.example.com/a", SAME) is None
    assert client_location(b"/a", SAME) is None


@pytest.mark.parametrize(
    "addresses,value,expected",
    [
        (STRIPPED, b"sid=1; Path=/; HttpOnly", b"sid=1; Path=/shop; HttpOnly"),
        (STRIPPED, b"sid=1; Path=/inner; HttpOnly", b"sid=1; Path=/shop/inner; HttpOnly"),
        (STRIPPED, b"sid=1;PATH = /a ;Secure", b"sid=1;PATH =/shop/a;Secure"),
        (STRIPPED, b"sid=1; path=/a; path=/b", b"sid=1; path=/shop/a; path=/shop/b"),
        (STRIPPED, b"sid=1; Path=/shop/a", None),
        (STRIPPED, b"sid=1; Path=/shop", None),
        (STRIPPED, b"sid=1; Path=", None),
        (STRIPPED, b"sid=1; Path", None),
        (STRIPPED, b"sid=1; Path=a", None),
        (STRIPPED, b'sid=1; Path="/a"', None),
        (STRIPPED, b"sid=1", None),
        (STRIPPED, b"path=/a", None),
        (STRIPPED, b"a=Path=/x; Pathological=/x", None),
        (STRIPPED, b"__Host-sid=1; Path=/; Secure", None),
        (STRIPPED, b" __HOST-sid=1; Path=/; Secure", None),
        (STRIPPED, b"__Secure-sid=1; Path=/", b"__Secure-sid=1; Path=/shop"),
        (REPLACED, b"sid=1; Path=/v2", b"sid=1; Path=/billing"),
        (REPLACED, b"sid=1; Path=/v2/a", b"sid=1; Path=/billing/a"),
        (REPLACED, b"sid=1; Path=/", None),
        (ADDED, b"sid=1; Path=/app", b"sid=1; Path=/"),
        (SAME, b"sid=1; Path=/a", None),
    ],
)
def test_cookies_come_back_to_where_they_were_set(addresses: Addresses, value: bytes, expected: bytes | None) -> None:
    """`Path` gets the client's prefix, read as browsers read it (RFC 6265 5.2); all else keeps its bytes."""
    assert client_cookie(value, addresses) == expected


BLOCK = (
    b"LOCATION:/a\r\nX-Location: /a\r\nContent-Location:  /b \r\nset-cookie: a=1; Path=/\r\nSet-Cookie: b=2; Path=/c\r\n"
    b"Set-Cookie: c=3\r\nLocation:\t//evil.example/ \r\n"
)


@pytest.mark.parametrize(
    "settings,expected",
    [
        (
            ON,
            BLOCK.replace(b"LOCATION:/a", b"LOCATION: /shop/a")
            .replace(b"  /b ", b" /shop/b")
            .replace(b"a=1; Path=/", b"a=1; Path=/shop")
            .replace(b"Path=/c", b"Path=/shop/c"),
        ),
        (RewriteResponseSettings(location=False, cookie_path=False), BLOCK),
        (
            RewriteResponseSettings(location=False),
            BLOCK.replace(b"a=1; Path=/", b"a=1; Path=/shop").replace(b"Path=/c", b"Path=/shop/c"),
        ),
        (
            RewriteResponseSettings(cookie_path=False),
            BLOCK.replace(b"LOCATION:/a", b"LOCATION: /shop/a").replace(b"  /b ", b" /shop/b"),
        ),
    ],
)
def test_only_the_chosen_fields_are_read(settings: RewriteResponseSettings, expected: bytes) -> None:
    """Every line of these names, in any spelling; lines that stay keep their bytes, and all keep their order."""
    assert client_lines(BLOCK, settings, STRIPPED) == expected


@given(st.text("/ab%2F?#\\.\t:@", max_size=12), st.sampled_from([STRIPPED, REPLACED, ADDED, SAME]))
def test_no_reference_is_made_to_lead_to_another_host(text: str, addresses: Addresses) -> None:
    """Whatever the upstream writes: what is changed begins with one slash, or with an authority that is the client's."""
    changed = client_location(text.encode(), addresses)

    if changed is not None:
        plain = changed.replace(b"\t", b"")
        assert plain[:1] == b"/" and plain[1:2] not in (b"/", b"\\")
