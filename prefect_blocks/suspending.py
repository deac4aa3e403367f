"""
Releasing the worker: the flow run is suspended, its process ends, and it begins again when a timer or an event says so.

Only what runs as the body of a deployed, top-level flow can be suspended; Prefect refuses everything else. Before it
is, the flow run announces that it waits for an execution (:data:`WAITING`). The timer of
:mod:`prefect_blocks.automations` listens to that and to nothing else, so that it never resumes a flow run which was
suspended for another reason, such as a person's approval.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.context import FlowRunContext

log = logging.getLogger(__name__)

WAITING = "transactionlink.flow-run.waiting"
"""
Event: this flow run is about to be suspended until its executions have ended. Its resource is the flow run.
"""

_KEY = "transactionlink-"
"""
What the pause key of a suspension of ours begins with; Prefect keeps it in the state.
"""

_PAGE = 200

SLICE = 5.0
"""
Seconds of polling until the next look at whether the tasks of the flow run have ended.
"""

_LONGER = 86_400
"""
Seconds by which Prefect's own time-out is longer than our deadline. It fails the flow run without a hook and leaves the
execution running, so it must never come first; the timer wakes the flow run long before.
"""


def obstacle(*, asynchronous: bool) -> str | None:
    """
    Why what calls this cannot be suspended; None if it can.

    Args:
        asynchronous: Whether it can be awaited.
    """
    from prefect.context import FlowRunContext, TaskRunContext

    context = FlowRunContext.get()
    if TaskRunContext.get() is not None:
        return "it waits in a task"
    if context is None or context.flow_run is None:
        return "it does not run in a flow"
    if context.flow_run.parent_task_run_id is not None:
        return "it waits in a subflow"
    if context.flow_run.deployment_id is None:
        return "the flow run has no deployment"
    if context.flow is not None and context.flow.isasync and not asynchronous:
        return "an async flow has to await await_for_completion()"
    return None


def tasks_run() -> bool:
    """
    Whether tasks of this flow run that this process has started have not ended yet. A server that does not say counts
    as one that has seen some.
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

    from prefect_blocks.versions import PREFECT_FAILURES

    context = _here()
    assert context.flow_run is not None
    unfinished = [kind for kind in StateType if kind not in TERMINAL_STATES]
    try:
        with get_client(sync_client=True) as client:
            runs = client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[context.flow_run.id])),
                task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=unfinished))),
            )
    except PREFECT_FAILURES as error:
        log.warning("Prefect did not say whether tasks of this flow run go on (%s).", type(error).__name__)
        return True
    # What a killed process left behind stays unfinished for ever.
    return any(run.start_time is None or run.start_time >= context.start_time for run in runs)


def suspend(deadline: float | None) -> None:
    """
    End this process; the flow run begins again when it is resumed. Returns only if the server did not take the event
    that lets the timer wake it, or did not suspend it.

    Args:
        deadline: Of the wait, epoch seconds; None: none.

    Raises:
        Pause: Prefect's own signal, for its engine.
    """
    from prefect import suspend_flow_run

    if _announced():
        with _refusals():
            suspend_flow_run(timeout=_timeout(deadline), key=_key())


async def asuspend(deadline: float | None) -> None:
    """
    As :func:`suspend`.
    """
    from prefect.flow_runs import asuspend_flow_run

    if await asyncio.to_thread(_announced):
        with _refusals():
            await asuspend_flow_run(timeout=_timeout(deadline), key=_key())


def waiting_flow_runs(client: SyncPrefectClient) -> Iterator[FlowRun]:
    """
    The flow runs that are suspended until an execution has ended, and for no other reason.
    """
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateName

    suspended = FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Suspended"])))
    offset = 0
    while page := client.read_flow_runs(flow_run_filter=suspended, limit=_PAGE, offset=offset):
        offset += len(page)
        for run in page:
            if run.state is not None and (run.state.state_details.pause_key or "").startswith(_KEY):
                yield run


def announce(client: SyncPrefectClient, flow_run_id: UUID) -> None:
    """
    Say that a flow run waits. Returns only once the server has the event: unheard, nobody would wake the flow run.
    """
    event = {
        "id": str(uuid4()),
        "event": WAITING,
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": f"prefect.flow-run.{flow_run_id}"},
        "related": [],
        "payload": {},
    }
    client.request("POST", "/events", json=[event]).raise_for_status()


def _announced() -> bool:
    from prefect import get_client

    from prefect_blocks.versions import PREFECT_FAILURES

    flow_run = _here().flow_run
    assert flow_run is not None
    try:
        with get_client(sync_client=True) as client:
            announce(client, flow_run.id)
    except PREFECT_FAILURES as error:
        log.warning(
            "This flow run keeps its process for now: Prefect did not take its event (%s).", type(error).__name__
        )
        return False
    return True


def _key() -> str:
    """
    A new one each time: with one that the server has seen, the suspension would be passed over.
    """
    return f"{_KEY}{uuid4()}"


def _here() -> FlowRunContext:
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    assert context is not None, "obstacle() was asked before"
    return context


def _timeout(deadline: float | None) -> int | None:
    return None if deadline is None else math.ceil(max(0.0, deadline - time.time())) + _LONGER


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """
    A server that has no time for the suspension, or does not want it, is no reason to fail.
    """
    from prefect_blocks.versions import PREFECT_FAILURES

    try:
        yield
    except PREFECT_FAILURES as error:
        log.warning("This flow run keeps its process for now: Prefect did not suspend it (%s).", error)


__all__ = [
    "SLICE",
    "WAITING",
    "announce",
    "asuspend",
    "obstacle",
    "suspend",
    "tasks_run",
    "waiting_flow_runs",
]
