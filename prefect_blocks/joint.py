"""
Waiting for several runs at once in the body of a flow.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prefect_blocks.run import TransactionlinkWorkflowRun
    from tl_orchestration import AsyncClient, Execution

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
    from prefect_blocks import suspending, waiting

    if not runs:
        return []
    releases = _release(runs, asynchronous=False)
    seconds = min(run.workflow.suspend_after for run in runs)
    with waiting.stoppable(runs[0].flow_run_id, lambda: _cancel(runs)):
        while True:
            look = partial(_look, runs, seconds if releases else None)
            if (ended := _all(waiting.in_loop(look))) is not None:
                return ended
            if not suspending.tasks_run():
                suspending.suspend(_latest(runs))
            seconds = suspending.SLICE


async def await_for_all(runs: Sequence[TransactionlinkWorkflowRun]) -> list[Execution]:
    """
    As :func:`wait_for_all`.
    """
    from prefect_blocks import suspending, waiting

    if not runs:
        return []
    releases = _release(runs, asynchronous=True)
    seconds = min(run.workflow.suspend_after for run in runs)
    with waiting.stoppable(runs[0].flow_run_id, lambda: _cancel(runs)):
        while True:
            if (ended := _all(await _look(runs, seconds if releases else None))) is not None:
                return ended
            if not await asyncio.to_thread(suspending.tasks_run):
                await suspending.asuspend(_latest(runs))
            seconds = suspending.SLICE


def _release(runs: Sequence[TransactionlinkWorkflowRun], *, asynchronous: bool) -> bool:
    """
    Every block is asked, so that each that insists on a suspension can object.
    """
    return {run.workflow.releases_worker(asynchronous=asynchronous) for run in runs} == {True}


async def _look(
    runs: Sequence[TransactionlinkWorkflowRun], seconds: float | None
) -> list[Execution | BaseException | None]:
    """
    One client, and so one poller, for all runs that can share it.
    """
    clients: dict[tuple[int, str], AsyncClient] = {}
    async with contextlib.AsyncExitStack() as stack:
        for run in runs:
            if run.client_key not in clients:
                clients[run.client_key] = await stack.enter_async_context(run.async_client())
        waits = [run.await_ending(clients[run.client_key], seconds) for run in runs]
        return await asyncio.gather(*waits, return_exceptions=True)


def _all(found: list[Execution | BaseException | None]) -> list[Execution] | None:
    """
    None: some have not ended.
    """
    if any(one is None for one in found):
        return None
    ended = []
    for one in found:
        if isinstance(one, BaseException):
            raise one
        assert one is not None
        ended.append(one)
    return ended


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
