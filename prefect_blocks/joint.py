"""
Waiting for several runs at once in the body of a flow.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from prefect_blocks import twins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prefect_blocks.run import TransactionlinkWorkflowRun
    from prefect_blocks.twins import Twofold
    from tl_orchestration import Execution

    Found = Execution | Exception | None

log = logging.getLogger(__name__)

_CANCELS = 16
"""
Cancels in flight at once.
"""


def wait_for_all(runs: Sequence[TransactionlinkWorkflowRun]) -> list[Execution]:
    """
    Wait until all of these have ended, with one poller. In the body of a deployed flow the flow run is suspended
    meanwhile, as the blocks' ``wait_mode`` says; one that says ``poll`` keeps the process for all.

    Returns:
        The executions in the order given, whatever their endings: ``run.outcome()`` judges one.

    Raises:
        WaitTimeout: The deadline of one has passed, the others have ended. It was cancelled, if it is its run's own.
        TransactionlinkError: One could not be asked for longer than is tolerable.
    """
    return twins.run(_all_ended(runs, asynchronous=False))


async def await_for_all(runs: Sequence[TransactionlinkWorkflowRun]) -> list[Execution]:
    """
    As :func:`wait_for_all`.
    """
    return await twins.arun(_all_ended(runs, asynchronous=True))


def _all_ended(runs: Sequence[TransactionlinkWorkflowRun], *, asynchronous: bool) -> Twofold[list[Execution]]:
    from prefect_blocks import suspending, waiting

    # Every block is asked, so that each that insists on a suspension can object.
    releases = {run.workflow.releases_worker(asynchronous=asynchronous) for run in runs} == {True}
    seconds = min((run.workflow.suspend_after for run in runs), default=0.0) if releases else None
    found: list[Found] = [None] * len(runs)
    with waiting.stoppable(runs[0].flow_run_id if runs else None, lambda: _cancel(_unended(runs, found))):
        while None in found:
            yield from waiting.anywhere(partial(_look, runs, found, seconds))
            if unended := _unended(runs, found):
                ids = [run.execution_id for run in runs]
                yield from suspending.suspend(_latest(unended), ids, unended=len(unended))
            seconds = suspending.SLICE
    return [_ending(one) for one in found]


def _unended(runs: Sequence[TransactionlinkWorkflowRun], found: list[Found]) -> list[TransactionlinkWorkflowRun]:
    return [run for run, one in zip(runs, found, strict=True) if one is None]


async def _look(runs: Sequence[TransactionlinkWorkflowRun], found: list[Found], seconds: float | None) -> None:
    """
    At those that had not ended yet. All that can share a client share one, and so one poller.
    """
    from prefect_blocks import showing

    awaited = [index for index, one in enumerate(found) if one is None]

    async def look(index: int) -> None:
        try:
            found[index] = await twins.arun(runs[index].look(seconds))
        except Exception as error:
            found[index] = error
        if found[index] is not None:
            one_more()

    ids = [run.execution_id for run in runs]
    async with showing.progress(len(runs), done=len(runs) - len(awaited), of=ids) as one_more:
        await asyncio.gather(*map(look, awaited))


def _ending(one: Found) -> Execution:
    if isinstance(one, Exception):
        raise one
    assert one is not None
    return one


def _latest(runs: Sequence[TransactionlinkWorkflowRun]) -> float | None:
    deadlines = [run.handle.deadline for run in runs]
    return None if None in deadlines else max(deadline for deadline in deadlines if deadline is not None)


def _cancel(runs: Sequence[TransactionlinkWorkflowRun]) -> None:
    """
    All at once: a process that is being ended has little time.
    """
    from tl_orchestration.errors import TransactionlinkError

    cancels = [cancel for run in runs if (cancel := run.cancel_quickly()) is not None]
    with ThreadPoolExecutor(_CANCELS) as pool:
        for done in [pool.submit(cancel) for cancel in cancels]:
            try:
                done.result()
            except TransactionlinkError as error:
                log.error("An execution could not be cancelled: %s", error)


__all__ = ["await_for_all", "wait_for_all"]
