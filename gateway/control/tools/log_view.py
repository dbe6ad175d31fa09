"""`gateway logs`: lines of the access log as people read them, and those that fit a filter.

Reads every format that `access_log.format` writes. Whatever is no such line is passed on as text: containers mix streams.
Nothing that a terminal obeys gets through: client and upstream chose some of these bytes.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.access_log import AccessNames
from gateway.control.words.units import UnitError, parse_duration
from gateway.proxy.access_log.line import ECS, FLAT, OTEL

_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
"""C0 and C1 controls, and characters that hide or turn text around."""
_STATUS: Final = re.compile(r"([1-5])xx|([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?", re.IGNORECASE)
_MILLISECONDS: Final = ("duration_ms", "queue_ms", "backoff_ms", "connect_ms", "upstream_ms", "overhead_ms", "ttfb_ms")
_LONGEST_LINE: Final = 1 << 20
_COLOURS: Final = {2: "\x1b[32m", 3: "\x1b[36m", 4: "\x1b[33m", 5: "\x1b[31m"}
_RESET: Final = "\x1b[0m"


class FilterError(ValueError):
    """A filter cannot be understood; the text is for people."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What a line must be to be shown. All must hold."""

    routes: frozenset[str] = frozenset()
    statuses: tuple[tuple[int, int], ...] = ()
    slow: float | None = None
    """Milliseconds."""
    failed: bool = False
    """A failure of any kind, or a 5xx of the upstream."""
    request: str = ""
    """A request id or a trace id."""

    def takes(self, entry: dict[str, Any]) -> bool:
        """Whether an entry with the flat names is to be shown."""
        status = entry.get("status")
        status = status if isinstance(status, int) else 0
        if self.routes and entry.get("route") not in self.routes:
            return False
        if self.statuses and not any(low <= status <= high for low, high in self.statuses):
            return False
        if self.slow is not None and not _number(entry.get("duration_ms")) >= self.slow:
            return False
        if self.failed and entry.get("failure") is None and status < 500:
            return False
        return not self.request or self.request in (entry.get("request_id"), entry.get("trace_id"))


def run(options: argparse.Namespace, *, colour: bool) -> None:
    """Read, filter and print until the input ends. Raises FilterError and OSError."""
    try:
        slow = None if options.slow is None else parse_duration(options.slow) * 1000.0
    except UnitError as error:
        raise FilterError(f"--slow: {error}") from None
    wanted = Filter(frozenset(options.route), parse_statuses(options.status), slow, options.failed, options.request)
    with ExitStack() as stack:
        file = sys.stdin.buffer if options.file == "-" else stack.enter_context(Path(options.file).open("rb"))
        lines = iter(lambda: file.readline(_LONGEST_LINE), b"")
        if options.follow and options.file != "-":
            lines = followed(Path(options.file), stack)
        for text in shown(lines, wanted, colour=colour, raw=options.raw):
            sys.stdout.write(text + "\n")
            if options.file == "-" or options.follow:
                sys.stdout.flush()


def followed(path: Path, stack: ExitStack, interval: float = 0.25) -> Iterator[bytes]:
    """The lines of the file, and those that are appended, for ever: a file renamed away is read to its end, then the new one,
    and one that was cut begins anew. `interval`: seconds between two looks. Raises OSError when there is none at first."""
    file = stack.enter_context(path.open("rb"))
    begun = b""
    while True:
        begun += file.readline(_LONGEST_LINE)
        if begun.endswith(b"\n") or len(begun) >= _LONGEST_LINE:
            yield begun
            begun = b""
            continue
        try:
            now, ours = path.stat(), os.fstat(file.fileno())
        except OSError:
            now = ours = os.fstat(file.fileno())
        if now.st_size < file.tell() and now.st_ino == ours.st_ino:
            file.seek(0)
        elif (now.st_dev, now.st_ino) != (ours.st_dev, ours.st_ino) and file.tell() >= ours.st_size:
            # Who follows for months must not keep a disk full of logs that were taken away.
            file.close()
            file = stack.enter_context(path.open("rb"))
        else:
            time.sleep(interval)


def parse_statuses(texts: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """Ranges from `5xx`, `404` and `500-503`, also joined by commas. Raises FilterError."""
    ranges = []
    for text in (part.strip() for joined in texts for part in joined.split(",")):
        match = _STATUS.fullmatch(text)
        if match is None:
            raise FilterError(f"`{text}` is no status such as 5xx, 404 or 500-503")
        if match[1]:
            ranges.append((int(match[1]) * 100, int(match[1]) * 100 + 99))
        else:
            ranges.append((int(match[2]), int(match[3] or match[2])))
    return tuple(ranges)


def read_entry(line: bytes) -> dict[str, Any] | None:
    """The entry with the flat names and milliseconds, whichever format wrote it; None when the line is no entry."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict):
        return None
    for names in (FLAT, ECS, OTEL):
        if names.names.get("ts", "ts") in found and names.names.get("status", "status") in found:
            return _flat(found, names)
    return None


def shown(lines: Iterable[bytes], wanted: Filter, *, colour: bool, raw: bool = False) -> Iterator[str]:
    """The lines to print. `raw`: as they were written, for another program."""
    for line in lines:
        entry = read_entry(line)
        if entry is None:
            if wanted == Filter() and not raw and line.strip():
                yield _clean(line.decode("utf-8", "backslashreplace").rstrip("\r\n"))
        elif wanted.takes(entry):
            yield line.decode("utf-8", "backslashreplace").rstrip("\r\n") if raw else _in_words(entry, colour=colour)


def _flat(found: dict[str, Any], names: AccessNames) -> dict[str, Any]:
    back = {name: flat for flat, name in names.names.items()}
    entry = {back.get(name, name): value for name, value in found.items()}
    entry["ts"] = _number(entry["ts"]) / names.time_scale
    for name in _MILLISECONDS:
        if name in entry:
            entry[name] = _number(entry[name]) / names.duration_scale * 1000.0
    return entry


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0


def _clean(text: str) -> str:
    return _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}" if ord(match[0]) < 256 else f"\\u{ord(match[0]):04x}", text)


def _in_words(entry: dict[str, Any], *, colour: bool) -> str:
    """Time, status, duration, request, and behind it who answered and why."""
    status = entry.get("status")
    number = str(status if isinstance(status, int) else "???")
    if colour and number[0].isdigit():
        number = f"{_COLOURS.get(int(number[0]), '')}{number}{_RESET}"
    query = f"?{entry['query']}" if entry.get("query") else ""
    request = f"{entry.get('method') or '?'} {entry.get('host') or ''}{entry.get('path') or ''}{query}"
    parts = [f"{_time(entry['ts'])} {number} {_number(entry.get('duration_ms')):>8.1f}ms {_clean(request)}"]
    parts.append(f"[{_clean(str(entry.get('route') or '-'))}]")
    if entry.get("failure"):
        parts.append(_clean(f"{entry.get('flags')} {entry['failure']}"))
        if entry.get("detail"):
            parts.append(_clean(f"({entry['detail']})"))
    if entry.get("upstream_addr"):
        attempts = f" ×{entry['attempts']}" if entry.get("attempts", 1) != 1 else ""
        connecting = f" (connecting {_number(entry['connect_ms']):.1f}ms)" if entry.get("connect_ms") else ""
        parts.append(_clean(f"← {entry['upstream_addr']}{attempts} {_number(entry.get('upstream_ms')):.1f}ms{connecting}"))
    if entry.get("slow"):
        parts.append("slow")
    parts += [_clean(f"{name}={entry[name]}") for name in ("client_ip", "request_id") if entry.get(name)]
    return " ".join(parts)


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    except (ValueError, OverflowError, OSError):
        return "????-??-??T??:??:??.???Z"
