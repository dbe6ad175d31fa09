"""A client of the admin listener for the commands: one request, one answer, nothing imported that is slow."""

from __future__ import annotations

import http.client
import socket
from typing import Final
from urllib.parse import urlsplit

MARK: Final = "Gateway-Version"
"""The header field by which answers of an admin listener are known."""


def request(url: str, method: str, target: str, headers: dict[str, str], timeout: float = 3.0) -> tuple[int, str]:
    """Status and body of an answer of an admin listener; status 0 and the reason when there was none."""
    connection = None
    try:
        if url.startswith("unix:"):
            connection = http.client.HTTPConnection("localhost", timeout=timeout)
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(timeout)
            connection.sock.connect(url[5:])
        else:
            parts = urlsplit(url if "//" in url else f"http://{url}")
            if parts.scheme != "http" or not parts.hostname:
                return 0, f"not reachable: `{url}` is not an http URL"
            connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout)
        connection.request(method, target, headers=headers)
        response = connection.getresponse()
        if MARK not in response.headers:
            server = response.headers.get("Server", "it says no more")
            return 0, f"something else than a gateway answers at {url}: status {response.status}, {server}"
        return response.status, response.read(1 << 24).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return 0, f"not reachable: {url}: {getattr(error, 'strerror', None) or type(error).__name__}"
    finally:
        if connection is not None:
            connection.close()
