"""`gateway limits top`: the keys that rate limits deny most, as a table"""

from __future__ import annotations

import json
from typing import Any, Final

from gateway.control.tools.columns import columns

_HEAD: Final = ("ROUTE", "LIMIT", "RULE", "DENIED", "KEY", "VALUE", "DIGEST")
HIDDEN: Final = "…"
"""Stands for a part of a key that nobody but the client knows."""


def top_table(text: str) -> str:
    """The table of what `/limits` answered."""
    page = json.loads(text)
    limits = {(one["route"], one["limit"]): one for one in page["limits"]}
    rows = [_row(one, limits.get((one["route"], one["limit"]), {})) for one in page["top"]]
    if not rows:
        return "no key has been denied" if limits else "there are no rate limits"
    rows.insert(0, _HEAD)
    return columns(rows)


def limited_routes(text: str) -> list[str]:
    """The routes of what `/limits` answered: those that have limits, and those of which denials are remembered."""
    page = json.loads(text)
    return list(dict.fromkeys(str(one["route"]) for part in ("limits", "top") for one in page[part]))


def of_route(text: str, route: str) -> str:
    """What `/limits` answered of one route."""
    page = json.loads(text)
    return json.dumps(page | {part: [one for one in page[part] if one["route"] == route] for part in ("limits", "top")})


def _row(denied: dict[str, Any], limit: dict[str, Any]) -> tuple[str, ...]:
    """A limit that is not configured any more has neither rule nor key."""
    most, error = denied["denied"], denied["too_high_by_at_most"]
    key = limit.get("key", [])
    return (
        denied["route"],
        denied["limit"],
        limit.get("rule", "-"),
        f"{most - error} to {most}" if error else str(most),
        "|".join(key) or "-",
        "|".join(_shown(part, denied) for part in key) or "-",
        denied["key"],
    )


def _shown(part: str, denied: dict[str, Any]) -> str:
    """A part of the key as `limits key` and `limits reset` want it, where it is known."""
    if part == "client_ip":
        return denied["client_ip"] or HIDDEN
    if part == "route":
        return str(denied["route"])
    kind, _, text = part.partition(":")
    return text if kind == "constant" else HIDDEN
