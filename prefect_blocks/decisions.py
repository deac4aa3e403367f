"""
Whether a person decided to cancel this flow run, as opposed to a worker that is going away.

A signal alone does not say: Prefect sends the same one for both. The state of the flow run does.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

log = logging.getLogger(__name__)

#: State types that only somebody's decision leads to; but see ``_state``.
DECIDED = frozenset({"CANCELLING", "CANCELLED"})
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
    Whether Prefect's own ``timeout_seconds`` of the running task or flow, or of one that it runs in, has passed.
    """
    from prefect.context import FlowRunContext, TaskRunContext

    from prefect_blocks import versions

    limits = [
        (context.task.timeout_seconds, context.start_time) for context in versions.entered_in(TaskRunContext.get())
    ]
    for context in versions.entered_in(FlowRunContext.get()):
        if context.flow is not None:
            limits.append((context.flow.timeout_seconds, context.start_time))
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
    last = next((state for state in reversed(history) if state.is_cancelled()), None)
    before = next((state for state in reversed(history) if not state.is_cancelled()), None)
    if before is not None and last is not None and (before.is_cancelling() or _by_server(flow_run, before, last)):
        return kind
    return "CANCELLED by its runner"


def _by_server(flow_run: FlowRun, before: State[Any], cancelled: State[Any]) -> bool:
    """
    Whether the server itself has made CANCELLED of a person's CANCELLING: where it knows of no process that could be
    ended (its rule BypassCancellingFlowRunsWithNoInfra). A runner copies the details of the state before.
    """
    known, copied = before.state_details, cancelled.state_details
    if before.is_paused():
        return bool(known.pause_reschedule) and copied.pause_key is None
    if not before.is_scheduled() or copied.scheduled_time is not None:
        return False
    return before.name == "Resuming" or not flow_run.infrastructure_pid


__all__ = ["DECIDED", "somebody_decided", "timed_out"]
