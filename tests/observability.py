"""What Prometheus and Grafana are given, read for tests: rules, panels, the metrics they name, and those there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client.core import Metric

from gateway.metrics import GatewayMetrics, ReloadMetrics, StoreMetrics
from gateway.supervisor.metrics import FleetMetrics

ROOT: Final = Path(__file__).resolve().parent.parent
PROMETHEUS: Final = ROOT / "deploy/prometheus"
RULES: Final = sorted((PROMETHEUS / "rules").glob("*.yaml"))
DASHBOARD: Final[dict[str, Any]] = json.loads((ROOT / "deploy/grafana/dashboards/gateway.json").read_text())

_SELECTOR: Final = re.compile(r"\b([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")
_NAME: Final = re.compile(r"\b(?:gateway|process|python|job_route:gateway)[\w:]*")
_STRING: Final = re.compile(r'"[^"]*"')
_SCRAPED: Final = {"up", "scrape_duration_seconds", "ALERTS"}
"""Made by Prometheus itself."""
_PROCESS: Final = {
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
}
"""Of prometheus_client, that every admin listener shows on Linux."""


def rules() -> Iterator[dict[str, Any]]:
    """Every rule of every file."""
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def alerts() -> list[dict[str, Any]]:
    """The rules that are alerts."""
    return [rule for rule in rules() if "alert" in rule]


def panels() -> list[dict[str, Any]]:
    """The panels that show something: no rows."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def families() -> dict[str, Metric]:
    """Every metric family that a gateway can show, by the names that Prometheus stores."""
    metrics, reloads = GatewayMetrics("0"), ReloadMetrics(0.0)
    metrics.store, metrics.reloads = StoreMetrics(), reloads
    metrics.upstream("u").lookups["ok"] = 1
    found: dict[str, Metric] = {}
    for family in [*metrics.collect(), *FleetMetrics([], reloads).collect()]:
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        found.update({family.name + suffix: family for suffix in suffixes})
    return found


def unknown(expression: str) -> set[str]:
    """Metrics that the expression names and nothing has: neither a gateway, nor a recording rule, nor Prometheus."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    there = set(families()) | recorded | _SCRAPED | _PROCESS
    named = {name for name, _ in _SELECTOR.findall(expression)} | set(_NAME.findall(_STRING.sub("", expression)))
    return {name for name in named if name not in there}


def wrong_labels(expression: str) -> set[str]:
    """`metric label` for each label in a selector that the metric has not."""
    known = families()
    wrong = set()
    for name, matchers in _SELECTOR.findall(expression):
        family = known.get(name)
        if family is None:
            continue
        labels = {"job", "instance", "le"} | set(getattr(family, "labels", ()) or getattr(family, "_labelnames", ()))
        wrong |= {
            f"{name} {label}" for label in re.findall(r"(\w+)\s*[=!]", _STRING.sub('""', matchers)) if label not in labels
        }
    return wrong
