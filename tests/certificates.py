"""Certificates for tests, made with the openssl command."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Certificates:
    """An authority and what it signed."""

    folder: Path

    def __getitem__(self, name: str) -> Path:
        """The path of a file."""
        return self.folder / name

    def server(self, name: str) -> ssl.SSLContext:
        """What a test's upstream shows."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self[f"{name}.crt"], self[f"{name}.key"])
        return context

    def client(self) -> ssl.SSLContext:
        """A client that trusts the authority."""
        return ssl.create_default_context(cafile=str(self["ca.crt"]))


def _openssl(folder: Path, *arguments: str) -> None:
    """Run openssl in a folder."""
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_certificates(folder: Path) -> Certificates:
    """`good` for localhost and 127.0.0.1, `wrong` for another name, `expired`, and `self` that signed itself.

    `wild` is for all names below wild.example, `one` for one of them, `address` for no name.
    """
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    _openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=Test CA", "-days", "30")
    names = {
        "good": "DNS:localhost,IP:127.0.0.1",
        "wrong": "DNS:other.example",
        "expired": "DNS:localhost,IP:127.0.0.1",
        "wild": "DNS:*.Wild.example,DNS:wild.example",
        "one": "DNS:one.wild.example",
        "address": "IP:127.0.0.1",
    }
    (folder / "ca.conf").write_text(
        "[ca]\ndefault_ca=a\n[a]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n"
        "unique_subject=no\ncopy_extensions=copy\n[p]\ncommonName=supplied\n"
    )
    (folder / "index").touch()
    (folder / "serial").write_text("01\n")
    for name, names_of_it in names.items():
        _openssl(
            folder, "req", "-new", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}",
            "-addext", f"subjectAltName={names_of_it}",
        )  # fmt: skip
        span = ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"] if name == "expired" else ["-days", "30"]
        _openssl(
            folder, "ca", "-batch", "-config", "ca.conf", "-cert", "ca.crt", "-keyfile", "ca.key", "-in", f"{name}.csr",
            "-out", f"{name}.crt", "-notext", *span,
        )  # fmt: skip
    _openssl(
        folder, "req", "-x509", *key, "-keyout", "self.key", "-out", "self.crt", "-subj", "/CN=self",
        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "30",
    )  # fmt: skip
    return Certificates(folder)
