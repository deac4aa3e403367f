"""
The state in which the flow run of a batch ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect.states import Cancelled, Completed, Failed

from tl_orchestration.batch.pace import counted
from tl_orchestration.errors import TransactionlinkError

if TYPE_CHECKING:
    from tl_orchestration.batch import BatchSummary


class TooManyFailed(TransactionlinkError):
    """
    More rows of a campaign have not succeeded than ``max_failed`` or ``max_failed_share`` allows. Running it again
    starts none of them: that takes an explicit retry.
    """


def ended(summary: BatchSummary, max_failed: int | None, max_failed_share: float | None) -> Any:
    """
    The state in which the flow run ends, as its outcome says.

    Raises:
        TooManyFailed: Beyond one of the limits.
    """
    from tl_orchestration.batch import BatchOutcome
    from tl_orchestration.batch.judging import too_many_failed

    told = f"Campaign {summary.campaign}: {counted(summary) or 'no rows'}."
    if summary.outcome is BatchOutcome.CANCELLED:
        return Cancelled(message=f"{told} Somebody has cancelled it: `tl batch run --resume` takes that back.")
    if said := too_many_failed(summary, max_failed, max_failed_share):
        raise TooManyFailed(said)
    if summary.outcome is BatchOutcome.STOPPED:
        why = "canary or max_starts is reached: raise it, or take it away, and run the campaign again"
        return Failed(name="Stopped", message=f"{told} {why}.")
    if not summary.is_finished:
        return Failed(name="Interrupted", message=f"{told} Its shards were told to stop: run the campaign again.")
    name = "NothingToStart" if summary.outcome is BatchOutcome.NOTHING_TO_START else "Completed"
    return Completed(name=name, message=told, data=summary.to_dict())


__all__ = ["TooManyFailed", "ended"]
