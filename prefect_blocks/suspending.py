"""
Releasing the worker: the flow run is suspended, its process ends, and it begins again when a timer or an event says so.

Only what runs as the body of a deployed, top-level flow can be suspended; Prefect refuses everything else. Before it
is, the flow run announces that it waits (:data:`WAITING`), and for which executions (:data:`WAITS_FOR`). The timer of
:mod:`prefect_blocks.automations` listens to the former and to nothing else, so that it never resumes a flow run which
was suspended for another reason, such as a person's approval; by the latter, :mod:`prefect_blocks.forwarding` finds who
waits for the execution that a webhook is about.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4, uuid5

from prefect_blocks.twins import Twin, blocking

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.context import FlowRunContext

    from prefect_blocks.twins import Twofold

log = logging.getLogger(__name__)

WAITING = "transactionlink.flow-run.waiting"
"""
Event: this flow run is about to be suspended until its executions have ended. Its resource is the flow run.
"""

WAITS_FOR = "transactionlink.flow-run.waits-for"
"""
Event: these executions, as related resources, are waited for by this flow run. The same ones make the same event, so
that Prefect keeps one however often the flow run is suspended for them.
"""

_KEY = re.compile(r"transactionlink-[0-9a-f-]{36}(?:-(?P<unended>[0-9]+))?")
"""
The pause key of a suspension of ours; Prefect keeps it in the state. Without a number it is by an older version.
"""

_RELATED = 50
"""
Executions in one event. Prefect refuses one with more than a hundred related resources.
"""

_EVENTS = UUID("0c3f4e0e-7a52-4f53-8b0a-1d7f2f0f6c55")

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


def _tasks_run() -> bool:
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


def suspend(deadline: float | None, execution_ids: Sequence[str], *, unended: int = 1) -> Twofold[None]:
    """
    End this process; the flow run begins again when it is resumed. Returns only if tasks of the flow run go on, or the
    server did not take the events that let it be woken, or did not suspend it.

    Args:
        deadline: Of the wait, epoch seconds; None: none.
        execution_ids: What the flow run waits for, in the same order each time.
        unended: How many of them have not ended.

    Raises:
        Pause: Prefect's own signal, for its engine.
    """
    from prefect import suspend_flow_run
    from prefect.flow_runs import asuspend_flow_run

    if (yield from blocking(_tasks_run)) or not (yield from blocking(partial(_announced, execution_ids))):
        return
    how: dict[str, Any] = {"timeout": _timeout(deadline), "key": _key(unended)}
    with _refusals():
        yield from Twin(partial(suspend_flow_run, **how), partial(asuspend_flow_run, **how))


def awaited(state: State[Any] | None) -> int | None:
    """
    For how many executions a flow run in this state is suspended; None: it is not, or for another reason.
    """
    if state is None or state.name != "Suspended":
        return None
    match = _KEY.fullmatch(state.state_details.pause_key or "")
    return None if match is None else int(match["unended"] or 1)


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
            if awaited(run.state) is not None:
                yield run


def announce(client: SyncPrefectClient, flow_run_id: UUID, execution_ids: Sequence[str] = ()) -> None:
    """
    Say that a flow run waits, and for what. Returns only once the server has the events: unheard, nobody would wake the
    flow run.
    """
    events = [_event(WAITING, flow_run_id)]
    for first in range(0, len(execution_ids), _RELATED):
        events.append(_event(WAITS_FOR, flow_run_id, execution_ids[first : first + _RELATED]))
    client.request("POST", "/events", json=events).raise_for_status()


def _event(name: str, flow_run_id: UUID, execution_ids: Sequence[str] = ()) -> dict[str, Any]:
    identity = uuid5(_EVENTS, " ".join([str(flow_run_id), *execution_ids])) if execution_ids else uuid4()
    return {
        "id": str(identity),
        "event": name,
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": f"prefect.flow-run.{flow_run_id}"},
        "related": [
            {"prefect.resource.id": f"transactionlink.execution.{one}", "prefect.resource.role": "execution"}
            for one in execution_ids
        ],
        "payload": {},
    }


def _announced(execution_ids: Sequence[str]) -> bool:
    from prefect import get_client

    from prefect_blocks.versions import PREFECT_FAILURES

    flow_run = _here().flow_run
    assert flow_run is not None
    try:
        with get_client(sync_client=True) as client:
            announce(client, flow_run.id, execution_ids)
    except PREFECT_FAILURES as error:
        log.warning(
            "This flow run keeps its process for now: Prefect did not take its event (%s).", type(error).__name__
        )
        return False
    return True


def _key(unended: int) -> str:
    """
    A new one each time: with one that the server has seen, the suspension would be passed over.
    """
    return f"transactionlink-{uuid4()}-{unended}"


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
    "WAITS_FOR",
    "announce",
    "awaited",
    "obstacle",
    "suspend",
    "waiting_flow_runs",
]
