"""The blocks `tls:` of listeners and of upstreams, and their contexts: built when they are checked, and again when compiled."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

from pydantic import SecretStr

from gateway.control.blocks.block import Block, UpstreamFacts
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.words import values
from gateway.control.words.inherit import Resolved
from gateway.control.words.model import Model, required, setting
from gateway.control.words.values import choice

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class ListenTls(Model):
    """The certificate a listener shows."""

    certificate: values.FilePath = required("PEM file with the certificate and the chain behind it.")
    key: values.FilePath = required("PEM file with the private key.")
    key_password: SecretStr | None = setting(None, "Password of the private key. Better: `key_password_file`.")
    key_password_file: values.FilePath | None = setting(None, "File that holds the password of the private key.")
    min_version: Annotated[str, *choice("1.2", "1.3")] = setting("1.2", "Oldest TLS version that is accepted: `1.2` or `1.3`.")


class UpstreamTls(Model):
    """How `https` endpoints are verified, and what we show them."""

    verify: bool = setting(True, "Verify the certificate. `false` gives up all protection against a man in the middle.")
    ca: values.FilePath | None = setting(None, "PEM file of the authorities to trust. Default: those of the system.")
    server_name: str | None = setting(
        None, "Name to ask for and to verify. Default: the endpoint's host.", pattern=r"^[A-Za-z0-9._:-]{1,253}$"
    )
    certificate: values.FilePath | None = setting(None, "PEM file with our client certificate.")
    key: values.FilePath | None = setting(None, "PEM file with its private key.")
    key_password: SecretStr | None = setting(None, "Password of the private key. Better: `key_password_file`.")
    key_password_file: values.FilePath | None = setting(None, "File that holds the password of the private key.")


class TlsError(Exception):
    """A TLS setting cannot be used. `field` is the one to blame; the text never holds a secret."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def server_context(tls: ListenTls) -> ssl.SSLContext:
    """The context of a listener. Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _load_chain(context, tls, tls.certificate, tls.key)
    return context


def client_context(tls: UpstreamTls) -> ssl.SSLContext:
    """The context for `https` endpoints. Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.ca is not None:
        _readable("ca", tls.ca)
        try:
            context.load_verify_locations(cafile=tls.ca)
        except (ssl.SSLError, OSError):
            raise TlsError("ca", f"`{tls.ca}` holds no certificate in PEM form") from None
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if tls.certificate is not None:
        _load_chain(context, tls, tls.certificate, tls.key)
    return context


def _readable(field: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:
        raise TlsError(field, f"cannot read `{path}`: {getattr(error, 'strerror', None) or 'not a path'}") from None


def _load_chain(context: ssl.SSLContext, tls: ListenTls | UpstreamTls, certificate: Path, key: Path | None) -> None:
    _readable("certificate", certificate)
    if key is not None:
        _readable("key", key)
    try:
        password = tls.secret("key_password")
    except ValueError as error:
        raise TlsError("key_password_file", str(error)) from None
    try:
        # Without a password argument OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password or "")
    except ssl.SSLError as error:
        raise _chain_error(error, tls, certificate, key) from None
    except (OSError, ValueError):
        raise TlsError("certificate", f"`{certificate}` cannot be used") from None


def _chain_error(error: ssl.SSLError, tls: ListenTls | UpstreamTls, certificate: Path, key: Path | None) -> TlsError:
    reason = error.reason or ""
    if reason == "KEY_VALUES_MISMATCH":
        return TlsError("key", f"`{key or certificate}` is not the key of `{certificate}`")
    if _holds(key or certificate, b"ENCRYPTED"):
        given = tls.key_password is not None or tls.key_password_file is not None
        return TlsError("key", f"the key is encrypted and {'the password does not fit' if given else 'there is no password'}")
    field, path = ("certificate", certificate) if not _holds(certificate, b"BEGIN CERTIFICATE") else ("key", key or certificate)
    what = "certificate" if field == "certificate" else "private key"
    return TlsError(field, f"`{path}` holds no usable {what} in PEM form")


def _holds(path: Path, what: bytes) -> bool:
    return what in path.read_bytes()


def fingerprint(tls: ListenTls | UpstreamTls) -> str:
    """A digest over the settings and the content of every file they name, so that a renewed certificate is a change."""
    digest = hashlib.sha256()
    for name in type(tls).model_fields:
        value = getattr(tls, name)
        if isinstance(value, Path):
            digest.update(hashlib.sha256(value.read_bytes()).digest())
        else:
            digest.update(repr(value.get_secret_value() if isinstance(value, SecretStr) else value).encode())
    return digest.hexdigest()


def check_tls(written: ListenTls | UpstreamTls, loc: Loc, positions: Positions) -> Iterator[Problem]:
    """What is wrong with certificates, keys and passwords."""
    if written.key_password is not None and written.key_password_file is not None:
        place = (*loc, "key_password_file")
        yield positions.problem(place, "`key_password` and `key_password_file`: only one of them", key=True)
        return
    try:
        if isinstance(written, ListenTls):
            server_context(written)
        else:
            client_context(written)
    except TlsError as error:
        yield positions.problem((*loc, error.field), f"`{error.field}`: {error}")


def _check(found: Resolved[UpstreamTls | None], facts: UpstreamFacts, positions: Positions) -> Iterator[Problem]:
    written, loc = found.value, (*facts.loc, "tls")
    if written is None:
        return
    if not any(url.tls for url in facts.urls):
        yield positions.problem(loc, "`tls` has no effect: no endpoint is `https`")
    elif not written.verify and written.ca is not None:
        yield positions.problem((*loc, "ca"), "`ca` has no effect with `verify: false`", key=True)
    elif written.certificate is None and (written.key is not None or written.key_password_file or written.key_password):
        yield positions.problem(loc, "a `key` needs a `certificate`")
    else:
        yield from check_tls(written, loc, positions)


BLOCK: Final = Block[UpstreamFacts]("tls", check=_check)
