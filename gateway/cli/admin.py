"""Commands that ask the admin listener of a running gateway: healthcheck, reload, limits."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Final

from gateway.cli.common import INVALID, OK, UNREACHABLE, USAGE, Add, add_admin, load, token_header, told

if TYPE_CHECKING:
    from gateway.control.words.addresses import Address

RELOAD_TIMEOUT: Final = 60.0
"""Seconds."""


def add_commands(add: Add) -> None:
    """Register the commands."""
    health = add("healthcheck", _healthcheck, "Ask the admin listener of a running gateway whether it is ready.")
    health.add_argument("config", nargs="?", metavar="CONFIG", help="take the admin address from this file")
    health.add_argument("--admin", default="http://127.0.0.1:9900", metavar="URL", help="default: %(default)s")
    reload = add("reload", _reload, "Let a running gateway read its configuration again; prints what changes.")
    reload.add_argument("--dry-run", action="store_true", help="only say what would change")
    add_admin(reload)
    limits = add("limits", _limits, "Rate limits of a running gateway: keys denied most, state of a key, reset of a key.")
    limits.add_argument("action", choices=("top", "key", "reset"), help="what to do")
    limits.add_argument("route", nargs="?", metavar="ROUTE", help="with `key` and `reset`")
    limits.add_argument(
        "key", nargs="?", metavar="KEY", help="its value, such as an address; those of a combined key joined by |"
    )
    limits.add_argument("--limit", default="default", metavar="NAME", help="default: %(default)s")
    add_admin(limits)


def _healthcheck(options: argparse.Namespace) -> int:
    url = options.admin
    if options.config is not None:
        loaded = load(options.config)
        if loaded is None:
            return INVALID
        if loaded.config.admin.listen is None:
            print("gateway healthcheck: error: the configuration has no admin listener", file=sys.stderr)
            return USAGE
        url = _admin_url(loaded.config.admin.listen)
    ready, text = _ask(url)
    print(text, file=sys.stdout if ready else sys.stderr)
    return OK if ready else UNREACHABLE


def _admin_url(address: Address) -> str:
    """Where a health check on the same host reaches the admin listener."""
    if address.path:
        return f"unix:{address.path}"
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    return f"http://[{host}]:{address.port}" if ":" in host else f"http://{host}:{address.port}"


def _ask(url: str) -> tuple[bool, str]:
    """Whether `/readyz` answers 200, and a line about it."""
    from gateway.cli.admin_client import request

    status, text = request(url, "GET", "/readyz", {})
    if not status:
        return False, text
    return status == 200, "ready" if status == 200 else f"not ready: {url}/readyz answered {status}"


def _reload(options: argparse.Namespace) -> int:
    import json

    from gateway.cli.admin_client import request

    headers = token_header(options)
    if headers is None:
        return USAGE
    target = "/reload?dry_run=1" if options.dry_run else "/reload"
    status, text = request(options.admin, "POST", target, headers, RELOAD_TIMEOUT)
    try:
        text = str(json.loads(text)["text"])
    except (ValueError, TypeError, KeyError):
        pass
    return told(status, text)


def _limits(options: argparse.Namespace) -> int:
    from urllib.parse import urlencode

    from gateway.cli.admin_client import request

    if options.action != "top" and (options.route is None or options.key is None):
        print(f"gateway limits: error: `{options.action}` needs ROUTE and KEY", file=sys.stderr)
        return USAGE
    headers = token_header(options)
    if headers is None:
        return USAGE
    target = "/limits"
    if options.action != "top":
        query = urlencode({"route": options.route, "limit": options.limit, "key": options.key})
        target = f"/limits/{options.action}?{query}"
    status, text = request(options.admin, "POST" if options.action == "reset" else "GET", target, headers)
    return told(status, text)
