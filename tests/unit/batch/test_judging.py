"""What fails a campaign, and what its owner is told to do."""

from __future__ import annotations

import pytest

from tl_orchestration.batch import BatchSummary, LoadReport, RowState
from tl_orchestration.batch.judging import remedies, too_many_failed


@pytest.mark.parametrize(
    ("bad", "most", "share", "fails"),
    [
        (0, None, None, False),
        (1, None, None, True),
        (7, 7, None, False),
        (8, 7, None, True),
        (5, None, 0.05, False),
        (6, None, 0.05, True),
        (6, 7, 0.05, True),
        (6, 5, 0.07, True),
        (5, 5, 0.07, False),
    ],
)
def test_the_lower_limit_holds(bad: int, most: int | None, share: float | None, fails: bool) -> None:
    """Failed rows and those of unknown fate count together; with neither limit, none may."""
    counts = {RowState.FAILED: bad // 2, RowState.UNKNOWN: bad - bad // 2, RowState.SUCCEEDED: 100 - bad}
    assert (too_many_failed(BatchSummary(campaign="w47", counts=counts), most, share) is not None) is fails


def test_each_kind_has_its_own_remedy() -> None:
    """What ended badly may start again, a missing result is only asked for, and the unknown needs a person first."""
    counts = {
        RowState.FAILED: 2,
        RowState.REJECTED: 1,
        RowState.RESULT_MISSING: 4,
        RowState.UNKNOWN: 5,
        RowState.SUCCEEDED: 9,
        RowState.INVALID: 6,
    }
    said = too_many_failed(BatchSummary(campaign="week 47", counts=counts, unread=6), None, None)
    assert said is not None
    assert "of 27 rows 13 have failed and 5 may or may not have started" in said
    assert "3 rows have ended without success or were refused" in said
    assert "`tl batch retry 'week 47'` lets the next run start them again" in said
    assert "6 rows were not started, because the source has changed" in said
    assert "4 rows have ended, and the service does not give their results: `tl batch retry 'week 47' --state" in said
    assert "(`tl ledger adopt` or `not-started` 'batch/week 47/KEY')" in said


@pytest.mark.parametrize("counts", [{}, {RowState.INVALID: 1}, {RowState.SUCCEEDED: 3}])
def test_a_source_of_which_no_row_can_be_run_has_failed(counts: dict[RowState, int]) -> None:
    """Whatever the limits are: why, where all reasons are, and what to do."""
    samples = [
        {"row": row, "key": "c1", "column": column, "reason": "it is not a date"}
        for row, column in ((1, "born"), (2, None), (3, "born"), (4, "born"))
    ]
    load = LoadReport(read=6, rejected=4, conflicting=1, samples=samples, rejects=["rejects-001-000.jsonl"])
    said = too_many_failed(BatchSummary(campaign="w47", counts=counts, load=load, output="s3://b/w47"), 10, 1.0)
    assert said is not None
    assert "none of the 6 rows of its source can be run" in said
    assert "4 were rejected, and 1 keys have several different rows" in said
    assert "row 1, column born: it is not a date; row 2: it is not a date; row 3" in said
    assert "row 4" not in said
    assert "in s3://b/w47/rejects-001-000.jsonl" in said
    assert "`tl batch run --reload`" in said


@pytest.mark.parametrize(
    "load", [None, LoadReport(), LoadReport(read=3, accepted=1, rejected=2), LoadReport(read=2, accepted=2)]
)
def test_some_rows_or_none_at_all_are_no_failure(load: LoadReport | None) -> None:
    """Bad rows among good ones are told by the load; an empty source has nothing to start."""
    assert too_many_failed(BatchSummary(campaign="w47", counts={}, load=load), None, None) is None


def test_only_what_happened_is_told() -> None:
    """A campaign whose rows have all succeeded needs nobody."""
    assert not list(remedies(BatchSummary(campaign="w47", counts={RowState.SUCCEEDED: 3})))
