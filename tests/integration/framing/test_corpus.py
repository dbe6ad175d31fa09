"""414 raw messages: nothing that can be abused gets through, and what the RFCs ask for is done."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.framing.judge import Verdict, cases, judge_all

pytestmark = pytest.mark.xdist_group("framing")  # all cases are sent once, by one process

ALL = [*cases("requests"), *cases("responses")]
EXPECTED_PASSES = 405


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """What came of every case; all are sent at once."""
    return asyncio.run(judge_all(tmp_path_factory.mktemp("framing")))


@pytest.mark.parametrize("case", ALL, ids=lambda case: str(case["id"]))
def test_no_disagreement_can_be_abused(verdicts: dict[str, Verdict], case: dict[str, str]) -> None:
    """Client, gateway and origin agree where each message ends and what it says (RFC 9112 11.1, 11.2)."""
    verdict = verdicts[case["id"]]

    assert verdict.unsafe == [], (case["why"], verdict.statuses)


@pytest.mark.parametrize("case", [case for case in ALL if case["level"] == "MUST"], ids=lambda case: str(case["id"]))
def test_every_must_is_done(verdicts: dict[str, Verdict], case: dict[str, str]) -> None:
    """Each case names the RFC section that says MUST, see its `rfc`."""
    verdict = verdicts[case["id"]]

    assert verdict.missed == [], (case["why"], case["rfc"], verdict.statuses)


def test_what_the_rfcs_advise_is_mostly_done(verdicts: dict[str, Verdict]) -> None:
    """SHOULD and good practice: so many of all cases pass."""
    passed = [name for name, verdict in verdicts.items() if not verdict.unsafe and not verdict.missed]
    print("not passed:", {name: verdict.missed for name, verdict in verdicts.items() if name not in passed})

    assert len(passed) >= EXPECTED_PASSES
