"""A real Prometheus for tests, on the rules that are deployed, with their time made short."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from aiohttp import ClientError, ClientSession, ClientTimeout

from tests.fleets import until
from tests.observability import PROMETHEUS, RULES
from tests.support import refusing_port

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_RANGE: Final = re.compile(r"\[(\d+)([smhd])\]")


def seconds(text: str) -> int:
    """A duration of Prometheus with one unit."""
    return int(text[:-1]) * _SECONDS[text[-1]]


def shortened(expression: str) -> str:
    """Windows a twentieth as long, but wide enough for a few scrapes a second apart."""
    return _RANGE.sub(lambda found: f"[{max(12, seconds(found[1] + found[2]) // 20)}s]", expression)


def shortened_rules(text: str) -> str:
    """A rule file whose alerts wait for five seconds at most."""
    document: dict[str, Any] = yaml.safe_load(text)
    for group in document["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            rule["expr"] = shortened(rule["expr"])
            if "for" in rule:
                rule["for"] = f"{min(5, max(1, seconds(rule['for']) // 60))}s"
    return yaml.safe_dump(document)


class Prometheus:
    """One process. What it scrapes can change while it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = refusing_port()
        self._targets = folder / "targets.json"
        self._client: ClientSession
        self.aim({})

    def aim(self, targets: Mapping[str, Sequence[int]]) -> None:
        """Scrape these admin listeners: job ▸ ports."""
        groups = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"job": job, "instance": f"{job}-{at}"}}
            for job, ports in targets.items()
            for at, port in enumerate(ports)
        ]
        draft = self._targets.with_suffix(".new")
        draft.write_text(json.dumps(groups))
        draft.replace(self._targets)

    def _configure(self) -> Path:
        document: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
        document["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        (job,) = (job for job in document["scrape_configs"] if job["job_name"] == "gateway")
        del job["dns_sd_configs"]
        job["file_sd_configs"] = [{"files": [str(self._targets)], "refresh_interval": "1s"}]
        document["scrape_configs"] = [job]
        (self.folder / "rules").mkdir()
        for path in RULES:
            (self.folder / "rules" / path.name).write_text(shortened_rules(path.read_text()))
        file = self.folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(document))
        return file

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Prometheus]:
        """Start it and wait until it answers."""
        binary = shutil.which("prometheus")
        assert binary is not None
        options = [f"--config.file={self._configure()}", f"--storage.tsdb.path={self.folder / 'data'}", "--log.level=warn"]
        log = (self.folder / "prometheus.log").open("wb")
        process = subprocess.Popen([binary, *options, f"--web.listen-address=127.0.0.1:{self.port}"], stdout=log, stderr=log)
        try:
            async with ClientSession(f"http://127.0.0.1:{self.port}", timeout=ClientTimeout(total=10)) as self._client:

                async def ready() -> bool:
                    assert process.poll() is None, (self.folder / "prometheus.log").read_text()
                    return await self._ready()

                await until(ready, every=0.1)
                yield self
        finally:
            process.kill()
            process.wait()
            log.close()

    async def _ready(self) -> bool:
        try:
            async with self._client.get("/-/ready") as response:
                return response.status == 200
        except (ClientError, TimeoutError):
            return False

    async def firing(self) -> list[dict[str, str]]:
        """The labels of the alerts that fire now."""
        async with self._client.get("/api/v1/alerts") as response:
            found = (await response.json())["data"]["alerts"]
        return [alert["labels"] for alert in found if alert["state"] == "firing"]

    async def values(self, expression: str) -> list[float]:
        """What an expression gives now."""
        return [value for _, value in await self.samples(expression)]

    async def samples(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The same with its labels."""
        async with self._client.post("/api/v1/query", data={"query": expression}) as response:
            answer = await response.json()
        assert answer["status"] == "success", (expression, answer)
        return [(sample["metric"], float(sample["value"][1])) for sample in answer["data"]["result"]]
