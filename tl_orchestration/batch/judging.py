"""
Whether more rows of a campaign have failed than its owner allows, and what a person can do about each kind of them.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from tl_orchestration.batch.states import RowState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tl_orchestration.batch.summary import BatchSummary


def too_many_failed(summary: BatchSummary, most: int | None, share: float | None) -> str | None:
    """
    What to tell if more rows have failed, or are of unknown fate, than the lower of both limits allows; None if not.

    Args:
        most: Rows that may.
        share: The same as a share of all rows, from 0 to 1. With neither, none may.
    """
    limits = ([] if most is None else [float(most)]) + ([] if share is None else [summary.rows * share])
    if summary.failed + summary.unknown <= min(limits, default=0.0):
        return None
    return " ".join(
        [
            f"Campaign {summary.campaign}: of {summary.rows} rows {summary.failed} have failed and {summary.unknown}"
            f" may or may not have started, which is more than max_failed={most} and max_failed_share={share} allow.",
            *remedies(summary),
        ]
    )


def remedies(summary: BatchSummary) -> Iterator[str]:
    """
    A sentence for each kind of row that did not succeed.
    """
    campaign = shlex.quote(summary.campaign)
    missing = summary.count(RowState.RESULT_MISSING)
    if ended := summary.failed - summary.unread - missing:
        yield (
            f"{ended} rows have ended without success or were refused: `tl batch export {campaign}` names them, `tl"
            f" batch retry {campaign}` lets the next run start them again."
        )
    if summary.unread:
        yield (
            f"{summary.unread} rows were not started, because the source has changed since it was loaded: run it again"
            " (a query with `tl batch run --reload`), which takes them as they are now."
        )
    if missing:
        yield (
            f"{missing} rows have ended, and the service does not give their results: `tl batch retry {campaign}"
            " --state RESULT_MISSING`, and the next run asks for them again and starts nothing."
        )
    if summary.unknown:
        key = shlex.quote(f"batch/{summary.campaign}/KEY")
        yield (
            f"{summary.unknown} rows may or may not have started: `tl batch export {campaign} --state UNKNOWN` names"
            f" them. Look for each in the vendor's dashboard, tell the ledger (`tl ledger adopt` or `not-started`"
            f" {key}), then `tl batch retry {campaign} --state UNKNOWN`."
        )


__all__ = ["remedies", "too_many_failed"]
