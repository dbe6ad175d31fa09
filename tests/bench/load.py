"""wrk on the load core, and what one run of it says."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import Final

from tests.bench.processes import StartError, core_busy_seconds, family_cpu_seconds
from tests.bench.proxies import LOAD_CORE, Running

_MOMENT: Final = 0.4
_REPORT: Final = """
done = function(summary, latency, requests)
    local e = summary.errors
    io.write(string.format("\\n@@ %d %d %d %d %.1f %.1f\\n", summary.requests, summary.duration, summary.bytes,
        e.connect + e.read + e.write + e.timeout + e.status, latency:percentile(50), latency:percentile(99)))
end
"""
_VARIED: Final = """
local requests, at = {}, 0
init = function(args)
    local fields = {
        ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0",
        ["Accept"] = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        ["Accept-Language"] = "en-US,en;q=0.5",
        ["Accept-Encoding"] = "gzip, deflate, br",
        ["Referer"] = "https://www.example.com/users?page=2",
        ["Cookie"] = "session=0123456789abcdef0123456789abcdef; theme=dark",
        ["Sec-Fetch-Dest"] = "document",
        ["Sec-Fetch-Mode"] = "navigate",
        ["Sec-Fetch-Site"] = "same-origin",
    }
    for n = 1, 8192 do
        fields["Traceparent"] = string.format("00-%032x-%016x-01", n, n)
        requests[n] = wrk.format("GET", wrk.path .. "?n=" .. n, fields)
    end
end
request = function()
    at = at % 8192 + 1
    return requests[at]
end
"""
"""Requests like a browser's behind a tracing proxy: many fields, one of them never twice the same."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of wrk against one proxy."""

    requests: int
    seconds: float
    bytes: int
    errors: int
    p50_us: float
    p99_us: float
    cpu_seconds: float
    """Of the proxy."""
    load_core: float
    """Share of the run in which the load core was not idle: near 1, the load is the limit and not the proxy."""
    disturbed: float
    """What processes that are not ours took meanwhile, in cores: near 0, or the run says little."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def cpu_ms_per_1000(self) -> float:
        """Milliseconds of the proxy's core per 1000 requests, which is also microseconds per request."""
        return self.cpu_seconds * 1e6 / max(self.requests, 1)

    @property
    def proxy_core(self) -> float:
        """Share of the run in which the proxy was on its core."""
        return self.cpu_seconds / self.seconds

    @property
    def bytes_rate(self) -> float:
        """Bytes per second."""
        return self.bytes / self.seconds


def wrk_version() -> str:
    """wrk's own word, or StartError when there is none."""
    program = shutil.which("wrk")
    if program is None:
        raise StartError("wrk is not installed")
    return subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stdout.split("[")[0].strip()


def wrk(proxy: Running, *, path: str, seconds: float, connections: int, varied: bool = False) -> Run:
    """Load the proxy with one thread of wrk: the same request again and again, or `varied` ones like a browser's."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_REPORT + (_VARIED if varied else ""))
        script.flush()
        command = ["taskset", "-c", str(LOAD_CORE), "wrk", "-t1", f"-c{connections}", f"-d{max(seconds, 1):.0f}s"]
        before = _Clocks.read(proxy)
        done = subprocess.run(
            [*command, "--timeout", "30s", "-s", script.name, proxy.url(path)], capture_output=True, text=True, check=False
        )
        after = _Clocks.read(proxy)
    for line in done.stdout.splitlines():
        if line.startswith("@@ "):
            requests, microseconds, size, errors, p50, p99 = (float(word) for word in line.split()[1:])
            duration = microseconds / 1e6
            return Run(
                requests=int(requests),
                seconds=duration,
                bytes=int(size),
                errors=int(errors),
                p50_us=p50,
                p99_us=p99,
                cpu_seconds=after.proxy - before.proxy,
                load_core=min((after.load_core - before.load_core) / duration, 1.0),
                disturbed=_others(before, after) / duration,
            )
    raise StartError(f"wrk said nothing: {done.stdout[-300:]} {done.stderr[-300:]}")


@dataclass(frozen=True, slots=True)
class _Clocks:
    """CPU seconds spent so far."""

    proxy: float
    load_core: float
    all_cores: float
    ours: float
    """By this process and everything it started, those that have ended included."""

    @classmethod
    def read(cls, proxy: Running | None) -> _Clocks:
        ended = os.times()
        return cls(
            proxy=proxy.process.cpu_seconds() if proxy is not None and proxy.process is not None else 0.0,
            load_core=core_busy_seconds(LOAD_CORE),
            all_cores=sum(core_busy_seconds(core) for core in range(os.cpu_count() or 1)),
            ours=family_cpu_seconds(os.getpid()) + ended.children_user + ended.children_system,
        )


def _others(before: _Clocks, after: _Clocks) -> float:
    """CPU seconds of processes that are not ours."""
    return max(0.0, after.all_cores - before.all_cores - (after.ours - before.ours))


def wait_for_quiet(limit: float, patience: float) -> None:
    """Return once other processes take less than `limit` cores over a moment, or after `patience` seconds."""
    give_up = time.perf_counter() + patience
    while time.perf_counter() < give_up:
        before, start = _Clocks.read(None), time.perf_counter()
        time.sleep(_MOMENT)
        if _others(before, _Clocks.read(None)) < limit * (time.perf_counter() - start):
            return
