"""X.509 certificates (RFC 5280) as far as an operator has to be told of them: which names they are for, and how long.

The standard library tells this only of a peer.
"""

from __future__ import annotations

import ssl
from calendar import timegm
from collections.abc import Iterator
from pathlib import Path
from time import strptime
from typing import Final

_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
_UTC_TIME: Final = 0x17
_DNS_NAME: Final = 0x82
_SUBJECT_ALT_NAME: Final = bytes((0x55, 0x1D, 0x11))


def certificates(path: Path) -> list[bytes]:
    """The certificates of a PEM file, in DER form. Raises OSError and ValueError."""
    text = path.read_text(encoding="ascii", errors="replace")
    blocks = text.split("-----BEGIN CERTIFICATE-----")[1:]
    return [
        ssl.PEM_cert_to_DER_cert(f"-----BEGIN CERTIFICATE-----{block.partition('-----END')[0]}-----END CERTIFICATE-----")
        for block in blocks
    ]


def expires(der: bytes) -> float:
    """When a certificate expires, in Unix time: `notAfter`. Raises ValueError when it is not a certificate."""
    try:
        fields = _fields(der)
        # The serial number, the signature's algorithm, the issuer, the validity: from when, until when.
        _, (tag, value) = _elements(fields[3][1])
        text = value.decode("ascii")
    except (IndexError, ValueError):
        raise ValueError("it holds no X.509 certificate") from None
    if tag == _UTC_TIME:  # years of two digits, up to 2049
        text = ("19" if text >= "50" else "20") + text
    return float(timegm(strptime(text, "%Y%m%d%H%M%SZ")))


def dns_names(der: bytes) -> list[str]:
    """The DNS names of `subjectAltName` in lower case, wildcards too. Raises ValueError when it is not a certificate."""
    try:
        found = next((content for tag, content in _fields(der) if tag == _EXTENSIONS), b"")
        for _, extension in _elements(_element(found)[1]) if found else ():
            identifier, *_, (_, value) = _elements(extension)
            if identifier[1] == _SUBJECT_ALT_NAME:
                names = _elements(_element(value)[1])
                return [name.decode("ascii").lower() for tag, name in names if tag == _DNS_NAME]
    except (IndexError, ValueError):
        raise ValueError("it holds no X.509 certificate") from None
    return []


def _fields(der: bytes) -> list[tuple[int, bytes]]:
    """What is signed of a certificate, without its version, which is absent in version 1. Raises IndexError."""
    found = list(_elements(_element(_element(der)[1])[1]))
    return found[1:] if found[0][0] == _VERSION else found


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The tags and contents of all elements. Raises IndexError."""
    while der:
        tag, content, der = _element(der)
        yield tag, content


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """The tag, the content of the first element, and what follows it (DER, X.690). Raises IndexError."""
    tag, size, start = der[0], der[1], 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(der[2:start], "big")
    if len(der) < start + size:
        raise IndexError
    return tag, der[start : start + size], der[start + size :]
