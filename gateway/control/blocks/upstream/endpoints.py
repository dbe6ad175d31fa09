"""The blocks `endpoints:` and `host:` of an upstream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.control.blocks.block import Asked, Block, Row, UpstreamFacts, line, slot
from gateway.control.reading.nodes import Loc, Positions
from gateway.control.reading.problems import Problem
from gateway.control.words import addresses
from gateway.control.words.host_names import with_name
from gateway.control.words.inherit import Resolved
from gateway.control.words.model import Model, required, setting
from gateway.control.words.values import repeated


class Endpoint(Model):
    """One address of an upstream."""

    short_form = ("url", {"type": "string"})

    url: addresses.EndpointAddress = required("`http://host:port`, `https://host:port` or `unix:/path`; without a path.")
    weight: int = setting(1, "Share of the requests, relative to the other endpoints.", ge=1, le=100)
    backup: bool = setting(False, "Takes requests only while too few others are healthy: none, or less than `panic` of them.")


def _check(endpoints: tuple[Endpoint, ...], loc: Loc, positions: Positions) -> Iterator[Problem]:
    for index, first in repeated(endpoint.url.url for endpoint in endpoints):
        message = f"this endpoint is already listed as number {first + 1}"
        yield positions.problem((*loc, index, "url"), message, "give it a `weight` instead")
    if all(endpoint.backup for endpoint in endpoints):
        yield positions.problem(loc, "all endpoints are backups: at least one must not be")


def _rows(found: Resolved[tuple[Endpoint, ...]], facts: UpstreamFacts, asked: Asked) -> list[Row]:
    return [
        (
            f"endpoint {at + 1}",
            f"{with_name(endpoint.url.url)} weight {endpoint.weight}{', backup' if endpoint.backup else ''}",
            str(asked.positions.at((*facts.loc, "endpoints", at))),
        )
        for at, endpoint in enumerate(found.value)
    ]


def _host(written: str) -> bytes | None:
    return {"preserve": None, "endpoint": b""}.get(written, written.encode("ascii"))


ENDPOINTS: Final = Block[UpstreamFacts]("endpoints", check_written=_check, rows=_rows)
HOST: Final = Block[UpstreamFacts]("host", compile=slot("host", _host), rows=line("host", with_name))
