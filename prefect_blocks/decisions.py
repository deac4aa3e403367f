"""
Whether a person decided to cancel this flow run, as opposed to a worker that is going away.

A signal alone does not say: Prefect sends the same one for both. The state of the flow run does.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

log = logging.getLogger(__name__)

#: State types that only somebody's decision leads to; but see ``_state``.
DECIDED = frozenset({"CANCELLING", "CANCELLED"})
#: From these, a decision leads to CANCELLING first.
_AT_WORK = frozenset({"PENDING", "RUNNING"})

#: How long one answer of the server may take, seconds: a cancelled process has half a minute to live.
_PATIENCE = 3.0


def somebody_decided(flow_run_id: UUID | None) -> bool:
    """
    Ask the server for the state of this flow run and of those that it is a subflow of. No clear answer counts as no
    decision.
    """
    if flow_run_id is None:
        return False
    from prefect import get_client

    try:
        with get_client(httpx_settings={"timeout": _PATIENCE}, sync_client=True) as client:
            states = _states(client, flow_run_id)
    except Exception as error:  # whatever breaks here, the answer is that we do not know
        log.warning("Prefect did not say whether somebody cancelled this flow run (%s).", type(error).__name__)
        return False
    log.info("Told to stop; Prefect has this flow run as %s.", states[0])
    return not DECIDED.isdisjoint(states)


def timed_out() -> bool:
    """
    Whether Prefect's own ``timeout_seconds`` of the running task, or of a flow that it runs in, has passed.
    """
    from prefect.context import FlowRunContext, TaskRunContext

    task, flow = TaskRunContext.get(), FlowRunContext.get()
    limits = [] if task is None else [(task.task.timeout_seconds, task.start_time)]
    if flow is not None and flow.flow is not None:
        limits.append((flow.flow.timeout_seconds, flow.start_time))
    return any(
        seconds is not None and datetime.now(UTC) >= began + timedelta(seconds=seconds) for seconds, began in limits
    )


def _states(client: SyncPrefectClient, flow_run_id: UUID) -> list[str]:
    """
    From the flow run outwards, up to the first that was cancelled.
    """
    states: list[str] = []
    running: UUID | None = flow_run_id
    while running is not None and DECIDED.isdisjoint(states):
        flow_run = client.read_flow_run(running)
        states.append(_state(client, flow_run))
        parent = flow_run.parent_task_run_id
        running = None if parent is None else client.read_task_run(parent).flow_run_id
    return states


def _state(client: SyncPrefectClient, flow_run: FlowRun) -> str:
    """
    A runner that is shut down calls the flow runs that it ends CANCELLED, too, without anybody having asked for it.
    """
    if flow_run.state_type is None:
        return "without a state"
    kind = str(flow_run.state_type.value)
    if kind != "CANCELLED":
        return kind
    history = sorted(client.read_flow_run_states(flow_run.id), key=lambda state: state.timestamp)
    before = [str(state.type.value) for state in history if not state.is_cancelled()]
    return "CANCELLED by its runner" if before and before[-1] in _AT_WORK else kind


__all__ = ["DECIDED", "somebody_decided", "timed_out"]
