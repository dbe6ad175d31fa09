"""Several certificates on one listener: which one a client is shown, by the name it asks for (SNI, RFC 6066 3)."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence

from gateway.control.blocks.tls import ListenTls, TlsError, check_tls, server_context
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.words.x509 import certificates, dns_names

_WILDCARD = "*."


def names_of(entry: ListenTls) -> list[str]:
    """The DNS names of its certificate, which is the first in the file. Raises TlsError."""
    try:
        return dns_names(certificates(entry.certificate)[0])
    except (OSError, ValueError, IndexError):
        raise TlsError("certificate", f"cannot tell which names `{entry.certificate}` is for") from None


def listen_context(entries: Sequence[ListenTls]) -> ssl.SSLContext:
    """The context of a listener: that of the first certificate, which hands over to the others. Raises TlsError."""
    contexts = [server_context(entry) for entry in entries]
    if len(contexts) > 1:
        by_name: dict[str, ssl.SSLContext] = {}
        for entry, context in zip(entries, contexts, strict=True):
            for name in names_of(entry):
                by_name.setdefault(name, context)
        contexts[0].sni_callback = _Choice(by_name)
    return contexts[0]


class _Choice:
    """Which context a handshake goes on with. A name of its own beats a wildcard, which stands for one label (RFC 9525 6.3)."""

    def __init__(self, by_name: dict[str, ssl.SSLContext]) -> None:
        self._by_name = by_name

    def __call__(self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
        if name is not None:
            name = name.lower()
            found = self._by_name.get(name) or self._by_name.get(_WILDCARD + name.partition(".")[2])
            if found is not None and found is not first:
                connection.context = found


def check_certificates(entries: Sequence[ListenTls], loc: Loc, positions: Positions) -> Iterator[Problem]:
    """What is wrong with each certificate, and which one nobody would ever be shown."""
    known: set[str] = set()
    for index, entry in enumerate(entries):
        place = (*loc, index)
        problems = list(check_tls(entry, place, positions))
        yield from problems
        if problems or len(entries) == 1:
            continue
        if entry.min_version != entries[0].min_version:
            message = "`min_version` is that of the listener: it is agreed on before the name counts"
            yield positions.problem((*place, "min_version"), message, "write the same in the first entry, or in none")
        try:
            names = names_of(entry)
        except TlsError as error:
            yield positions.problem((*place, error.field), str(error))
            continue
        if index and not names:
            message = "the certificate has no DNS name (`subjectAltName`), so nobody would be shown it"
            yield positions.problem((*place, "certificate"), message, "only the first entry needs none")
        elif index and known.issuperset(names):
            message = f"nobody would be shown this certificate: entries before it have all of its names, {', '.join(names[:5])}"
            yield positions.problem((*place, "certificate"), message)
        known.update(names)
