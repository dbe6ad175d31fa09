"""Cures for values: what an operator probably meant, tried out against the schema before it is proposed."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import ValidationError

from gateway.control.advice.places import quoted
from gateway.control.reading.nodes import Loc
from gateway.control.schema import Config
from gateway.control.words.unit_hints import quota_hint

_OFF: Final = frozenset(
    {"false", "no", "off", "none", "null", "never", "disabled", "disable", "unlimited", "infinite", "0", "-1"}
)
_ON: Final = frozenset({"true", "yes", "on", "enabled", "enable", "default", "1", "auto"})
_SYNONYMS: Final = {
    "leastconn": "least_in_flight", "leastrequest": "least_in_flight", "leastconnections": "least_in_flight",
    "wrr": "round_robin", "random": "two_choices", "p2c": "two_choices", "ewma": "latency", "peakewma": "latency",
    "chash": "consistent_hash", "ringhash": "consistent_hash", "maglev": "consistent_hash", "hash": "consistent_hash",
    "high": "critical", "low": "sheddable", "normal": "default", "medium": "default",
    "500599": "5xx", "gatewayerror": "5xx", "connectfailure": "connect", "error": "connect",
    "brotli": "br", "gz": "gzip", "ws": "websocket",
    "ip": "client_ip", "remoteaddr": "client_ip", "remoteip": "client_ip", "json": "flat", "dryrun": "shadow",
    "leakybucket": "token_bucket", "gcra": "token_bucket", "fixedwindow": "sliding_window",
    "max": "auto", "cpus": "auto", "cores": "auto", "randomtwo": "two_choices", "random2": "two_choices", "allow": "forward",
    "tls12": "1.2", "tlsv12": "1.2", "tls13": "1.3", "tlsv13": "1.3",
}  # fmt: skip
_INSIDE: Final = {
    "match": ("path", "host", "methods"), "limits": ("body",), "keep_alive": ("idle", "max_idle"), "admin": ("listen",),
    "server": ("listen",), "backoff": ("base",), "compression": ("codings",), "respond": ("body",), "ejection": ("failures",),
    "request_fields": ("set",), "response_fields": ("set",), "body": ("body",), "retry": ("on",), "exempt": ("cidrs", "keys"),
    "redirect": ("to",), "queue": ("max_wait", "size"), "headers": ("request",),
    "levels": ("gzip",), "load_balancing": ("algorithm",), "tls": ("ca",), "include": (),
}  # fmt: skip
"""The words of a block that a bare value may have been meant for."""
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


def cure(data: Any, loc: Loc, base: Path, *, off: bool = False) -> str:
    """What can be written in place of the value at `loc`, as `key: value`; empty when nothing comes to mind.

    `off`: the value is well written, and only too large or too small: all that may have been meant is `off`.
    """
    found: Any = data
    for step in loc:
        if not isinstance(step, int) or isinstance(found, list):
            found = found[step]
    name = next((str(step) for step in reversed(loc) if isinstance(step, str)), "")
    entry = bool(loc) and isinstance(loc[-1], int)
    for tries, candidate in enumerate(_candidates(found, loc)):
        if tries >= _MOST_TRIES:
            break
        if off and candidate != "off":
            break
        if candidate not in (found, "") and fits(data, loc, candidate, base):
            text = quoted(candidate)
            return f"`{text}`" if entry else f"`{name}: {text}`"
    return ""


def _candidates(value: Any, loc: Loc) -> Iterator[Any]:
    """What may have been meant, the likeliest first. Values are as they are read: text, true, false, lists and maps."""
    name = next((step for step in reversed(loc) if isinstance(step, str)), "")
    outer = loc[-2] if len(loc) > 1 else ""
    if isinstance(value, list):
        if value and all(isinstance(item, dict) and {"name", "value"} <= item.keys() for item in value):
            yield {item["name"]: item["value"] for item in value}
        if name == "match" and len(value) > 1:
            if all(isinstance(item, dict) and list(item) == ["path"] for item in value):
                yield {"path": [item["path"] for item in value]}
            return
        if outer in ("headers", "query") and all(isinstance(item, str) and re.fullmatch(r"[\w-]+", item) for item in value):
            yield {"regex": "|".join(value)}
        yield from value[:1] if len(value) == 1 else ()
        if name in ("headers", "query") and all(isinstance(item, str) for item in value):
            yield dict.fromkeys(value, True)
        if value and all(isinstance(item, dict) and len(item) == 1 for item in value):
            yield {key: item for one in value for key, item in one.items()}
            yield {"set": {key: item for one in value for key, item in one.items()}}
    elif isinstance(value, dict):
        if {"type", "value"} <= value.keys() and isinstance(value["value"], str):
            yield f"{value['value'].rstrip('/')}/**" if "refix" in str(value["type"]) else value["value"]
        if name == "body":
            yield json.dumps(value)
        yield [value]
        yield from _of_single(*next(iter(value.items()))) if len(value) == 1 and name != "body" else ()
        if {"address", "port"} <= value.keys():
            yield [f"{value['address']}:{value['port']}"]
        if value and all(isinstance(item, str) for item in value.values()):
            yield list(value.values())
    else:
        text = ("true" if value else "false") if isinstance(value, bool) else str(value)
        yield from _of_rule(text) if name in ("match", "path") else ()
        yield from _of_scalar(text, name, value) if outer not in ("set", "add") else ()
        return
    yield from ({inner: value} for inner in _INSIDE.get(name, ()))


def _of_rule(text: str) -> Iterator[Any]:
    """A rule of Traefik, as a match or as a path: Host(`a`) && PathPrefix(`/api`)."""
    found: dict[str, list[str]] = {}
    for kind, names in re.findall(r"(Host|PathPrefix|Path|Method)\(([^)]*)\)", text):
        word = {"Host": "host", "Method": "methods"}.get(kind, "path")
        for one in re.findall(r"[`'\"]([^`'\"]+)[`'\"]", names):
            found.setdefault(word, []).append(f"{one.rstrip('/')}/**" if kind == "PathPrefix" else one)
    if found and "||" not in text:
        yield {word: values if len(values) > 1 or word == "methods" else values[0] for word, values in found.items()}
        yield from found.get("path", ())


def _of_single(key: str, value: Any) -> Iterator[Any]:
    """A map with one key, which says how a text is meant elsewhere: `{prefix: /api}`, `{regexp: …}`."""
    if key in ("prefix", "path_prefix", "startsWith") and isinstance(value, str):
        yield f"{value.rstrip('/')}/**"
    if key in ("regexp", "re", "pattern", "match", "safe_regex"):
        yield {"regex": value}
    if key != "regex":
        yield value


def _of_scalar(text: str, name: str, value: Any) -> Iterator[Any]:
    lower = text.strip().lower()
    if lower in _OFF:
        yield from ("off", False, "0%", {"listen": "off"}, {"max_idle": "0"}, {"watch": False}, [])
    if lower in _ON and name not in ("sticky", "host", "name"):
        yield from ("on", True, "always", "enforce", "both", ["websocket"])
    yield from _synonyms(text, name)
    if not isinstance(value, str):
        return
    parts = [part for part in re.split(r"\s*[,|;]\s*|\s+", text.strip()) if part]
    if len(parts) > 1:
        yield parts
        yield [part.upper() for part in parts]
    yield from _spellings(text, name)
    yield from ([text], [text.upper()], [text.lower()])
    if name == "rewrite_prefix" and text.startswith("/"):
        yield {"from": "/", "to": text}
    pair = re.fullmatch(r"([A-Za-z][A-Za-z0-9_-]*)\s*[=:]\s*(.+)", text)
    if pair is not None:
        yield {pair[1]: pair[2]}
    moved = re.fullmatch(r"(30[12378])\s+(\S+?);?", text)
    if moved is not None:
        yield {"to": moved[2], "status": moved[1]}
    status = re.match(r"([2-5][0-9]{2})\b(?!-)", text)
    if status is not None:
        yield status[1]
    if text.startswith("-"):
        yield [text[1:]]
    if re.fullmatch(r"[0-9]{2,5}", text):
        yield {"listen": f"127.0.0.1:{text}"}
    if lower not in _OFF | _ON:
        yield from ({inner: text} for inner in _INSIDE.get(name, ()))
        yield from ({inner: [text]} for inner in _INSIDE.get(name, ()))


def _synonyms(text: str, name: str) -> Iterator[Any]:
    plain = re.sub(r"[^a-z0-9]", "", text.lower())
    if plain in _SYNONYMS:
        yield from (_SYNONYMS[plain], [_SYNONYMS[plain]])
    if plain in ("iphash", "source", "sourceiphash", "clientiphash"):
        yield {"algorithm": "consistent_hash", "key": "client_ip"}
    if name in ("key", "cookie"):
        variable = re.fullmatch(r"\$(?:http_|arg_|cookie_)?([a-z_]+)|\{?([A-Za-z][A-Za-z0-9_-]+)\}?", text.strip())
        kind = {"$a": "query", "$c": "cookie"}.get(text.strip()[:2], "header")
        if plain in ("remoteaddr", "binaryremoteaddr", "remoteip", "ipaddress", "clientaddress", "sourceip"):
            yield "client_ip"
        elif variable is not None and text not in ("path", "header", "query", "cookie", "constant", "uri", "url"):
            yield f"{kind}:{(variable[1] or variable[2]).replace('_', '-')}"


def _spellings(text: str, name: str) -> Iterator[str]:
    stripped = text.strip()
    yield quota_hint(stripped)
    yield stripped
    yield stripped.partition("#")[0].strip()
    yield stripped.strip("\"'`;,%")
    yield stripped.lower()
    yield stripped.upper()
    yield re.sub(r"-+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", stripped)).lower()
    bare = re.sub(r"(?<=[0-9])[_,' ](?=[0-9]{3})", "", stripped)
    match = _NUMBER.fullmatch(bare)
    if match is not None:
        number = float(match[1]) * {"k": 1000, "m": 1_000_000}.get((match[2] or "").lower(), 1)
        if number == int(number):
            yield str(int(number))
    if re.match(r"v?1(\.0+)?$", stripped) or name == "version":
        yield "1"
    probe = re.fullmatch(r"(?:GET|HEAD|OPTIONS)\s+(/\S*)", stripped)
    if probe is not None:
        yield probe[1]
    if name in ("path", "health", "to", "from", "strip_prefix", "rewrite_prefix"):
        yield urlsplit(stripped).path if "://" in stripped else f"/{stripped}"
    if name in ("redirect", "to") and "." in stripped:
        yield f"https://{stripped}"
    if name in ("redis", "url"):
        yield f"redis://{stripped.rpartition('://')[2]}"
    if name == "name":
        folded = unicodedata.normalize("NFKD", stripped).encode("ascii", "ignore").decode()
        yield re.sub(r"[^A-Za-z0-9._-]+", "-", folded).strip("-._")
