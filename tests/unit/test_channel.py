"""The channel between a supervisor and a worker."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.supervisor.channel import Channel, ChannelClosedError, RefusedError
from tests.support import eventually


class Side:
    """Remembers what it is told, and does what the kind says."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any], list[int]]] = []

    async def handle(self, kind: str, content: dict[str, Any], files: list[int]) -> object:
        """See `channel.Handler`."""
        self.heard.append((kind, content, files))
        if kind == "fail":
            raise ValueError("no")
        if kind == "hang":
            await asyncio.Event().wait()
        return content.get("value")


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Channel, Channel, Side]]:
    """Two ends, and the side of the second."""
    ours, theirs = socket.socketpair()
    side = Side()
    one, other = Channel(ours, Side().handle), Channel(theirs, side.handle)
    try:
        yield one, other, side
    finally:
        await one.close()
        await other.close()


async def test_questions_are_answered() -> None:
    """Several at a time, each by its own answer; a refusal is one in words."""
    async with pair() as (one, _, _):
        answers = await asyncio.gather(*(one.ask("echo", {"value": number}, within=5) for number in range(50)))
        assert answers == list(range(50))
        with pytest.raises(RefusedError, match=r"^no$"):
            await one.ask("fail", within=5)


async def test_large_messages_arrive_whole() -> None:
    """More than any buffer of the kernel, both ways."""
    async with pair() as (one, _, _):
        text = "x" * (3 << 20)
        assert await one.ask("echo", {"value": text}, within=5) == text


async def test_files_go_with_their_message() -> None:
    """Each message has its own, in order, and they can be closed here as soon as they are sent."""
    async with pair() as (one, _, side):
        for number in range(3):
            reader, writer = os.pipe()
            os.write(writer, str(number).encode())
            one.send("take", {"number": number, "text": "x" * 300_000}, [reader, writer])
            os.close(reader)
            os.close(writer)
        await eventually(lambda: len(side.heard) == 3)

    for number, (_, content, files) in enumerate(side.heard):
        assert content["number"] == number
        assert os.read(files[0], 10) == str(number).encode()
        for file in files:
            os.close(file)


async def test_the_end_of_the_other_side_is_noticed() -> None:
    """Who waits is told at once, and so is who asks later."""
    async with pair() as (one, other, _):
        waiting = asyncio.ensure_future(one.ask("hang", within=5))
        await asyncio.sleep(0)
        await other.close()
        with pytest.raises(ChannelClosedError):
            await waiting
        await one.closed.wait()
        with pytest.raises(ChannelClosedError):
            await one.ask("echo", within=5)


async def test_an_answer_can_be_too_late() -> None:
    """Nobody waits for ever, and a late answer meets nobody."""
    async with pair() as (one, _, _):
        with pytest.raises(TimeoutError):
            await one.ask("hang", within=0.01)


async def test_nonsense_ends_the_channel() -> None:
    """A length beyond all bounds is not waited for."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours, Side().handle)
    theirs.sendall(struct.pack("<I", 0xFFFFFFFF))
    await channel.closed.wait()
    await channel.close()
    theirs.close()
