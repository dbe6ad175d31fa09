"""What several workers find out about one endpoint, in one order for all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.supervisor.agreement import HEAD_START, MOST, Agreement


def word(state: str, version: int = 0, endpoint: str = "e", upstream: str = "u", until: float = 0.0) -> dict[str, Any]:
    """What a worker says."""
    return {
        "upstream": upstream, "endpoint": endpoint, "state": state, "until": until, "reason": "", "trips": 0, "version": version
    }  # fmt: skip


def test_the_first_verdict_counts() -> None:
    """Of two that were reached without knowing of each other, the second does not hold; who said it hears the first."""
    agreement = Agreement()
    opened, _ = agreement.said(0, word("open"))
    first, news = agreement.said(1, word("ramping", opened["version"]))
    second, other_news = agreement.said(0, word("open", opened["version"]))

    assert (news, other_news) == (True, False)
    assert second == first
    assert second["state"] == "ramping"


def test_two_in_a_row_need_no_answer_between() -> None:
    """Who opens and closes before hearing that the opening was agreed upon is believed both times."""
    agreement = Agreement()
    assert agreement.said(0, word("open"))[1]
    assert agreement.said(0, word("ramping"))[1]


@pytest.mark.parametrize("known,said,news", [("open", "open", False), ("open", "ramping", True), ("ramping", "open", True)])
def test_a_new_breaker_may_speak(known: str, said: str, news: bool) -> None:
    """Who has heard of nothing, such as the breaker of an address that DNS brought back, is believed when it is news."""
    agreement = Agreement()
    agreement.said(0, word(known))
    assert agreement.said(1, word(said))[1] is news


def test_who_opened_it_probes_first() -> None:
    """The others hear of a later instant, and so does a worker that starts."""
    agreement = Agreement()
    heard, _ = agreement.said(0, word("open", until=10.0))

    assert heard["until"] == 10.0 + HEAD_START
    assert list(agreement.open()) == [heard]
    agreement.said(0, word("ramping", heard["version"]))
    assert list(agreement.open()) == []


def test_breakers_with_other_settings_are_forgotten() -> None:
    """What was said of those of before does not bind the new ones."""
    agreement = Agreement()
    for upstream in ("a", "b"):
        agreement.said(0, word("open", upstream=upstream))
    agreement.forget({"a"})

    assert [one["upstream"] for one in agreement.open()] == ["b"]
    assert agreement.said(1, word("ramping", 77, upstream="a"))[1]


def test_memory_is_bounded() -> None:
    """Of endpoints that come and go, the ones not heard of for longest are forgotten."""
    agreement = Agreement()
    for number in range(MOST + 10):
        agreement.said(0, word("open", endpoint=str(number)))

    assert next(one["endpoint"] for one in agreement.open()) == "10"


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 3)), max_size=60))
def test_all_end_up_with_the_same(steps: list[tuple[int, bool, int]]) -> None:
    """Whoever says what, and however late each hears of it: when all have heard everything, all believe the same."""
    agreement = Agreement()
    version, state = [0] * 4, ["closed"] * 4
    inbox: list[list[tuple[dict[str, Any], bool]]] = [[] for _ in range(4)]
    outbox: list[list[dict[str, Any]]] = [[] for _ in range(4)]

    def deliver(worker: int) -> None:
        """The supervisor hears what a worker has said."""
        for said in outbox[worker]:
            heard, news = agreement.said(worker, said)
            for other in range(4):
                if news or other == worker:
                    inbox[other].append((heard, news and other == worker))
        outbox[worker].clear()

    def hear(worker: int) -> None:
        """The worker hears what was agreed."""
        for heard, own in inbox[worker]:
            if own and version[worker] == heard["base"]:
                version[worker] = heard["version"]
            elif heard["version"] > version[worker]:
                version[worker], state[worker] = heard["version"], heard["state"]
        inbox[worker].clear()

    for worker, speaks, other in steps:
        if speaks:
            state[worker] = "ramping" if state[worker] == "open" else "open"
            outbox[worker].append(word(state[worker], version[worker]))
        else:
            deliver(worker)
            hear(other)
    for worker in range(4):
        deliver(worker)
    for worker in range(4):
        hear(worker)

    assert len(set(state)) == 1
