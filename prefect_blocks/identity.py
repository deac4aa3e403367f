"""
Which flow run this is, and which step of it. Nothing else of this package derives identity from Prefect's context.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.context import FlowRunContext

    from prefect_blocks.ledger import Recorded
    from tl_orchestration.ledger.entry import Entry


@frozen
class Scope:
    """
    Where the steps of the running code are kept.

    Args:
        flow_run_id: The outermost flow run: its id outlives retries, by Prefect or from the UI, and suspensions.
        subflows: The subflow runs of it that the code is in, the innermost first. Prefect may give a subflow another id
            when its parent is retried, so its steps are kept with the outermost flow run, and need names that are
            their own there.
    """

    flow_run_id: UUID
    subflows: tuple[UUID, ...] = ()

    @property
    def nested(self) -> bool:
        """
        Whether the code is in a subflow.
        """
        return bool(self.subflows)


def flow_run_id() -> UUID | None:
    """
    The flow run that this code belongs to, directly or in a task of it; None outside of any.
    """
    from prefect.context import FlowRunContext, TaskRunContext

    task = TaskRunContext.get()
    if task is not None and task.task_run.flow_run_id is not None:
        return task.task_run.flow_run_id
    flow = FlowRunContext.get()
    return None if flow is None or flow.flow_run is None else flow.flow_run.id


def task_run_id() -> UUID | None:
    """
    The task run that this code is in; None in the body of a flow, and outside of both.
    """
    from prefect.context import TaskRunContext

    task = TaskRunContext.get()
    return None if task is None else task.task_run.id


def scope() -> Scope | None:
    """
    The scope of the running code; None outside of a flow run. In a subflow, the server is asked for its ancestors.

    Raises:
        LedgerError: The server did not say.
    """
    running = flow_run_id()
    if running is None:
        return None
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    known = getattr(context, "flow_run", None)
    if known is not None and known.id == running and _is_outermost(known):
        return Scope(running)
    return scope_of(running)


def scope_of(flow_run_id: UUID) -> Scope:
    """
    Where the steps of a flow run are kept, as the server has its ancestors.

    Raises:
        LedgerError: The server did not say.
    """
    from prefect import get_client

    from prefect_blocks.versions import PREFECT_FAILURES
    from tl_orchestration.errors import LedgerError

    try:
        with get_client(sync_client=True) as client:
            return _scope_of(client, flow_run_id)
    except PREFECT_FAILURES as error:
        raise LedgerError(
            f"The Prefect server did not say to which flow run {flow_run_id} belongs ({type(error).__name__}). Nothing"
            " was sent; try again."
        ) from None


def _scope_of(client: SyncPrefectClient, running: UUID) -> Scope:
    *subflows, outermost = [flow_run.id for flow_run in lineage(client, running)]
    return Scope(outermost, tuple(subflows))


def lineage(client: SyncPrefectClient, running: UUID) -> Iterator[FlowRun]:
    """
    A flow run and those that it is a subflow of, up to the outermost one.
    """
    outer: UUID | None = running
    while outer is not None:
        flow_run = client.read_flow_run(outer)
        yield flow_run
        parent = None if _is_outermost(flow_run) else flow_run.parent_task_run_id
        outer = None if parent is None else client.read_task_run(parent).flow_run_id


def _is_outermost(flow_run: FlowRun) -> bool:
    """
    What ``run_deployment`` has started is a flow run of its own, although it has a parent.
    """
    return flow_run.parent_task_run_id is None or flow_run.deployment_id is not None


def default_step_key(where: Scope, definition: str) -> str:
    """
    A name for a step that its caller has not named: definition and ordinal, such as ``kyc-check#2``. It is the same
    when the flow runs again, as long as the flow makes its calls in the same order. A retry of a task that the flow
    has called gets the same names again.

    Raises:
        InvalidRequest: The call is in a subflow, or is not made one after the other in the body of the flow, or may be
            skipped, so that there is no order.
    """
    from prefect.cache_policies import NO_CACHE
    from prefect.context import FlowRunContext, TaskRunContext

    from tl_orchestration.errors import InvalidRequest

    context = FlowRunContext.get()
    if where.nested:
        raise InvalidRequest(
            f"Give this run of {definition} a step_key. In a subflow there is no default: when the parent flow is"
            " retried, Prefect may make another subflow run, and the step must be found again by its name. Nothing was"
            " sent."
        )
    if context is None or not in_sequence(context):
        raise InvalidRequest(
            f"Give this run of {definition} a step_key. Its default counts the calls in the body of the flow, one after"
            " the other; what is submitted, mapped, gathered or run in a thread has no such order, so that a retry"
            " could take the execution of another call. Nothing was sent."
        )
    task = TaskRunContext.get()
    if task is not None and task.persist_result and task.task.cache_policy != NO_CACHE:
        raise InvalidRequest(
            f"Give this run of {definition} a step_key. Its default counts the calls in the body of the flow, and this"
            " one is in a task whose result Prefect persists: where Prefect takes that result instead of running the"
            " task, the calls after it would be counted wrong. Nothing was sent."
        )
    return _ordinals_of(context).name(definition)


def check_order(where: Scope, key: str, *, retry_failed: bool) -> None:
    """
    Before a step with a default key is started: that it takes the place of none that an earlier pass of the flow run
    has started. One that an earlier pass has started itself is fine, and so is one that comes after all of those.

    Args:
        key: From :func:`default_step_key`, in the same pass.
        retry_failed: Whether what has ended without success may be started anew, and so has no place to keep.

    Raises:
        RequestChanged: This pass has not come to a step of an earlier one.
        LedgerError: The server does not show what the flow run has started.
    """
    from prefect.context import FlowRunContext

    from prefect_blocks.ledger import recorded
    from tl_orchestration.errors import RequestChanged

    context = FlowRunContext.get()
    if context is None:
        return
    ordinals = _ordinals_of(context)
    if ordinals.earlier is None:
        ordinals.earlier = {step.step: step for step in recorded(where.flow_run_id) if step.counted}
    if key in ordinals.earlier:
        return
    for missed, step in ordinals.earlier.items():
        if missed not in ordinals.reached and step.may_have_started and not (retry_failed and _failed(step.entry)):
            definition = missed.rpartition("#")[0]
            raise RequestChanged(
                f"An earlier pass of flow run {where.flow_run_id} started {definition} ({missed}, execution"
                f" {step.entry.execution_id or 'of unknown id'}), and this pass has not come to it: at that place it"
                f" would start {key}. Nothing was sent. If the block was pointed to another definition, restore it; if"
                " the order of the calls has changed, or this start is meant besides, name the step with step_key.",
                execution_id=step.entry.execution_id,
            )


def _failed(entry: Entry) -> bool:
    from tl_orchestration import Status
    from tl_orchestration.ledger.entry import State

    return entry.state is State.SETTLED and entry.status not in {Status.SUCCEEDED, Status.PARTIAL}


def in_sequence(context: FlowRunContext) -> bool:
    """
    Whether this code runs in the body of the flow, or in what the body called and waits for: then the function of the
    flow is on this very stack, with no event loop in between that may run other things at the same time.
    """
    code = getattr(getattr(context.flow, "fn", None), "__code__", None)
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and code is not None:
        if frame.f_code is code:
            return True
        if frame.f_globals.get("__name__") in {"asyncio.runners", "asyncio.base_events"}:
            return False
        frame = frame.f_back
    return False


class _Ordinals:
    """
    Counts the calls of one run of a flow's body: of one pass.

    Args:
        reached: Default keys that this pass has given.
        earlier: The steps with default keys that other passes have started before; None: nobody has asked yet.
    """

    def __init__(self) -> None:
        self.reached: set[str] = set()
        self.earlier: Mapping[str, Recorded] | None = None
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._given: dict[tuple[UUID, str, int], int] = {}
        self._places: Counter[tuple[UUID, int, str]] = Counter()

    def name(self, definition: str) -> str:
        """
        The default key of the next call.
        """
        name = f"{definition}#{self._next(definition)}"
        self.reached.add(name)
        return name

    def _next(self, definition: str) -> int:
        from prefect.context import TaskRunContext

        task = TaskRunContext.get()
        with self._lock:
            if task is None:
                return self._count(definition)
            run = task.task_run
            place = (run.id, run.run_count, definition)
            self._places[place] += 1
            called = (run.id, definition, self._places[place])
            if called not in self._given:
                self._given[called] = self._count(definition)
            return self._given[called]

    def _count(self, definition: str) -> int:
        self._counts[definition] += 1
        return self._counts[definition]


_ordinals: dict[int, tuple[weakref.ref[Any], _Ordinals]] = {}
_making = threading.Lock()


def _ordinals_of(context: FlowRunContext) -> _Ordinals:
    """
    Those of this run of the body: Prefect makes a context for each, so that a retry of the flow counts from 1 again.
    """
    identity = id(context)
    with _making:
        known = _ordinals.get(identity)
        if known is None or known[0]() is not context:
            known = (weakref.ref(context, lambda _: _ordinals.pop(identity, None)), _Ordinals())
            _ordinals[identity] = known
        return known[1]


__all__ = [
    "Scope",
    "check_order",
    "default_step_key",
    "flow_run_id",
    "in_sequence",
    "lineage",
    "scope",
    "scope_of",
    "task_run_id",
]
