"""`gateway limits top`: the table of what `/limits` answered."""

from __future__ import annotations

import json

from gateway.cli.limits import limited_routes, of_route, top_table

LIMIT = {"route": "users", "limit": "client", "rule": "2 per 1m", "key": ["client_ip", "constant:eu", "cookie:session"]}


def denied(**more: object) -> dict[str, object]:
    """A key of that limit."""
    known = {"route": "users", "limit": "client", "key": "ab" * 16, "client_ip": "192.0.2.7", "denied": 9}
    return {**known, "too_high_by_at_most": 0, **more}


def cells(text: str) -> list[list[str]]:
    """The rows below the head."""
    return [[cell.strip() for cell in line.split("  ") if cell] for line in text.splitlines()[1:]]


def test_what_is_known_of_a_key() -> None:
    """Address and constants are told as `limits key` wants them, what a client sent is hidden, and counts have their error."""
    page = {"limits": [LIMIT], "top": [denied(), denied(too_high_by_at_most=2, client_ip=None)]}

    assert cells(top_table(json.dumps(page))) == [
        ["users", "client", "2 per 1m", "9", "client_ip|constant:eu|cookie:session", "192.0.2.7|eu|…", "ab" * 16],
        ["users", "client", "2 per 1m", "7 to 9", "client_ip|constant:eu|cookie:session", "…|eu|…", "ab" * 16],
    ]


def test_a_limit_that_is_gone() -> None:
    """Of a limit that a reload has removed only the digests are left."""
    (row,) = cells(top_table(json.dumps({"limits": [], "top": [denied()]})))

    assert row == ["users", "client", "-", "9", "-", "-", "ab" * 16]


def test_one_route_of_several() -> None:
    """A route alone, be it that its limits are gone; the others are known by name, so that a slip of the pen is told."""
    text = json.dumps({"limits": [LIMIT], "top": [denied(), denied(route="gone")]})

    assert limited_routes(text) == ["users", "gone"]
    assert [row[0] for row in cells(top_table(of_route(text, "gone")))] == ["gone"]


def test_nothing_to_show() -> None:
    """No denial and no limit are told apart."""
    assert top_table(json.dumps({"limits": [LIMIT], "top": []})) == "no key has been denied"
    assert top_table(json.dumps({"limits": [], "top": []})) == "there are no rate limits"
