"""Commands that ask the admin listener of a running gateway: healthcheck, reload, limits."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gateway.cli.common import OK, UNREACHABLE, Add, add_admin, ask, fail, load, told

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
    limits.add_argument("--json", action="store_true", help="with `top`: all that `/limits` says, as JSON")
    add_admin(limits)


def _healthcheck(options: argparse.Namespace) -> int:
    from gateway.cli.admin_client import request

    url = options.admin
    if options.config is not None:
        listen = load(options.config).config.admin.listen
        if listen is None:
            fail(options.name, "the configuration has no admin listener")
        url = _admin_url(listen)
    status, text = request(url, "GET", "/readyz", {})
    if status:
        text = "ready" if status == 200 else f"not ready: {url}/readyz answered {status}"
    print(text, file=sys.stdout if status == 200 else sys.stderr)
    return OK if status == 200 else UNREACHABLE


def _admin_url(address: Address) -> str:
    """Where a health check on the same host reaches the admin listener."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    return str(address) if address.path else f"http://{replace(address, host=host)}"


def _reload(options: argparse.Namespace) -> int:
    import json

    status, text = ask(options, "POST", "/reload?dry_run=1" if options.dry_run else "/reload", RELOAD_TIMEOUT)
    try:
        text = str(json.loads(text)["text"])
    except (ValueError, TypeError, KeyError):
        pass
    return told(status, text)


def _limits(options: argparse.Namespace) -> int:
    from urllib.parse import urlencode

    if options.action == "top":
        from gateway.cli.limits import top_table

        status, text = ask(options, "GET", "/limits")
        return told(status, top_table(text) if status == 200 and not options.json else text)
    if options.route is None or options.key is None:
        fail(options.name, f"`{options.action}` needs ROUTE and KEY")
    query = urlencode({"route": options.route, "limit": options.limit, "key": options.key})
    return told(*ask(options, "POST" if options.action == "reset" else "GET", f"/limits/{options.action}?{query}"))
