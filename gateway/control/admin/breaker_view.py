"""`gateway breaker`: what it asks the admin listener for, and the answer as a table. Imports nothing that is slow."""

from __future__ import annotations

import argparse
import getpass
import json
import os
from urllib.parse import urlencode


class UsageError(ValueError):
    """An argument is missing; the text says which."""


def request_of(options: argparse.Namespace) -> tuple[str, str]:
    """Method and target of the request. Raises UsageError."""
    action = options.action
    named = {"upstream": options.upstream, "endpoint": options.endpoint}
    if action == "list":
        return "GET", f"/breakers?{_query(named)}"
    if options.upstream is None:
        raise UsageError(f"`{action}` needs UPSTREAM")
    if action != "release":
        if not options.reason:
            raise UsageError(f"`{action}` needs --reason")
        named |= {"reason": options.reason, "for": options.lasts}
    try:
        named["by"] = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        named["by"] = str(os.getuid())
    return "POST", f"/breakers/{action}?{_query(named)}"


def _query(values: dict[str, str | None]) -> str:
    return urlencode({name: value for name, value in values.items() if value is not None})


def breaker_table(text: str) -> str:
    """The table of what `/breakers` answered."""
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
