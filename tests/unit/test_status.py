"""What a remote literal means: known words, and nothing guessed beyond them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_orchestration.status import TERMINAL, TRANSACTIONLINK_LITERALS, Status, meaning, normalised

#: The classification of contract A5, written down a second time.
CONTRACT = {
    Status.SUCCEEDED: ["COMPLETED", "FINISHED", "SUCCESS", "SUCCEEDED", "DONE"],
    Status.CANCELLED: ["CANCELLED", "CANCELED"],
    Status.EXPIRED: ["EXPIRED", "TIMED_OUT", "TIMEOUT"],
    Status.FAILED: ["FAILED", "ERROR", "FAILURE", "REJECTED", "TERMINATED", "ABORTED"],
    Status.RUNNING: ["RUNNING", "STARTED", "IN_PROGRESS"],
    Status.PENDING: ["CREATED", "PENDING"],
    Status.WAITING: ["AWAITING", "WAITING", "PAUSED"],
}
LITERALS = [(literal, status) for status, literals in CONTRACT.items() for literal in literals]


def spellings(literal: str) -> list[str]:
    """The literal as other systems might write it."""
    return [
        literal,
        literal.lower(),
        literal.title(),
        literal.replace("_", "-"),
        literal.replace("_", " ").capitalize(),
        f"  {literal}\n",
    ]


@pytest.mark.parametrize(("literal", "status"), LITERALS)
def test_every_known_literal_in_every_spelling(literal: str, status: Status) -> None:
    """A known word means the same in any letter case, with hyphens, spaces or underscores."""
    assert {status} == {meaning(spelling, TRANSACTIONLINK_LITERALS) for spelling in spellings(literal)}


def test_no_other_literal_is_known() -> None:
    """The table has the words of the contract and no more."""
    assert dict(LITERALS) == dict(TRANSACTIONLINK_LITERALS)


@pytest.mark.parametrize(
    "literal",
    ["", " ", "_", "-", "UNKNOWN", "COMPLETE", "COMPLETED!", "NOT_COMPLETED", "RUNNING COMPLETED", "OK", "ЗАВЕРШЕНО"],
)
def test_any_other_word_is_unknown(literal: str) -> None:
    """A word that nobody taught us is UNKNOWN: not terminal and no success."""
    status = meaning(literal, TRANSACTIONLINK_LITERALS)
    assert Status.UNKNOWN is status
    assert not status.is_terminal


@given(st.text())
def test_any_text_has_a_meaning(literal: str) -> None:
    """No literal raises, and none outside the table is terminal."""
    status = meaning(literal, TRANSACTIONLINK_LITERALS)
    assert status is Status.UNKNOWN or normalised(literal) in TRANSACTIONLINK_LITERALS


@pytest.mark.parametrize(
    ("taught", "literal", "expected"),
    [
        ({"MANUAL_REVIEW": Status.WAITING}, "MANUAL_REVIEW", Status.WAITING),
        ({"manual-review": Status.WAITING}, "MANUAL_REVIEW", Status.WAITING),
        ({"REJECTED": Status.SUCCEEDED}, "rejected", Status.SUCCEEDED),
        ({"COMPLETED": Status.UNKNOWN}, "COMPLETED", Status.UNKNOWN),
        ({"": Status.FAILED}, "", Status.FAILED),
    ],
)
def test_what_the_caller_taught_wins(taught: dict[str, Status], literal: str, expected: Status) -> None:
    """status_map is asked before the built-in table, in the same tolerant spelling."""
    assert expected is meaning(literal, TRANSACTIONLINK_LITERALS, taught)


@pytest.mark.parametrize("status", Status)
def test_which_statuses_are_final(status: Status) -> None:
    """Exactly the five endings are terminal; UNKNOWN is not."""
    final = status in {Status.SUCCEEDED, Status.PARTIAL, Status.FAILED, Status.CANCELLED, Status.EXPIRED}
    assert final is status.is_terminal
    assert final is (status in TERMINAL)
