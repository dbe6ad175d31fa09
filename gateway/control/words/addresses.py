"""The types of addresses in the configuration: where to listen, where upstreams are, whom to trust."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_network
from typing import Annotated, Final, TypeAlias

from gateway.control.words.address_hints import endpoint_hint, listen_hint, network_hint, path_of_endpoint_hint
from gateway.control.words.host_names import ascii_host
from gateway.control.words.values import did_you_mean, invalid, text_value
from gateway.headers import UNIX, normalise_host

_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_HOST_PORT: Final = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*)):([0-9]{1,5})")
_ENDPOINT: Final = re.compile(r"(https?)://([^/?#]*)(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: host (empty: all interfaces) and port, or a Unix socket path."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _parse_address(text: str) -> Address:
    if text.startswith("unix:"):
        return Address(path=_socket_path(text[5:]))
    if text.isdigit():
        raise invalid("an address has a host or a colon", f"did you mean `:{text}`?" if len(text) <= 5 else "")
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise invalid("not an address: write `host:port`, `:8080`, `[::1]:80` or `unix:/path`", listen_hint(text))
    if match[2] == "*":
        raise invalid("all interfaces are written without a host", listen_hint(text))
    host, port = _host_port(match)
    if host.isdigit():
        raise invalid("ports of a container are mapped by what starts it, not here", f'write `":{port}"`')
    return Address(host, port)


def _socket_path(path: str) -> str:
    if not path.startswith("/") or len(path.encode("utf-8", "replace")) > 107:
        raise invalid("the path of a Unix socket is absolute and at most 107 bytes long")
    return path


def _host_port(match: re.Match[str]) -> tuple[str, int]:
    literal, name, digits = match.groups()
    if int(digits) > 65535:
        raise invalid("a port is at most 65535")
    if literal is not None:
        try:
            return IPv6Address(literal).compressed, int(digits)
        except ValueError:
            raise invalid("what stands in brackets is not an IPv6 address") from None
    if name and _HOST_NAME.fullmatch(name) is None:
        raise invalid("the host is neither a name nor an address")
    return name.lower(), int(digits)


@dataclass(frozen=True, slots=True)
class EndpointUrl:
    """One address of an upstream, normalised."""

    url: str
    host: str
    port: int
    path: str
    """Unix socket path, or empty."""
    tls: bool
    authority: str
    """For `Host`: without the scheme's own port."""


def _parse_endpoint(text: str) -> EndpointUrl:
    if text.startswith("unix:"):
        path = _socket_path(text[5:])
        return EndpointUrl(f"unix:{path}", "", 0, path, False, "localhost")
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        message = "not an endpoint: write `http://host:port`, `https://host:port` or `unix:/path`"
        raise invalid(message, endpoint_hint(text))
    scheme, authority, rest = match.groups()
    if "@" in authority:
        raise invalid("an endpoint has no user or password", "set the `Authorization` field in `request_fields`")
    authority = ascii_host(authority)
    if len(several := re.split(r"[\s,;]+(?=https?://)", text)) > 1:
        raise invalid("several endpoints in one text", f"write `endpoints: [{', '.join(several)}]`")
    if rest:
        raise invalid("an endpoint has no path", path_of_endpoint_hint(authority, scheme, rest))
    default = 443 if scheme == "https" else 80
    has_port = re.search(r":[0-9]*$", authority) is not None and not authority.endswith("]")
    parts = _HOST_PORT.fullmatch(authority if has_port else f"{authority}:{default}")
    if parts is None:
        literal = authority.count(":") > 2 and re.fullmatch(r"([0-9A-Fa-f:]*::[0-9A-Fa-f:]*?):([0-9]{2,5})", authority)
        hint = f'write `"{scheme}://[{literal[1]}]:{literal[2]}"`' if literal else ""
        raise invalid("the endpoint's host is neither a name nor an address", hint)
    host, port = _host_port(parts)
    if not host or not port:
        raise invalid("an endpoint needs a host and a port above 0")
    shown = f"[{host}]" if ":" in host else host
    shown = shown if port == default else f"{shown}:{port}"
    return EndpointUrl(f"{scheme}://{shown}", host, port, "", scheme == "https", shown)


def _parse_network(text: str) -> str:
    if text == UNIX:
        return text
    try:
        ip_network(text)
    except ValueError:
        try:
            hint = f"did you mean `{ip_network(text, strict=False)}`?"
        except ValueError:
            hint = network_hint(text)
        raise invalid("not an address or a range such as `10.0.0.0/8`", hint) from None
    return text


def _parse_upstream_host(text: str) -> str:
    if text in ("preserve", "endpoint"):
        return text
    if "$" in text:
        raise invalid(
            "there are no variables: `preserve` sends the client's own `Host`, `endpoint` that of the URL", "write `preserve`"
        )
    text = ascii_host(text)
    if not text or normalise_host(text.encode("ascii")) is None:
        raise invalid("expected `preserve`, `endpoint` or a host name", did_you_mean(text, ("preserve", "endpoint")))
    return text


def _parse_host_name(text: str) -> str:
    text = ascii_host(text)
    if not text or normalise_host(text.encode("ascii")) is None:
        raise invalid("expected a host name, with or without a port")
    return text


ListenAddress: TypeAlias = Annotated[Address, *text_value("an address such as `:8080`", _parse_address)]
EndpointAddress: TypeAlias = Annotated[
    EndpointUrl, *text_value("a URL such as `http://10.0.0.1:8000`", _parse_endpoint, pattern=r"^(https?://[^/?#@]+|unix:/.+)$")
]
Network: TypeAlias = Annotated[str, *text_value("an address or a range", _parse_network)]
UpstreamHost: TypeAlias = Annotated[str, *text_value("`preserve`, `endpoint` or a host name", _parse_upstream_host)]
HostName: TypeAlias = Annotated[str, *text_value("a host name", _parse_host_name)]
