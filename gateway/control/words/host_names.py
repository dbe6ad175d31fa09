"""Host names as people write them, `bücher.example`, and as the network knows them: `xn--bcher-kva.example` (RFC 5891)."""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeAlias

from gateway.control.words.path_hints import host_hint
from gateway.control.words.values import invalid, text_value
from gateway.headers import normalise_host

_ENCODED: Final = re.compile(r"(?:[a-z0-9_][a-z0-9_.-]*\.)?xn--[a-z0-9_.-]+")


def ascii_host(text: str) -> str:
    """The name, with or without a port, as the network knows it; ASCII stays as it is. Characters are mapped as browsers do it
    (UTS 46). Raises the error of a validator."""
    if text.isascii():
        return text
    import idna  # its tables take their time, and few names need them

    name, colon, port = text.partition(":")
    try:
        return idna.encode(name, uts46=True).decode("ascii") + colon + port
    except idna.IDNAError:
        raise invalid("not a host name: it holds a character, or a label, that no name may have") from None


def with_name(text: str) -> str:
    """The text, and behind it, if it holds an encoded name, that name as people write it."""
    found = _ENCODED.search(text)
    if found is None:
        return text
    import idna

    try:
        return f"{text} ({idna.decode(found[0])})"
    except idna.IDNAError:
        return text


def _parse_match_host(text: str) -> str:
    wildcard, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    name = ascii_host(name)
    host = normalise_host(name.encode("ascii"))
    if not name or host is None or "*" in name or name.startswith(".") or name == "_":
        raise invalid("not a host: write `api.example.com` or `*.example.com`", host_hint(text))
    if re.search(r":[0-9]*$", name) is not None and not name.endswith("]"):
        raise invalid("hosts are matched without port", f"did you mean `{wildcard}{host.decode('ascii')}`?")
    if wildcard and name.startswith("["):
        raise invalid("an address has no subdomains")
    return wildcard + host.decode("ascii")


MatchHost: TypeAlias = Annotated[str, *text_value("a host", _parse_match_host)]
