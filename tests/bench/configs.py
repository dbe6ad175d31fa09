"""The configuration of every proxy: the same policies in each one's own words.

Timeouts (connect 3 s, attempt 5 s, request 15 s), one retry on connect failures, resets and 502 to 504, a local rate limit
per client address that is never reached, ejection of failing endpoints, `X-Request-ID` and `X-Forwarded-For` towards the
upstream, keep-alive on both sides, no access log.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.bench.processes import HOST

Json = dict[str, Any]

BODY: Final = '{"id":42,"name":"benchmark","tags":["a","b"],"text":"' + "x" * 45 + '"}'
"""What the upstream answers: 100 bytes of JSON."""

DOWNLOAD: Final = "/10m.bin"
DOWNLOAD_SIZE: Final = 10 * 1024 * 1024
HUGE: Final = "/1g.bin"
HUGE_SIZE: Final = 1024 * 1024 * 1024
REQUEST_ID: Final = "/request-id"
"""Answers with the X-Request-ID it was sent, to prove that the proxy sets one."""
VARIED: Final = "/varied"
"""As any other path, with more response fields, one of them different in every response."""

CONNECTIONS: Final = 9_000
RATE: Final = 1_000_000
"""Requests per second that the local limits allow: never reached."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where one proxy runs and what it stands in front of."""

    directory: Path
    port: int
    admin_port: int
    upstream_ports: tuple[int, ...]
    request_timeout: float = 15.0
    attempt_timeout: float = 5.0
    routes: int = 1
    """Routes of the gateway; above 1 they are `/r0/{id}/**`, `/r1/{id}/**`, ..."""
    rude_port: int = 0
    """When set, the gateway's `/rude/**` goes to this port."""

    @property
    def authorities(self) -> list[str]:
        """`host:port` of each upstream endpoint."""
        return [f"{HOST}:{port}" for port in self.upstream_ports]


def _user() -> str:
    return "user root;" if os.geteuid() == 0 else ""


def _nginx(http: str) -> str:
    return f"""\
{_user()}
worker_processes 1;
daemon off;
pid nginx.pid;
error_log error.log crit;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    client_body_temp_path body_temp;
    proxy_temp_path proxy_temp;
    fastcgi_temp_path fastcgi_temp;
    uwsgi_temp_path uwsgi_temp;
    scgi_temp_path scgi_temp;
    keepalive_requests 1000000000;
    keepalive_timeout 75s;
    tcp_nodelay on;
{http}
}}
"""


def nginx_upstream(ports: tuple[int, ...], root: Path) -> str:
    """The origin: one worker, a fixed answer at every path, two files."""
    listens = "\n".join(f"        listen {HOST}:{port} backlog=4096;" for port in ports)
    return _nginx(f"""\
    sendfile on;
    server {{
{listens}
        root {root};
        default_type application/json;
        location / {{ return 200 '{BODY}'; }}
        location = {REQUEST_ID} {{ return 200 '$http_x_request_id'; }}
        location {VARIED} {{
            add_header X-Trace-ID $request_id;
            add_header Cache-Control "private, max-age=60";
            add_header Vary Accept-Encoding;
            return 200 '{BODY}';
        }}
        location = {DOWNLOAD} {{ try_files $uri =404; }}
        location = {HUGE} {{ try_files $uri =404; }}
    }}
""")


def nginx_proxy(site: Site) -> str:
    """nginx as the proxy."""
    servers = "\n".join(f"        server {authority} max_fails=5 fail_timeout=5s;" for authority in site.authorities)
    return _nginx(f"""\
    limit_req_zone $binary_remote_addr zone=clients:10m rate={RATE}r/s;
    limit_req_status 429;
    upstream origin {{
{servers}
        keepalive 64;
        keepalive_requests 1000000000;
        keepalive_timeout 60s;
    }}
    server {{
        listen {HOST}:{site.port} backlog=4096;
        client_header_timeout 10s;
        client_body_timeout 30s;
        send_timeout 30s;
        client_max_body_size 0;
        location / {{
            limit_req zone=clients burst=100000 nodelay;
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Request-ID $request_id;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_connect_timeout 3s;
            proxy_send_timeout {site.attempt_timeout:.0f}s;
            proxy_read_timeout {site.attempt_timeout:.0f}s;
            proxy_next_upstream error timeout http_502 http_503 http_504;
            proxy_next_upstream_tries 2;
            proxy_next_upstream_timeout {site.request_timeout:.0f}s;
            proxy_request_buffering off;
            proxy_buffers 16 64k;
            proxy_busy_buffers_size 128k;
            proxy_max_temp_file_size 0;
        }}
    }}
""")


def haproxy(site: Site) -> str:
    """HAProxy as the proxy."""
    servers = "\n".join(
        f"    server s{number} {authority} check inter 5s observe layer7 error-limit 5 on-error mark-down"
        for number, authority in enumerate(site.authorities)
    )
    return f"""\
global
    nbthread 1
    maxconn {CONNECTIONS}

defaults
    mode http
    timeout connect 3s
    timeout client 75s
    timeout server {site.attempt_timeout:.0f}s
    timeout queue {site.request_timeout:.0f}s
    timeout http-request 10s
    timeout http-keep-alive 75s
    retries 1
    retry-on conn-failure empty-response 502 503 504
    option redispatch
    option forwardfor

frontend in
    bind {HOST}:{site.port} backlog 4096
    unique-id-format %{{+X}}o%ci%cp%fi%fp%Ts%rt%pid
    unique-id-header X-Request-ID
    http-request set-header X-Forwarded-Proto http
    stick-table type ip size 100k expire 30s store http_req_rate(1s)
    http-request track-sc0 src
    http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt {RATE} }}
    default_backend origin

backend origin
    balance random(2)
    http-reuse always
{servers}
"""


def caddy(site: Site) -> str:
    """Caddy as the proxy. Its standard build has no rate limiter, so that one policy is missing."""
    return f"""\
{{
    admin off
    auto_https off
    log {{
        output discard
    }}
    servers {{
        timeouts {{
            read_header 10s
            idle 75s
        }}
    }}
}}
:{site.port} {{
    bind {HOST}
    reverse_proxy {" ".join(site.authorities)} {{
        lb_policy {"random_choose 2" if len(site.authorities) > 1 else "first"}
        lb_retries 1
        fail_duration 5s
        max_fails 5
        unhealthy_status 5xx
        header_up X-Request-ID {{http.request.uuid}}
        transport http {{
            compression off
            dial_timeout 3s
            response_header_timeout {site.attempt_timeout:.0f}s
            keepalive 60s
            keepalive_idle_conns 1024
            keepalive_idle_conns_per_host 256
        }}
    }}
}}
"""


def _address(port: int) -> Json:
    return {"socket_address": {"address": HOST, "port_value": port}}


def _typed(kind: str, **settings: Any) -> Json:
    return {"@type": f"type.googleapis.com/envoy.{kind}", **settings}


def _envoy_route(site: Site) -> Json:
    retry = {
        "retry_on": "5xx,connect-failure,reset",
        "num_retries": 1,
        "per_try_timeout": f"{site.attempt_timeout:.0f}s",
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
    }
    route = {"cluster": "origin", "timeout": f"{site.request_timeout:.0f}s", "retry_policy": retry}
    return {"match": {"prefix": "/"}, "route": route}


def _envoy_filters() -> list[Json]:
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    limit = _typed(
        "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="local",
        token_bucket={"max_tokens": RATE, "tokens_per_fill": RATE, "fill_interval": "1s"},
        filter_enabled={"runtime_key": "local_enabled", **always},
        filter_enforced={"runtime_key": "local_enforced", **always},
    )
    return [
        {"name": "envoy.filters.http.local_ratelimit", "typed_config": limit},
        {"name": "envoy.filters.http.router", "typed_config": _typed("extensions.filters.http.router.v3.Router")},
    ]


def _envoy_manager(site: Site) -> Json:
    return _typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="ingress",
        use_remote_address=True,
        generate_request_id=True,
        common_http_protocol_options={"idle_timeout": "75s"},
        request_headers_timeout="10s",
        stream_idle_timeout="300s",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [_envoy_route(site)]}]},
        http_filters=_envoy_filters(),
    )


def _envoy_cluster(site: Site) -> Json:
    endpoints = [{"endpoint": {"address": _address(port)}} for port in site.upstream_ports]
    return {
        "name": "origin",
        "type": "STATIC",
        "connect_timeout": "3s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": endpoints}]},
        "outlier_detection": {"consecutive_5xx": 5, "interval": "5s", "base_ejection_time": "5s", "max_ejection_percent": 50},
        "circuit_breakers": {"thresholds": [{"retry_budget": {"budget_percent": {"value": 20}}}]},
    }


def envoy(site: Site) -> str:
    """Envoy as the proxy."""
    manager = {"name": "envoy.filters.network.http_connection_manager", "typed_config": _envoy_manager(site)}
    listener = {"name": "in", "address": _address(site.port), "filter_chains": [{"filters": [manager]}]}
    return json.dumps(
        {
            "admin": {"address": _address(site.admin_port)},
            "static_resources": {"listeners": [listener], "clusters": [_envoy_cluster(site)]},
        },
        indent=1,
    )


@dataclass(frozen=True, slots=True)
class Policies:
    """What the gateway's configuration has beyond what routes."""

    defaults: Json
    upstream: Json
    server: Json = field(default_factory=dict)
    route: Json = field(default_factory=dict)


_BREAKER: Final[Json] = {"failure_rate": "50%", "window": "10s", "min_requests": 20, "open_for": "5s"}
_RETRY: Final[Json] = {"max_retries": 1, "on": ["connect", "reset", 502, 503, 504]}

LIKE_PEERS: Final = Policies(
    defaults={"rate_limit": {"limit": RATE, "per": "1s", "key": "client_ip"}, "retry": _RETRY},
    upstream={"circuit_breaker": _BREAKER, "ejection": {"failures": 5, "base": "5s"}, "load_balancing": "two_choices"},
)
"""What the peers are told to do."""

PLAIN: Final = Policies(
    defaults={"retry": "off"},
    upstream={"circuit_breaker": "off", "ejection": "off", "slow_start": "0s", "panic": "off", "load_balancing": "round_robin"},
)
"""A route that only forwards, within its time."""

ARMED: Final = Policies(
    defaults={"retry": _RETRY},
    upstream={
        "circuit_breaker": {**_BREAKER, "slow_call": "1s", "slow_rate": "50%"},
        "ejection": {"failures": 5, "base": "5s"},
        "slow_start": "10s",
        "health": "/",
        "retry_budget": "20%",
        "load_balancing": "two_choices",
        "max_in_flight": {"limit": 1000, "queue": 100},
    },
    server={"max_in_flight": {"limit": 2000, "queue": 100}},
    route={"max_in_flight": {"limit": 1000, "queue": 100}},
)
"""All that keeps failing upstreams away from clients: retries, breakers, health, balancing, admission."""


def gateway(site: Site, policies: Policies = LIKE_PEERS) -> str:
    """Our own configuration; JSON is YAML."""
    upstream = {"endpoints": [f"http://{authority}" for authority in site.authorities], **policies.upstream}
    timeout = {"request": f"{site.request_timeout:.0f}s", "attempt": f"{site.attempt_timeout:.0f}s"}
    config: Json = {
        "version": 1,
        "server": {
            "listen": [f"{HOST}:{site.port}"],
            "limits": {"body": "4GiB", "requests_per_connection": 1_000_000_000},
            **policies.server,
        },
        "admin": {"listen": f"{HOST}:{site.admin_port}"},
        "access_log": "off",
        "defaults": {"timeout": timeout, **policies.defaults},
        "upstreams": {"nginx": upstream},
        "routes": [],
    }
    if site.rude_port:
        config["upstreams"]["rude"] = {"endpoints": [f"http://{HOST}:{site.rude_port}"], **policies.upstream}
        config["routes"].append({"name": "rude", "match": {"path": "/rude/**"}, "upstream": "rude"})
    if site.routes > 1:
        config["routes"] += [
            {"name": f"r{number}", "match": {"path": f"/r{number}/{{id}}/**"}, "upstream": "nginx"}
            for number in range(site.routes - 1)
        ]
    config["routes"].append({"name": "all", "match": {"path": "/**"}, "upstream": "nginx", **policies.route})
    return json.dumps(config, indent=1)
