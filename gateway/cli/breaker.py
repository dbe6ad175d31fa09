"""`gateway breaker`: what it asks the admin listener for, and the answer as a table."""

from __future__ import annotations

import argparse
import os

from gateway.cli.common import Add, add_admin, ask, fail, told
from gateway.control.tools.columns import columns


def add_commands(add: Add) -> None:
    breaker = add("breaker", _breaker, "Circuit breakers of a running gateway: see, hold open or closed, release.")
    breaker.add_argument(
        "action", nargs="?", default="list", choices=("list", "open", "close", "release"), help="default: %(default)s"
    )
    breaker.add_argument("upstream", nargs="?", metavar="UPSTREAM", help="its name; with `list`: default all")
    breaker.add_argument("endpoint", nargs="?", metavar="ENDPOINT", help="as `list` shows it; default: all of the upstream")
    breaker.add_argument("--reason", metavar="TEXT", help="with `open` and `close`: why, for the log and for others")
    breaker.add_argument("--for", dest="lasts", default="1h", metavar="DURATION", help="how long; default: %(default)s")
    add_admin(breaker)


def _breaker(options: argparse.Namespace) -> int:
    from urllib.parse import urlencode

    given = {name: value for name, value in _query(options).items() if value is not None}
    listing = options.action == "list"
    target = "/breakers" if listing else f"/breakers/{options.action}"
    status, text = ask(options, "GET" if listing else "POST", f"{target}?{urlencode(given)}")
    return told(status, _table(text) if status == 200 else text)


def _query(options: argparse.Namespace) -> dict[str, str | None]:
    import getpass

    action = options.action
    query: dict[str, str | None] = {"upstream": options.upstream, "endpoint": options.endpoint}
    if action == "list":
        return query
    if options.upstream is None:
        fail(options.name, f"`{action}` needs UPSTREAM")
    if action != "release":
        if not options.reason:
            fail(options.name, f"`{action}` needs --reason")
        query |= {"reason": options.reason, "for": options.lasts}
    try:
        return query | {"by": getpass.getuser()}
    except (OSError, KeyError):  # a container's user may have no name
        return query | {"by": str(os.getuid())}


def _table(text: str) -> str:
    """The table of what `/breakers` answered."""
    import json

    rows = [("UPSTREAM", "ENDPOINT", "STATE", "CALLS", "FAILED", "SLOW", "PROBES AT", "WHY")]
    for one in json.loads(text)["breakers"]:
        window, forced = one["window"], one["forced"]
        state = one["state"] + (" (shadow)" if one["mode"] == "shadow" else "")
        why = one["reason"] or "-"
        if forced is not None:
            why = f"held {forced['to']} until {forced['until']} by {forced['by']}: {forced['reason']}"
        rates = [f"{window['failure_rate']:.1%}", f"{window['slow_rate']:.1%}"]
        rows.append((one["upstream"], one["endpoint"], state, str(window["calls"]), *rates, one["probes_at"] or "-", why))
    return columns(rows)
