"""The dashboard keeps the rules of Grafana's dashboard linter, and asks for nothing that is not there."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.observability import DASHBOARD, panels, unknown, wrong_labels

UNITS = {"short", "none", "reqps", "ops", "s", "percentunit", "Bps", "bytes"}
TYPES = {"stat", "timeseries", "table", "heatmap", "state-timeline", "bargauge"}
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")
EVERYWHERE = re.compile(r"ALERTS|.*:.*")
"""Series that are over all instances: they have a job and no instance."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def title(panel: dict[str, Any]) -> str:
    """How a panel is called in test ids."""
    return str(panel["title"])


def variables() -> dict[str, dict[str, Any]]:
    """The variables by name."""
    return {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}


def expressions(panel: dict[str, Any]) -> list[str]:
    """What a panel asks for."""
    return [target["expr"] for target in panel["targets"]]


def test_the_source_is_a_variable() -> None:
    """One variable `datasource` of type Prometheus, named so that it does not clash with a label."""
    sources = [variable for variable in variables().values() if variable["type"] == "datasource"]

    assert [(one["name"], one["label"], one["query"]) for one in sources] == [("datasource", "Data source", "prometheus")]


@pytest.mark.parametrize("name", ["job", "instance", "route", "upstream"])
def test_variables_select_several_and_follow_the_time(name: str) -> None:
    """Multi-value, all at once, from the variable source, read again when the time range changes."""
    variable = variables()[name]

    assert (variable["multi"], variable["includeAll"], variable["refresh"]) == (True, True, 2)
    assert variable["allValue"] in {".+", ".*"}
    assert variable["datasource"] == SOURCE
    assert (unknown(variable["definition"]), wrong_labels(variable["definition"])) == (set(), set())


def test_it_cannot_be_edited_in_place() -> None:
    """What is provisioned would be overwritten: changes belong into the file."""
    assert DASHBOARD["editable"] is False
    assert DASHBOARD["uid"] == "gateway"
    assert DASHBOARD.get("id") is None


def test_identifiers_are_unique_and_no_panel_covers_another() -> None:
    """Each panel has an id of its own and a place of its own, 24 columns wide at most."""
    everything = DASHBOARD["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells

    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len({title(panel) for panel in everything}) == len(everything)


@pytest.mark.parametrize("panel", panels(), ids=title)
def test_every_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    """A known type, a title, a description in a sentence, a unit, and the source of the variable."""
    assert panel["type"] in TYPES
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert all(
        prop["value"] in UNITS
        for one in panel["fieldConfig"]["overrides"]
        for prop in one["properties"]
        if prop["id"] == "unit"
    )
    assert [panel["datasource"], *(target["datasource"] for target in panel["targets"])] == [SOURCE] * (
        len(panel["targets"]) + 1
    )


@pytest.mark.parametrize("panel", panels(), ids=title)
def test_every_selector_goes_by_job_and_instance(panel: dict[str, Any]) -> None:
    """Every series is chosen by the variables, so that one board serves many gateways."""
    for expression in expressions(panel):
        selectors = SELECTOR.findall(expression)
        assert selectors
        for name, matchers in selectors:
            assert 'job=~"$job"' in matchers
            assert ('instance=~"$instance"' in matchers) is (EVERYWHERE.fullmatch(name) is None)


@pytest.mark.parametrize("panel", panels(), ids=title)
def test_every_rate_goes_by_the_interval_of_the_board(panel: dict[str, Any]) -> None:
    """`$__rate_interval` in every rate and increase, but where the title names the time."""
    for expression in expressions(panel):
        ranges = re.findall(r"\[([^\]]+)\]", expression)
        assert set(ranges) <= {"$__rate_interval"} or panel["title"] in {"Log lines lost", "Budget left of 30 days"}
        assert len(re.findall(r"\b(?:rate|increase|irate)\(", expression)) <= len(ranges)


@pytest.mark.parametrize("panel", panels(), ids=title)
def test_every_metric_and_label_exists(panel: dict[str, Any]) -> None:
    """Each name is one that a gateway, a recording rule or Prometheus has; counters are only asked for their rate."""
    for expression in expressions(panel):
        assert (unknown(expression), wrong_labels(expression)) == (set(), set())
        for counter in re.findall(r"(\w+\()?gateway_\w+_total", expression):
            assert counter in {"rate(", "increase("}


def test_the_rows_lead_from_the_question_to_the_answer() -> None:
    """First the state, then which route fails and whose fault it is; the machine comes last."""
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]

    assert rows[:2] == ["Overview", "Which route fails, and whose fault is it?"]
    assert {"Gateway or upstream?", "Which policy refused?", "Rate limits", "Error budget"} <= set(rows)
    assert rows[-1] == "Runtime"
