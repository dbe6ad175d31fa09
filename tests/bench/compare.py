"""Compare proxies: `python -m tests.bench.compare [small|varied|armed|routes|download|memory|chaos]`. See README.md."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.bench import chaos, configs, load, memory, proxies, report
from tests.bench.load import Run
from tests.bench.processes import StartError, alone, raise_file_limit
from tests.bench.proxies import Proxy, Running

WARM_UP: Final = 1.0
_DISTURBED: Final = 0.1
"""From here on a run is repeated: the share of a core that others took."""
_TRIES: Final = 3
_PATIENCE: Final = 20.0
"""Seconds to wait for others to finish, before every run."""
Starter = Callable[[], AbstractContextManager[Running]]


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of a comparison: what to start and what to ask it for."""

    name: str
    start: Starter
    path: str = "/"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one scenario; 0 unless it found something wrong."""
    options = _parser().parse_args(arguments)
    raise_file_limit()
    os.sched_setaffinity(0, {proxies.LOAD_CORE})
    print(f"{options.scenario}: wrk {load.wrk_version().removeprefix('wrk ')}, {report.machine()['cpu']}", flush=True)
    with alone():
        return SCENARIOS[options.scenario](options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.compare", description=__doc__)
    parser.add_argument("scenario", nargs="?", default="small", choices=sorted(SCENARIOS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, help="of one run (default 4), or of chaos (default 60)")
    parser.add_argument("--connections", type=int, help="default 64 (download: 16, memory: 5000)")
    parser.add_argument("--endpoints", type=int, default=1, help="addresses of the upstream")
    parser.add_argument("--only", type=_names, default=(), metavar="NAME,...", help="only these proxies")
    parser.add_argument("--skip", type=_names, default=(), metavar="NAME,...", help="not these proxies")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: results/SCENARIO.json beside this file")
    parser.add_argument("--gateway-python", default=sys.executable, metavar="PYTHON", help="runs the gateway")
    parser.add_argument(
        "--variant",
        type=_variant,
        action="append",
        default=[],
        metavar="NAME=VARIABLE=VALUE",
        help="a further gateway with this environment variable (same NAME again: one more variable)",
    )
    parser.add_argument(
        "--tree", type=_tree, action="append", default=[], metavar="NAME=DIRECTORY", help="a further gateway from there"
    )
    parser.add_argument("--routes", type=int, default=5000, help="the larger table of `routes`")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="of the transfers of `memory`")
    parser.add_argument("--pace", type=int, default=100, metavar="MIB", help="per second, of their slow side")
    parser.add_argument("--seed", type=int, default=1, help="of `chaos`")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _variant(text: str) -> tuple[str, str, str]:
    name, variable, value = text.split("=", 2)
    return name, variable, value


def _tree(text: str) -> tuple[str, Path]:
    name, directory = text.split("=", 1)
    return name, Path(directory)


def _gateways(options: argparse.Namespace) -> list[Proxy]:
    """Ours, and every variant of it."""
    python: str = options.gateway_python
    found = [proxies.gateway(python=python)]
    environments: dict[str, dict[str, str]] = {}
    for name, variable, value in options.variant:
        environments.setdefault(name, {})[variable] = value
    found += [proxies.gateway(name, python=python, environment=added) for name, added in environments.items()]
    found += [proxies.gateway(name, python=python, tree=directory) for name, directory in options.tree]
    return found


def _wanted(options: argparse.Namespace, name: str) -> bool:
    return (not options.only or name in options.only) and name not in options.skip


def _chosen(options: argparse.Namespace, candidates: Sequence[Proxy]) -> list[Proxy]:
    """Those asked for that can be found; says why another cannot."""
    chosen = []
    for proxy in candidates:
        if not _wanted(options, proxy.name):
            continue
        try:
            proxy.program()
        except StartError as error:
            print(f"skipped {proxy.name}: {error}")
        else:
            chosen.append(proxy)
    return chosen


def _versions(chosen: Sequence[Proxy]) -> dict[str, str]:
    return {proxy.name: proxy.version() for proxy in chosen} | {"wrk": load.wrk_version()}


def _rounds(contenders: Sequence[Contender], rounds: int, seconds: float, connections: int) -> dict[str, list[Run]]:
    """Every contender once per round, each time freshly started. One that fails is out, and its reason printed."""
    runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
    for number in range(1, rounds + 1):
        for contender in contenders:
            if contender.name not in runs:
                continue
            try:
                run = _undisturbed(contender, seconds, connections)
            except StartError as error:
                print(f"skipped {contender.name}: {error}", flush=True)
                del runs[contender.name]
                continue
            runs[contender.name].append(run)
            print(f"round {number}  {contender.name:14s}{run.rate:10,.0f} req/s{_complaint(run)}", flush=True)
    return {name: listed for name, listed in runs.items() if listed}


def _undisturbed(contender: Contender, seconds: float, connections: int) -> Run:
    """One run; up to two more when other processes were busy meanwhile, and the least disturbed of them counts."""
    runs = []
    for _ in range(_TRIES):
        load.wait_for_quiet(_DISTURBED, _PATIENCE)
        runs.append(_one(contender, seconds, connections))
        if runs[-1].disturbed < _DISTURBED:
            break
    return min(runs, key=lambda run: run.disturbed)


def _one(contender: Contender, seconds: float, connections: int) -> Run:
    with contender.start() as running:
        proxies.verify(running)
        varied = contender.path == configs.VARIED
        load.wrk(running, path=contender.path, seconds=WARM_UP, connections=connections, varied=varied)
        return load.wrk(running, path=contender.path, seconds=seconds, connections=connections, varied=varied)


def _complaint(run: Run) -> str:
    disturbed = f"  (other processes took {run.disturbed:.0%} of a core)" if run.disturbed >= _DISTURBED else ""
    return disturbed + (f"  ({run.errors} errors!)" if run.errors else "")


def _rows(runs: dict[str, list[Run]], bases: Sequence[str], cost: str) -> Iterator[list[str]]:
    for name, listed in runs.items():
        rates = [run.rate for run in listed]
        costs = [run.cpu_ms_per_1000 for run in listed]
        cells = [name, f"{median(rates):,.0f}", f"{median(r.p50_us for r in listed) / 1000:.2f}"]
        cells += [f"{median(r.p99_us for r in listed) / 1000:.2f}", f"{median(costs):{cost}}"]
        cells += [f"{median(r.proxy_core for r in listed):.0%}", f"{median(r.load_core for r in listed):.0%}"]
        cells += [report.spread_text(report.ratios(rates, [run.rate for run in runs[base]])) for base in bases]
        cells += [f"{max(r.disturbed for r in listed):.0%}", str(sum(run.errors for run in listed))]
        yield cells


def _print(runs: dict[str, list[Run]], bases: Sequence[str], cost: str = ".1f") -> None:
    columns = ["proxy", "req/s", "p50 ms", "p99 ms", "cpu ms/1000", "its core", "load core"]
    print("\n" + report.table([*columns, *(f"x {base}" for base in bases), "others", "errors"], _rows(runs, bases, cost)))


def _summary(runs: dict[str, list[Run]], bases: Sequence[str]) -> dict[str, Any]:
    """The same for the JSON file, with every round."""
    summary: dict[str, Any] = {}
    for name, listed in runs.items():
        rates = [run.rate for run in listed]
        summary[name] = {
            "requests_per_second": report.spread(rates),
            "p50_us": median(run.p50_us for run in listed),
            "p99_us": median(run.p99_us for run in listed),
            "cpu_ms_per_1000_requests": report.spread([run.cpu_ms_per_1000 for run in listed]),
            "proxy_core": median(run.proxy_core for run in listed),
            "load_core": median(run.load_core for run in listed),
            "errors": sum(run.errors for run in listed),
            "ratios": {base: report.spread(report.ratios(rates, [run.rate for run in runs[base]])) for base in bases},
            "rounds": [asdict(run) for run in listed],
        }
    return summary


def _settings(options: argparse.Namespace, seconds: float, connections: int) -> dict[str, Any]:
    return {"rounds": options.rounds, "seconds": seconds, "connections": connections, "endpoints": options.endpoints}


def _compare(
    options: argparse.Namespace, path: str, connections: int, *, with_direct: bool, cost: str = ".1f"
) -> dict[str, list[Run]]:
    """All proxies on one path: rounds, table, file."""
    seconds = options.seconds or 4.0
    connections = options.connections or connections
    chosen = _chosen(options, [*proxies.PEERS, *_gateways(options)])
    with proxies.upstream(options.endpoints) as ports:
        contenders = [Contender("direct", partial(proxies.direct, ports), path)] if with_direct else []
        contenders += [Contender(proxy.name, partial(proxy.start, ports), path) for proxy in chosen]
        runs = _rounds(contenders, options.rounds, seconds, connections)
    bases = [name for name in ("nginx", "envoy") if name in runs]
    _print(runs, bases, cost)
    file = report.save(
        options.scenario,
        options.json,
        {
            "settings": _settings(options, seconds, connections),
            "versions": _versions([proxy for proxy in chosen if proxy.name in runs]),
            "proxies": _summary(runs, bases),
        },
    )
    print(f"\nwritten: {file.name}")
    return runs


def small(options: argparse.Namespace) -> int:
    """The same small GET over keep-alive connections."""
    runs = _compare(options, "/", 64, with_direct=_wanted(options, "direct"))
    return int(any(run.errors for listed in runs.values() for run in listed))


def varied(options: argparse.Namespace) -> int:
    """Small GETs with a browser's fields, no two messages the same in either direction."""
    runs = _compare(options, configs.VARIED, 64, with_direct=_wanted(options, "direct"))
    return int(any(run.errors for listed in runs.values() for run in listed))


def download(options: argparse.Namespace) -> int:
    """A 10 MiB file, over and over."""
    runs = _compare(options, configs.DOWNLOAD, 16, with_direct=_wanted(options, "direct"), cost=",.0f")
    rows = [
        [
            name,
            f"{median(run.bytes_rate for run in listed) / 1e6:,.0f}",
            f"{median(run.cpu_seconds / run.bytes for run in listed) * 2**30:.2f}",
        ]
        for name, listed in runs.items()
    ]
    print("\n" + report.table(["proxy", "MB/s", "cpu s/GiB"], rows))
    return int(any(run.errors for listed in runs.values() for run in listed))


def routes(options: argparse.Namespace) -> int:
    """Our gateway with 5 routes and with thousands: the rate should be the same."""
    seconds, connections = options.seconds or 4.0, options.connections or 64
    chosen = _chosen(options, _gateways(options))
    with proxies.upstream(options.endpoints) as ports:
        contenders = [
            Contender(f"{proxy.name} {count}", partial(proxy.start, ports, routes=count), f"/r{count // 2}/42/more")
            for proxy in chosen
            for count in (5, options.routes)
        ]
        runs = _rounds(contenders, options.rounds, seconds, connections)
        started = {contender.name: _seconds_to_start(contender) for contender in contenders if contender.name in runs}
    bases = [contenders[0].name] if contenders and contenders[0].name in runs else []
    _print(runs, bases)
    for name, waited in started.items():
        print(f"{name}: {waited:.2f} s from start to the first connection")
    details = {"settings": _settings(options, seconds, connections), "versions": _versions(chosen), "seconds_to_start": started}
    print(f"\nwritten: {report.save('routes', options.json, {**details, 'proxies': _summary(runs, bases)}).name}")
    return 0 if runs else 1


def armed(options: argparse.Namespace) -> int:
    """Our gateway with retries, breakers, health, balancing and admission, and without any of it: what they cost."""
    seconds, connections = options.seconds or 4.0, options.connections or 64
    python: str = options.gateway_python
    chosen = [
        proxies.gateway("plain", python=python, policies=configs.PLAIN),
        proxies.gateway("armed", python=python, policies=configs.ARMED),
    ]
    with proxies.upstream(options.endpoints) as ports:
        runs = _rounds(
            [Contender(proxy.name, partial(proxy.start, ports)) for proxy in chosen], options.rounds, seconds, connections
        )
    bases = ["plain"] if "plain" in runs else []
    _print(runs, bases)
    details = {"settings": _settings(options, seconds, connections), "versions": _versions(chosen)}
    print(f"\nwritten: {report.save('armed', options.json, {**details, 'proxies': _summary(runs, bases)}).name}")
    return int(len(runs) < len(chosen))


def _seconds_to_start(contender: Contender) -> float:
    before = time.perf_counter()
    with contender.start():
        return time.perf_counter() - before


def run_memory(options: argparse.Namespace) -> int:
    """RSS per idle connection and during slow transfers."""
    chosen = _chosen(options, [*proxies.PEERS, *_gateways(options)])
    result = memory.measure(chosen, connections=options.connections or 5000, size_mib=options.size, pace_mib=options.pace)
    result["versions"] = _versions([proxy for proxy in chosen if proxy.name in result["proxies"]])
    print(f"\nwritten: {report.save('memory', options.json, result).name}")
    return 0


def run_chaos(options: argparse.Namespace) -> int:
    """Rude clients and a rude upstream; 1 when anything is left over."""
    wrong = 0
    result: dict[str, Any] = {}
    for proxy in _chosen(options, _gateways(options)):
        try:
            result[proxy.name] = chaos.run(proxy, seconds=options.seconds or 60.0, seed=options.seed)
        except StartError as error:
            print(f"skipped {proxy.name}: {error}")
        else:
            wrong += len(result[proxy.name]["wrong"])
    print(f"\nwritten: {report.save('chaos', options.json, {'proxies': result}).name}")
    return int(wrong > 0)


SCENARIOS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "small": small,
    "varied": varied,
    "routes": routes,
    "armed": armed,
    "download": download,
    "memory": run_memory,
    "chaos": run_chaos,
}


if __name__ == "__main__":
    sys.exit(main())
