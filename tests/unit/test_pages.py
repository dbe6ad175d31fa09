"""A page of several workers as one."""

from __future__ import annotations

from typing import Any

from gateway.control.admin.pages import merged


def upstream(in_flight: int, state: str = "healthy", *, url: str = "http://a") -> list[dict[str, Any]]:
    """A small /upstreams."""
    return [
        {
            "name": "u",
            "endpoints": [
                {"url": url, "weight": 2, "state": state, "in_flight": in_flight, "connections": {"open": in_flight, "idle": 0}}
            ],
        }
    ]


def test_loads_are_added_and_settings_are_not() -> None:
    """Two workers with three exchanges each have six; the weight is what it is."""
    endpoint = merged({0: upstream(3), 1: upstream(3)})[0]["endpoints"][0]

    assert endpoint == {
        "url": "http://a", "weight": 2, "state": "healthy", "in_flight": 6, "connections": {"open": 6, "idle": 0}
    }  # fmt: skip


def test_what_differs_is_shown_for_each_worker() -> None:
    """An endpoint that one worker has ejected is not simply healthy."""
    endpoint = merged({0: upstream(0), 2: upstream(0, "ejected")})[0]["endpoints"][0]

    assert endpoint["state"] == {"worker 0": "healthy", "worker 2": "ejected"}


def test_entries_that_only_one_worker_has_are_there() -> None:
    """Names are looked up by each worker for itself."""
    endpoints = merged({0: upstream(1), 1: upstream(2, url="http://b")})[0]["endpoints"]

    assert [(endpoint["url"], endpoint["in_flight"]) for endpoint in endpoints] == [("http://a", 1), ("http://b", 2)]
