"""`gateway breaker`: what it asks the admin listener for, and the answer as a table."""

from __future__ import annotations

import argparse
import os
import sys

from gateway.cli.common import USAGE, Add, add_admin, token_header, told


def add_commands(add: Add) -> None:
    """Register the command."""
    breaker = add("breaker", _breaker, "Circuit breakers of a running gateway: see, hold open or closed, release.")
    breaker.add_argument("action", choices=("list", "open", "close", "release"), help="what to do")
    breaker.add_argument("upstream", nargs="?", metavar="UPSTREAM", help="its name; with `list`: default all")
    breaker.add_argument("endpoint", nargs="?", metavar="ENDPOINT", help="as `list` shows it; default: all of the upstream")
    breaker.add_argument("--reason", metavar="TEXT", help="with `open` and `close`: why, for the log and for others")
    breaker.add_argument("--for", dest="lasts", default="1h", metavar="DURATION", help="how long; default: %(default)s")
    add_admin(breaker)


def _breaker(options: argparse.Namespace) -> int:
    from gateway.cli.admin_client import request

    headers = token_header(options)
    if headers is None:
        return USAGE
    try:
        status, text = request(options.admin, *_request_of(options), headers)
    except _UsageError as error:
        print(f"gateway breaker: error: {error}", file=sys.stderr)
        return USAGE
    return told(status, _table(text) if status == 200 else text)


class _UsageError(ValueError):
    """An argument is missing; the text says which."""


def _request_of(options: argparse.Namespace) -> tuple[str, str]:
    """Method and target of the request. Raises _UsageError."""
    import getpass

    action = options.action
    named = {"upstream": options.upstream, "endpoint": options.endpoint}
    if action == "list":
        return "GET", f"/breakers?{_query(named)}"
    if options.upstream is None:
        raise _UsageError(f"`{action}` needs UPSTREAM")
    if action != "release":
        if not options.reason:
            raise _UsageError(f"`{action}` needs --reason")
        named |= {"reason": options.reason, "for": options.lasts}
    try:
        named["by"] = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        named["by"] = str(os.getuid())
    return "POST", f"/breakers/{action}?{_query(named)}"


def _query(values: dict[str, str | None]) -> str:
    from urllib.parse import urlencode

    return urlencode({name: value for name, value in values.items() if value is not None})


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
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
