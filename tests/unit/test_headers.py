"""HTTP field law: hosts, lists, addresses."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from time import tzset

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.headers import (
    FIELD_NAME,
    FIELD_VALUE,
    LONGEST_DELAY,
    Networks,
    client_address,
    forwarded_node,
    http_date,
    list_members,
    normalise_host,
    parse_address,
    parse_http_date,
    port_of,
    quoted_string,
    retry_after,
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
        (b"a%2Db%c3%a9.example:1", b"a%2db%c3%a9.example"),
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
        b"%",
        b"a%",
        b"a%2",
        b"a%zz",
        b"%%41",
        b"a%:80",
        b"50%.example",
    ],
)
def test_invalid_hosts_are_refused(value: bytes) -> None:
    """A Host value that is no host is no host at all (RFC 9112 3.2)."""
    assert normalise_host(value) is None


@pytest.mark.parametrize(
    "authority,port",
    [
        (b"a", b"443"),
        (b"a:80", b"80"),
        (b"a:", b"443"),
        (b"[::1]", b"443"),
        (b"[::1]:8", b"8"),
        (b"", b"443"),
        (b"a,b:1", b"443"),
    ],
)
def test_an_authority_without_a_port_has_that_of_its_scheme(authority: bytes, port: bytes) -> None:
    """What is not valid names no port."""
    assert port_of(authority, b"https") == port
    assert port_of(b"a", b"http") == b"80"


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


ZONES = ("UTC", "America/New_York", "Asia/Kathmandu", "Pacific/Auckland", "XXX+23:59")
NOW = 946684790.0
"""Nine seconds before the last second of 1999."""
FORMS = {
    "imf": "%a, %d %b %Y %H:%M:%S GMT",
    "rfc850": "%A, %d-%b-%y %H:%M:%S GMT",
    "asctime": "%a %b {day:2d} %H:%M:%S %Y",
}


@pytest.fixture(params=ZONES)
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    """The process lives in a time zone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        tzset()
        yield request.param
    tzset()


def written(at: datetime, form: str) -> bytes:
    """A date as an upstream may write it."""
    return at.strftime(FORMS[form].format(day=at.day)).encode("ascii")


@pytest.mark.parametrize("form", FORMS)
@given(at=st.datetimes(datetime(1971, 1, 1), datetime(2069, 1, 1)))  # noqa: DTZ001 - GMT, whatever the zone is
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_dates_are_read_in_gmt_whatever_the_local_time_zone(zone: str, form: str, at: datetime) -> None:
    """All three forms are GMT and mean the second that was written (RFC 9110 5.6.7)."""
    expected = int(at.replace(microsecond=0, tzinfo=UTC).timestamp())

    assert parse_http_date(written(at, form), datetime(2020, 1, 1, tzinfo=UTC).timestamp()) == expected


@given(st.integers(-62_135_596_800, 253_402_300_799))
def test_what_we_write_we_read(seconds: int) -> None:
    """Any second from year 1 to 9999 comes back."""
    assert parse_http_date(http_date(seconds), NOW) == seconds


@pytest.mark.parametrize(
    "now,year",
    [
        ((1999, 12, 31), 1994),
        ((2026, 1, 1), 1994),
        ((2044, 11, 7), 2094),
        ((2044, 11, 5), 1994),
        ((2100, 1, 1), 2094),
        ((2145, 1, 1), 2194),
    ],
)
def test_two_digits_are_the_latest_year_within_fifty_from_now(now: tuple[int, int, int], year: int) -> None:
    """More than 50 years in the future is in the past (RFC 9110 5.6.7)."""
    found = parse_http_date(b"Sunday, 06-Nov-94 08:49:37 GMT", datetime(*now, tzinfo=UTC).timestamp())

    assert found == datetime(year, 11, 6, 8, 49, 37, tzinfo=UTC).timestamp()


def test_a_leap_day_of_a_year_that_ends_in_two_zeros() -> None:
    """There was one in 2000 and is none in 2100."""
    found = parse_http_date(b"Tuesday, 29-Feb-00 00:00:00 GMT", datetime(2090, 1, 1, tzinfo=UTC).timestamp())

    assert found == datetime(2000, 2, 29, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"0",
        b"Sun, 06 Nov 1994 08:49:37",
        b"Sun, 06 Nov 1994 08:49:37 EST",
        b"Sun, 06 Nov 1994 08:49:37 +0000",
        b"Sun, 06 Nov 1994 08:49:37 GMT ",
        b"Sun, 6 Nov 1994 08:49:37 GMT",
        b"Sun, 31 Nov 1994 08:49:37 GMT",
        b"Sun, 00 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 0000 08:49:37 GMT",
        b"Sun, 06 Nov 1994 24:49:37 GMT",
        b"Sun, 06 Nov 1994 08:60:37 GMT",
        b"Sun, 06 Nov 1994 08:49:61 GMT",
        b"sun, 06 nov 1994 08:49:37 gmt",
        b"Sun, 06-Nov-94 08:49:37 GMT",
        b"Sunday, 06-Nov-1994 08:49:37 GMT",
        b"Sunday, 30-Feb-94 08:49:37 GMT",
        b"Sun Nov 6 08:49:37 1994",
        b"Sun Nov    08:49:37 1994",
        b"Sun Nov  6 08:49:37 1994 GMT",
        b"Sun Nov  6 08:49:37 1994\n",
    ],
)
def test_what_is_no_date(value: bytes) -> None:
    """Another zone, another case, a day that no calendar has: a recipient that guesses is wrong by hours (RFC 9110 5.6.7)."""
    assert parse_http_date(value, NOW) is None


def test_a_leap_second_is_the_next_minute() -> None:
    """The grammar allows it (RFC 9110 5.6.7); Unix time has no second of its own for it."""
    assert parse_http_date(b"Sat, 31 Dec 2016 23:59:60 GMT", NOW) == datetime(2017, 1, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "value,expected",
    [
        (b"0", 0.0),
        (b"120", 120.0),
        (b"0" * 20 + b"120", 120.0),
        (b"999999999", 999_999_999.0),
        (b"9" * 400, LONGEST_DELAY),
        (b"9" * 5000, LONGEST_DELAY),
        (b"Fri, 31 Dec 1999 23:59:59 GMT", 9.0),
        (b"Friday, 31-Dec-99 23:59:59 GMT", 9.0),
        (b"Fri Dec 31 23:59:59 1999", 9.0),
        (b"Fri, 31 Dec 1999 23:00:00 GMT", 0.0),
        (b"-1", None),
        (b"1.5", None),
        (b"1_0", None),
        (b"soon", None),
        (b"", None),
        (b"Fri, 99 Xyz 1999 23:59:59 GMT", None),
        (b"\xff\xfe", None),
        (b"\xb2", None),
    ],
)
def test_retry_after(zone: str, value: bytes, expected: float | None) -> None:
    """Seconds or a date in any of the three forms (RFC 9110 10.2.3, 5.6.7); what is not legible says nothing."""
    assert retry_after(b"A: b\r\nRETRY-after: \t%b \r\nC: d\r\n" % value, NOW) == expected


def test_without_retry_after() -> None:
    """The field may be absent, and another one may end like it."""
    assert retry_after(b"", NOW) is retry_after(b"X-Retry-After: 1\r\nA: retry-after: 1\r\n", NOW) is None


@given(st.binary(max_size=60))
def test_any_retry_after_is_survived(value: bytes) -> None:
    """Whatever an upstream writes, the answer is a time that is not negative, or None."""
    found = retry_after(b"Retry-After: " + value.replace(b"\r", b"").replace(b"\n", b"") + b"\r\n", 1e9)

    assert found is None or found >= 0


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
