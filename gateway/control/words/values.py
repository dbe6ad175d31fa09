"""The types of single values in the configuration: text in, checked and resolved value out, JSON schema beside it."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, PlainValidator, ValidationInfo, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from gateway.control.words import units
from gateway.control.words.path_hints import path_hint, prefix_hint
from gateway.control.words.patterns import slow_pattern
from gateway.control.words.unit_hints import means_no_limit
from gateway.headers import FIELD_NAME, FIELD_VALUE, HOP_BY_HOP
from gateway.router import split_path

OFF: Final = "off"
ON: Final = "on"
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
NO_LIMIT: Final = -1

_FIELD_NAME: Final = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"
_METHOD: Final = re.compile(r"[A-Z][A-Z0-9!#$%&'*+.^_`|~-]{0,31}")
_VARIABLE: Final = re.compile(r"\$\{?[a-z_]+|\$[0-9]|\{(?:uri|path|host|http\.)")
_LOCATION: Final = re.compile(r"[!-~]+")


def invalid(message: str, hint: str = "") -> PydanticCustomError:
    """The error a validator raises. Texts must not hold the value: it may be secret."""
    return PydanticCustomError("invalid", "{message}", {"message": message, "hint": hint})


def closest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known word that is most like this one, whatever the case; empty when none is alike by `cutoff` (0 to 1)."""
    listed = list(known)
    close = difflib.get_close_matches(word[:64].lower(), [name.lower() for name in listed], n=1, cutoff=cutoff)
    return next(name for name in listed if name.lower() == close[0]) if close else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean …?` for the closest known word, or nothing."""
    meant = closest(word, known)
    return f"did you mean `{meant}`?" if meant else ""


def repeated(words: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """The places of all that has stood before, each with the place where it stood first."""
    first: dict[Any, int] = {}
    for at, word in enumerate(words):
        if first.setdefault(word, at) != at:
            yield at, first[word]


def text_value(what: str, parse: Callable[[str], Any], **schema: Any) -> tuple[PlainValidator, WithJsonSchema]:
    """A validator and schema for a value that is written as text. Already resolved values (defaults) pass."""

    def validate(value: Any) -> Any:
        if not isinstance(value, str):
            if isinstance(value, bool):
                word = "true" if value else "false"
                raise invalid(f"expected {what}, found `{word}`", f'as text it is written `"{word}"`')
            raise invalid(f"expected {what}")
        try:
            return parse(value)
        except units.UnitError as error:
            raise invalid(str(error), f"did you mean `{error.hint}`?" if error.hint else "") from None

    return PlainValidator(validate), WithJsonSchema({"type": "string", **schema})


def choice(*words: str, synonyms: dict[Any, str] | None = None) -> tuple[PlainValidator, WithJsonSchema]:
    """One of a closed set of words."""

    def validate(value: Any) -> str:
        if isinstance(value, str) and value in words:
            return value
        if synonyms and value in synonyms:
            return synonyms[value]
        hint = did_you_mean(value, words) if isinstance(value, str) else ""
        raise invalid(f"expected {one_of(words)}", hint)

    return PlainValidator(validate), WithJsonSchema({"enum": list(words)})


def number_of(*numbers: int) -> tuple[PlainValidator, WithJsonSchema]:
    """One of a closed set of numbers."""

    words = [str(number) for number in numbers]

    def validate(value: Any) -> int:
        if value in words:
            return int(value)
        raise invalid(f"expected {one_of(words)}")

    return PlainValidator(validate), WithJsonSchema({"enum": list(numbers)})


def one_of(words: Iterable[str]) -> str:
    """The words as an enumeration in prose."""
    quoted = [f"`{word}`" for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


# -- quantities ------------------------------------------------------------------------------------------------------


def _positive_duration(text: str) -> float:
    if means_no_limit(text):
        raise units.UnitError("a time limit must be longer than zero, and none can be off; the longest is a day", "24h")
    return units.parse_duration(text)


def _size_or_off(text: str) -> int:
    return NO_LIMIT if text == OFF else units.parse_size(text)


def _header_size(text: str) -> int:
    size = units.parse_size(text)
    if not 1024 <= size <= 1 << 20:
        raise units.UnitError("must be between `1KiB` and `1MiB`")
    return size


def _share(text: str) -> float:
    share = units.parse_percent(text)
    if share <= 0:
        raise units.UnitError("must be more than `0%`")
    return share


def duration_within(least: str, most: str, example: str = "5s") -> tuple[PlainValidator, WithJsonSchema]:
    """A duration between these two."""
    parse = functools.partial(units.parse_duration_within, least=least, most=most)
    return text_value(f"a duration such as `{example}`", parse, pattern=units.DURATION_PATTERN)


_duration = functools.partial(text_value, "a duration such as `5s`", pattern=units.DURATION_PATTERN)

Duration: TypeAlias = Annotated[float, *_duration(_positive_duration)]
"""Seconds, more than zero."""
Delay: TypeAlias = Annotated[float, *_duration(units.parse_duration)]
"""Seconds; zero is allowed."""
HeaderSize: TypeAlias = Annotated[int, *text_value("a size such as `32KiB`", _header_size, pattern=units.SIZE_PATTERN)]
"""Bytes, 1 KiB to 1 MiB."""
BodySize: TypeAlias = Annotated[
    int, *text_value("a size such as `10MiB`, or `off`", _size_or_off, pattern=rf"^off$|{units.SIZE_PATTERN}")
]
"""Bytes; `NO_LIMIT` for `off`."""
Share: TypeAlias = Annotated[float, *text_value("a percentage such as `50%`", _share, pattern=units.PERCENT_PATTERN)]
"""More than 0, at most 1."""
Size: TypeAlias = Annotated[int, *text_value("a size such as `1KiB`", units.parse_size, pattern=units.SIZE_PATTERN)]
"""Bytes."""


# -- files ------------------------------------------------------------------------------------------------------------


def _resolve_path(value: Any, info: ValidationInfo) -> Path:
    if not isinstance(value, str) or not value:
        raise invalid("expected the path of a file")
    context = info.context or {}
    path = Path(context.get("base", Path()), value)
    context.get("named", set()).add(path)
    return path


FilePath: TypeAlias = Annotated[Path, PlainValidator(_resolve_path), WithJsonSchema({"type": "string", "minLength": 1})]
"""Relative paths are relative to the main configuration file. Who validates gets all of them in `named` of the context."""


# -- names, fields, patterns -----------------------------------------------------------------------------------------


def _parse_name(text: str) -> str:
    if re.fullmatch(NAME_PATTERN, text) is None:
        raise invalid("a name is 1 to 64 letters, digits, `.`, `_` or `-` and starts with a letter or digit")
    return text


def _parse_server_name(text: str) -> str:
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,63}", text) is None:
        raise invalid("a server name is 1 to 64 letters, digits, `.`, `_` or `-` and starts with a letter")
    return text


def parse_field_name(text: str) -> str:
    """The name as it was written."""
    if len(text) > 128 or not text.isascii() or FIELD_NAME.fullmatch(text.encode("ascii")) is None:
        raise invalid("not a header name: letters, digits and `-`")
    return text


def _own_field_name(text: str) -> str:
    name = parse_field_name(text).lower().encode("ascii")
    if name in HOP_BY_HOP or name in (b"host", b"content-length", b"content-type", b"trailer", b"cookie", b"authorization"):
        raise invalid("this field has a meaning of its own in HTTP", "choose a name that starts with `X-`")
    return text


def own_key_field(text: str) -> str:
    """The name of a header that rate limits may count by, in lower case."""
    name = parse_field_name(text).lower()
    if name.encode("ascii") in HOP_BY_HOP or name in ("content-length", "trailer", "expect", "via"):
        raise invalid("nothing can be counted by this header: it is about the connection or the framing")
    if name == "host":
        raise invalid("use `host`")
    if name in ("x-forwarded-for", "forwarded", "x-real-ip"):
        raise invalid("any client can write this header", "use `client_ip`, and `server.trusted_proxies`")
    return name


def _parse_field_value(text: str) -> str:
    if len(text) > 4096:
        raise invalid("a header value is at most 4096 characters long")
    if text != text.strip(" \t"):
        raise invalid("a header value neither starts nor ends with a blank")
    if FIELD_VALUE.fullmatch(text.encode("utf-8")) is None:
        raise invalid("a header value cannot hold a line break or another control character")
    return text


def _parse_method(text: str) -> str:
    if text in ("CONNECT", "TRACE"):
        raise invalid(f"`{text}` is never proxied")
    if text.upper() in ("*", "ANY", "ALL"):
        raise invalid("there is no such method", "without `methods` all are taken: remove it")
    if _METHOD.fullmatch(text) is None:
        upper = text.upper()
        raise invalid(
            "not a method: they are written in capitals", f"did you mean `{upper}`?" if _METHOD.fullmatch(upper) else ""
        )
    return text


def _parse_match_path(text: str) -> str:
    if text.startswith("/") and re.search(r"[,|\s]\s*/", text) is not None:
        parts = re.split(r"[,|\s]+", text.strip())
        raise invalid("these are several paths", f"write `path: [{', '.join(parts)}]`")
    if len(text) > 1024 or any(character in text for character in "?#\\%"):
        raise invalid("a path is at most 1024 characters of decoded text without `?`, `#`, `%` and `\\`", path_hint(text))
    try:
        split_path(text)
    except ValueError as error:
        raise invalid(str(error), path_hint(text)) from None
    return text


def _parse_prefix(text: str) -> str:
    if not re.fullmatch(r"/(?:[!-~]*)", text) or "//" in text or any(character in text for character in "?#{}*\\"):
        raise invalid("a prefix starts with `/` and is printable ASCII without `?`, `#`, `{`, `}` and `*`", prefix_hint(text))
    if any(segment in (".", "..") for segment in text.split("/")):
        raise invalid("a prefix has no `.` or `..` segments")
    return text


def _parse_location(text: str) -> str:
    variable = _VARIABLE.search(text)
    if variable is not None:
        kept = text[: variable.start()] or "https://app.example.com"
        if kept == "https://":
            all_of_it = "`server: {listen: [{address: ':80', redirect_to_https: true}]}`"
            raise invalid(
                "there are no variables in a redirect", f"write {all_of_it}: that sends all to HTTPS, without a route"
            )
        raise invalid("there are no variables in a redirect", f'write `redirect: {{to: "{kept}", keep_path: true}}`')
    if len(text) > 2048 or _LOCATION.fullmatch(text) is None or re.match(r"(?:https?://[^/?#]|/(?!/))", text) is None:
        raise invalid("a redirect leads to `https://…`, `http://…` or `/…`, in printable ASCII without blanks")
    return text


Name: TypeAlias = Annotated[str, *text_value("a name", _parse_name, pattern=NAME_PATTERN)]
ServerName: TypeAlias = Annotated[str, *text_value("a name", _parse_server_name, pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,63}$")]
FieldName: TypeAlias = Annotated[str, *text_value("a header name", parse_field_name, pattern=_FIELD_NAME)]
OwnFieldName: TypeAlias = Annotated[str, *text_value("a header name", _own_field_name, pattern=_FIELD_NAME)]
FieldValue: TypeAlias = Annotated[str, *text_value("a header value", _parse_field_value, type=["string", "number"])]
Method: TypeAlias = Annotated[str, *text_value("a method", _parse_method)]
MatchPath: TypeAlias = Annotated[str, *text_value("a path", _parse_match_path, pattern="^/")]
Prefix: TypeAlias = Annotated[str, *text_value("a prefix such as `/api`", _parse_prefix, pattern="^/")]
Location: TypeAlias = Annotated[str, *text_value("a URL or a path", _parse_location, pattern="^(https?://|/)")]


def _parse_strip(value: Any) -> str | bool:
    if not isinstance(value, (bool, str)):
        raise invalid("expected `true` or a prefix such as `/api`")
    return _parse_prefix(value) if isinstance(value, str) else value


StripPrefix: TypeAlias = Annotated[
    str | bool,
    PlainValidator(_parse_strip),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": "^/"}]}),
]


@dataclass(frozen=True, slots=True)
class Condition:
    """What a header or query parameter must be: present (None) or a pattern for the whole value."""

    pattern: re.Pattern[bytes] | None
    shown: str
    """The condition in words."""


def _parse_condition(value: Any) -> Condition:
    if value is True:
        return Condition(None, "present")
    if isinstance(value, str):
        return Condition(re.compile(re.escape(_parse_field_value(value).encode("utf-8"))), f"`{value}`")
    if isinstance(value, dict) and set(value) == {"regex"} and isinstance(value["regex"], str):
        source = value["regex"]
        if len(source) > 1024:
            raise invalid("a regular expression is at most 1024 characters long")
        try:
            pattern = re.compile(source.encode("utf-8"))
            if (problem := slow_pattern(source)) is not None:
                raise invalid(*problem)
            return Condition(pattern, f"regex `{source}`")
        except (re.error, RecursionError, OverflowError) as error:
            raise invalid(f"not a regular expression: {getattr(error, 'msg', 'too complex')}") from None
    hint = 'as text it is written `"false"`' if value is False else ""
    raise invalid("expected a value, `{regex: …}`, or `true` for any value", hint)


ValueCondition: TypeAlias = Annotated[
    Condition,
    PlainValidator(_parse_condition),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": ["string", "number"]},
                {"const": True},
                {
                    "type": "object",
                    "properties": {"regex": {"type": "string", "description": "A pattern for the whole value."}},
                    "required": ["regex"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


@dataclass(frozen=True)
class Form:
    """Annotation: another way to write a value. `turned` makes the usual one of it, `shown` adds it to the schema of that."""

    turned: Callable[[Any], Any]
    shown: Callable[[JsonSchemaValue], JsonSchemaValue]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.turned, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return self.shown(handler(schema))


ONE_OR_MANY: Final = Form(
    lambda value: (value,) if isinstance(value, str) else value, lambda inner: {"anyOf": [{"type": "string"}, inner]}
)
"""A single text stands for a list of one."""


def switched(example: str) -> Form:
    """`on` and `true` stand for the block with nothing written in it, `false` for `off`: outside of `OrOff`."""

    def turned(value: Any) -> Any:
        if isinstance(value, str) and value not in (ON, OFF):
            raise invalid(f"expected `true`, `off` or a block such as `{example}`")
        return {} if value == ON or value is True else OFF if value is False else value

    return Form(turned, lambda inner: {"anyOf": [{"const": ON}, {"type": "boolean"}, *inner["anyOf"]]})


@dataclass(frozen=True)
class OrOff:
    """Annotation: `off` (or another word) stands for `resolved`; anything else is validated as the type says."""

    resolved: Any
    word: str = OFF

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            return self.resolved if value == self.word else inner(value)

        return core_schema.no_info_wrap_validator_function(validate, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"const": self.word}, handler(schema)]}
