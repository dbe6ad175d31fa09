"""Files that the gateway makes: who may use them, and who is believed that comes by a Unix socket."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.conftest import StartGateway, StartUpstream
from tests.support import GET, OK, answers, proxy

TRUSTING = ["[unix]", '["0.0.0.0/0", "::/0"]', "[10.0.0.0/8, unix]"]
NOT_TRUSTING = ["[]", '["0.0.0.0/0"]', "[127.0.0.1]"]


def mode_of(path: Path) -> str:
    """The permission bits, in octal."""
    return f"{stat.S_IMODE(path.stat().st_mode):o}"


@pytest.fixture
def umask() -> object:
    """Nothing for others, unless it is said."""
    before = os.umask(0o077)
    yield before
    os.umask(before)


@pytest.mark.usefixtures("umask")
async def test_a_socket_has_the_mode_that_is_written(upstream: StartUpstream, gateway: StartGateway, tmp_path: Path) -> None:
    """Whoever may write to the file may connect: `mode` says who, whatever the umask; a reload changes it."""
    origin = await upstream(answers(OK))
    path = tmp_path / "in"
    text = proxy(origin.url, listen=f'{{address: "unix:{path}", mode: "0660", group: {os.getgid()}}}')
    running = await gateway(text)

    assert mode_of(path) == "660"
    assert (await (await running.client(path=str(path))).ask(GET)).status == 200

    running.app.runtime.loaded.path.write_text(text.replace("0660", "666"))
    assert (await running.app.reloader.reload("test")).ok
    assert mode_of(path) == "666"


@pytest.mark.usefixtures("umask")
async def test_the_admin_socket_and_the_log_have_their_mode(
    upstream: StartUpstream, gateway: StartGateway, tmp_path: Path
) -> None:
    """Every file that the gateway makes has one."""
    origin = await upstream(answers(OK))
    admin, log = tmp_path / "admin", tmp_path / "access.log"
    text = proxy(origin.url)
    text = text.replace('admin: {listen: "127.0.0.1:0"}', f'admin: {{listen: "unix:{admin}", mode: "0666"}}')
    text = text.replace('access_log: "off"', f'access_log: {{file: "{log}", mode: "0644"}}')
    await gateway(text)

    assert (mode_of(admin), mode_of(log)) == ("666", "644")


@pytest.mark.parametrize("trusted, believed", [(one, True) for one in TRUSTING] + [(one, False) for one in NOT_TRUSTING])
async def test_a_proxy_on_a_unix_socket_is_believed(
    upstream: StartUpstream, gateway: StartGateway, tmp_path: Path, trusted: str, believed: bool
) -> None:
    """`unix` among the trusted proxies, or everybody: each of its clients has a limit of its own and stands in the log."""
    origin = await upstream(answers(OK))
    path = tmp_path / "in"
    text = proxy(origin.url, listen=f'"unix:{path}"', server=f"trusted_proxies: {trusted}", route="rate_limit: 1/min")
    running = await gateway(text.replace('access_log: "off"', "access_log: {}"))
    client = await running.client(path=str(path))
    statuses = []
    for number in range(3):
        lines = f"X-Forwarded-For: 198.51.100.{number}\r\nX-Forwarded-Proto: https\r\n"
        statuses.append((await client.ask(f"GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())).status)

    assert statuses == ([200] * 3 if believed else [200, 429, 429])
    assert origin.requests[0].value(b"x-forwarded-proto") == (b"https" if believed else b"http")
    assert running.log.entries[0]["client_ip"] == ("198.51.100.0" if believed else "")
