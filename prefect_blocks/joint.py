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
    from prefect_blocks.suspending import Suspension
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
    from prefect_blocks import waiting

    # Every block is asked, so that each that insists on a suspension can object.
    releases = {run.workflow.releases_worker(asynchronous=asynchronous) for run in runs} == {True}
    found: list[Found] = [None] * len(runs)
    running = runs[0].flow_run_id if runs else None
    wait = _waited(runs, found, releases=releases)
    yield from waiting.stoppable(running, lambda: _cancel(_unended(runs, found)), wait)
    return (yield from twins.blocking(lambda: list(map(_ending, runs, found))))


def _waited(runs: Sequence[TransactionlinkWorkflowRun], found: list[Found], *, releases: bool) -> Twofold[None]:
    from prefect_blocks import suspending

    if runs:
        suspension = suspending.Suspension(runs[0].workflow.say_once)
        yield from suspension.around(_looked(runs, found, suspension, releases=releases))


def _looked(
    runs: Sequence[TransactionlinkWorkflowRun], found: list[Found], suspension: Suspension, *, releases: bool
) -> Twofold[None]:
    from prefect_blocks import suspending, waiting

    seconds = suspending.grace(runs) if releases else None
    while True:
        yield from waiting.anywhere(partial(_look, runs, found, seconds))
        unended = _unended(runs, found)
        if not unended:
            return
        seconds = yield from suspension.attempt(runs, unended)


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


def _ending(run: TransactionlinkWorkflowRun, one: Found) -> Execution:
    """
    As it was seen in this process, or in an earlier one: what a deadline has ended there comes back as cancelled.
    """
    from tl_orchestration import Status
    from tl_orchestration.errors import WaitTimeout

    if isinstance(one, Exception):
        raise one
    assert one is not None
    if one.status is Status.CANCELLED and run.cancelled_at_its_deadline():
        raise WaitTimeout(
            f"Execution {one.id} has not ended: its deadline passed in an earlier pass of this flow run. It was"
            " cancelled.",
            execution_id=one.id,
            raw_status=one.raw_status,
            cancelled=True,
        )
    return one


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
