"""
Whether a campaign has come to what its owner wants: rows that could not be run or have failed, and what a person can do
about each kind of them.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from tl_orchestration.batch.states import RowState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tl_orchestration.batch.summary import BatchSummary, LoadReport

#: Rows whose reasons are told.
_REASONS = 3


def too_many_failed(summary: BatchSummary, most: int | None, share: float | None) -> str | None:
    """
    What to tell if more rows have failed, or are of unknown fate, than the lower of both limits allows; or, whatever
    these are, if the source has rows and none of them can be run. None if not.

    Args:
        most: Rows that may.
        share: The same as a share of all rows, from 0 to 1. With neither, none may.
    """
    if summary.load is not None and (said := none_can_be_run(summary.campaign, summary.load, summary.output)):
        return " ".join([said, *remedies(summary)])
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


def none_can_be_run(campaign: str, report: LoadReport, output: str | None) -> str | None:
    """
    What to tell if the last pass over the source has found rows, and none that can be run; None if not.

    Args:
        output: The folder of its reject files.
    """
    if report.accepted or report.is_clean:
        return None
    why = "; ".join(map(_reason, report.samples[:_REASONS]))
    files = ", ".join(name if output is None else f"{output}/{name}" for name in report.rejects)
    return (
        f"Campaign {campaign}: none of the {report.read} rows of its source can be run, so none was started."
        f" {report.rejected} were rejected, and {report.conflicting} keys have several different rows"
        f"{f', such as {why}' if why else ''}.{f' All of them are in {files}.' if files else ''} Correct the source, or"
        " which column is what, and run it again (a query with `tl batch run --reload`)."
    )


def _reason(sample: Mapping[str, Any]) -> str:
    column = "" if sample["column"] is None else f", column {sample['column']}"
    return f"row {sample['row']}{column}: {sample['reason']}"


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


__all__ = ["none_can_be_run", "remedies", "too_many_failed"]
