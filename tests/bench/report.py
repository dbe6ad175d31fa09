"""Numbers into tables and a JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

RESULTS: Final = Path(__file__).parent / "results"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned text: the first column to the left, the others to the right."""
    lines = [tuple(columns), *map(tuple, rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and extremes."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def spread_text(values: Sequence[float]) -> str:
    """The same in one cell."""
    return f"{median(values):.2f} ({min(values):.2f}..{max(values):.2f})" if values else "-"


def ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Round by round, because a machine's good and bad moments hit neighbours alike."""
    return [value / other for value, other in zip(values, base, strict=False) if other]


def mib(size: float) -> str:
    """Bytes as MiB."""
    return f"{size / 1024 / 1024:.1f}"


def machine() -> dict[str, Any]:
    """What the numbers depend on, without naming the machine."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def save(scenario: str, path: Path | None, result: dict[str, Any]) -> Path:
    """Write `result` with its circumstances; returns where."""
    target = path or RESULTS / f"{scenario}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    document = {"scenario": scenario, "date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), **result}
    target.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return target
