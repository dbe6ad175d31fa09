"""Commands that ask the admin listener of a running gateway: healthcheck, reload, limits."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from gateway.cli.common import ADMIN, INVALID, OK, UNREACHABLE, Add, Admin, add_admin, add_config, ask, fail, told
from gateway.cli.configuration import diff_running
from gateway.control.tools.columns import columns

RELOAD_TIMEOUT: Final = 60.0
"""Seconds."""


def add_commands(add: Add) -> None:
    health = add("healthcheck", _healthcheck, "Ask the admin listener of a running gateway whether it is ready.")
    add_config(health)
    health.add_argument("--admin", metavar="URL", help=f"default: $GATEWAY_ADMIN, else as CONFIG says, else {ADMIN}")
    reload = add("reload", _reload, "Let a running gateway read its configuration again; prints what changes.")
    reload.add_argument("--dry-run", action="store_true", help="only say what would change")
    reload.add_argument("file", nargs="?", metavar="FILE", help="with --dry-run: if this file were applied; needs no token")
    add_admin(reload)
    upstreams = add("upstreams", _upstreams, "Upstreams and endpoints of a running gateway: state, load, failures.")
    upstreams.add_argument("upstream", nargs="?", metavar="UPSTREAM", help="its name; default: all")
    add_admin(upstreams)
    limits = add("limits", _limits, "Rate limits of a running gateway: keys denied most, state of a key, reset of a key.")
    limits.add_argument("action", choices=("top", "key", "reset"), help="what to do")
    limits.add_argument("route", nargs="?", metavar="ROUTE", help="with `top`: only of this one; default: all")
    limits.add_argument(
        "key", nargs="?", metavar="KEY", help="its value, such as an address; those of a combined key joined by |"
    )
    limits.add_argument("--limit", default="default", metavar="NAME", help="default: %(default)s")
    limits.add_argument("--json", action="store_true", help="with `top`: all that `/limits` says, as JSON")
    add_admin(limits)


def _healthcheck(options: argparse.Namespace) -> int:
    from gateway.cli.admin_client import request

    admin = Admin(options)
    url = admin.url
    status, text = request(url, "GET", "/readyz", {})
    if not status and admin.note:
        text = f"{text}\n{admin.note}"
    elif status:
        text = "ready" if status == 200 else f"not ready: {url}/readyz answered {status}"
    print(text, file=sys.stdout if status == 200 else sys.stderr)
    return OK if status == 200 else UNREACHABLE


def _reload(options: argparse.Namespace) -> int:
    import json

    if options.file is not None:
        if not options.dry_run:
            fail(options.name, "a running gateway reads its own file: FILE goes with --dry-run")
        return diff_running(options, options.file, changed=OK, invalid=INVALID)
    status, text = ask(options, "POST", "/reload?dry_run=1" if options.dry_run else "/reload", RELOAD_TIMEOUT)
    try:
        text = str(json.loads(text)["text"])
    except (ValueError, TypeError, KeyError):
        pass
    return told(status, text)


def _limits(options: argparse.Namespace) -> int:
    from urllib.parse import urlencode

    if options.action == "top":
        from gateway.cli.limits import limited_routes, of_route, top_table

        status, text = ask(options, "GET", "/limits")
        if status == 200 and options.route is not None:
            known = limited_routes(text)
            if options.route not in known:
                fail(
                    options.name, f"no route `{options.route}` has rate limits; there are {', '.join(known) or 'none'}", INVALID
                )
            text = of_route(text, options.route)
        return told(status, top_table(text) if status == 200 and not options.json else text)
    if options.route is None or options.key is None:
        fail(options.name, f"`{options.action}` needs ROUTE and KEY")
    query = urlencode({"route": options.route, "limit": options.limit, "key": options.key})
    return told(*ask(options, "POST" if options.action == "reset" else "GET", f"/limits/{options.action}?{query}"))


def _upstreams(options: argparse.Namespace) -> int:
    import json

    status, text = ask(options, "GET", "/upstreams")
    if status != 200:
        return told(status, text)
    upstreams = json.loads(text)
    found = [one for one in upstreams if options.upstream in (None, one["name"])]
    if not found and options.upstream is not None:
        known = ", ".join(str(one["name"]) for one in upstreams) or "none"
        fail(options.name, f"there is no upstream `{options.upstream}`; there are {known}", INVALID)
    rows: list[tuple[str, ...]] = [
        ("UPSTREAM", "ENDPOINT", "STATE", "BREAKER", "IN FLIGHT", "REQUESTS", "FAILED", "LAST FAILURE", "WHY")
    ]
    for upstream in found:
        for one in upstream["endpoints"]:
            last = one["last_failure"] or {}
            cells = (one["state"], one["circuit_breaker"], one["in_flight"], one["requests"], one["failed"])
            ago = f"{_cell(last['reason'])}, {_cell(last['ago'])} s ago" if last else "-"
            rows.append((str(upstream["name"]), _cell(one["url"]), *map(_cell, cells), ago, _cell(one["why"])))
    print(columns(rows))
    return OK


def _cell(value: object) -> str:
    """What one worker says, or each of several."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {one}" for name, one in value.items())
    return "-" if value is None else str(value)
