"""`gateway logs`: filters, every format, and nothing that a terminal obeys."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.control.tools.log_view import Filter, FilterError, parse_statuses, read_entry, shown
from gateway.proxy.access_log.line import ECS, OTEL

ENTRY: dict[str, Any] = {
    "ts": 1795264000.25, "request_id": "abc", "trace_id": None, "client_ip": "192.0.2.1", "method": "GET", "scheme": "http",
    "host": "example.com", "path": "/a", "proto": "HTTP/1.1", "status": 200, "failure": None, "flags": "-",
    "upstream_addr": "http://10.0.0.1:80", "attempts": 1, "duration_ms": 12.34, "upstream_ms": 11.5,
    "queue_ms": 0.25, "backoff_ms": 0.5, "route": "users",
}  # fmt: skip


def lines(*entries: dict[str, Any]) -> list[bytes]:
    """What a log holds."""
    return [orjson.dumps(ENTRY | entry) + b"\n" for entry in entries]


def paths(wanted: Filter, *entries: dict[str, Any]) -> list[str]:
    """The paths of the entries that are shown."""
    return [orjson.loads(text)["path"] for text in shown(lines(*entries), wanted, colour=False, raw=True)]


def test_a_line_says_when_what_how_long_and_who() -> None:
    """One line of text for one line of JSON."""
    (text,) = shown(lines({}), Filter(), colour=False)

    assert text == (
        "2026-11-21T12:26:40.250Z 200     12.3ms GET example.com/a [users] ← http://10.0.0.1:80 11.5ms "
        "client_ip=192.0.2.1 request_id=abc"
    )


def test_a_line_says_how_long_it_took_to_connect() -> None:
    """A service that is slow to accept looks other than one that is slow to answer."""
    (text,) = shown(lines({"connect_ms": 11.0}), Filter(), colour=False)

    assert "← http://10.0.0.1:80 11.5ms (connecting 11.0ms)" in text


def test_a_failure_says_who_and_why() -> None:
    """Flag and code of the failure stand in the line, and how often it was tried."""
    (text,) = shown(lines({"status": 504, "failure": "deadline_exceeded", "flags": "UT", "attempts": 2}), Filter(), colour=True)

    assert "\x1b[31m504\x1b[0m" in text
    assert "UT deadline_exceeded" in text
    assert "×2" in text


@pytest.mark.parametrize(
    "wanted,expected",
    [
        (Filter(), ["/ok", "/slow", "/refused", "/broken"]),
        (Filter(routes=frozenset({"orders"})), ["/slow"]),
        (Filter(statuses=((500, 599), (404, 404))), ["/broken"]),
        (Filter(slow=500.0), ["/slow"]),
        (Filter(failed=True), ["/refused", "/broken"]),
        (Filter(request="t1"), ["/refused"]),
        (Filter(routes=frozenset({"users"}), failed=True, statuses=((400, 499),)), ["/refused"]),
    ],
)
def test_filters_hold_together(wanted: Filter, expected: list[str]) -> None:
    """A line is shown when it fits every filter."""
    entries: list[dict[str, Any]] = [
        {"path": "/ok"},
        {"path": "/slow", "duration_ms": 500.0, "route": "orders"},
        {"path": "/refused", "status": 429, "failure": "rate_limited", "trace_id": "t1"},
        {"path": "/broken", "status": 503},
    ]

    assert paths(wanted, *entries) == expected


def test_statuses_are_classes_numbers_and_ranges() -> None:
    """5xx, 404 and 500-503, also joined; anything else is refused with its name."""
    assert parse_statuses(["5xx, 404", "200-299"]) == ((500, 599), (404, 404), (200, 299))
    with pytest.raises(FilterError, match="`6xx`"):
        parse_statuses(["6xx"])


@pytest.mark.parametrize("names", [OTEL, ECS])
def test_every_format_is_understood(names: Any) -> None:
    """Names and units are put back, whichever format wrote the line."""
    scaled = ENTRY | {"ts": ENTRY["ts"] * names.time_scale}
    for name in ("duration_ms", "queue_ms", "backoff_ms", "upstream_ms"):
        scaled[name] = ENTRY[name] / 1000 * names.duration_scale
    line = orjson.dumps({names.names.get(name, name): value for name, value in scaled.items()})

    found = read_entry(line)

    assert found is not None
    assert {name: pytest.approx(found[name]) if isinstance(found[name], float) else found[name] for name in ENTRY} == ENTRY


def test_hostile_values_reach_no_terminal() -> None:
    """Escape sequences, C1 controls, line ends and marks that turn text around are shown, not obeyed."""
    hostile = "\x1b[2J\x9b31m\u202e\n\r\x07\u2028\u200b"
    entry = dict.fromkeys(("path", "host", "route", "failure", "flags", "upstream_addr", "client_ip", "request_id"), hostile)
    (text,) = shown(lines(entry), Filter(), colour=False)

    assert text.isprintable()
    assert "\\x1b[2J\\x9b31m\\u202e\\x0a" in text


@pytest.mark.parametrize(
    "line",
    [b"not json \x1b[31m\n", b"[1]\n", b"{}\n", b'"a"\n', b"\xff\xfe\n", b'{"ts": 1}\n',
     b'{"ts":"x","status":200,"duration_ms":[]}\n',
     b'{"ts":1e308,"status":"x","route":{},"attempts":null}\n'],
)  # fmt: skip
def test_no_line_ends_the_reading(line: bytes) -> None:
    """What is no entry is shown as text, whatever it is; what only looks like one is shown as far as it goes."""
    (text,) = shown([line], Filter(), colour=False)

    assert text.isprintable()
    assert list(shown([line], Filter(failed=True), colour=False)) == []


@pytest.mark.slow
def test_the_command_reads_files_and_standard_input(tmp_path: Path) -> None:
    """`gateway logs FILE` and `… | gateway logs`; wrong usage and missing files have their exit codes."""
    path = tmp_path / "access.log"
    path.write_bytes(b"".join(lines({}, {"status": 503, "path": "/b"})))

    def logs(*arguments: str, given: bytes = b"") -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "logs", *arguments], input=given, capture_output=True, check=False
        )
        return done.returncode, (done.stdout + done.stderr).decode()

    code, text = logs(str(path), "--status", "5xx")
    assert code == 0 and "example.com/b" in text and text.count("\n") == 1
    code, text = logs("--slow", "10ms", "--raw", given=path.read_bytes())
    assert code == 0 and text.encode() == path.read_bytes()
    assert logs("--slow", "10")[0] == 2
    assert logs(str(tmp_path / "none"))[0] == 3
