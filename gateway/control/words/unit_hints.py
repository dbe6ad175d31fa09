"""What was probably meant by a quantity that is written in another way: `5sec`, `10M`, `0.5` for a percentage."""

from __future__ import annotations

import re
from typing import Final

_LONGEST: Final = 40
_UNITS: Final = {
    "ms": 1, "msec": 1, "msecs": 1, "milli": 1, "millis": 1, "millisecond": 1, "milliseconds": 1,
    "s": 1000, "sec": 1000, "secs": 1000, "second": 1000, "seconds": 1000,
    "m": 60_000, "min": 60_000, "mins": 60_000, "minute": 60_000, "minutes": 60_000,
    "h": 3_600_000, "hr": 3_600_000, "hrs": 3_600_000, "hour": 3_600_000, "hours": 3_600_000,
    "d": 86_400_000, "day": 86_400_000, "days": 86_400_000, "w": 604_800_000, "week": 604_800_000, "weeks": 604_800_000,
    "us": 0.001, "\u00b5s": 0.001, "\u03bcs": 0.001, "ns": 0.000_001,
}  # fmt: skip
"""Milliseconds."""
_PART: Final = re.compile(r"([0-9]+(?:[.,][0-9]+)?)\s*([a-z\u00b5\u03bc]+)")
_CLOCK: Final = re.compile(r"(?:([0-9]{1,2}):)?([0-9]{1,2}):([0-9]{2})")
_NUMBER: Final = re.compile(r"[0-9]*[.,]?[0-9]+")
_DAY: Final = 86_400_000
_SIZES: Final = {
    "": "B", "b": "B", "byte": "B", "bytes": "B", "kb": "KB", "mb": "MB", "gb": "GB",
    "k": "KiB", "m": "MiB", "g": "GiB", "ki": "KiB", "mi": "MiB", "gi": "GiB", "kib": "KiB", "mib": "MiB", "gib": "GiB",
}  # fmt: skip
_FACTORS: Final = {"B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_QUOTA: Final = re.compile(
    r"([0-9][0-9_,]*)\s*(k|m)?\s*(?:r|rq|req|reqs|request|requests|hit|hits|call|calls|x)?\s*"
    r"(?:/|per|a|an|p|/\s*per)\s*(?:1\s*)?(s|sec|second|m|min|minute|h|hr|hour|d|day)s?"
)
_PER: Final = {"s": "s", "m": "min", "h": "h", "d": "day"}
_NO_LIMIT: Final = frozenset({"off", "none", "no", "never", "false", "infinite", "infinity", "unlimited", "0", "-1", "0s"})


def duration_hint(text: str) -> str:
    """A duration, or empty."""
    written = text.strip().lower()
    if not 0 < len(written) <= _LONGEST:
        return ""
    if written in _NO_LIMIT:
        return "0s"
    if _NUMBER.fullmatch(written):
        number = float(written.replace(",", "."))
        # Nobody waits for thousands of seconds: these are milliseconds.
        return _in_units(number) if number >= 1000 else f"{number:g}s"
    if written.startswith("pt") and _PART.fullmatch(written[2:].split("s")[0] + "s"):
        written = written[2:]
    clock = _CLOCK.fullmatch(written)
    if clock is not None:
        hours, minutes, seconds = (int(group or 0) for group in clock.groups())
        return _in_units((hours * 3600 + minutes * 60 + seconds) * 1000)
    parts = _PART.findall(written)
    if not parts or _PART.sub("", written).strip(" ,+") or any(unit not in _UNITS for _, unit in parts):
        return ""
    return _in_units(sum(float(number.replace(",", ".")) * _UNITS[unit] for number, unit in parts))


def _in_units(millis: float) -> str:
    total = max(round(millis), 1) if millis > 0 else 0
    if total > _DAY or not total:
        return "24h" if total else ""
    words = []
    for unit, factor in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, total = divmod(total, factor)
        words += [f"{count}{unit}"] if count else []
    return "".join(words)


def means_no_limit(text: str) -> bool:
    """Whether somebody wants to have no limit at all."""
    return text.strip().lower() in _NO_LIMIT


def size_hint(text: str) -> str:
    """A size, or empty."""
    written = re.sub(r"(?:/s|ps)$", "", text.replace(" ", "").lower())
    match = re.fullmatch(r"([0-9]+(?:[.,][0-9]+)?|[0-9]{1,3}(?:[_,][0-9]{3})+)([a-z]*)", written)
    if match is None or len(text) > _LONGEST or match[2] not in _SIZES:
        return ""
    number = match[1]
    if re.fullmatch(r"[0-9]{1,3}(?:[_,][0-9]{3})+", number):
        number = re.sub(r"[_,]", "", number)
    unit = _SIZES[match[2]]
    if number.isdigit() and unit != "B":
        return f"{number}{unit}"
    size = round(float(number.replace(",", ".")) * _FACTORS[unit])
    larger = next((name for name in ("GiB", "MiB", "KiB") if size and size % _FACTORS[name] == 0), "B")
    return f"{size // _FACTORS[larger]}{larger}"


def percent_hint(text: str) -> str:
    """A percentage, or empty: `0.5` is half of all, `50` is too."""
    match = re.fullmatch(r"([0-9]*[.,]?[0-9]+)\s*(?:%|percent|pct)?", text.strip().lower())
    if match is None or len(text) > _LONGEST:
        return ""
    number = float(match[1].replace(",", "."))
    share = match[1] == text.strip() and number <= 1 and not match[1].isdigit()
    return f"{number * 100 if share else number:.6g}%" if number <= 100 else ""


def quota_hint(text: str) -> str:
    """A quota such as `10/s`, or empty."""
    written = re.sub(r"(?<=[0-9k])\s*(?:rps|qps|tps|req/s)$", "/s", text.strip().lower())
    written = re.sub(r"(?<=[0-9k])\s*rpm$", "/min", written)
    match = _QUOTA.fullmatch(written)
    if match is None or len(text) > _LONGEST:
        return ""
    count = int(re.sub(r"[_,]", "", match[1])) * {"k": 1000, "m": 1_000_000}.get(match[2] or "", 1)
    return f"{count}/{_PER[match[3][0]]}"
