"""Quantities as an operator writes them: `1m30s`, `64KiB`, `50%`.

A bare number is refused, because 5 may mean seconds to one reader and milliseconds to the next.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.control.words.unit_hints import duration_hint, percent_hint, size_hint

DURATION_PATTERN: Final = r"^(?=[0-9])([0-9]+h)?([0-9]+m)?([0-9]+(\.[0-9]+)?s)?([0-9]+ms)?$"
SIZE_PATTERN: Final = r"^[0-9]+(B|KB|MB|GB|KiB|MiB|GiB)$"
PERCENT_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?%$"

MAX_DURATION: Final = 86_400.0
"""Seconds. A day: nothing here waits longer, and timers overflow far beyond."""
MAX_SIZE: Final = 1 << 40

_DURATION: Final = re.compile(r"(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+(?:\.[0-9]+)?)s)?(?:([0-9]+)ms)?")
_SIZE: Final = re.compile(r"([0-9]+)([A-Za-z]*)")
_PERCENT: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)%")
_FACTORS: Final = {"B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_MAX_TEXT: Final = 40


class UnitError(ValueError):
    """The text is no such quantity. `hint` is what was probably meant, or empty."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def parse_duration(text: str) -> float:
    """Seconds from `250ms`, `5s`, `1.5s`, `1m30s`, `1h`. Raises UnitError; nothing above a day is allowed."""
    match = _DURATION.fullmatch(text) if 0 < len(text) <= _MAX_TEXT else None
    if match is None:
        raise UnitError("not a duration such as `250ms`, `5s` or `1m30s`", duration_hint(text))
    hours, minutes, seconds, millis = (float(group) if group else 0.0 for group in match.groups())
    total = hours * 3600 + minutes * 60 + seconds + millis / 1000
    if total > MAX_DURATION:
        raise UnitError("a duration of more than a day (`24h`): nothing here waits longer", "24h")
    return total


def parse_duration_within(text: str, least: str, most: str) -> float:
    """Seconds from a duration between these two. Raises UnitError."""
    try:
        seconds = parse_duration(text)
    except UnitError as error:
        raise UnitError(str(error), error.hint if error.hint != "0s" else "") from None
    if not parse_duration(least) <= seconds <= parse_duration(most):
        raise UnitError(f"must be between `{least}` and `{most}`")
    return seconds


def parse_size(text: str) -> int:
    """Bytes from `64KiB`, `10MiB`, `10MB`, `1024B`. Raises UnitError; nothing above 1024GiB is allowed."""
    match = _SIZE.fullmatch(text) if 0 < len(text) <= _MAX_TEXT else None
    factor = _FACTORS.get(match[2]) if match is not None else None
    if match is None or factor is None:
        raise UnitError("not a size such as `1024B`, `64KiB` or `10MiB`", size_hint(text))
    size = int(match[1]) * factor
    if size > MAX_SIZE:
        raise UnitError("a size of more than `1024GiB`: `off` is no limit, where it can be written")
    return size


def parse_percent(text: str) -> float:
    """A share between 0 and 1 from `50%` or `12.5%`. Raises UnitError."""
    match = _PERCENT.fullmatch(text) if len(text) <= _MAX_TEXT else None
    if match is None:
        raise UnitError("not a percentage such as `50%`", percent_hint(text))
    share = float(match[1]) / 100
    if share > 1:
        raise UnitError("a percentage of more than `100%`")
    return share


def format_duration(seconds: float) -> str:
    """The shortest way to write a duration: 0.25 is `250ms`, 90 is `1m30s`."""
    millis = round(seconds * 1000)
    parts = []
    for factor, unit in ((3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")):
        count, millis = divmod(millis, factor)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def format_size(size: int) -> str:
    """The shortest exact way to write a size: 65536 is `64KiB`."""
    for factor, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"
