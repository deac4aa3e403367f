"""What a campaign's numbers say of its rows."""

from __future__ import annotations

from tl_orchestration.batch import BatchSummary, RowState


def test_what_is_not_whole_has_failed() -> None:
    """A partial ending and a row that the source no longer has are no success; a row that the load refused is known."""
    counts = {RowState.SUCCEEDED: 3, RowState.PARTIAL: 1, RowState.FAILED: 1, RowState.INVALID: 4}
    summary = BatchSummary(campaign="w47", counts=counts, unread=2)
    assert summary.failed == 4
    assert summary.to_dict()["unread"] == 2
