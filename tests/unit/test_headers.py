"""HTTP field law: hosts, lists, addresses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.headers import (
    FIELD_NAME,
    FIELD_VALUE,
    Networks,
    client_address,
    forwarded_node,
    http_date,
    list_members,
    normalise_host,
    parse_address,
    quoted_string,
    valid_request_id,
)

addresses = st.ip_addresses()


@pytest.mark.parametrize(
    "value,host",
    [
        (b"Example.COM", b"example.com"),
        (b"example.com:8080", b"example.com"),
        (b"example.com:", b"example.com"),
        (b"example.com.", b"example.com"),
        (b"[::1]:80", b"[::1]"),
        (b"[0:0::0:1]", b"[::1]"),
        (b"127.0.0.1", b"127.0.0.1"),
        (b"", b""),
    ],
)
def test_hosts_are_normalised(value: bytes, host: bytes) -> None:
    """A host is compared in lower case, without port and final dot; IPv6 in its one short form (RFC 9110 7.2)."""
    assert normalise_host(value) == host


@pytest.mark.parametrize(
    "value",
    [
        b"a b",
        b"a/b",
        b"a@b",
        b"a:b",
        b"a:123456",
        b"a:70000",
        b"[::1",
        b"[::g]",
        b"[]",
        b"a,b",
        b"a\0",
        b"\xe4",
        b"a:1:2",
        b"a\n",
    ],
)
def test_invalid_hosts_are_refused(value: bytes) -> None:
    """A Host value that is no host is no host at all (RFC 9112 3.2)."""
    assert normalise_host(value) is None


@given(st.binary(max_size=40))
def test_normalising_a_host_twice_changes_nothing(value: bytes) -> None:
    """A normalised host is a fixed point, whatever bytes it came from."""
    host = normalise_host(value)

    assert host is None or host.endswith(b".") or normalise_host(host) == host


@given(st.binary(max_size=30))
def test_field_values_hold_no_line_breaks(value: bytes) -> None:
    """A valid field value holds no CR, LF, NUL or other control character but the tab (RFC 9110 5.5)."""
    fits = FIELD_VALUE.fullmatch(value) is not None

    assert fits == all(byte == 9 or (byte >= 32 and byte != 127) for byte in value)


@given(st.binary(max_size=10))
def test_field_names_are_tokens(value: bytes) -> None:
    """A field name is a token, at least one character long (RFC 9110 5.6.2)."""
    token = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

    assert (FIELD_NAME.fullmatch(value) is not None) == (bool(value) and all(byte in token for byte in value))


def test_lists() -> None:
    """Members of a list are trimmed of blanks and tabs, in lower case, and empty ones do not count (RFC 9110 5.6.1.2)."""
    assert list_members(b" Keep-Alive ,, ,\tX-Foo") == [b"keep-alive", b"x-foo"]
    assert list_members(b"") == []


@pytest.mark.parametrize(
    "value,valid", [(b"abc-1.2_3", True), (b"", False), (b"a" * 129, False), (b"a b", False), (b'a"', False), (b"a\n", False)]
)
def test_request_ids(value: bytes, valid: bool) -> None:
    """A request id from outside is taken only when it can do no harm in a log line."""
    assert valid_request_id(value) is valid


def test_dates() -> None:
    """Dates are IMF-fixdate (RFC 9110 5.6.7)."""
    assert http_date(784111777) == b"Sun, 06 Nov 1994 08:49:37 GMT"


# -- addresses -------------------------------------------------------------------------------------------------------


@given(addresses)
def test_a_network_of_one_address_holds_it(address: IPv4Address | IPv6Address) -> None:
    """A single address is a range of one."""
    assert address in Networks((str(address),))
    assert address not in Networks()


def test_networks() -> None:
    """Ranges of both versions are told apart."""
    networks = Networks(("10.0.0.0/8", "fd00::/8"))

    assert ip_address("10.255.0.1") in networks
    assert ip_address("11.0.0.0") not in networks
    assert ip_address("fd12::1") in networks
    assert ip_address("::a00:1") not in networks
    assert None not in networks


def test_mapped_addresses_are_ipv4() -> None:
    """An IPv4 peer on a dual-stack socket is an IPv4 peer; zones are dropped."""
    assert parse_address("::ffff:10.0.0.1") == ip_address("10.0.0.1")
    assert parse_address("fe80::1%eth0") == ip_address("fe80::1")
    assert parse_address("/run/x.sock") is None
    assert parse_address("") is None


TRUSTED = Networks(("10.0.0.0/8",))
PEER = ip_address("10.0.0.1")


@pytest.mark.parametrize(
    "value,client",
    [
        (b"", "10.0.0.1"),
        (b"1.2.3.4", "1.2.3.4"),
        (b"6.6.6.6, 1.2.3.4", "1.2.3.4"),
        (b"6.6.6.6, 1.2.3.4, 10.0.0.9", "1.2.3.4"),
        (b"1.2.3.4:5678", "1.2.3.4"),
        (b"[2001:db8::1]:5678", "2001:db8::1"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"6.6.6.6, unknown", "10.0.0.1"),
        (b"6.6.6.6, garbage, 10.0.0.9", "10.0.0.9"),
        (b"10.0.0.8, 10.0.0.9", "10.0.0.8"),
    ],
)
def test_the_client_is_the_right_most_untrusted_address(value: bytes, client: str) -> None:
    """What stands left of the first untrusted or unreadable member was written by somebody we do not trust."""
    assert client_address(PEER, value, TRUSTED) == ip_address(client)


@given(st.binary(max_size=60))
def test_no_forwarded_value_breaks_the_search(value: bytes) -> None:
    """Any bytes give an address or the peer."""
    assert client_address(PEER, value, TRUSTED) is not None


@given(addresses)
def test_what_a_client_prepends_changes_nothing(address: IPv4Address | IPv6Address) -> None:
    """A client cannot choose its address by sending the field itself."""
    assert client_address(PEER, str(address).encode() + b", 1.2.3.4", TRUSTED) == ip_address("1.2.3.4")


def test_forwarded_nodes() -> None:
    """IPv6 stands in brackets and quotes, no address is `unknown` (RFC 7239 6)."""
    assert forwarded_node(IPv4Address("1.2.3.4")) == b"1.2.3.4"
    assert forwarded_node(IPv6Address("2001:db8::1")) == b'"[2001:db8::1]"'
    assert forwarded_node(None) == b"unknown"


def test_quoted_strings() -> None:
    """Quotes and backslashes are escaped (RFC 9110 5.6.4)."""
    assert quoted_string(b'a"b\\c') == b'"a\\"b\\\\c"'
