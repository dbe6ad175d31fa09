"""Which responses are compressed, with what, and what becomes of their fields; no loop, no sockets, no encoder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.headers import entity_tags, weights
from gateway.policies.compression import (
    CODED,
    NO_TRANSFORM,
    NOT_ACCEPTED,
    OPT_OUT,
    SET_COOKIE,
    SIZE,
    STATUS,
    TYPE,
    Breach,
    CompressionSettings,
    Fields,
    Tags,
    Types,
    forbidden,
    knows_as_weak,
    negotiate,
    upstream_condition,
    weakened,
)

CODINGS = (b"zstd", b"br", b"gzip")
JSON = b"Content-Type: application/json\r\n"


def chosen(accept: bytes | None, codings: tuple[bytes, ...] = CODINGS) -> bytes:
    """The coding, `identity`, or `nothing` where not even that is acceptable."""
    choice = negotiate(accept, codings)
    if choice.coding >= 0:
        return codings[choice.coding]
    return b"identity" if choice.plain else b"nothing"


# -- negotiation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "accept, coding",
    [
        (None, b"identity"),
        (b"", b"identity"),
        (b",", b"identity"),
        (b"gzip", b"gzip"),
        (b"GZip", b"gzip"),
        (b"x-gzip", b"gzip"),
        (b"x-gzip, gzip;q=0", b"identity"),
        (b"br", b"br"),
        (b"zstd", b"zstd"),
        (b"deflate", b"identity"),
        (b"compress, deflate", b"identity"),
        (b"gzip, deflate, br, zstd", b"zstd"),
        (b"gzip, deflate, br", b"br"),
        (b"gzip, deflate", b"gzip"),
        (b"gzip;q=1.0, br;q=0.8", b"gzip"),
        (b"gzip;q=0.8, br;q=0.9, zstd;q=0.1", b"br"),
        (b"gzip;q=0.8,br;q=0.8", b"br"),
        (b"gzip ; q=0.8 ,\tbr ;q=0.8", b"br"),
        (b"gzip;Q=0.5", b"gzip"),
        (b"gzip;q=0", b"identity"),
        (b"gzip;q=0.0", b"identity"),
        (b"gzip;q=0.000", b"identity"),
        (b"gzip;q=0.001", b"gzip"),
        (b"gzip;q=0., br;q=0.", b"identity"),
        (b"gzip;q=1.", b"gzip"),
        (b"zstd;q=0, *", b"br"),
        (b"*", b"zstd"),
        (b"*;q=0.1", b"zstd"),
        (b"*;q=0", b"nothing"),
        (b"gzip, *;q=0", b"gzip"),
        (b"gzip;q=0.1, *;q=0.5", b"zstd"),
        (b"gzip;q=0.9, *;q=0.5", b"gzip"),
        (b"identity", b"identity"),
        (b"identity, gzip", b"gzip"),
        (b"identity;q=1, gzip;q=0.9", b"identity"),
        (b"identity;q=0.5, gzip;q=0.5", b"gzip"),
        (b"identity;q=0.5, *;q=0.4", b"identity"),
        (b"identity;q=0", b"nothing"),
        (b"identity;q=0, gzip", b"gzip"),
        (b"identity;q=0, deflate", b"nothing"),
        (b"identity;q=0, gzip;q=0", b"nothing"),
        (b"identity;q=0, *", b"zstd"),
        (b"identity;q=0, *;q=0", b"nothing"),
        (b"identity, *;q=0", b"identity"),
        (b"deflate, *;q=0", b"nothing"),
        (b"gzip;q=2", b"identity"),
        (b"gzip;q=1.001", b"identity"),
        (b"gzip;q=0.1234", b"identity"),
        (b"gzip;q=-1", b"identity"),
        (b"gzip;q=", b"identity"),
        (b"gzip;q", b"identity"),
        (b"gzip;q=abc, br", b"br"),
        (b"gzip;q=0.5;q=0", b"identity"),
        (b"gzip; level=9", b"gzip"),
        (b"gzip gzip", b"identity"),
        (b"g zip", b"identity"),
        (b"gzipped", b"identity"),
        (b"not-gzip", b"identity"),
        (b"gzip, gzip;q=0", b"identity"),
        (b"gzip\xe9", b"identity"),
        (b"br;q=1e0", b"identity"),
        (b"gzip;q =0.5", b"identity"),
        (b"gzip;q= 0.5", b"identity"),
        (b'gzip;q="1"', b"identity"),
        (b"gzip;q=.5", b"identity"),
        (b"gzip;q=1.0001", b"identity"),
        (b"*;q=1.0001, gzip;q=0", b"identity"),
        (b"gzip;q=0, br;q=0, zstd;q=0, *", b"identity"),
        (b"gzip;q=0, br;q=0, zstd;q=0, *;q=0", b"nothing"),
        (b"*;q=0, identity;q=0.001", b"identity"),
        (b"X-GZIP;q=0, *", b"zstd"),
        (b"*, br;q=0, zstd;q=0", b"gzip"),
        (b"ZSTD;q=0.3 , IDENTITY;q=0.2", b"zstd"),
        (b"compress, gzip", b"gzip"),
        (b"compress;q=0.5, gzip;q=1.0", b"gzip"),
        (b"gzip;q=1.0, identity; q=0.5, *;q=0", b"gzip"),
        (b"gzip;q=0.5, *;q=0.5", b"zstd"),
        (b"br;q=1, gzip;q=0.999", b"br"),
        (b"identity;q=0.9, gzip;q=0.1, *;q=0", b"identity"),
        (b"*;q=0.5, identity;q=0.9", b"identity"),
        (b"identity;q=0, *;q=0.5", b"zstd"),
        (b"zstd;q=0.000, br;q=0.00, gzip;q=0.001", b"gzip"),
        (b"gzip\t;\tq=1", b"gzip"),
        (b"x-compress, x-gzip", b"gzip"),
        (b"gzip;q=1.0000", b"identity"),
        (b"gzip;q=0000", b"identity"),
        (b"gzip;q=-0", b"identity"),
        (b"gzip;q=+1", b"identity"),
        (b"gzip;q=0.8 br", b"identity"),
        (b'"gzip"', b"identity"),
        (b"*/*", b"identity"),
        (b";q=1", b"identity"),
        (b"gzip;q=0.5, gzip;q=0.7", b"gzip"),
        (b", ,gzip,,", b"gzip"),
    ],
)
def test_negotiation(accept: bytes | None, coding: bytes) -> None:
    """The highest weight wins, the server's order between equals; unclear members do not count (RFC 9110 12.5.3)."""
    assert chosen(accept) == coding


def test_only_what_is_offered_is_chosen() -> None:
    """A coding that is not offered is not chosen, and the operator's order decides between equals."""
    assert chosen(b"zstd, br, gzip", (b"gzip",)) == b"gzip"
    assert chosen(b"zstd, br", (b"gzip",)) == b"identity"
    assert chosen(b"zstd, br, gzip", (b"gzip", b"zstd")) == b"gzip"
    assert chosen(b"identity;q=0, zstd", ()) == b"nothing"


names = st.sampled_from([b"gzip", b"x-gzip", b"br", b"zstd", b"identity", b"*", b"deflate"])
qs = st.one_of(st.just(b""), st.integers(0, 1000).map(lambda q: b";q=%d.%03d" % divmod(q, 1000)))
lists = st.lists(st.tuples(names, qs), max_size=6).map(lambda found: b",".join(name + q for name, q in found))


@given(lists)
def test_what_is_excluded_is_never_sent(accept: bytes) -> None:
    """A coding that is chosen has a weight above zero, by its name, its alias or `*`."""
    found = weights(accept)
    coding = chosen(accept)
    if coding == b"nothing":
        assert found.get(b"identity", found.get(b"*")) == 0
    elif coding != b"identity":
        alias = found.get(b"x-gzip", 0) if coding == b"gzip" else 0
        assert found.get(coding, alias or found.get(b"*", 0)) > 0


@given(lists)
def test_no_other_coding_has_a_higher_weight(accept: bytes) -> None:
    """Nothing that is offered and named is preferred by the client to what is chosen."""
    found = weights(accept)
    coding = chosen(accept)
    if coding in found and coding not in (b"identity", b"nothing"):
        assert all(found[other] <= found[coding] for other in CODINGS if other in found)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_answer(accept: bytes) -> None:
    """Whatever a client writes, the outcome is one of the known ones."""
    assert chosen(accept) in (*CODINGS, b"identity", b"nothing")


# -- eligibility -----------------------------------------------------------------------------------------------------------


def why(
    block: bytes, status: int = 200, length: int = 5000, *, accept: bytes = b"gzip", exempt: str = "", **settings: object
) -> str:
    """The reason for not compressing a response with these field lines."""
    made = CompressionSettings(**settings)  # type: ignore[arg-type]
    return forbidden(made, Fields(block, made), negotiate(accept, CODINGS), status, length, exempt)


@pytest.mark.parametrize(
    "block, reason",
    [
        (JSON, ""),
        (b"content-type:APPLICATION/JSON;charset=utf-8\r\n", ""),
        (b"Content-Type: application/problem+json\r\n", ""),
        (b"Content-Type: application/atom+xml; a=b\r\n", ""),
        (b"Content-Type: text/event-stream\r\n", ""),
        (b"Content-Type: image/svg+xml\r\n", ""),
        (b"Content-Type: image/png\r\n", TYPE),
        (b"Content-Type: application/jsonx\r\n", TYPE),
        (b"Content-Type: application/zip\r\n", TYPE),
        (b"", TYPE),
        (JSON + b"Content-Encoding: br\r\n", CODED),
        (JSON + b"content-encoding: identity\r\n", CODED),
        (JSON + b"Content-Range: bytes 0-1/2\r\n", STATUS),
        (JSON + b"Cache-Control: max-age=1, No-Transform\r\n", NO_TRANSFORM),
        (JSON + b"Cache-Control: private\r\nCache-Control: no-transform\r\n", NO_TRANSFORM),
        (JSON + b"Set-Cookie: a=b\r\n", SET_COOKIE),
    ],
)
def test_the_response_decides(block: bytes, reason: str) -> None:
    """Types that are worth it, not coded yet, not partial, not forbidden, without a new secret (RFC 9110 7.7)."""
    assert why(block) == reason


@pytest.mark.parametrize(
    "status, reason", [(200, ""), (404, ""), (500, ""), (203, ""), (204, STATUS), (206, STATUS), (304, STATUS)]
)
def test_the_status_decides(status: int, reason: str) -> None:
    """Partial content and statuses without content are left alone; errors are text like any other."""
    assert why(JSON, status) == reason


@pytest.mark.parametrize("length, reason", [(-1, ""), (0, SIZE), (1023, SIZE), (1024, "")])
def test_the_size_decides(length: int, reason: str) -> None:
    """Small bodies are not worth it; an unknown length counts as large."""
    assert why(JSON, length=length) == reason


def test_the_request_decides() -> None:
    """What it does not accept, and what it opts out of."""
    assert why(JSON, accept=b"deflate") == NOT_ACCEPTED
    assert why(JSON, exempt=OPT_OUT) == OPT_OUT


def test_who_refuses_identity_gets_a_coding_whatever_type_and_size() -> None:
    """Type and size are about what is worth it; a client that takes nothing else must be served all the same."""
    assert why(b"Content-Type: image/png\r\n", accept=b"gzip, identity;q=0") == ""
    assert why(JSON, length=5, accept=b"gzip, identity;q=0") == ""
    assert why(JSON, length=0, accept=b"gzip, identity;q=0") == SIZE
    assert why(JSON + b"Cache-Control: no-transform\r\n", accept=b"gzip, identity;q=0") == NO_TRANSFORM


def test_the_cookie_switch() -> None:
    """`breach: off` compresses responses that set a cookie."""
    assert why(JSON + b"Set-Cookie: a=b\r\n", breach=Breach.OFF) == ""


def test_types() -> None:
    """Exact types, families, suffixes, or everything that has a type."""
    assert b"text/anything" in Types(["text/*"])
    assert b"application/hal+json" in Types(["*+json"])
    assert b"application/json" not in Types(["*+json"])
    assert b"image/png" in Types(["*/*"])
    assert b"" not in Types(["*/*"])
    assert b"" not in Types()


# -- fields ------------------------------------------------------------------------------------------------------------------


def fields(block: bytes) -> Fields:
    """The fields of a response."""
    return Fields(block, CompressionSettings())


@pytest.mark.parametrize(
    "before, after",
    [
        (b"", b"Vary: Accept-Encoding\r\n"),
        (b"Vary: Origin\r\n", b"Vary: Origin, Accept-Encoding\r\n"),
        (b"vary: accept-encoding, Origin\r\n", b"vary: accept-encoding, Origin\r\n"),
        (b"Vary: *\r\n", b"Vary: *\r\n"),
        (b"Vary: Origin\r\nVary: Accept-Encoding\r\n", b"Vary: Origin\r\nVary: Accept-Encoding\r\n"),
        (b"Vary: A\r\nVary: B\r\n", b"Vary: A\r\nVary: B, Accept-Encoding\r\n"),
    ],
)
def test_vary_is_merged(before: bytes, after: bytes) -> None:
    """`Vary` names Accept-Encoding once, compressed or not, and keeps what it said (RFC 9110 12.5.5)."""
    assert fields(before).plain == after
    assert fields(before).coded(b"gzip") == after + b"Content-Encoding: gzip\r\n"


def test_an_empty_vary_is_no_list_to_append_to() -> None:
    """Behind an empty `Vary` a line of our own is clearer than a list that starts with a comma."""
    assert fields(b"Vary:\r\n").plain == b"Vary:\r\nVary: Accept-Encoding\r\n"


def test_fields_about_the_bytes_are_dropped() -> None:
    """Ranges and digests of the bytes before coding would be wrong for those after it (RFC 9110 7.7, 14.3)."""
    block = JSON + b"Accept-Ranges: bytes\r\nContent-MD5: a\r\nDigest: a\r\nContent-Digest: a\r\nRepr-Digest: a\r\nX: y\r\n"

    found = fields(block)

    assert found.plain == block + b"Vary: Accept-Encoding\r\n"
    assert found.coded(b"br") == JSON + b"X: y\r\nVary: Accept-Encoding\r\nContent-Encoding: br\r\n"


@pytest.mark.parametrize(
    "tag, weak", [(b'"a"', b'W/"a"'), (b'W/"a"', b'W/"a"'), (b'""', b'W/""'), (b"bare", b"bare"), (b'"', b'"'), (b"", b"")]
)
def test_strong_tags_are_weakened(tag: bytes, weak: bytes) -> None:
    """Coded bytes are others, so the tag only stands for the meaning; what is no tag is left alone (RFC 9110 8.8.1)."""
    assert weakened(tag) == weak


def test_the_tag_of_a_response_that_is_not_coded_stays() -> None:
    """Only what is coded gets the weak tag."""
    found = fields(JSON + b'ETag: "a"\r\n')

    assert b'ETag: "a"\r\n' in found.plain
    assert b'ETag: W/"a"\r\n' in found.coded(b"zstd")
    assert b"Content-Encoding" not in found.coded(b"")


# -- conditions --------------------------------------------------------------------------------------------------------------


def tags(*seen: bytes) -> Tags:
    """What an upstream is known to send."""
    known = Tags()
    for tag in seen:
        known.seen(tag)
    return known


@pytest.mark.parametrize(
    "seen, value, forwarded",
    [
        ([b'"a"'], b'W/"a"', b'"a"'),
        ([b'"a"'], b'W/"a", "b", W/"c"', b'"a", "b", "c"'),
        ([b'"a"'], b'W/"a", bare', b'"a", bare'),
        ([b'W/"a"'], b'W/"a"', b'W/"a"'),
        ([b'"a"', b'W/"b"'], b'W/"a"', b'W/"a", "a"'),
        ([], b'W/"a", "b"', b'W/"a", "a", "b"'),
        ([], b"*", b"*"),
        ([b'"a"'], b'W/"a, b"', b'"a, b"'),
        ([b'"a"'], b"W/bare", b"W/bare"),
    ],
)
def test_conditions_go_back_as_the_upstream_made_the_tags(seen: list[bytes], value: bytes, forwarded: bytes) -> None:
    """A weakened tag is the upstream's strong one again; in doubt it stands there in both forms."""
    assert upstream_condition(value, tags(*seen)) == forwarded


@given(st.lists(st.sampled_from([b'"a"', b'W/"a"', b'"b"', b'W/"c,d"']), min_size=1, max_size=5))
def test_no_tag_is_lost(held: list[bytes]) -> None:
    """Whatever is known of the upstream, every tag is asked for, in one form at least."""
    for known in (tags(), tags(b'"x"'), tags(b'W/"x"'), tags(b'"x"', b'W/"x"')):
        asked = {tag.removeprefix(b"W/") for tag in entity_tags(upstream_condition(b", ".join(held), known))}

        assert asked == {tag.removeprefix(b"W/") for tag in held}


def test_a_304_carries_the_tag_that_the_client_has() -> None:
    """The form the client asked with is the form it gets back; else the one that a GET would have."""
    assert knows_as_weak(b'W/"a"', b'"a"', unknown=False)
    assert not knows_as_weak(b'"a"', b'"a"', unknown=True)
    assert not knows_as_weak(b'W/"b"', b'"a"', unknown=False)
    assert knows_as_weak(None, b'"a"', unknown=True)
    assert knows_as_weak(b"*", b'"a"', unknown=True)
