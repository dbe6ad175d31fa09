"""Cures for values: what an operator probably meant, tried out against the schema before it is proposed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from gateway.control.advice.places import quoted
from gateway.control.json_schema import known_fields
from gateway.control.reading.nodes import Loc
from gateway.control.schema import Config

_OFF: Final = frozenset(
    {"false", "no", "off", "none", "null", "never", "disabled", "disable", "unlimited", "infinite", "0", "-1"}
)
_ON: Final = frozenset({"true", "yes", "on", "enabled", "enable", "default", "1", "auto"})
_SYNONYMS: Final = {
    "leastconn": "least_in_flight", "leastrequest": "least_in_flight", "leastconnections": "least_in_flight",
    "wrr": "round_robin", "random": "two_choices", "p2c": "two_choices", "ewma": "latency", "peakewma": "latency",
    "chash": "consistent_hash", "ringhash": "consistent_hash", "maglev": "consistent_hash", "hash": "consistent_hash",
    "high": "critical", "low": "sheddable", "normal": "default", "medium": "default",
    "brotli": "br", "gz": "gzip", "ws": "websocket", "gatewayerror": "5xx", "connectfailure": "connect", "error": "connect",
    "ip": "client_ip", "remoteaddr": "client_ip", "remoteip": "client_ip", "json": "flat", "dryrun": "shadow",
    "leakybucket": "token_bucket", "gcra": "token_bucket", "fixedwindow": "sliding_window",
    "tls12": "1.2", "tlsv12": "1.2", "tls13": "1.3", "tlsv13": "1.3",
}  # fmt: skip
_NUMBER: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kKmM])?")
_MOST_TRIES: Final = 60
_MANY: Final = 100


def fits(data: Any, loc: Loc, value: Any, base: Path) -> bool:
    """Whether the value is right at a place, whatever else is wrong with the file."""
    here = _named(loc)
    try:
        Config.model_validate(_only(data, loc, value), context={"base": base})
    except ValidationError as error:
        places = [
            _named(one["loc"]) for one in error.errors(include_url=False, include_input=False) if one["type"] != "too_short"
        ]
        return all(place[: len(here)] != here and place != here[:-1] for place in places)
    return True


def _named(loc: Iterable[str | int]) -> tuple[str, ...]:
    """A place without numbers: there is one entry in each list."""
    return tuple(step for step in loc if isinstance(step, str))


def _only(data: Any, loc: Loc, value: Any) -> Any:
    """The file with nothing but this place in lists, and in maps of many, so that a try costs little."""
    if not loc:
        return value
    step, rest = loc[0], loc[1:]
    if isinstance(step, int):
        # A single value may stand for a list of one.
        return [_only(data[step], rest, value)] if isinstance(data, list) else _only(data, rest, value)
    kept = {key: item for key, item in data.items() if key not in ("routes", "upstreams")} if len(data) <= _MANY else {}
    return {**kept, step: _only(data.get(step), rest, value)}


def cure(data: Any, loc: Loc, base: Path) -> str:
    """What can be written in place of the value at `loc`, as `key: value`; empty when nothing comes to mind."""
    found: Any = data
    for step in loc:
        if not isinstance(step, int) or isinstance(found, list):
            found = found[step]
    name = next((str(step) for step in reversed(loc) if isinstance(step, str)), "")
    entry = bool(loc) and isinstance(loc[-1], int)
    for tries, candidate in enumerate(_candidates(found, loc)):
        if tries >= _MOST_TRIES:
            break
        if candidate != found and fits(data, loc, candidate, base):
            text = quoted(candidate)
            return f"`{text}`" if entry else f"`{name}: {text}`"
    return ""


def _candidates(value: Any, loc: Loc) -> Iterator[Any]:
    """What may have been meant, the likeliest first. Values are as they are read: text, true, false, lists and maps."""
    if isinstance(value, list):
        if len(value) == 1:
            yield value[0]
        if value and all(isinstance(item, dict) and len(item) == 1 for item in value):
            yield {key: item for one in value for key, item in one.items()}
        yield from ({name: value} for name in known_fields(loc))
        return
    if isinstance(value, dict):
        yield [value]
        yield from value.values() if len(value) == 1 else ()
        if value and all(isinstance(item, str) for item in value.values()):
            yield list(value.values())
        yield from ({name: value} for name in known_fields(loc))
        return
    text = ("true" if value else "false") if isinstance(value, bool) else str(value)
    lower = text.strip().lower()
    if lower in _OFF:
        yield from ("off", False, [])
    if lower in _ON:
        yield from ("on", True)
    synonym = _SYNONYMS.get(re.sub(r"[^a-z0-9]", "", lower))
    if synonym:
        yield from (synonym, [synonym])
    if not isinstance(value, str):
        return
    yield from _spellings(text)
    yield [text]
    parts = [part for part in re.split(r"\s*[,|;]\s*|\s+", text.strip()) if part]
    if len(parts) > 1:
        yield parts
        yield [part.upper() for part in parts]
    yield [text.upper()]
    yield [text.lower()]
    if lower not in _OFF | _ON:
        yield from ({name: text} for name in known_fields(loc))


def _spellings(text: str) -> Iterator[str]:
    stripped = text.strip()
    yield stripped
    yield stripped.lower()
    yield stripped.upper()
    yield re.sub(r"[\s-]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", stripped)).lower()
    yield stripped.strip("\"'`;,")
    bare = re.sub(r"(?<=[0-9])[_,' ](?=[0-9]{3})", "", stripped)
    match = _NUMBER.fullmatch(bare)
    if match is not None:
        factor = {"k": 1000, "m": 1_000_000}.get((match[2] or "").lower(), 1)
        number = float(match[1]) * factor
        if number == int(number):
            yield str(int(number))
