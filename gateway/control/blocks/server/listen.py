"""The block `listen:` of the server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, TypeAlias

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, PlainValidator, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from gateway.control.blocks.server.certificates import check_certificates, listen_context
from gateway.control.blocks.tls import ListenTls, fingerprint
from gateway.control.reading.nodes import Positions
from gateway.control.reading.problems import Problem
from gateway.control.words import addresses
from gateway.control.words.file_rights import FileRights
from gateway.control.words.model import required, setting
from gateway.control.words.values import invalid
from gateway.server_settings import Listener

HTTPS: Final = 443


def _parse_redirect(value: Any) -> int | bool:
    if isinstance(value, bool):
        return value
    if value in ("301", "302", "303", "307", "308"):
        raise invalid("a number is the port of HTTPS; the status is 308", "write `redirect_to_https: true`")
    if isinstance(value, str) and len(value) <= 5 and value.isascii() and value.isdigit() and 0 < int(value) < 65_536:
        return int(value)
    raise invalid("expected `true`, `false` or the port of HTTPS, such as `443`")


ToHttps: TypeAlias = Annotated[
    int | bool,
    PlainValidator(_parse_redirect),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 1, "maximum": 65_535}]}),
]


class OneOrMore:
    """Annotation: a list of such blocks may stand in place of one."""

    def __init__(self, block: type[Any], most: int) -> None:
        self._block = block
        self._most = most

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        listed = core_schema.tuple_variable_schema(handler.generate_schema(self._block), min_length=1, max_length=self._most)

        def validate(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            return None if value is None else inner(value) if isinstance(value, list) else inner([value])[0]

        return core_schema.no_info_wrap_validator_function(validate, listed)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        listed = handler(schema)
        return {"anyOf": [listed["items"], listed]}


class Listen(FileRights):
    """One address to listen on. `mode`, `owner` and `group` are those of the file of a Unix socket."""

    short_form = ("address", {"type": "string"})

    address: addresses.ListenAddress = required("`host:port`, `:8080` (all interfaces), `[::1]:80` or `unix:/path`.")
    tls: Annotated[ListenTls | tuple[ListenTls, ...] | None, OneOrMore(ListenTls, 1024)] = setting(
        None,
        "Serve HTTPS here. Of a list of such blocks the one is shown whose certificate has the name that the client asks for; "
        "where none has it, the first.",
    )
    redirect_to_https: ToHttps = setting(
        False,
        "Answer plain HTTP with 308 to the same URL under HTTPS; ACME challenges pass. `true`: at port 443, or where the "
        "client named a port, at that of the first listener with `tls`. A number: at this port.",
    )

    @property
    def certificates(self) -> tuple[ListenTls, ...]:
        """What it shows; the first one where no name fits."""
        return self.tls if isinstance(self.tls, tuple) else () if self.tls is None else (self.tls,)


def check_listen(listed: Sequence[Listen], positions: Positions) -> Iterator[Problem]:
    """What is wrong although each field is right."""
    for index, listen in enumerate(listed):
        loc = ("server", "listen", index)
        if listen.tls is not None:
            yield from check_certificates(listen.certificates, (*loc, "tls"), positions)
            if listen.redirect_to_https:
                message = "`redirect_to_https` has no effect on a listener with `tls`: write it at the one for plain HTTP"
                yield positions.problem((*loc, "redirect_to_https"), message, key=True)
        if not listen.address.path:
            for name in ("mode", "owner", "group"):
                if getattr(listen, name) is not None:
                    yield positions.problem((*loc, name), f"`{name}` has no effect: only a Unix socket has a file", key=True)


def https_port(port: int) -> bytes:
    """What stands behind the host of a URL under HTTPS."""
    return b"" if port == HTTPS else b":%d" % port


def listener(listen: Listen, known: dict[Listener, Listener]) -> Listener:
    """What it becomes. A TLS context is kept as long as its settings and files are the same, so that sessions can be
    resumed. Raises `tls.TlsError` and OSError."""
    plain = Listener(
        listen.address.host,
        listen.address.port,
        listen.address.path,
        rights=listen.rights(),
        tls_fingerprint=" ".join([fingerprint(entry) for entry in listen.certificates]),
    )
    if plain in known or listen.tls is None:
        return known.get(plain, plain)
    return replace(plain, tls=listen_context(listen.certificates))
