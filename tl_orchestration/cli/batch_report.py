"""
What ``tl batch`` prints about a campaign, and the exit code that stands for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tl_orchestration.cli.outcomes import INTERRUPTED, NO_ROWS, ROWS_FAILED, ROWS_LEFT, SUCCESS, UNKNOWN_STARTS
from tl_orchestration.cli.output import answer_json, answer_lines, tell

if TYPE_CHECKING:
    from tl_orchestration.batch import BatchSummary, LoadReport


def code_of(summary: BatchSummary) -> int:
    """
    The gravest thing that there is to say about a campaign.
    """
    from tl_orchestration.batch import BatchOutcome
    from tl_orchestration.batch.judging import none_can_be_run

    if summary.outcome is BatchOutcome.INTERRUPTED:
        return INTERRUPTED
    if summary.unknown:
        return UNKNOWN_STARTS
    if summary.failed:
        return ROWS_FAILED
    if summary.load is not None and none_can_be_run(summary.campaign, summary.load, summary.output):
        return NO_ROWS
    return SUCCESS if summary.is_finished else ROWS_LEFT


def tell_load(report: LoadReport) -> None:
    """
    Tell what a pass over the source has found.
    """
    if report.gone:
        return  # the log says so
    if report.skipped:
        tell("The source is loaded already, and has not changed.")
        return
    tell(f"{report.read} rows read, {report.accepted} can be run.")
    for count, what in (
        (report.collapsed, "repeat another row"),
        (report.rejected, "cannot be run"),
        (report.changed, "changed after they had started"),
        (report.withdrawn, "are no longer in the source"),
    ):
        if count:
            tell(f"{count} rows {what}.")
    if report.conflicting:
        tell(f"{report.conflicting} keys have several different rows; none of these is started.")
    for one in report.samples:
        where = ", ".join(f"{name} {one[name]}" for name in ("row", "key", "column") if one[name] is not None)
        tell(f"  {where}: {one['reason']}")
    for name in report.rejects:
        tell(f"All of these are in {name}, beside the results.")


def answer_check(campaign: str, report: LoadReport, *, as_json: bool) -> int:
    """
    Print what a dry run has found. Returns its exit code.
    """
    from tl_orchestration.batch.judging import none_can_be_run

    tell_load(report)
    if as_json:
        answer_json(report.to_dict())
    if said := none_can_be_run(campaign, report, None):
        tell(said)
        return NO_ROWS
    return SUCCESS


def answer(summary: BatchSummary, *, as_json: bool) -> int:
    """
    Print a campaign. Returns its exit code.
    """
    from tl_orchestration.batch.judging import none_can_be_run, remedies

    if as_json:
        answer_json(summary.to_dict())
    else:
        counts = [(state.value.lower(), f"{count:,}") for state, count in sorted(summary.counts.items())]
        spent = ", ".join(f"{count:,} {operation}" for operation, count in sorted(summary.requests.items()))
        outcome = None if summary.outcome is None else summary.outcome.value.lower().replace("_", " ")
        answer_lines(
            [
                ("campaign", summary.campaign),
                ("outcome", outcome),
                *counts,
                ("requests", spent),
                ("stopped", summary.stop.lower()),
                ("breaker", "open" if summary.breaker_open else None),
                ("output", summary.output),
            ]
        )
    if summary.load is not None and (said := none_can_be_run(summary.campaign, summary.load, summary.output)):
        tell(said)
    for remedy in remedies(summary):
        tell(remedy)
    return code_of(summary)


__all__ = ["answer", "answer_check", "code_of", "tell_load"]
