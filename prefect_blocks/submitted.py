"""
Whether tasks that this process has started go on beside the body of its flow: a suspension would end them.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from attrs import define

if TYPE_CHECKING:
    from prefect.client.schemas.objects import TaskRun
    from prefect.context import FlowRunContext

log = logging.getLogger(__name__)

QUIET = 3.0
"""
Seconds between two looks that have to see no task run: the server learns of one a moment after it has begun.
"""

_NOT_READY = "NotReady"
"""
A task run in this state never runs: what it waited for has failed. Prefect leaves it so.
"""


@define
class Watch:
    """
    Over the task runs of one run of a flow's body.

    Args:
        quiet_since: When the server first showed none, on the monotonic clock; None: it did not, the last time.
    """

    quiet_since: float | None = None

    def none_go_on(self, context: FlowRunContext) -> bool | None:
        """
        Whether no task goes on; None: none is seen, and a second look has to say so, too.
        """
        from prefect_blocks.versions import submissions

        in_flight = submissions(context.task_runner)
        if in_flight or _seen(context):
            self.quiet_since = None
            return False
        if in_flight == 0 and context.flow is not None and not context.flow.isasync:
            return True  # the body, which alone could run others, is in this wait
        now = time.monotonic()
        self.quiet_since = now if self.quiet_since is None else self.quiet_since
        return True if now - self.quiet_since >= QUIET else None


def _seen(context: FlowRunContext) -> bool:
    """
    Whether the server shows task runs of this process that have not ended. One that does not say counts as one that has
    seen some.
    """
    from prefect import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterId,
        TaskRunFilter,
        TaskRunFilterState,
        TaskRunFilterStateType,
    )
    from prefect.client.schemas.objects import TERMINAL_STATES, StateType
    from prefect.client.schemas.sorting import TaskRunSort

    from prefect_blocks.versions import PREFECT_FAILURES

    assert context.flow_run is not None, "suspending.obstacle() was asked before"
    unfinished = [kind for kind in StateType if kind not in TERMINAL_STATES]
    # The name, too: Prefect 3.6.17 has no default for it.
    state = TaskRunFilterState(type=TaskRunFilterStateType(any_=unfinished), name=None)
    try:
        with get_client(sync_client=True) as client:
            runs = client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[context.flow_run.id])),
                task_run_filter=TaskRunFilter(state=state),
                sort=TaskRunSort.EXPECTED_START_TIME_DESC,
            )
    except PREFECT_FAILURES as error:
        log.warning("Prefect did not say whether tasks of this flow run go on (%s).", type(error).__name__)
        return True
    return any(_of_this_process(run, context) for run in runs)


def _of_this_process(run: TaskRun, context: FlowRunContext) -> bool:
    """
    What a killed process left behind stays unfinished for ever, whether it had begun or not.
    """
    if run.state_name == _NOT_READY:
        return False
    since = run.start_time or run.expected_start_time or run.created
    return since is None or since >= context.start_time


__all__ = ["QUIET", "Watch"]
