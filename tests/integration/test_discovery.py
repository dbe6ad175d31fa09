"""Names of endpoints: every address that a name stands for is an endpoint, and traffic follows the answers."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gateway.control.load import load
from gateway.control.running.resolver import SystemResolver
from gateway.endpoints import Endpoint
from gateway.policies.health import EndpointState
from tests.certificates import Certificates
from tests.conftest import StartGateway, StartUpstream
from tests.integration.test_health import balanced, endpoints, picked, says
from tests.integration.test_reload import reloaded
from tests.support import GET, OK, PATIENCE, Gateway, Upstream, answers, drips, eventually, refusing_port

SOON = "dns: 100ms"


class Phonebook:
    """A resolver that knows what the test has written into it, and remembers what it was asked."""

    def __init__(self, **known: list[str]) -> None:
        self.known = known
        self.asked: list[str] = []

    async def resolve(self, name: str) -> tuple[str, ...]:
        """See `ports.Resolver`."""
        self.asked.append(name)
        if name not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return tuple(self.known[name])

    async def asked_again(self) -> None:
        """Wait until an answer from now on has been taken in."""
        count = len(self.asked)
        await eventually(lambda: len(self.asked) >= count + 3)


class Silence:
    """A resolver that never answers."""

    async def resolve(self, name: str) -> tuple[str, ...]:
        """See `ports.Resolver`."""
        never: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
        return await never


def addresses(running: Gateway) -> list[str]:
    """Where the endpoints are."""
    return [one.address for one in endpoints(running)]


def at(running: Gateway, address: str) -> Endpoint:
    """The endpoint at this address."""
    return next(one for one in endpoints(running) if one.address == address)


async def fleet(upstream: StartUpstream, *last: int) -> list[Upstream]:
    """Upstreams at 127.0.0.x on one port, each answering with its x."""
    first = await upstream(says(str(last[0])), host=f"127.0.0.{last[0]}")
    return [first] + [await upstream(says(str(x)), host=f"127.0.0.{x}", port=first.port) for x in last[1:]]


async def test_each_address_is_an_endpoint(upstream: StartUpstream, gateway: StartGateway) -> None:
    """All addresses get traffic; `Host` is the name; the address is in `/upstreams`, in metrics and in the log."""
    origins = await fleet(upstream, 1, 2, 3)
    book = Phonebook(users=["127.0.0.3", "127.0.0.1", "127.0.0.2"])
    url = f"http://users:{origins[0].port}"
    running = await gateway(balanced(url, upstream="host: endpoint"), book)

    assert set(await picked(running)) == {b"1", b"2", b"3"}
    assert addresses(running) == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert [one.state for one in endpoints(running)] == [EndpointState.HEALTHY] * 3
    assert origins[1].requests[0].value(b"host") == f"users:{origins[0].port}".encode()
    assert {entry["upstream_addr"] for entry in running.log.entries} == {f"{url} (127.0.0.{x})" for x in (1, 2, 3)}
    assert book.asked == ["users"]


async def test_a_new_address_gets_traffic(upstream: StartUpstream, gateway: StartGateway) -> None:
    """What DNS adds is used without a reload, with a small share at first."""
    origins = await fleet(upstream, 1, 2)
    book = Phonebook(users=["127.0.0.1"])
    running = await gateway(balanced(f"http://users:{origins[0].port}", upstream=SOON), book)
    assert set(await picked(running)) == {b"1"}

    book.known["users"] = ["127.0.0.1", "127.0.0.2"]
    await eventually(lambda: len(endpoints(running)) == 2)
    assert at(running, "127.0.0.2").state is EndpointState.SLOW_START
    assert at(running, "127.0.0.2").share < 0.5
    async with asyncio.timeout(PATIENCE):
        while not (await picked(running))[b"2"]:
            pass


async def test_an_address_that_is_gone_gets_nothing_and_drops_nothing(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Exchanges in flight on it come to their end; then its connections are closed and its series end."""
    leaving = await upstream(drips(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"O", b"K"), host="127.0.0.2")
    await upstream(says("1"), host="127.0.0.1", port=leaving.port)
    book = Phonebook(users=["127.0.0.2"])
    running = await gateway(balanced(f"http://users:{leaving.port}", upstream=SOON), book)
    client = await running.client()
    await client.send(GET)
    leaving.gate.release()
    await client.head()
    gone = endpoints(running)[0]

    book.known["users"] = ["127.0.0.1"]
    await eventually(lambda: addresses(running) == ["127.0.0.1"])
    assert await picked(running) == {b"1": 40}
    assert gone.in_flight == 1
    leaving.gate.release()
    leaving.gate.release()
    assert await client.read(2) == b"OK"
    await eventually(lambda: gone.pool.counts()["open"] == 0)
    assert [label for label, _, _, _ in running.upstream.standings().endpoints] == [endpoints(running)[0].label]


async def test_a_failed_lookup_changes_nothing(
    upstream: StartUpstream, gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """The last addresses are kept while the name cannot be looked up, and one line says so."""
    (origin,) = await fleet(upstream, 1)
    book = Phonebook(users=["127.0.0.1"])
    running = await gateway(balanced(f"http://users:{origin.port}", upstream=SOON), book)
    before = endpoints(running)
    del book.known["users"]
    await book.asked_again()

    assert endpoints(running) is before
    assert await picked(running) == {b"1": 40}
    assert running.upstream.lookups["failed"] >= 2
    assert sum("the last addresses are kept" in message for message in caplog.messages) == 1


async def test_a_name_without_an_address_at_the_start(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The gateway starts, answers 502 `dns_error`, and serves as soon as there is an address."""
    (origin,) = await fleet(upstream, 1)
    book = Phonebook()
    running = await gateway(balanced(f"http://users.invalid:{origin.port}", upstream=SOON), book)
    assert (await running.get()).code == "dns_error"

    book.known["users.invalid"] = ["127.0.0.1"]
    await eventually(lambda: addresses(running) == ["127.0.0.1"])
    assert await picked(running) == {b"1": 40}
    assert [one.share for one in endpoints(running)] == [1.0]


async def test_a_name_without_an_address_beside_others(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Nothing is sent to it while there is anyone else."""
    (origin,) = await fleet(upstream, 1)
    running = await gateway(balanced("http://users.invalid:1", origin.url), Phonebook())

    assert await picked(running) == {b"1": 40}
    assert endpoints(running)[0].state is EndpointState.UNHEALTHY
    assert endpoints(running)[0].why.startswith("DNS: ")


@pytest.mark.slow
async def test_a_resolver_that_never_answers_does_not_hold_up_the_start(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The start waits for two seconds and no longer."""
    (origin,) = await fleet(upstream, 1)
    running = await gateway(balanced("http://users.invalid:1", origin.url), Silence())

    assert running.app.ready
    assert (await picked(running))[b"1"] > 0


async def test_an_address_counts_once_it_accepts_a_connection(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Of several addresses those that refuse are left out, and are taken in when they do not any more."""
    (origin,) = await fleet(upstream, 1)
    book = Phonebook(users=["127.0.0.1", "127.0.0.2"])
    running = await gateway(balanced(f"http://users:{origin.port}", upstream=SOON), book)
    assert addresses(running) == ["127.0.0.1"]
    assert await picked(running) == {b"1": 40}

    await upstream(says("2"), host="127.0.0.2", port=origin.port)
    await eventually(lambda: addresses(running) == ["127.0.0.1", "127.0.0.2"])


async def test_when_no_address_accepts_all_count(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The client then learns that connections are refused, not that there is no such name; the first to accept is used."""
    port = refusing_port()
    book = Phonebook(users=["127.0.0.1", "127.0.0.2"])
    running = await gateway(balanced(f"http://users:{port}", upstream=SOON), book)
    assert addresses(running) == ["127.0.0.1", "127.0.0.2"]
    assert (await running.get()).code == "connection_refused"

    await upstream(says("2"), host="127.0.0.2", port=port)
    await eventually(lambda: addresses(running) == ["127.0.0.2"])
    assert await picked(running) == {b"2": 40}


async def test_tls_asks_for_the_name(upstream: StartUpstream, gateway: StartGateway, certificates: Certificates) -> None:
    """The connection goes to the address, the certificate is that of the name."""
    origin = await upstream(answers(OK), tls=certificates.server("good"))
    settings = f"tls: {{ca: {certificates['ca.crt']}}}, health: {{interval: 100ms}}"
    book = Phonebook(localhost=["127.0.0.1"], other=["127.0.0.1"])
    urls = [f"https://{name}:{origin.port}" for name in book.known]
    running = await gateway(balanced(*urls, upstream=settings), book)

    await eventually(lambda: [one.state for one in endpoints(running)] == [EndpointState.HEALTHY, EndpointState.UNHEALTHY])
    assert await picked(running) == {b"OK": 40}


async def test_probes_follow_the_addresses(upstream: StartUpstream, gateway: StartGateway) -> None:
    """A new address gets traffic after its first good probe; one that is gone is probed no more."""
    one, two = await fleet(upstream, 1, 2)
    two.behaviour = answers(b"HTTP/1.1 503 Not Yet\r\nContent-Length: 0\r\n\r\n")
    book = Phonebook(users=["127.0.0.1"])
    settings = f"{SOON}, health: {{interval: 100ms}}"
    running = await gateway(balanced(f"http://users:{one.port}", upstream=settings), book)
    book.known["users"] = ["127.0.0.1", "127.0.0.2"]
    await eventually(lambda: two.requests)
    assert at(running, "127.0.0.2").state is EndpointState.UNHEALTHY
    two.behaviour = says("2")
    await eventually(lambda: at(running, "127.0.0.2").state is EndpointState.SLOW_START)

    book.known["users"] = ["127.0.0.2"]
    await eventually(lambda: addresses(running) == ["127.0.0.2"])
    await eventually(lambda: not one.peers)
    probed, before = len(one.requests), len(two.requests)
    # The probes of the other address come again and again meanwhile.
    await eventually(lambda: len(two.requests) >= before + 4)
    assert len(one.requests) == probed


async def test_addresses_are_not_looked_up(upstream: StartUpstream, gateway: StartGateway) -> None:
    """Nor names with `dns: off`: they are resolved for each connection, as one endpoint."""
    (origin,) = await fleet(upstream, 1)
    book = Phonebook()
    assert await picked(await gateway(balanced(origin.url), book)) == {b"1": 40}
    running = await gateway(balanced(f"http://localhost:{origin.port}", upstream="dns: 'off'"), book)

    assert await picked(running) == {b"1": 40}
    assert addresses(running) == ["localhost"]
    assert book.asked == []


async def test_localhost_through_the_system(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The system's resolver, `/etc/hosts` and a service that listens on one of the two addresses of localhost."""
    (origin,) = await fleet(upstream, 1)
    running = await gateway(balanced(f"http://localhost:{origin.port}"))

    assert await picked(running) == {b"1": 40}
    assert addresses(running) == ["127.0.0.1"]


async def test_the_system_says_what_it_does_not_know() -> None:
    """A name that does not exist, or is none, is an OSError and takes no thread for longer."""
    resolver = SystemResolver()
    for name in ["does-not-exist.invalid", "x" * 64 + ".invalid"] * 10:
        with pytest.raises(OSError, match=r"not known|not a name"):
            await resolver.resolve(name)


async def test_a_reload_keeps_the_addresses(upstream: StartUpstream, gateway: StartGateway) -> None:
    """The endpoints of a name are the same ones after it, and further answers reach the new group."""
    origins = await fleet(upstream, 1, 2, 3)
    book = Phonebook(users=["127.0.0.1", "127.0.0.2"])
    url = f"http://users:{origins[0].port}"
    running = await gateway(balanced(url, upstream=SOON), book)
    before = endpoints(running)

    assert (await reloaded(running, balanced(url, origins[2].url, upstream=SOON))).ok
    assert endpoints(running)[:2] == before
    book.known["users"] = ["127.0.0.2"]
    await eventually(lambda: addresses(running) == ["127.0.0.2", "127.0.0.3"])
    book.known["others"] = ["127.0.0.3"]
    assert (await reloaded(running, balanced(url.replace("users", "others"), upstream=SOON))).ok
    await eventually(lambda: addresses(running) == ["127.0.0.3"])
    asked, others = book.asked.count("users"), book.asked.count("others")
    # The name that there is now is looked up again and again meanwhile.
    await eventually(lambda: book.asked.count("others") >= others + 4)
    assert book.asked.count("users") == asked


async def test_an_answer_between_the_preparation_of_a_reload_and_its_commit_is_not_lost(
    upstream: StartUpstream, gateway: StartGateway
) -> None:
    """The new group was made with the addresses of before; it gets the new ones at once, not after the interval."""
    origin, _ = await fleet(upstream, 1, 2)
    book = Phonebook(users=["127.0.0.1"])
    url = f"http://users:{origin.port}"
    running = await gateway(balanced(url, upstream="dns: 1h"), book)
    path = running.app.runtime.loaded.path
    path.write_text(balanced(url, upstream="dns: 1h, panic: 10%"), encoding="utf-8")
    prepared = await running.app.runtime.prepare(load(path))
    # An hour later:
    book.known["users"] = ["127.0.0.2"]
    running.app.runtime._discovery._put(running.app.plane.snapshot.upstreams[0].names[0], book.known["users"])
    assert addresses(running) == ["127.0.0.2"]

    await running.app.runtime.commit(prepared)
    await eventually(lambda: addresses(running) == ["127.0.0.2"])
    assert await picked(running) == {b"2": 40}
