"""TLS contexts from the configuration. Built once when it is checked and again when it is compiled."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path
from typing import Final

from gateway.control.blocks.server.server import ListenTls
from gateway.control.schema import UpstreamTls

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


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


def fingerprint(tls: UpstreamTls) -> str:
    """A digest over the settings and the content of every file they name, so that a renewed certificate is a change."""
    return _digest(tls, (tls.verify, tls.server_name), (tls.ca, tls.certificate, tls.key, tls.key_password_file))


def listen_fingerprint(tls: ListenTls) -> str:
    """The same for a listener."""
    return _digest(tls, (tls.min_version,), (tls.certificate, tls.key, tls.key_password_file))


def _digest(tls: ListenTls | UpstreamTls, settings: tuple[object, ...], files: tuple[Path | None, ...]) -> str:
    digest = hashlib.sha256()
    secret = tls.key_password.get_secret_value() if tls.key_password is not None else ""
    digest.update(repr((*settings, secret)).encode())
    for path in files:
        digest.update(b"\0" if path is None else hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
