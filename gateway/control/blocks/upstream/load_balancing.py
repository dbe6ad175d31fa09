"""The block `load_balancing:` of an upstream."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import SecretStr

from gateway.control.words import values
from gateway.control.words.keys import KeyParts
from gateway.control.words.model import Model, required, setting
from gateway.control.words.units import format_duration
from gateway.control.words.values import OrOff, choice, invalid, text_value
from gateway.policies.load_balancing import Algorithm

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


def balancing_in_words(balancing: LoadBalancing) -> str:
    """`consistent_hash by header:x-tenant, at most 1.25 × its share`."""
    if balancing.algorithm == "latency":
        return f"latency, decay {format_duration(balancing.decay)}"
    if balancing.algorithm != "consistent_hash":
        return balancing.algorithm
    bound = "unbounded" if balancing.bounded_load is None else f"at most {balancing.bounded_load:g} × its share"
    return f"consistent_hash by {' and '.join(str(part) for part in balancing.key or ())}, {bound}"


def sticky_in_words(sticky: Sticky) -> str:
    """`cookie route, 1h, SameSite=lax`."""
    ttl = "until the browser is closed" if sticky.ttl is None else format_duration(sticky.ttl)
    return f"cookie {sticky.cookie}, {ttl}, path {sticky.path}, SameSite {sticky.same_site}"
