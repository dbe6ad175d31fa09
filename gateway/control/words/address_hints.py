"""What was probably meant by an address that is written as another program wants it."""

from __future__ import annotations

import re
from typing import Final

_HOST_PORT: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_NO_HTTP: Final = {
    "grpc": "gRPC is not spoken", "grpcs": "gRPC is not spoken", "h2c": "HTTP/2 is not spoken", "h2": "HTTP/2 is not spoken",
    "fastcgi": "FastCGI is not spoken: put an HTTP server in front",
    "uwsgi": "uwsgi is not spoken: put an HTTP server in front",
    "scgi": "SCGI is not spoken: put an HTTP server in front", "ftp": "FTP is not spoken", "udp": "UDP is not proxied",
}  # fmt: skip


def listen_hint(text: str) -> str:
    """An address to listen on, as a sentence; or what to do instead."""
    written = text.strip()
    tls = written.startswith("https://") or re.search(r"\s(ssl|tls|https|http2)\b", written) is not None
    written = re.sub(r"^[a-z]+://", "", written.split()[0] if written else "").rstrip("/")
    written = re.sub(r"/(?:tcp|http)$", "", written)
    if written.startswith("/"):
        return f"write `unix:{written}`"
    if re.fullmatch(r":?[0-9]{1,5}-[0-9]{1,5}", written):
        return 'there are no ranges: write a list with each port, as `[":8080", ":8081"]`'
    port = written.removeprefix("*").removeprefix(":")
    address = f":{port}" if port.isdigit() and len(port) <= 5 else written if ":" in written else f"{written}:8080"
    address = f"[::]:{address.rpartition(':')[2]}" if address.startswith(":::") else address
    if not re.fullmatch(r"(?:\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]*):[0-9]{1,5}", address):
        return ""
    if tls:
        return f'write `listen: [{{address: "{address}", tls: {{certificate: tls.crt, key: tls.key}}}}]`'
    return f'write `"{address}"`' if address != text else ""


def endpoint_hint(text: str) -> str:
    """An endpoint, as a sentence; or what to do instead."""
    written = text.strip()
    scheme, there, rest = written.partition("://")
    scheme = scheme.lower()
    if not there:
        if written.isdigit() and len(written) <= 5:
            return f"did you mean `http://127.0.0.1:{written}`?"
        if written.startswith("/"):
            return f"did you mean `unix:{written}`?"
        address = written.partition("/")[0].split()[0] if written else ""
        return f"did you mean `http://{address}`?" if _HOST_PORT.fullmatch(address) else ""
    if scheme in _NO_HTTP:
        return _NO_HTTP[scheme]
    if "unix" in scheme:
        return f"write `unix:/{rest.lstrip('/')}`"
    address = rest.rpartition("@")[2].partition("/")[0]
    if "srv" in scheme or scheme in ("dns", "consul"):
        return f"names are looked up by themselves: write `http://{address}`"
    secure = "https" if scheme in ("wss", "tls", "ssl", "https") else "http"
    return f"write `{secure}://{address}`" if _HOST_PORT.fullmatch(address) and "@" not in rest else ""


def path_of_endpoint_hint(authority: str, scheme: str, path: str) -> str:
    """What to write for an endpoint with a path."""
    if path == "/":
        return f"remove the final `/`: `{scheme}://{authority}`"
    base = re.sub(r"[?#].*$", "", path).rstrip("/")
    if re.fullmatch(r"(?:/[A-Za-z0-9._~-]+)+", base) is None:
        return "use `strip_prefix` or `rewrite_prefix` in the route"
    return (
        f"use `strip_prefix` or `rewrite_prefix` in the route: here `{scheme}://{authority}`, "
        f"there `rewrite_prefix: {{from: /, to: {base}}}`"
    )


def network_hint(text: str) -> str:
    """What to write for proxies that are named otherwise."""
    written = text.strip().lower()
    if written in ("*", "all", "any", "0.0.0.0/0", "true"):
        return "name the proxies: whoever is trusted can claim to be any client"
    if written in ("private_ranges", "private", "internal", "loopback", "localhost", "uniquelocal", "linklocal"):
        local = '`127.0.0.0/8` and `"::1"`' if "lo" in written[:3] else "`10.0.0.0/8`, `172.16.0.0/12`, `192.168.0.0/16`"
        return f"write {local}"
    if re.search(r"[a-z]", re.sub(r"^[0-9a-f:.]+(/|$)", "", written)):
        return "names are not looked up: write its addresses, as `10.0.0.5` or `10.0.0.0/8`"
    octets = re.fullmatch(r"((?:[0-9]{1,3}\.){1,3})\*(?:\.\*)*", written)
    if octets is not None:
        given = octets[1].count(".")
        return f"write `{octets[1]}{'.'.join(['0'] * (4 - given))}/{8 * given}`"
    if "-" in written:
        return "a range is written with its length, as `10.0.0.0/28`"
    bare = written.rpartition(":")[0] if written.count(":") == 1 else ""
    return f"without port: `{bare}`" if bare else ""
