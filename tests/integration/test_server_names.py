"""Several certificates on one listener: who is shown which, what is refused, and how they are renewed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from gateway.control.load import load
from gateway.control.reading.problems import ConfigError
from gateway.control.words.x509 import certificates as read_certificates
from gateway.control.words.x509 import dns_names
from tests.certificates import Certificates
from tests.conftest import StartGateway, StartUpstream
from tests.support import GET, OK, Gateway, answers, proxy

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with the openssl command")


def entry(certificates: Certificates, name: str, more: str = "") -> str:
    """One certificate, as the configuration has it."""
    return f'{{certificate: "{certificates[f"{name}.crt"]}", key: "{certificates[f"{name}.key"]}"{more}}}'


def listening(certificates: Certificates, *names: str) -> str:
    """A listener with these certificates."""
    return f'{{address: "127.0.0.1:0", tls: [{", ".join(entry(certificates, name) for name in names)}]}}'


async def shown(running: Gateway, certificates: Certificates, name: str | None) -> set[str]:
    """The names in the certificate that a client is shown who asks for `name`; None: for none."""
    context = certificates.client()
    context.check_hostname = False
    # asyncio sends no name that is an address.
    client = await running.client(tls=context, name=name or "127.0.0.1")
    assert (await client.ask(GET)).status == 200
    certificate: dict[str, Any] = client.writer.get_extra_info("peercert")
    return {value for _, value in certificate["subjectAltName"]}


@pytest.mark.parametrize(
    "name,expected",
    [
        ("localhost", {"localhost", "127.0.0.1"}),
        ("other.example", {"other.example"}),
        ("OTHER.example", {"other.example"}),
        ("one.wild.example", {"one.wild.example"}),
        ("two.wild.example", {"*.Wild.example", "wild.example"}),
        ("wild.example", {"*.Wild.example", "wild.example"}),
        ("a.two.wild.example", {"localhost", "127.0.0.1"}),
        ("unknown.example", {"localhost", "127.0.0.1"}),
        (None, {"localhost", "127.0.0.1"}),
    ],
)
async def test_the_name_asked_for_decides(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates, name: str | None, expected: set[str]
) -> None:
    """A name of its own beats a wildcard, which stands for one label; the first certificate is for everybody else."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, listen=listening(certificates, "good", "wrong", "wild", "one")))

    assert await shown(running, certificates, name) == expected


async def test_a_wildcard_of_the_first_leaves_names_to_the_others(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates
) -> None:
    """The order decides only where no name fits, and between equals."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url, listen=listening(certificates, "wild", "one")))

    assert await shown(running, certificates, "one.wild.example") == {"one.wild.example"}


async def test_any_of_them_is_renewed(
    upstream: StartUpstream, gateway: StartGateway, certificates: Certificates, tmp_path: Path
) -> None:
    """New content of any file counts for new connections; without one, contexts are kept, so that sessions can be resumed."""
    origin = await upstream(answers(OK))
    for suffix in ("crt", "key"):
        (tmp_path / f"now.{suffix}").write_bytes(certificates[f"wrong.{suffix}"].read_bytes())
    second = entry(Certificates(tmp_path), "now")
    listen = f'{{address: "127.0.0.1:0", tls: [{entry(certificates, "good")}, {second}]}}'
    running = await gateway(proxy(origin.url, listen=listen))
    context = running.plane.snapshot.server.listeners[0].tls
    await running.app.reloader.reload("test")
    kept = running.plane.snapshot.server.listeners[0].tls is context
    before = await shown(running, certificates, "one.wild.example")
    for suffix in ("crt", "key"):
        (tmp_path / f"now.{suffix}").write_bytes(certificates[f"one.{suffix}"].read_bytes())
    outcome = await running.app.reloader.reload("test")

    assert kept and "localhost" in before
    assert outcome.text == "\n".join(
        f"~ server.listen[127.0.0.1:0].tls[{tmp_path}/now.crt].{field}: the content of `{tmp_path}/now.{suffix}`"
        for field, suffix in (("certificate", "crt"), ("key", "key"))
    )
    assert await shown(running, certificates, "one.wild.example") == {"one.wild.example"}


async def test_the_expiry_of_each_is_shown(gateway: StartGateway, certificates: Certificates) -> None:
    """One series a file."""
    running = await gateway(proxy("http://127.0.0.1:1", listen=listening(certificates, "good", "wrong")))

    assert set(running.metrics.certificates) == {str(certificates[name]) for name in ("good.crt", "wrong.crt")}


@pytest.mark.parametrize(
    "names,line,message",
    [
        (["good", "address"], 7, "the certificate has no DNS name (`subjectAltName`)"),
        (["good", "expired"], 7, "entries before it have all of its names, localhost"),
        (["good", "none"], 7, "`certificate`: cannot read"),
        (["none", "good"], 6, "`certificate`: cannot read"),
        (["none"], 6, "`certificate`: cannot read"),
        (["good", "wrong: , min_version: 1.3"], 7, "`min_version` is that of the listener"),
    ],
)
def test_what_nobody_would_be_shown_is_an_error(
    certificates: Certificates, tmp_path: Path, names: list[str], line: int, message: str
) -> None:
    """Each unusable entry, at its line."""
    entries = "\n".join(f"      - {entry(certificates, *name.split(': ', 1))}" for name in names)
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "version: 1\nserver:\n  listen:\n    - address: ':1'\n      tls:\n"
        + entries
        + "\nroutes: [{name: r, match: {}, respond: 404}]\n"
    )
    with pytest.raises(ConfigError) as raised:
        load(file, {})

    (problem,) = raised.value.problems
    assert problem.line == line and message in problem.message


def test_names_are_read_as_openssl_reads_them(certificates: Certificates) -> None:
    """DNS names in lower case, and nothing else of `subjectAltName`; a certificate without it has none."""
    found = {name: dns_names(read_certificates(certificates[f"{name}.crt"])[0]) for name in ("good", "wild", "address", "ca")}

    assert found == {"good": ["localhost"], "wild": ["*.wild.example", "wild.example"], "address": [], "ca": []}
    for hostile in (b"", b"0", b"\x30\x82", b"\x30\x03\x30\x01\x00", bytes(100)):
        with pytest.raises(ValueError, match=r"X\.509"):
            dns_names(hostile)
