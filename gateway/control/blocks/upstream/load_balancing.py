"""The blocks `load_balancing:` and `sticky:` of an upstream."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from hashlib import blake2b
from typing import Annotated, Final

from pydantic import SecretStr

from gateway.control.blocks.block import Block, UpstreamFacts, line, parameters
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.words import values
from gateway.control.words.inherit import Resolved
from gateway.control.words.keys import KeyParts, compiled_key, fields_of_key
from gateway.control.words.model import Model, required, setting
from gateway.control.words.units import format_duration
from gateway.control.words.values import OrOff, choice, did_you_mean, invalid, text_value
from gateway.endpoints import Affinity
from gateway.endpoints import Sticky as StickySnapshot
from gateway.policies.load_balancing import Algorithm, BalancingSettings

_ALGORITHMS = tuple(algorithm.value for algorithm in Algorithm)


class LoadBalancing(Model):
    """Which endpoint takes a request."""

    short_form = ("algorithm", {"enum": list(_ALGORITHMS)})

    algorithm: Annotated[str, *choice(*_ALGORITHMS)] = setting(
        "two_choices",
        "`two_choices`: the less loaded of two drawn at random; `round_robin`: in turn; `least_in_flight`: the least loaded of "
        "all; `latency`: of two, the one that answers sooner under its load; `consistent_hash`: by `key`. All by weight.",
    )
    key: KeyParts | None = setting(
        None,
        "With `consistent_hash`: requests with the same key go to the same endpoint. `client_ip`, `host`, `header:NAME`, "
        "`query:NAME`, `cookie:NAME`, `path:PARAMETER`, or a list of these. A request without it is balanced by `two_choices`.",
        min_length=1,
        max_length=8,
    )
    bounded_load: Annotated[float | None, OrOff(None)] = setting(
        1.25,
        "With `consistent_hash`: how far an endpoint may exceed its share of all that is in flight, before its keys go to the "
        "next one. `off`: without bound.",
        ge=1.0,
        le=100.0,
    )
    decay: values.Duration = setting("10s", "With `latency`: how long a slow answer is remembered (to 1/e).")


def _parse_cookie(text: str) -> str:
    if re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", text) is None:
        raise invalid("the name of a cookie is 1 to 64 letters, digits and `-`, `_`, `.`")
    return text


def _parse_cookie_path(text: str) -> str:
    if re.fullmatch(r"/[!-:<-~]{0,255}", text) is None:
        raise invalid("the path of a cookie starts with `/` and has no blanks and no `;`")
    return text


class Sticky(Model):
    """A cookie that keeps a client with the endpoint that served it first, while that is available."""

    short_form = ("cookie", {"type": "string"})

    cookie: Annotated[str, *text_value("the name of a cookie", _parse_cookie)] = required("Name of the cookie.")
    ttl: values.Duration | None = setting(None, "How long a client keeps it (`Max-Age`). Default: until the browser is closed.")
    path: Annotated[str, *text_value("a path", _parse_cookie_path, pattern="^/")] = setting("/", "Its `Path`.")
    same_site: Annotated[str, *choice("lax", "strict", "none")] = setting("lax", "Its `SameSite`: `lax`, `strict` or `none`.")
    secure: bool | None = setting(None, "Its `Secure`. Default: when the client came by HTTPS.")
    secret_key: SecretStr | None = setting(
        None,
        "What the values are made with; gateways that share it make the same. Default: derived from the name of the upstream, "
        "which hides addresses from the eye, not from who guesses one. Better: `secret_key_file`.",
    )
    secret_key_file: values.FilePath | None = setting(None, "File that holds it.")


def _check_algorithm(balancing: LoadBalancing, loc: Loc, positions: Positions) -> Iterator[Problem]:
    algorithm = balancing.algorithm
    if algorithm == "consistent_hash" and balancing.key is None:
        hint = "write `{algorithm: consistent_hash, key: client_ip}`, or another key"
        yield positions.problem(loc, "`consistent_hash` needs a `key`", hint)
    for name, owner in (("key", "consistent_hash"), ("bounded_load", "consistent_hash"), ("decay", "latency")):
        if algorithm != owner and positions.find((*loc, name))[2]:
            hint = f"it belongs to `algorithm: {owner}`"
            yield positions.problem((*loc, name), f"`{name}` has no effect with `{algorithm}`", hint, key=True)
    for index, part in enumerate(balancing.key or ()):
        if part.kind in ("constant", "route"):
            yield positions.problem((*loc, "key", index), f"`{part}` is the same for all requests: nothing is spread by it")


def _check_sticky(sticky: Sticky, loc: Loc, positions: Positions) -> Iterator[Problem]:
    if sticky.same_site == "none" and sticky.secure is False:
        yield positions.problem(
            (*loc, "secure"), "browsers refuse a cookie with `same_site: none` that is not `Secure`", key=True
        )
    if sticky.secret_key is not None and sticky.secret_key_file is not None:
        message = "`secret_key` and `secret_key_file`: only one of them"
        yield positions.problem((*loc, "secret_key_file"), message, key=True)
        return
    try:
        sticky.secret("secret_key")
    except ValueError as error:
        yield positions.problem((*loc, "secret_key_file"), str(error))


def _check_parameters(found: Resolved[LoadBalancing], facts: UpstreamFacts, positions: Positions) -> Iterator[Problem]:
    """`path:NAME` goes by a parameter of the routes that lead to the upstream."""
    known = [name for path in facts.paths for name in parameters((path,))]
    for index, part in enumerate(found.value.key or ()):
        if part.kind == "path" and part.name not in known and facts.paths:
            loc: Loc = (*facts.loc, "load_balancing", "key", index)
            message = f"`{part}`: no route to `{facts.name}` has a path parameter of this name"
            yield positions.problem(loc, message, did_you_mean(part.name, known))


def balancing_settings(balancing: LoadBalancing) -> BalancingSettings:
    """The numbers of a balancer."""
    bound = math.inf if balancing.bounded_load is None else balancing.bounded_load
    return BalancingSettings(Algorithm(balancing.algorithm), bound, balancing.decay)


def affinity(balancing: LoadBalancing, sticky: Sticky | None) -> Affinity | None:
    """What of a request decides about its endpoint; None: nothing does."""
    key = compiled_key(balancing.key or ())
    return Affinity(key, _sticky(sticky)) if key or sticky is not None else None


def _sticky(sticky: Sticky | None) -> StickySnapshot | None:
    if sticky is None:
        return None
    attributes = f"; Path={sticky.path}; HttpOnly; SameSite={sticky.same_site.capitalize()}"
    if sticky.ttl is not None:
        attributes = f"; Max-Age={max(1, round(sticky.ttl))}{attributes}"
    secure = True if sticky.same_site == "none" else sticky.secure
    return StickySnapshot(sticky.cookie.encode("ascii"), attributes.encode("ascii"), secure)


def sticky_secret(name: str, sticky: Sticky | None) -> bytes:
    """What the values of the cookie are made with: for each upstream another; empty without a cookie.

    Raises ValueError when the file cannot be read.
    """
    if sticky is None:
        return b""
    secret = sticky.secret("secret_key") or ""
    return blake2b(f"{name}\0{secret}".encode(), digest_size=32, person=b"gateway sticky").digest()


def _fields_read(found: Resolved[LoadBalancing], facts: UpstreamFacts) -> Iterator[bytes]:
    return fields_of_key(found.value.key or ())


def _fields_read_sticky(found: Resolved[Sticky | None], facts: UpstreamFacts) -> tuple[bytes, ...]:
    return () if found.value is None else (b"cookie",)


def balancing_in_words(balancing: LoadBalancing) -> str:
    """`consistent_hash by header:x-tenant, at most 1.25 × its share`."""
    if balancing.algorithm == "latency":
        return f"latency, decay {format_duration(balancing.decay)}"
    if balancing.algorithm != "consistent_hash":
        return balancing.algorithm
    bound = "unbounded" if balancing.bounded_load is None else f"at most {balancing.bounded_load:g} × its share"
    return f"consistent_hash by {' and '.join(str(part) for part in balancing.key or ())}, {bound}"


def sticky_in_words(sticky: Sticky | None) -> str | None:
    """`cookie route, 1h, SameSite=lax`."""
    if sticky is None:
        return None
    ttl = "until the browser is closed" if sticky.ttl is None else format_duration(sticky.ttl)
    return f"cookie {sticky.cookie}, {ttl}, path {sticky.path}, SameSite {sticky.same_site}"


BLOCKS: Final = (
    Block[UpstreamFacts](
        "load_balancing",
        check_written=_check_algorithm,
        check=_check_parameters,
        rows=line("load_balancing", balancing_in_words),
        fields_read=_fields_read,
    ),
    Block[UpstreamFacts](
        "sticky", check_written=_check_sticky, rows=line("sticky", sticky_in_words), fields_read=_fields_read_sticky
    ),
)
