"""The framing corpus with bytes put in, taken out and moved: whatever comes of it, both sides agree on it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from random import Random
from typing import Final

import pytest

from tests.integration.framing.judge import CONFIG, cases, exchange, expand, split_responses
from tests.integration.framing.origin import Origin
from tests.support import running

MUTANTS: Final = 400
AT_ONCE: Final = 40
PATIENCE: Final = 30.0
"""Seconds: not reached, since the gateway closes when all is answered."""
SPICE: Final = [
    *(
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\0",
        b" ",
        b"\t",
        b"\x0b",
        b"\x7f",
        b"\x85",
        b"\xff",
        b":",
        b";",
        b",",
        b"0",
        b"-",
        b"+",
    ),
    *(
        b"_",
        b"0\r\n\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Host: b\r\n",
    ),
    *(
        b"\r\n ",
        b"GET /smuggled HTTP/1.1\r\nHost: b\r\n\r\n",
        b"HTTP/1.0",
        b"chunked",
        b"identity",
        b"Expect: 100-continue\r\n",
    ),
]


def mutant(seeds: list[bytes], random: Random) -> bytes:
    """A request of the corpus, changed in up to four places."""
    data = random.choice(seeds)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        to = min(len(data), at + random.choice([0, 0, 1, 2, 8]))
        middle = random.choice([random.choice(SPICE), b"", data[at:to] * 2])
        data = data[:at] + middle + data[to:]
    return data


async def disagreements(data: bytes, folder: Path, number: int) -> list[str]:
    """What is wrong between the client's view and the origin's."""
    origin = Origin()
    await origin.start()
    config = folder / f"{number}.yaml"
    config.write_text(CONFIG.replace("PORT", str(origin.port)), encoding="utf-8")
    try:
        async with running(config, tasks=False) as gateway:
            received, closed = await exchange(gateway, [data], patience=PATIENCE, quiet=PATIENCE, half_close=True)
            responses, left = split_responses(received, [])
            answered = [response.status for response in responses if response.status >= 200]
            done = sum(record.complete for record in origin.records)
            found = [anomaly for record in origin.records for anomaly in record.anomalies]
            if not closed:
                found.append("the gateway did not close a connection whose client had finished")
            if done < answered.count(200) or (done > len(answered) and b"HEAD" not in data):
                found.append(f"{done} requests at the origin, answers {answered}")
            if 500 in answered or 502 in answered or (left and b"HEAD" not in data):
                found.append(f"answers {answered}, then {left[:30]!r}")
    finally:
        origin.stop()
    return [f"{text}: {data[:400]!r}" for text in found]


async def all_disagreements(folder: Path, seed: int) -> list[str]:
    """Those of all mutants."""
    random = Random(seed)
    seeds = [data for case in cases("requests") if "raw" in case and len(data := expand(case["raw"])) < 2000]
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, data: bytes) -> list[str]:
        async with turn:
            return await disagreements(data, folder, number)

    found = await asyncio.gather(*(one(number, mutant(seeds, random)) for number in range(MUTANTS)))
    return [text for texts in found for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_no_mutant_splits_or_breaks_anything(tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int) -> None:
    """As many whole requests at the origin as were answered, all canonical, and no error of ours (RFC 9112 11.2)."""
    assert asyncio.run(all_disagreements(tmp_path, seed)) == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
