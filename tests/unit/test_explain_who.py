"""`explain --from`: who asks, whom the limits count, where the request would go. What runs says the same: integration tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.cli import OK, USAGE, main
from gateway.control.load import load
from gateway.control.tools.explain import explain
from gateway.control.tools.trial import RequestError

TEXT = """\
version: 1
server:
  listen: [":8080", "unix:/run/gateway.sock", {address: ":8081", redirect_to_https: true}]
  trusted_proxies:
    - 192.0.2.1
    - 10.0.0.0/8
upstreams:
  app:
    endpoints: [http://127.0.0.1:9001, http://127.0.0.1:9002]
    load_balancing: {algorithm: consistent_hash, key: client_ip}
  named:
    endpoints: [http://app.internal:9001, http://127.0.0.1:9002]
    dns: 10s
    sticky: srv
routes:
  - name: all
    match: {path: "/**"}
    upstream: app
    timeout: 5s
    rate_limit:
      - name: client
        limit: 100/min
        overrides: {198.51.100.7: 1000}
        exempt: {cidrs: [198.51.100.8]}
        cost: {header: X-Cost, max: 9}
      - {name: shadow, limit: 1/s, key: "header:X-T", missing: deny, mode: shadow}
      - {name: strict, limit: 1/s, key: [client_ip, "header:X-T"], missing: deny}
  - {name: named, match: {path: /named}, upstream: named}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with proxies, listeners and limits."""
    found = tmp_path / "g.yaml"
    found.write_text(TEXT, encoding="utf-8")
    return found


def row(text: str, name: str) -> str:
    """What stands behind the name of a row, blanks reduced."""
    (found,) = re.findall(rf"^  {re.escape(name)}  +(.*)$", text, re.MULTILINE)
    return " ".join(found.split())


@pytest.mark.parametrize(
    "peer,told,shown",
    [
        ("203.0.113.9", None, "203.0.113.9: no trusted proxy PATH:4"),
        ("203.0.113.9", "1.1.1.1", "203.0.113.9: no trusted proxy, X-Forwarded-For is not believed PATH:4"),
        (
            "10.0.0.5",
            None,
            "10.0.0.5: a trusted proxy that says nothing, X-Forwarded-For is missing; 10.0.0.5 is in 10.0.0.0/8 (PATH:6)",
        ),
        (
            "::ffff:10.0.0.5",
            "1.1.1.1, 198.51.100.7:4711, 192.0.2.1",
            (
                "198.51.100.7: the right-most of X-Forwarded-For that is no trusted proxy; "
                "10.0.0.5 is in 10.0.0.0/8 (PATH:6); 192.0.2.1 is in 192.0.2.1 (PATH:5)"
            ),
        ),
        (
            "10.0.0.5",
            "1.1.1.1, unknown, 192.0.2.1",
            (
                "192.0.2.1: 'unknown' in X-Forwarded-For is no address, what stands there and left of it is not believed; "
                "10.0.0.5 is in 10.0.0.0/8 (PATH:6); 192.0.2.1 is in 192.0.2.1 (PATH:5)"
            ),
        ),
        (
            "10.0.0.5",
            "10.0.0.6",
            (
                "10.0.0.6: the left-most of X-Forwarded-For, all of them are trusted proxies; "
                "10.0.0.5 is in 10.0.0.0/8 (PATH:6); 10.0.0.6 is in 10.0.0.0/8 (PATH:6)"
            ),
        ),
    ],
)
def test_the_client_and_why(path: Path, peer: str, told: str | None, shown: str) -> None:
    """The address that is believed, and each trusted proxy on the way to it with its place in the file."""
    headers = [f"X-Forwarded-For: {told}"] if told is not None else []

    assert row(explain(load(path), "GET", "http://x/a", headers, peer=peer), "client") == shown.replace("PATH", str(path))


def test_whoever_says_it_of_a_unix_socket(tmp_path: Path) -> None:
    """A Unix socket is trusted by the word `unix`, and by all addresses there are."""
    for proxies, why in [
        ("[10.0.0.1, unix]", "whoever comes by a Unix socket is trusted"),
        ('["::/0", "0.0.0.0/0"]', "everybody is trusted"),
    ]:
        path = tmp_path / "g.yaml"
        path.write_text(TEXT.replace("\n    - 192.0.2.1\n    - 10.0.0.0/8", f" {proxies}"), encoding="utf-8")
        assert f"; {why} ({path}:4)" in row(
            explain(load(path), "GET", "/a", ["X-Forwarded-For: 1.1.1.1"], peer="unix"), "client"
        )


def test_key_cost_override_and_exemption(path: Path) -> None:
    """Each limit says by what it counts the request and as how much, and what holds for its key."""
    text = explain(load(path), "GET", "http://x/a", ["X-Forwarded-For: 198.51.100.7", "X-Cost: 3"], peer="10.0.0.5")

    assert row(text, "rate_limit.client.key") == "client_ip = 198.51.100.7"
    assert re.fullmatch("[0-9a-f]{32}", row(text, "rate_limit.client.digest"))
    assert row(text, "rate_limit.client.overrides") == f"1000 per 1m for this key {path}:23"
    assert row(text, "rate_limit.client.cost") == "X-Cost, 1 to 9: 3"
    text = explain(load(path), "GET", "http://x/a", ["X-T: a"], peer="198.51.100.8")
    assert row(text, "rate_limit.client.exempt") == f"yes: it is not counted {path}:24"
    assert "rate_limit.client.digest" not in text
    assert row(text, "rate_limit.strict.key") == "client_ip = 198.51.100.8 and header:x-t = 'a'"


def test_what_a_missing_part_of_the_key_does(path: Path) -> None:
    """`missing: deny` refuses; in a limit that only looks, nobody is refused."""
    text = explain(load(path), "GET", "http://x/a", peer="198.51.100.9")

    assert row(text, "rate_limit.shadow.key") == "header:x-t is missing: not limited"
    assert row(text, "rate_limit.strict.key") == "client_ip = 198.51.100.9 and header:x-t is missing: denied"


def test_without_from_the_client_is_unknown(path: Path) -> None:
    """Who asks is not made up: what depends on it is said not to be known, and nothing a proxy would say is believed."""
    text = explain(load(path), "GET", "http://x/a", ["X-T: a", "X-Forwarded-For: 1.1.1.1", "X-Request-Timeout-Ms: 7"])

    assert "who asks, as the gateway sees it" not in text
    assert "--from ADDRESS tells" in row(text, "rate_limit.client.key")
    assert "rate_limit.client.digest" not in text
    assert "rate_limit.strict.digest" not in text
    assert "rate_limit.shadow.digest" in text
    assert row(text, "endpoint for it") == "not known: by the hash of client_ip, and --from ADDRESS says who asks"
    assert row(text, "upstream is told").startswith("X-Request-Timeout-Ms: 5000, ")
    assert row(explain(load(path), "GET", "/a", listen=":8080"), "client").startswith("not known: say who")


@pytest.mark.parametrize(
    "peer,asked,shown",
    [
        ("203.0.113.9", "700", "5000, less what is spent when it is sent: timeout.request 5s; what the client asks for"),
        ("10.0.0.5", "700", "700, less what is spent when it is sent: the trusted proxy asks for it, timeout.request 5s"),
        (
            "10.0.0.5",
            "70000",
            "5000, less what is spent when it is sent: timeout.request 5s; what the trusted proxy asks for is",
        ),
        (
            "10.0.0.5",
            "1s",
            "5000, less what is spent when it is sent: timeout.request 5s; what the trusted proxy asks for is no",
        ),
    ],
)
def test_the_budget_told_upstream(path: Path, peer: str, asked: str, shown: str) -> None:
    """The smaller of `timeout.request` and what a trusted peer asks."""
    text = explain(load(path), "GET", "http://x/a", [f"X-Request-Timeout-Ms: {asked}"], peer=peer)

    assert row(text, "upstream is told").startswith(f"X-Request-Timeout-Ms: {shown}")


def test_the_scheme_and_why(path: Path) -> None:
    """That of the connection, unless a trusted proxy says another."""

    def scheme(peer: str, *headers: str) -> str:
        return row(explain(load(path), "GET", "https://x/a", headers, peer=peer), "scheme")

    assert scheme("10.0.0.5") == "http: that of the connection"
    assert scheme("10.0.0.5", "X-Forwarded-Proto: https").startswith("https: X-Forwarded-Proto of a trusted proxy")
    assert scheme("10.0.0.5", "X-Forwarded-Proto: http") == "http: that of the connection, and X-Forwarded-Proto says no other"
    assert scheme("8.8.8.8", "X-Forwarded-Proto: https").endswith("X-Forwarded-Proto is not believed")
    assert row(explain(load(path), "GET", "https://x/a", listen=":8080"), "scheme") == "http: as the URL or the listener says"


def test_names_are_looked_up_while_it_runs(path: Path) -> None:
    """Which addresses a name stands for is not known to a command."""
    assert row(explain(load(path), "GET", "http://x/named", ["Cookie: srv=1"]), "endpoint for it").startswith("not known here")


@pytest.mark.parametrize(
    "arguments,message",
    [
        (("--from", "nobody"), "`nobody` is not an address: write `--from 10.0.0.5` or `--from unix`"),
        (("--from", "unix", "--listen", ":8080"), "`:8080` is no Unix socket"),
        (("--from", "10.0.0.5", "--listen", "unix:/run/gateway.sock"), "who comes there has no address"),
        (("--listen", ":9"), "nobody listens on `:9`; there is :8080, unix:/run/gateway.sock, :8081"),
        (("--listen", ":8081"), "without a Host nobody can be sent to HTTPS"),
        (("-H", "A: \x01"), "answered 400 before routing"),
    ],
)
def test_who_cannot_ask(capsys: pytest.CaptureFixture[str], path: Path, arguments: tuple[str, ...], message: str) -> None:
    """A peer that there cannot be, a listener that there is not and a request that nobody reads are said to be."""
    assert main(["explain", str(path), "GET", "/a", *arguments]) == USAGE
    assert message in capsys.readouterr().err


def test_what_no_route_is_asked_for(path: Path) -> None:
    """TRACE and CONNECT are answered as the data plane answers them; a name that is no text is none of a header."""
    assert "→ 405: TRACE is never served" in explain(load(path), "TRACE", "/a")
    with pytest.raises(RequestError, match="answered 501 before routing: The method is not implemented"):
        explain(load(path), "CONNECT", "/a")
    with pytest.raises(RequestError, match="is not a header"):
        explain(load(path), "GET", "/a", ["\udcff: a"])


def test_the_redirect_counts_by_the_limits_of_defaults(tmp_path: Path) -> None:
    """Where plain HTTP is sent to HTTPS no route is asked, and what `defaults` says holds."""
    path = tmp_path / "g.yaml"
    path.write_text(TEXT + "defaults: {rate_limit: 7/min}\n", encoding="utf-8")
    text = explain(load(path), "GET", "http://x/a", peer="8.8.8.8", listen=":8081")

    assert "→ 308, Location: https://x/a\n" in text
    assert "routes, in the order" not in text
    assert row(text, "rate_limit.default").startswith("7 per 1m")
    assert row(text, "rate_limit.default.key") == "client_ip = 8.8.8.8"


def test_the_options_of_the_command(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    """`--from` and `--listen` reach the explanation."""
    assert main(["explain", str(path), "GET", "http://x/a", "--from", "unix", "--listen", "unix:/run/gateway.sock"]) == OK
    out = capsys.readouterr().out

    assert row(out, "client").startswith("a Unix socket, no address: no trusted proxy")
    assert row(out, "listener") == f"unix:/run/gateway.sock {path}:3"


def test_a_path_alone_is_not_sent_to_https(tmp_path: Path) -> None:
    """Who writes no scheme asks for the route, also where all plain HTTP is redirected: the usual listeners are these two."""
    path = tmp_path / "g.yaml"
    path.write_text(TEXT.replace('":8080", "unix', '{address: ":8080", redirect_to_https: true}, "unix'), encoding="utf-8")

    assert "→ route `all`" in explain(load(path), "GET", "/a")
