"""Whom the gateway takes a request to be from, where it would go, and why: rows of `gateway explain`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.control.blocks.block import Row
from gateway.control.load import Loaded
from gateway.control.tools.trial import Address, Trial
from gateway.control.words.inherit import BUILT_IN
from gateway.control.words.units import format_duration
from gateway.endpoints import Affinity
from gateway.headers import UNIX, Networks
from gateway.policies.timeout import parse_budget_ms, remaining_ms
from gateway.proxy.attempts.load_balancing import hash_key, pick
from gateway.proxy.steps.request_keys import cookie_value, key_part
from gateway.request_key import KeyPart
from gateway.snapshot import Upstream

_PROXIES: Final = ("server", "trusted_proxies")


def asking(loaded: Loaded, trial: Trial) -> list[Row]:
    """Who asks, as the gateway believes it, and by which listener and scheme."""
    listener: Row = ("listener", str(trial.listen.address), _listener_place(loaded, trial))
    # Where proxies are believed, what is said of the client names the place of each.
    proxies = "" if trial.x.client.trusted else str(loaded.positions.written(_PROXIES) or BUILT_IN)
    return [("client", _client(loaded, trial), proxies), listener, ("scheme", _scheme(trial), "")]


def _listener_place(loaded: Loaded, trial: Trial) -> str:
    index = loaded.config.server.listen.index(trial.listen)
    return str(loaded.positions.written(("server", "listen", index)) or BUILT_IN)


def _forwarded(trial: Trial, name: bytes) -> bytes | None:
    """A forwarding field as it came, believed or not."""
    return (trial.x.head.fields.forwarded or {}).get(name)


def _shown(address: Address) -> str:
    return "a Unix socket, no address" if address is None else str(address)


def _client(loaded: Loaded, trial: Trial) -> str:
    if not trial.from_known:
        return "not known: say who is at the other end of the connection with --from ADDRESS"
    peer = trial.x.client.peer
    told = _forwarded(trial, b"x-forwarded-for")
    if not trial.x.client.trusted:
        return f"{_shown(peer)}: no trusted proxy" + (", X-Forwarded-For is not believed" if told is not None else "")
    ranges = "; ".join(dict.fromkeys(_in_range(loaded, address) for address, is_proxy in trial.looked_up if is_proxy))
    if told is None:
        return f"{_shown(peer)}: a trusted proxy that says nothing, X-Forwarded-For is missing; {ranges}"
    return f"{_shown(trial.x.client_ip)}: {_search(trial, told)}; {ranges}"


def _search(trial: Trial, told: bytes) -> str:
    """Why the search through `X-Forwarded-For`, from the right, ended where it did."""
    passed = trial.looked_up[1:]
    if passed and not passed[-1][1]:
        return "the right-most of X-Forwarded-For that is no trusted proxy"
    members = told.split(b",")
    if len(passed) == len(members):
        return "the left-most of X-Forwarded-For, all of them are trusted proxies"
    garbage = members[len(members) - 1 - len(passed)].strip(b" \t").decode("latin-1")
    return f"{garbage[:40]!r} in X-Forwarded-For is no address, what stands there and left of it is not believed"


def _in_range(loaded: Loaded, address: Address) -> str:
    """`10.0.0.5 is in 10.0.0.0/8 (gateway.yaml:12)`."""
    listed = loaded.config.server.trusted_proxies
    for index, written in enumerate(listed):
        if address in Networks((written,)):
            place = loaded.positions.at((*_PROXIES, index))
            return (
                f"whoever comes by a Unix socket is trusted ({place})"
                if written == UNIX
                else f"{address} is in {written} ({place})"
            )
    # A Unix socket, where all addresses are trusted.
    return f"everybody is trusted ({loaded.positions.at(_PROXIES)})"


def _scheme(trial: Trial) -> str:
    x = trial.x
    believed, own = x.scheme().decode("ascii"), x.client.scheme.decode("ascii")
    told = _forwarded(trial, b"x-forwarded-proto")
    if not trial.from_known:
        return f"{believed}: as the URL or the listener says"
    if told is None:
        return f"{own}: that of the connection"
    if not x.client.trusted:
        return f"{own}: that of the connection, X-Forwarded-Proto is not believed"
    if believed == own:
        return f"{own}: that of the connection, and X-Forwarded-Proto says no other"
    return f"{believed}: X-Forwarded-Proto of a trusted proxy; the connection has {own}"


def forwarded(trial: Trial, budget_place: str) -> list[Row]:
    """What the upstream is told of the time left, and the endpoint where something of the request decides about it."""
    route = trial.route
    assert route is not None
    assert route.upstream is not None
    rows = [("upstream is told", _budget(trial), budget_place)]
    if route.upstream.affinity is not None:
        rows.append(("endpoint for it", _endpoint(trial, route.upstream, route.upstream.affinity), ""))
    return rows


def _budget(trial: Trial) -> str:
    x, route = trial.x, trial.route
    assert route is not None
    names = x.snapshot.names
    field = names.budget_line.decode("ascii") + str(remaining_ms(x.started, x.deadline))
    whole = f"timeout.request {format_duration(route.timeout.request)}"
    given = x.head.fields.values.get(names.budget)
    spent = "less what is spent when it is sent"
    if given is None:
        return f"{field}, {spent}: {whole}"
    if not x.client.trusted:
        return f"{field}, {spent}: {whole}; what the client asks for is not believed"
    if x.budget < route.timeout.request:
        return f"{field}, {spent}: the trusted proxy asks for it, {whole} is longer"
    why = "is no number of milliseconds" if parse_budget_ms(given) is None else "is not shorter"
    return f"{field}, {spent}: {whole}; what the trusted proxy asks for {why}"


def _endpoint(trial: Trial, upstream: Upstream, affinity: Affinity) -> str:
    x, route = trial.x, trial.route
    assert route is not None
    if upstream.names:
        return "not known here: the names of its endpoints are looked up while the gateway runs"
    chosen = pick(x, route, upstream, None)
    assert chosen is not None
    ignored = ""
    if affinity.sticky is not None:
        cookie = affinity.sticky.cookie.decode("ascii")
        value = cookie_value(x.field_value(b"cookie"), affinity.sticky.cookie)
        if value and value in upstream.group.by_cookie:
            return f"{chosen.label}, if available: the cookie `{cookie}` names it"
        ignored = f"; the cookie `{cookie}` " + ("is missing" if not value else "names no endpoint")
    if not affinity.key:
        return f"any of them{ignored}"
    if hash_key(x, route, affinity) is not None:
        return f"{chosen.label}, if available and not over its share: by the hash of {_parts(affinity.key)}{ignored}"
    missing = [(kind, name) for kind, name in affinity.key if key_part(x, route, kind, name) is None]
    if missing == [(KeyPart.CLIENT_IP, b"")] and not trial.from_known:
        return f"not known: by the hash of {_parts(affinity.key)}, and --from ADDRESS says who asks{ignored}"
    return f"any of them: {_parts(missing)} is missing{ignored}"


def _parts(key: Sequence[tuple[KeyPart, bytes]]) -> str:
    return " and ".join(f"{kind.value}:{name.decode()}" if name else kind.value for kind, name in key)
