"""Alerts: each is valid, fires in a test of its own and is silent in one, and has a section in the runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.observability import DASHBOARD, PROMETHEUS, ROOT, RULES, alerts, families, panels, rules, unknown, wrong_labels

RUNBOOK = (ROOT / "docs/runbook.md").read_text()
TESTS = sorted((PROMETHEUS / "tests").glob("*.yaml"))


def name(rule: dict[str, Any]) -> str:
    """How a rule is called in test ids."""
    return "-".join(filter(None, [rule.get("alert") or rule.get("record"), rule.get("labels", {}).get("severity")]))


def promtool(*arguments: object) -> None:
    """Run promtool; skip without it."""
    if (found := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    result = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_promtool_takes_the_configuration_and_the_rules() -> None:
    """No syntax error, in the file that compose mounts and in the rules it names."""
    promtool("check", "config", PROMETHEUS / "prometheus.yml")
    promtool("check", "rules", *RULES)


@pytest.mark.slow
@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.stem))
def test_every_alert_fires_when_it_should_and_only_then(path: Any) -> None:
    """The unit tests of the rules, with their real windows."""
    promtool("test", "rules", path)


def test_the_expressions_of_the_board_are_promql(tmp_path: Any) -> None:
    """Every expression of the dashboard is parsed by Prometheus, with the variables filled in."""
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    asked += [one["expr"] for one in DASHBOARD["annotations"]["list"]]
    filled = [expression.replace("$__rate_interval", "1m") for expression in asked]
    group = {"name": "board", "rules": [{"record": f"board:{at}", "expr": one} for at, one in enumerate(filled)]}
    file = tmp_path / "board.yaml"
    file.write_text(yaml.safe_dump({"groups": [group]}))

    promtool("check", "rules", file)


@pytest.mark.parametrize("rule", alerts(), ids=name)
def test_every_alert_is_tested_both_ways(rule: dict[str, Any]) -> None:
    """In the unit tests it is asked for at a time when it fires, and at one when nothing does."""
    asked = [
        (check["expr"], check["exp_samples"])
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for check in test["promql_expr_test"]
    ]
    own = [samples for expression, samples in asked if f'"{rule["alert"]}"' in expression]
    fired = [sample["labels"] for samples in own for sample in samples]

    assert any(f'severity="{rule["labels"]["severity"]}"' in labels for labels in fired)
    assert [] in own


@pytest.mark.parametrize("rule", alerts(), ids=name)
def test_every_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """A severity, a summary, a description, and a section of the runbook that exists."""
    annotations = rule["annotations"]
    file, _, anchor = annotations["runbook"].partition("#")

    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert annotations["summary"]
    assert annotations["description"]
    assert (file, anchor) == ("docs/runbook.md", rule["alert"].lower())
    assert re.search(rf"^### {rule['alert']}$", RUNBOOK, re.MULTILINE)


def test_the_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    """Every section is that of an alert."""
    assert set(re.findall(r"^### (Gateway\w+)$", RUNBOOK, re.MULTILINE)) == {rule["alert"] for rule in alerts()}


@pytest.mark.parametrize("rule", list(rules()), ids=name)
def test_every_metric_and_label_of_a_rule_exists(rule: dict[str, Any]) -> None:
    """Each name is one that a gateway, a recording rule or Prometheus has."""
    assert (unknown(rule["expr"]), wrong_labels(rule["expr"])) == (set(), set())


def test_the_runbook_names_only_metrics_that_exist() -> None:
    """Metrics in the runbook are metrics of the gateway."""
    named = set(re.findall(r"\bgateway_[a-z_]+\b", RUNBOOK))

    assert unknown(" ".join(sorted(named))) - {family.name for family in families().values()} == set()
    assert len(named) > 10
