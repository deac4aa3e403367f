"""
One worker's turn at a campaign: how it is stopped, what is then cancelled, and what its end means for the task.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider import decisions
from airflow_provider.batch_progress import BatchProgress, line
from airflow_provider.events import BatchEvent
from airflow_provider.failures import TransactionlinkFailure, TransactionlinkRetry, after_waiting
from airflow_provider.versions import AirflowTaskTimeout
from tl_orchestration.batch import BatchOutcome
from tl_orchestration.batch.judging import too_many_failed
from tl_orchestration.beside import awaited, in_thread
from tl_orchestration.errors import TransactionlinkError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from airflow_provider.operators.batch import TransactionlinkBatchOperator
    from tl_orchestration.batch import Batch, BatchSummary, LoadReport

log = logging.getLogger(__name__)

#: Outcomes after which somebody has to watch, and then a worker to go on.
GOES_ON = frozenset({BatchOutcome.AT_CAP, BatchOutcome.IN_FLIGHT, BatchOutcome.BREAKER_OPEN})
#: Seconds that a turn has to come to its end in good order, once the task's time is up.
_ORDERLY = 20.0
_TIME_IS_UP = "The execution_timeout of the task has passed."


def worked(
    batch: Batch,
    context: Any,
    *,
    loads: bool,
    follows: bool,
    stop: Callable[[], bool],
    cancel: bool,
    ends: float,
    until: float | None = None,
) -> BatchSummary:
    """
    Load the campaign, and work on it.

    Airflow's time-out is an exception that it raises in the main thread, wherever that is; an event loop could lose
    it. So the loop runs beside, in a thread that keeps nobody.

    Args:
        loads: Whether the source is read first.
        follows: Stay until nothing is left to do; if not, only until the in-flight limit is reached.
        stop: Whether the task was told to stop.
        cancel: Whether a stop by a person, or the task's time-out, cancels what this worker has in flight.
        ends: When the task's time is up, epoch seconds.
        until: When to return in any case, epoch seconds.

    Raises:
        TransactionlinkFailure: Somebody stopped the task.
        TransactionlinkRetry: The worker is going away; executions were left alone.
        AirflowTaskTimeout: The task's time is up.
        TransactionlinkError: As the core's.
    """
    halt = threading.Event()
    last = ends if until is None else min(ends, until)

    def stops() -> bool:
        return halt.is_set() or stop() or time.time() >= last

    def turn() -> BatchSummary:
        if loads:
            _tell_load(batch.campaign, batch.load(stop=stops))
        return batch.run(
            at_cap="wait" if follows else "return",
            wait_for_others=False,
            stop=stops,
            on_progress=BatchProgress().tell,
        )

    working = in_thread(turn)
    try:
        summary = _ended(working, ends)
    except TransactionlinkError:
        if stop():
            stopped(batch, context, cancel=cancel)
        _check_time(batch, ends, cancel=cancel)
        raise
    except BaseException as ended:
        halt.set()
        wait([working], _ORDERLY)  # no longer: whatever the turn reads may never answer
        if isinstance(ended, AirflowTaskTimeout):
            # A deadline that the author set: somebody's decision, nothing to ask.
            time_is_up(batch, cancel=cancel)
        raise
    log.info("%s", line(summary))
    if stop():
        stopped(batch, context, cancel=cancel)
    if summary.outcome is BatchOutcome.INTERRUPTED:
        _check_time(batch, ends, cancel=cancel)
    return summary


def _ended(working: Future[BatchSummary], ends: float) -> BatchSummary:
    """
    What the turn came to. It ends itself when the task's time is up, unless it hangs: then Airflow's time-out ends the
    wait, or this one, for an exception that is raised while the garbage collector runs a callback is lost.
    """
    try:
        return awaited(working, ends + _ORDERLY)
    except TimeoutError:
        if working.done():
            return working.result()  # it has just ended, or the time-out is its own
        raise AirflowTaskTimeout(_TIME_IS_UP) from None


def _check_time(batch: Batch, ends: float, *, cancel: bool) -> None:
    """
    Whatever else the turn ended with: it may be that the task's time is up.
    """
    if time.time() >= ends:
        time_is_up(batch, cancel=cancel)
        raise AirflowTaskTimeout(_TIME_IS_UP)


def stopped(batch: Batch, context: Any, *, cancel: bool) -> NoReturn:
    """
    Told to stop: cancel what this worker has in flight if somebody decided so, else leave it for the next try.
    """
    if not decisions.somebody_decided(context):
        raise TransactionlinkRetry(
            f"The worker of this task was told to stop. Campaign {batch.campaign} was left as it is: the next try goes"
            " on with it."
        )
    if not cancel:
        raise TransactionlinkFailure(
            f"The task was stopped; its executions of campaign {batch.campaign} were left running, as"
            " cancel_on_kill=False says."
        )
    raise TransactionlinkFailure(f"The task was stopped. {_cancelled(batch)}")


def time_is_up(batch: Batch, *, cancel: bool) -> None:
    """
    The task's time-out asks for a cancel, unless it says otherwise.
    """
    if cancel:
        log.warning("The time of the task is up. %s", _cancelled(batch))


def _cancelled(batch: Batch) -> str:
    """
    Cancel what this worker has in flight. Returns what came of it.
    """

    async def cancel() -> int:
        try:
            return await batch.cancel(only_mine=True)
        finally:
            await batch.close()

    try:
        count = asyncio.run(cancel())
    except TransactionlinkError as error:
        log.error("Campaign %s: not everything could be cancelled: %s", batch.campaign, error)
        return f"Not all of its executions could be cancelled; all of the campaign: tl batch cancel '{batch.campaign}'"
    return (
        f"{count} executions of its own were cancelled; what others have in flight goes on. Clear the task to go on"
        f" with campaign {batch.campaign}."
    )


def check_event(event: Any) -> None:
    """
    Raise what the wait in the triggerer failed with.

    Raises:
        InvalidAnswer: It is no event of this version.
        TransactionlinkRetry, TransactionlinkFailure: By the error's class.
    """
    said = BatchEvent.from_dict(event)
    if said.error is None:
        return
    kind = after_waiting(said.error)
    status = f", HTTP {said.status_code}" if said.status_code else ""
    then = "clear the task to go on" if kind is TransactionlinkFailure else "a retry goes on"
    raise kind(
        f"Watching campaign {said.campaign} in the triggerer failed ({said.error}{status}); the log above says why."
        f" Its executions were left alone: {then} with it."
    )


def check_end(summary: BatchSummary, task: TransactionlinkBatchOperator) -> None:
    """
    What fails the task although nothing went wrong with its work.

    Raises:
        TransactionlinkFailure: Rows are left that a person keeps from being started, or too many have failed.
    """
    name = summary.campaign
    if summary.outcome is BatchOutcome.CANCELLED:
        raise TransactionlinkFailure(
            f"Somebody has stopped campaign {name}; {summary.pending} of its rows were not started. `tl batch run"
            f" '{name}' … --resume` takes that back."
        )
    if summary.outcome is BatchOutcome.STOPPED:
        raise TransactionlinkFailure(
            f"Campaign {name} has stopped at its canary or max_starts, with {summary.pending} rows left. Look at what"
            " came of the others; to go on, raise the limit or take it away, and clear the task."
        )
    if said := too_many_failed(summary, task.max_failed, task.max_failed_share):
        raise TransactionlinkFailure(f"{said} Then clear the task.")


def _tell_load(campaign: str, report: LoadReport) -> None:
    if report.gone:
        return  # the core's log says so
    if report.skipped:
        log.info("The source of campaign %s is loaded already, and has not changed.", campaign)
        return
    if report.collapsed or not report.is_clean:
        log.warning(
            "Campaign %s: %d rows repeat another, %d keys are ambiguous, %d rows cannot be run.",
            *(campaign, report.collapsed, report.conflicting, report.rejected),
        )
    for one in report.samples[:5]:
        log.warning("Row %s, column %s: %s", one["row"], one["column"], one["reason"])
    if report.changed or report.withdrawn:
        log.warning(
            "%d rows changed after they had started, and %d are no longer in the source.",
            *(report.changed, report.withdrawn),
        )
