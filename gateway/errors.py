"""Every way a request can fail: one row per failure, one word for it everywhere.

`code` is the word in the problem body, the `Proxy-Status` field (RFC 9209; its registered error type where there is
one), the access log and the `reason` metric label. `source` says whose fault it is; `flag` is the short response flag
known from Envoy's access log. The proxy raises `Failed`; `proxy/pipeline.py` is the one place that turns it into a response.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

DOWNSTREAM: Final = "downstream"
GATEWAY: Final = "gateway"
UPSTREAM: Final = "upstream"


class Failure(Enum):
    """One row per failure: code, HTTP status, whose fault, response flag, title of the problem body."""

    # -- the client's side -------------------------------------------------------------------------------------------
    BAD_REQUEST = ("http_request_error", 400, DOWNSTREAM, "DPE", "The request is not valid HTTP")
    PATH_AMBIGUOUS = ("path_ambiguous", 400, DOWNSTREAM, "DPE", "The path can be read in more than one way")
    ROUTE_NOT_FOUND = ("destination_not_found", 404, DOWNSTREAM, "NR", "No route matches the request")
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405, DOWNSTREAM, "NR", "The route does not serve this method")
    NOT_ACCEPTABLE = ("not_acceptable", 406, DOWNSTREAM, "NA", "No coding of the response is acceptable to the client")
    HEADER_TIMEOUT = ("header_timeout", 408, DOWNSTREAM, "DT", "The request head took too long to arrive")
    BODY_TIMEOUT = ("body_timeout", 408, DOWNSTREAM, "DT", "The request body stopped arriving")
    CONTENT_TOO_LARGE = ("content_too_large", 413, DOWNSTREAM, "SZ", "The request body is larger than the route allows")
    TARGET_TOO_LONG = ("target_too_long", 414, DOWNSTREAM, "SZ", "The request target is too long")
    CODING_NOT_SUPPORTED = (
        "content_coding_not_supported",
        415,
        DOWNSTREAM,
        "NA",
        "The content coding of the request is not supported",
    )
    EXPECTATION_FAILED = ("expectation_failed", 417, DOWNSTREAM, "DPE", "The expectation is not supported")
    MISDIRECTED = ("misdirected_request", 421, DOWNSTREAM, "NR", "This host is not served here")
    RATE_LIMITED = ("rate_limited", 429, DOWNSTREAM, "RL", "A rate limit of this route is reached")
    HEADERS_TOO_LARGE = ("headers_too_large", 431, DOWNSTREAM, "SZ", "The request header section is too large")
    CLIENT_CLOSED = ("client_closed", 499, DOWNSTREAM, "DC", "The client closed the connection")
    WRITE_TIMEOUT = ("connection_write_timeout", 499, DOWNSTREAM, "DC", "The client stopped reading the response")
    METHOD_NOT_IMPLEMENTED = ("method_not_implemented", 501, DOWNSTREAM, "DPE", "The method is not implemented")
    CODING_NOT_IMPLEMENTED = (
        "transfer_coding_not_implemented",
        501,
        DOWNSTREAM,
        "DPE",
        "The transfer coding is not implemented",
    )
    VERSION_NOT_SUPPORTED = ("http_version_not_supported", 505, DOWNSTREAM, "DPE", "The HTTP version is not supported")

    # -- the gateway's own decisions ---------------------------------------------------------------------------------
    INTERNAL = ("proxy_internal_error", 500, GATEWAY, "LR", "The gateway failed")
    LOOP = ("proxy_loop_detected", 502, GATEWAY, "LR", "The request came back to this gateway")
    NO_ENDPOINT = ("destination_unavailable", 503, GATEWAY, "UH", "No endpoint of the upstream can take the request")
    CIRCUIT_OPEN = ("circuit_open", 503, GATEWAY, "UO", "The upstream has failed too often and is given time to recover")
    CONNECTION_LIMIT = ("connection_limit_reached", 503, GATEWAY, "UO", "The connection limit is reached")
    TUNNEL_LIMIT = ("tunnel_limit_reached", 503, GATEWAY, "UO", "The limit of upgraded connections is reached")
    OVERLOADED = ("overloaded", 503, GATEWAY, "OM", "The gateway is overloaded and refuses requests of this priority")
    CONCURRENCY_LIMIT = ("concurrency_limit_reached", 503, GATEWAY, "UO", "Too many requests are in flight")
    QUEUE_FULL = ("queue_full", 503, GATEWAY, "UO", "Too many requests are in flight, and too many wait")
    QUEUE_TIMEOUT = ("queue_timeout", 503, GATEWAY, "UO", "Too many requests are in flight, and none ended in time")
    STORE_UNAVAILABLE = ("rate_limit_store_unavailable", 503, GATEWAY, "RLSE", "The rate limit of this route cannot be checked")
    DEADLINE = ("deadline_exceeded", 504, GATEWAY, "UT", "The time budget of the request is spent")

    # -- the upstream's side -----------------------------------------------------------------------------------------
    DNS = ("dns_error", 502, UPSTREAM, "DF", "The upstream's name could not be resolved")
    REFUSED = ("connection_refused", 502, UPSTREAM, "UF", "The upstream refused the connection")
    UNREACHABLE = ("destination_ip_unroutable", 502, UPSTREAM, "UF", "The upstream cannot be reached")
    TLS_PROTOCOL = ("tls_protocol_error", 502, UPSTREAM, "UF", "The TLS handshake with the upstream failed")
    TLS_CERTIFICATE = ("tls_certificate_error", 502, UPSTREAM, "UF", "The upstream's certificate was not accepted")
    TERMINATED = ("connection_terminated", 502, UPSTREAM, "UC", "The upstream closed the connection without a response")
    PROTOCOL = ("http_protocol_error", 502, UPSTREAM, "UPE", "The upstream's response is not valid HTTP")
    RESPONSE_HEAD_TOO_LARGE = (
        "http_response_header_section_size",
        502,
        UPSTREAM,
        "UPE",
        "The upstream's response header section is too large",
    )
    UPGRADE_FAILED = ("http_upgrade_failed", 502, UPSTREAM, "UPE", "The upstream's answer to the upgrade is not valid")
    INCOMPLETE = ("http_response_incomplete", 502, UPSTREAM, "UC", "The upstream's response ended too early")
    CONNECT_TIMEOUT = ("connection_timeout", 504, UPSTREAM, "UF", "The connection to the upstream took too long")
    ATTEMPT_TIMEOUT = ("http_response_timeout", 504, UPSTREAM, "UT", "The upstream did not answer in time")
    STREAM_IDLE = ("connection_read_timeout", 504, UPSTREAM, "SI", "The stream was idle for too long")

    def __init__(self, code: str, status: int, source: str, flag: str, title: str) -> None:
        self.code = code
        self.status = status
        self.source = source
        self.flag = flag
        self.title = title

    # Enum members are singletons; the default hash goes through the name in Python code and costs 0.2 µs per request.
    __hash__ = object.__hash__


class Failed(Exception):  # noqa: N818 - reads as a statement where it is raised: `raise Failed(Failure.DEADLINE)`
    """A request failed in a way the table knows. `detail` is for people and must hold no request data or addresses.

    `close` asks for the downstream connection to be closed after the answer, because its framing is in doubt.
    """

    def __init__(
        self,
        failure: Failure,
        detail: str = "",
        *,
        close: bool = False,
        fields: tuple[bytes, ...] = (),
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(failure, detail)
        self.failure = failure
        self.detail = detail
        self.close = close
        self.fields = fields
        """Extra response field lines without CRLF, such as `Allow` on 405."""
        self.members = members
        """Extra members of the problem body."""
        self.ready: dict[str | None, Any] | None = None
        """Answers that have been rendered, by route, where one failure answers many requests; None: it answers one."""
