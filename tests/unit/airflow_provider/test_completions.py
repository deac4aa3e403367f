"""
What a reader of completions remembers: nothing is missed by a restart, and little comes twice.
"""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider.completions import MOST_PENDING, UNDER_WAY, Completions
from tl_orchestration.errors import InvalidRequest
from tl_orchestration.hints import Cursor, Hint


def hint(number: int, execution_id: str, service: str = "transactionlink") -> Hint:
    return Hint(number, service, execution_id, "WORKFLOW_COMPLETED", 0.0)


def begun(*hints: Hint) -> Completions:
    completions = Completions(Cursor(0))
    completions.take(hints, Cursor(max((one.number for one in hints), default=0)), "transactionlink", 0.0)
    return completions


def stored(completions: Completions, now: float) -> Any:
    """The place that a restart goes on from, and what it knows to be reported."""
    document = completions.to_dict(now)
    return document["cursor"], document["reported"]


def test_each_execution_is_looked_at_once() -> None:
    """However often it is announced, also after it was reported; another service's and unread ones are left alone."""
    completions = begun(hint(1, "e1"), hint(2, "e1"), hint(3, "b1", "b3os"), hint(4, ""), hint(5, "e2"))
    assert completions.due(0.0) == ["e1", "e2"]
    completions.has_ended("e1", 0.0)
    completions.take([hint(6, "e1")], Cursor(6), "transactionlink", 1.0)
    assert completions.due(1.0) == ["e2"]


def test_place_is_that_of_events_which_have_arrived() -> None:
    """What was reported just now may be lost by a crash: until it is not, a restart reads it again."""
    completions = begun(hint(1, "e1"))
    completions.has_ended("e1", 5.0)
    completions.round_is_over(5.0)
    assert stored(completions, 5.0 + UNDER_WAY / 2) == ("0", [])
    assert stored(completions, 5.0 + UNDER_WAY) == ("1", ["e1"])


def test_place_waits_for_what_is_not_known_yet() -> None:
    """An execution that could not be asked about is read again after a restart; the later ones are remembered."""
    completions = begun(hint(1, "e1"), hint(2, "e2"), hint(3, "e3"))
    for one in ("e1", "e3"):
        completions.has_ended(one, 0.0)
    completions.is_unknown("e2", 0.0)
    completions.round_is_over(0.0)
    assert stored(completions, 100.0) == ("1", ["e1", "e3"])
    completions.has_ended("e2", 100.0)
    completions.round_is_over(100.0)
    assert stored(completions, 200.0) == ("3", ["e1", "e3", "e2"])


def test_execution_that_goes_on_is_looked_at_some_times() -> None:
    """What the service reads from may lag; then it is left alone until it is announced again."""
    completions, looks = begun(hint(1, "e1")), []
    for now in range(200):
        if completions.due(float(now)):
            looks.append(now)
            completions.goes_on("e1", float(now))
    assert looks == [0, 2, 12, 72]
    completions.take([hint(2, "e1")], Cursor(2), "transactionlink", 300.0)
    assert completions.due(300.0) == ["e1"]


def test_failures_are_tried_again_ever_more_rarely() -> None:
    """A service that is away is asked once a minute, for as long as it takes."""
    completions, looks = begun(hint(1, "e1")), []
    for now in range(300):
        if completions.due(float(now)):
            looks.append(now)
            completions.is_unknown("e1", float(now))
    assert looks == [0, 5, 15, 35, 75, 135, 195, 255]


def test_restart_goes_on() -> None:
    """From what was kept: the place, and what must not be reported again."""
    completions = begun(hint(1, "e1"), hint(2, "e2"))
    completions.has_ended("e1", 0.0)
    completions.has_ended("e2", 0.0)
    completions.round_is_over(0.0)
    again = Completions.from_dict(completions.to_dict(100.0))
    assert again.cursor == Cursor(2)
    again.take([hint(3, "e1"), hint(4, "e3")], Cursor(4), "transactionlink", 0.0)
    assert again.due(0.0) == ["e3"]


@pytest.mark.parametrize("document", [None, [], {"format": 2, "cursor": "1"}, {"format": 1, "cursor": "x"}])
def test_what_is_no_place_is_refused(document: object) -> None:
    """Nothing is guessed from it."""
    with pytest.raises(InvalidRequest):
        Completions.from_dict(document)


def test_memory_is_bounded() -> None:
    """While too much waits for the service, no more is read; of what was reported, the latest is kept."""
    completions = begun(*(hint(number, f"e{number}") for number in range(1, MOST_PENDING + 1)))
    assert completions.is_full
    for number in range(1, 20_000):
        completions.has_ended(f"e{number}", 0.0)
    assert len(completions.reported) == 10_000
    assert completions.due(0.0) == []
    assert completions.to_dict(100.0)["reported"] == [f"e{number}" for number in range(19_500, 20_000)]
