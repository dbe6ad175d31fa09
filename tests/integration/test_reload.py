"""Reload: what triggers it, what it keeps, what it refuses, and what it tells."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from gateway.control.load import Loaded, load
from gateway.control.running import reload
from gateway.control.running.reload import Reloader, ReloadError
from gateway.metrics import ReloadMetrics
from tests.conftest import StartGateway, StartUpstream
from tests.integration.test_tunnel import switches, upgraded
from tests.support import GET, OK, Gateway, answers, drips, eventually, proxy

EMPTY = """
version: 1
server: {name: gw, listen: "127.0.0.1:0"}
admin: {listen: "127.0.0.1:0"}
access_log: "off"
routes: [{name: none, match: {}, respond: 204}]
"""
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHELLO"


def rewrite(gateway: Gateway, text: str) -> None:
    """Write the file that a gateway was started with."""
    gateway.app.runtime.loaded.path.write_text(text, encoding="utf-8")


async def reloaded(gateway: Gateway, text: str) -> reload.Outcome:
    """Write it and reload."""
    rewrite(gateway, text)
    return await gateway.app.reloader.reload("test")


# -- what a reload changes and keeps -----------------------------------------------------------------------------------


async def test_new_requests_live_in_the_new_configuration(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A connection that is kept open sees the new routes with its next request; the exchange in flight ends as it began."""
    old, new = await upstream(drips(OK)), await upstream(answers(HELLO))
    running = await gateway(proxy(old.url))
    client = await running.client()
    await client.send(GET)
    await eventually(lambda: old.requests)
    outcome = await reloaded(running, proxy(new.url))
    old.gate.release()

    assert outcome.ok and outcome.text == f"- upstreams[app].endpoints[{old.url}]\n+ upstreams[app].endpoints[{new.url}]"
    assert (await client.response()).body == b"OK"
    assert (await client.ask(GET)).body == b"HELLO"
    await eventually(lambda: not old.peers)


async def test_a_remembered_head_is_read_anew(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A client that repeats its head is matched by the headers that the new routes ask for."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url))
    client = await running.client()
    request = b"GET / HTTP/1.1\r\nHost: example.com\r\nX-Version: 2\r\n\r\n"
    assert (await client.ask(request)).body == b"OK"
    route = "{name: two, match: {headers: {X-Version: '2'}}, respond: {body: two}}"
    assert (await reloaded(running, proxy(origin.url).replace("routes: [", f"routes: [{route}, "))).ok

    assert (await client.ask(request)).body == b"two"


async def test_live_state_is_kept(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Idle upstream connections, counters and rate limit counts survive what does not concern them."""
    origin = await upstream(answers(OK))
    limit = "rate_limit: 2/h"
    running = await gateway(proxy(origin.url, route=limit))
    assert (await running.get()).status == 200
    for number in range(3):
        assert (await reloaded(running, proxy(origin.url, route=f"{limit}, timeout: {number + 1}s"))).ok
    assert (await running.get()).status == 200
    assert (await running.get()).status == 429

    assert origin.connections == 1
    assert running.route.requests == {(b"GET", 200): 2, (b"GET", 429): 1}


async def test_streams_and_tunnels_go_on(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A WebSocket and a response on its way do not notice that their route, upstream and listener settings are gone."""

    sockets, stream = (
        await upstream(switches()),
        await upstream(drips(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", b"cd")),
    )
    running = await gateway(proxy(sockets.url))
    tunnel, client = await upgraded(running), await running.client()
    await reloaded(running, proxy(stream.url).replace("app", "two"))
    await client.send(GET)
    stream.gate.release()
    assert (await client.head()).status == 200
    await reloaded(running, EMPTY)
    stream.gate.release()
    await tunnel.send(b"hello")

    assert await client.read(4) == b"abcd"
    assert await tunnel.read(5) == b"hello"
    assert set(running.metrics.routes) == {"none", "_unmatched"}
    assert running.metrics.upstreams == {}
    tunnel.close()


async def test_listeners_come_and_go(upstream: StartUpstream, gateway: StartGateway, tmp_path: Path) -> None:
    """An added address answers, one that is removed refuses; who came in there finishes its exchange and is sent away."""
    origin = await upstream(drips(OK))
    running = await gateway(proxy(origin.url))
    busy = await running.client()
    await busy.send(GET)
    await eventually(lambda: origin.requests)
    former = running.address
    path = f"{tmp_path}/sock"
    assert (await reloaded(running, proxy(origin.url, listen=f"unix:{path}"))).ok
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*former)
    origin.gate.release()
    response = await busy.response()
    origin.gate.release()

    assert (response.status, response.value(b"connection")) == (200, b"close")
    assert (await (await running.client(path=path)).ask(GET)).status == 200
    assert (await reloaded(running, proxy(origin.url))).ok
    assert not Path(path).exists()


async def test_the_access_log_moves(upstream: StartUpstream, gateway: StartGateway, tmp_path: Path) -> None:
    """Another file, and the same name after the file was moved away: both are opened."""
    origin = await upstream(answers(OK))
    text = proxy(origin.url).replace('access_log: "off"', f"access_log: {tmp_path}/access.log")
    running = await gateway(text)
    await reloaded(running, text)
    await running.get("/1")
    (tmp_path / "access.log").rename(tmp_path / "access.log.1")
    await reloaded(running, text)
    await running.get("/2")
    await reloaded(running, proxy(origin.url))

    assert '"/1"' in (tmp_path / "access.log.1").read_text()
    assert '"/2"' in (tmp_path / "access.log").read_text()


# -- what a reload refuses ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def failing(caplog: pytest.LogCaptureFixture) -> AsyncIterator[list[str]]:
    """Collects the errors that are logged, and takes them out of the log: the fixture allows none."""
    seen: list[str] = []
    yield seen
    records = caplog.get_records("call")
    seen += [record.getMessage() for record in records if record.levelno >= logging.ERROR]
    records[:] = [record for record in records if record.levelno < logging.ERROR]


@pytest.mark.parametrize(
    "text,says",
    [
        ("version: 1\nroutes: [{name: a", ":2:10: error: "),
        ("", "the file is empty"),
        ("version: 1\nroutes: [{name: a, match: {}, upstream: none}]\n", ":2:41: error: "),
        (None, "cannot read the file"),
    ],
)
async def test_a_broken_file_changes_nothing(
    upstream: StartUpstream, gateway: StartGateway, caplog: pytest.LogCaptureFixture, text: str | None, says: str
) -> None:
    """Half a file, an empty one, a mistake, no file at all: the old configuration goes on, and the log and metric say why."""
    origin = await upstream(answers(OK))
    good = proxy(origin.url)
    running = await gateway(good)
    path = running.app.runtime.loaded.path
    async with failing(caplog) as errors:
        if text is None:
            path.unlink()
        else:
            rewrite(running, text)
        outcome = await running.app.reloader.reload("test")
    metrics = running.metrics.reloads

    assert metrics is not None
    assert not outcome.ok and says in outcome.text
    assert len(errors) == 1 and str(path) in errors[0] and says in errors[0]
    assert (metrics.successful, metrics.counts) == (False, {"success": 0, "failure": 1})
    assert (await running.get()).status == 200
    assert (await reloaded(running, good)).ok
    assert metrics.successful


async def test_of_thousands_of_mistakes_the_log_holds_the_first(
    upstream: StartUpstream, gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that was made wrong: the answer has all that is wrong, the log 200 and how many more there are."""
    running = await gateway(proxy((await upstream(answers(OK))).url))
    routes = "".join(f"  - {{name: r{number}, match: {{path: /{number}}}, respond: 99}}\n" for number in range(1000))
    async with failing(caplog) as errors:
        outcome = await reloaded(running, f"version: 1\nroutes:\n{routes}")

    assert len(outcome.problems) == 1000
    assert errors[0].count(": error: ") == 200
    assert errors[0].endswith("\n… and 800 more problems")
    assert (await running.get()).status == 200


async def test_what_cannot_be_applied_changes_nothing(
    upstream: StartUpstream, gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """An address that is taken: not the new routes either, no series of them, and what was opened beside it is closed."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url))
    listen = f"127.0.0.1:0, 127.0.0.2:0, 127.0.0.1:{origin.port}"
    async with failing(caplog) as errors:
        outcome = await reloaded(running, proxy(origin.url, listen=listen).replace("name: all", "name: other"))

    assert outcome.problems[0].message.startswith(
        f"cannot listen on 127.0.0.1:{origin.port} (server.listen): the address is already in use"
    )
    assert len(errors) == 1
    assert set(running.metrics.routes) == {"all", "_unmatched"}
    assert len(running.app.runtime.doors) == 1
    assert (await running.get()).status == 200


async def test_the_admin_address_cannot_change(
    upstream: StartUpstream, gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """What needs a restart is said with its place, and nothing of the file is applied."""
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url))
    async with failing(caplog):
        outcome = await reloaded(
            running,
            proxy(origin.url, route="timeout: 1s").replace('admin: {listen: "127.0.0.1:0"}', 'admin: {listen: "127.0.0.1:1"}'),
        )

    assert outcome.text.startswith(f"{running.app.runtime.loaded.path}:4:17: error: `admin.listen` cannot change while")
    assert running.app.plane.snapshot.routes[0].timeout.request == 15


# -- who asks for a reload ---------------------------------------------------------------------------------------------


async def test_the_admin_listener_reloads(
    upstream: StartUpstream, gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """With the token: 200 and the changes, or 422 and the problems; a dry run changes nothing; without it 401."""
    origin = await upstream(answers(OK))
    text = proxy(origin.url).replace("admin: {", "admin: {token: sesame, ")
    running = await gateway(text)
    host, port = running.admin
    url = f"http://{host}:{port}/reload"
    bearer = {"Authorization": "Bearer sesame"}
    async with ClientSession() as session:

        async def post(target: str = url, **more: Any) -> tuple[int, dict[str, Any]]:
            async with session.post(target, **more) as response:
                return response.status, await response.json() if response.status in (200, 422) else {}

        assert (await post())[0] == 401
        rewrite(running, text.replace("upstream: app", "upstream: app, timeout: 1s"))
        status, answer = await post(url + "?dry_run=1", headers=bearer)
        assert (status, answer["ok"], answer["changes"][0]["path"]) == (200, True, "routes[all].timeout")
        assert running.app.plane.snapshot.routes[0].timeout.request == 15
        assert (await post(headers=bearer))[0] == 200
        assert running.app.plane.snapshot.routes[0].timeout.request == 1
        assert (await post(headers=bearer))[1]["text"].startswith("no changes: the last ones were taken over at ")
        async with failing(caplog):
            rewrite(running, "version: 1\n")
            status, answer = await post(headers=bearer)
        assert (status, answer["ok"], answer["problems"][0]["message"]) == (422, False, "the field `routes` is missing")
        async with session.get(url) as response:
            assert (await response.json())["ok"] is False


async def test_an_empty_token_is_none(upstream: StartUpstream, gateway: StartGateway, tmp_path: Path) -> None:
    """A token file without content, as a command that failed leaves it, must not let in who brings no token."""
    (tmp_path / "admin.token").write_text("\n", encoding="utf-8")
    origin = await upstream(answers(OK))
    running = await gateway(proxy(origin.url).replace("admin: {", f"admin: {{token_file: {tmp_path / 'admin.token'}, "))
    host, port = running.admin
    async with ClientSession() as session:
        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer"}):
            async with session.post(f"http://{host}:{port}/reload", headers=headers) as response:
                assert (response.status, await response.text()) == (
                    403,
                    "`admin.token_file` is empty: nothing can be changed here.\n",
                )


class Target:
    """Takes every configuration, and counts them; refuses when told to."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self.looks = 0
        """How often it was asked for its configuration: once per look at the files, if nothing else happens."""
        self.changes = 0
        self.refuses = False

    @property
    def loaded(self) -> Loaded:
        """See `reload.Target`."""
        self.looks += 1
        return self._loaded

    async def looked_at(self) -> None:
        """Wait until the files have been looked at so often that a change of them would have been taken."""
        enough = self.looks + 5
        await eventually(lambda: self.looks >= enough)

    async def change_to(self, loaded: Loaded) -> None:
        """See `reload.Target`."""
        if self.refuses:
            raise ReloadError("not now")
        self._loaded = loaded
        self.changes += 1


SMALL = "version: 1\nroutes: [{name: NAME, match: {}, respond: 204}]\n"


@asynccontextmanager
async def watching(path: Path) -> AsyncIterator[tuple[Target, ReloadMetrics]]:
    """A watch on a file, with a target; every look comes soon."""
    target, metrics = Target(load(path, {})), ReloadMetrics(0)
    reloader = Reloader(target, metrics, interval=0.02, settle=0.01)
    task = asyncio.get_running_loop().create_task(reloader.run())
    try:
        yield target, metrics
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await reloader.stop()


async def test_every_config_map_swap_is_seen(tmp_path: Path) -> None:
    """The file is a link through a link that is swapped: the first swap is seen, and so is each one after it."""

    def publish(version: int) -> None:
        folder = tmp_path / f"..v{version}"
        folder.mkdir()
        (folder / "gateway.yaml").write_text(SMALL.replace("NAME", f"r{version}"), encoding="utf-8")
        (tmp_path / "..tmp").symlink_to(folder.name)
        (tmp_path / "..tmp").replace(tmp_path / "..data")

    publish(0)
    path = tmp_path / "gateway.yaml"
    path.symlink_to("..data/gateway.yaml")
    async with watching(path) as (target, _):

        def named(name: str) -> bool:
            return target.loaded.config.routes[0].name == name

        for version in range(1, 6):
            publish(version)
            await eventually(partial(named, f"r{version}"))


async def test_what_has_not_changed_is_not_reloaded(tmp_path: Path) -> None:
    """A file that is touched, written with the same content or swapped for an equal one is no change."""
    path = tmp_path / "gateway.yaml"
    path.write_text(SMALL, encoding="utf-8")
    async with watching(path) as (target, metrics):
        path.touch()
        path.write_text(SMALL, encoding="utf-8")
        (tmp_path / "new").write_text(SMALL, encoding="utf-8")
        (tmp_path / "new").replace(path)
        await target.looked_at()
        assert not target.changes
        path.write_text(SMALL.replace("NAME", "two"), encoding="utf-8")
        await eventually(lambda: target.changes)

    assert metrics.counts == {"success": 1, "failure": 0}


async def test_a_broken_file_is_tried_once(tmp_path: Path) -> None:
    """Each content is tried once: the log does not fill with the same error, and the correction is seen."""
    path = tmp_path / "gateway.yaml"
    path.write_text(SMALL, encoding="utf-8")
    async with watching(path) as (target, metrics):
        path.write_text(SMALL + "broken", encoding="utf-8")
        await eventually(lambda: metrics.counts["failure"])
        await target.looked_at()
        assert metrics.counts["failure"] == 1
        path.unlink()
        await eventually(lambda: metrics.counts["failure"] == 2)
        path.write_text(SMALL.replace("NAME", "two"), encoding="utf-8")
        await eventually(lambda: target.changes)

    assert metrics.successful


async def test_a_new_file_of_an_included_folder_is_seen(tmp_path: Path) -> None:
    """A file that comes into the folder, breaks, is mended and goes is four reloads, one of them failed."""
    path, folder = tmp_path / "gateway.yaml", tmp_path / "routes.d"
    folder.mkdir()
    path.write_text(SMALL + "include: routes.d\n", encoding="utf-8")
    async with watching(path) as (_, metrics):

        def counted(result: str, count: int) -> bool:
            return metrics.counts[result] == count

        more = folder / "a.yaml"
        text = "routes: [{name: more, match: {path: /more}, respond: 204}]"
        for content, result in (
            (text, "success"),
            ("{", "failure"),
            (text.replace("204", "200"), "success"),
            (None, "success"),
        ):
            expected = metrics.counts[result] + 1
            if content is None:
                more.unlink()
            else:
                more.write_text(content, encoding="utf-8")
            await eventually(partial(counted, result, expected))

    assert metrics.counts == {"success": 3, "failure": 1}


async def test_a_target_that_refuses_keeps_what_it_has(tmp_path: Path) -> None:
    """A valid file that cannot run here is a failed reload with the reason."""
    path = tmp_path / "gateway.yaml"
    path.write_text(SMALL, encoding="utf-8")
    target, metrics = Target(load(path, {})), ReloadMetrics(0)
    target.refuses = True
    outcome = await Reloader(target, metrics).reload("test")

    assert (outcome.ok, outcome.problems[0].message, metrics.successful) == (False, "not now", False)
