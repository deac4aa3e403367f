"""
Tasks that take block names: start and wait, wait, fetch, cancel; each once for flows and once, with an ``a`` in front,
for asynchronous ones.

Prefect keeps nothing of what they are given, except by ``delay``, which stores parameters in clear: they have no cache,
and no persisted result unless the caller asks for one. What they return and raise holds ids, states and the fields that
the block names.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar, Unpack

from prefect import task
from prefect.cache_policies import NO_CACHE

from prefect_blocks import clients, showing, twins
from prefect_blocks.credentials import TransactionlinkCredentials
from prefect_blocks.workflow import Asked, TransactionlinkWorkflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prefect import Task
    from prefect.client.schemas.objects import State, TaskRun

    from prefect_blocks.run import TransactionlinkWorkflowRun
    from prefect_blocks.twins import Twofold
    from tl_orchestration import Execution, Handle

    One = str | Mapping[str, Any]
    AWorkflow = str | TransactionlinkWorkflow
    SomeCredentials = str | TransactionlinkCredentials

P = ParamSpec("P")
R = TypeVar("R")
B = TypeVar("B", TransactionlinkCredentials, TransactionlinkWorkflow)


class Ended(TypedDict, total=False):
    """
    How one of many executions stands after the wait. ``error`` is the kind of error that its wait ended with, such as
    ``NotFound``; ``status`` is then absent. ``api_version`` is there where it was given.
    """

    execution_id: str
    status: str
    error: str
    api_version: int


def may_be_retried(task: Any, task_run: TaskRun, state: State[Any]) -> bool:
    """
    The ``retry_condition_fn`` of these tasks: whether a retry can mend what a task has failed with. It goes on with
    what the step has started, so that it is harmless; but what the service refused, and an execution that has ended
    without success, stay so.
    """
    from prefect_blocks.versions import exception_of
    from tl_orchestration.errors import AuthenticationError, TransactionlinkError

    error = exception_of(state)
    if isinstance(error, AuthenticationError):
        return error.execution_id is not None  # it goes on, and the block may have a new token by then
    return error.retryable if isinstance(error, TransactionlinkError) else True


def _step(name: str, what: str, argument: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """
    A task of this module; its runs are named by what they do and by what they are about.
    """

    def run_name() -> str:
        from prefect import runtime

        return f"{what} {_shown(runtime.task_run.parameters.get(argument))}"

    return task(name=name, task_run_name=run_name, cache_policy=NO_CACHE, retry_condition_fn=may_be_retried)


def _shown(about: Any) -> str:
    if isinstance(about, TransactionlinkWorkflow):
        return about.workflow_definition_id
    if isinstance(about, Mapping):
        return str(about.get("execution_id", "execution"))
    return f"{len(about)} executions" if isinstance(about, list | tuple) else str(about)


@_step("run-workflow", "run", "workflow")
def run_workflow(
    workflow: AWorkflow, parameters: Mapping[str, Any] | None = None, **asked: Unpack[Asked]
) -> dict[str, Any]:
    """
    Start an execution at most once, wait for it, and return what the next step needs to know.

    Args:
        workflow: Name of a saved TransactionlinkWorkflow block, or the block.
        parameters: JSON object for the definition.
        asked: See :class:`prefect_blocks.workflow.Asked`. ``step_key`` is needed where this task is submitted or
            mapped.

    Returns:
        ``execution_id``, ``status``, ``fields`` and, as the block says, ``result``, or ``result_uri``, ``sha256`` and
        ``size``.

    Raises:
        TransactionlinkError: See :meth:`TransactionlinkWorkflow.trigger` and
            :meth:`TransactionlinkWorkflowRun.wait_for_completion`.
    """
    return twins.run(_ran(workflow, parameters, asked))


@_step("run-workflow", "run", "workflow")
async def arun_workflow(
    workflow: AWorkflow, parameters: Mapping[str, Any] | None = None, **asked: Unpack[Asked]
) -> dict[str, Any]:
    """
    As :func:`run_workflow`.
    """
    return await twins.arun(_ran(workflow, parameters, asked))


@_step("wait-for-execution", "wait for", "execution")
def wait_for_execution(execution: One, workflow: AWorkflow, *, timeout: float | None = None) -> dict[str, Any]:
    """
    Wait for an execution that somebody else has started; it is never cancelled.

    Args:
        execution: Its id, or what a task about it has returned; ``{"execution_id": ID, "api_version": 1}`` for a legacy
            execution about a case.
        workflow: Name of a saved TransactionlinkWorkflow block, or the block: how to reach and to judge it.
        timeout: Seconds from now; None: until it ends or expires.

    Returns:
        As :func:`run_workflow`.

    Raises:
        TransactionlinkError: See :meth:`TransactionlinkWorkflowRun.wait_for_completion`.
    """
    return twins.run(_waited(execution, workflow, timeout))


@_step("wait-for-execution", "wait for", "execution")
async def await_for_execution(execution: One, workflow: AWorkflow, *, timeout: float | None = None) -> dict[str, Any]:
    """
    As :func:`wait_for_execution`.
    """
    return await twins.arun(_waited(execution, workflow, timeout))


@_step("wait-for-executions", "wait for", "executions")
def wait_for_executions(
    executions: Sequence[One],
    credentials: SomeCredentials,
    *,
    timeout: float | None = None,
    poll_interval: float | None = None,
) -> list[Ended]:
    """
    Wait until all of these have ended, whatever their endings, with one poller for all of them: no thread and no task
    run for each. None is ever cancelled.

    Args:
        executions: Their ids, or what tasks about them have returned.
        credentials: Name of a saved TransactionlinkCredentials block, or the block.
        timeout: Seconds from now; None: until each ends or expires.
        poll_interval: Seconds between polls of one execution. Default: an interval that grows with the time waited.

    Returns:
        One dict for each, in the order given: ``execution_id``, and ``status`` or, where its wait has failed for good,
        ``error``.

    Raises:
        TransactionlinkError: A wait has failed in a way that a retry may mend.
    """
    return twins.run(_ended(executions, credentials, timeout, poll_interval))


@_step("wait-for-executions", "wait for", "executions")
async def await_for_executions(
    executions: Sequence[One],
    credentials: SomeCredentials,
    *,
    timeout: float | None = None,
    poll_interval: float | None = None,
) -> list[Ended]:
    """
    As :func:`wait_for_executions`.
    """
    return await twins.arun(_ended(executions, credentials, timeout, poll_interval))


@_step("get-result", "result of", "execution")
def get_result(execution: One, credentials: SomeCredentials) -> dict[str, Any]:
    """
    The whole result of an execution. It is often personal data: where results of tasks are persisted, call
    ``run.fetch_result()`` inside the task that needs it instead.

    Args:
        execution: Its id, or what a task about it has returned.
        credentials: Name of a saved TransactionlinkCredentials block, or the block.

    Raises:
        TransactionlinkError: See :meth:`tl_orchestration.Client.result`.
    """
    return twins.run(_result(execution, credentials))


@_step("get-result", "result of", "execution")
async def aget_result(execution: One, credentials: SomeCredentials) -> dict[str, Any]:
    """
    As :func:`get_result`.
    """
    return await twins.arun(_result(execution, credentials))


@_step("cancel-execution", "cancel", "execution")
def cancel_execution(execution: One, credentials: SomeCredentials) -> dict[str, Any]:
    """
    Cancel an execution, whoever has started it. One that is over is no error.

    Args:
        execution: Its id, or what a task about it has returned.
        credentials: Name of a saved TransactionlinkCredentials block, or the block.

    Returns:
        ``execution_id``, ``status`` and, for the shape of the other tasks, empty ``fields``.

    Raises:
        TransactionlinkError: See :meth:`tl_orchestration.Client.cancel`.
    """
    return twins.run(_cancelled(execution, credentials))


@_step("cancel-execution", "cancel", "execution")
async def acancel_execution(execution: One, credentials: SomeCredentials) -> dict[str, Any]:
    """
    As :func:`cancel_execution`.
    """
    return await twins.arun(_cancelled(execution, credentials))


def _ran(workflow: AWorkflow, parameters: Mapping[str, Any] | None, asked: Asked) -> Twofold[dict[str, Any]]:
    block = yield from _loaded(TransactionlinkWorkflow, workflow)
    with _retried_anew(block):
        run = yield from twins.Twin(
            partial(block.trigger, parameters, **asked), partial(block.atrigger, parameters, **asked)
        )
        yield from twins.blocking(partial(_rename, "run", run))
        return (yield from _outcome(run))


def _waited(execution: One, workflow: AWorkflow, timeout: float | None) -> Twofold[dict[str, Any]]:
    block = yield from _loaded(TransactionlinkWorkflow, workflow)
    run = block.attach(_id_of(execution), timeout=timeout, api_version=_version_of(execution))
    return (yield from _outcome(run))


def _outcome(run: TransactionlinkWorkflowRun) -> Twofold[dict[str, Any]]:
    yield from twins.Twin(run.wait_for_completion, run.await_for_completion)
    return (yield from twins.Twin(run.outcome, run.aoutcome))


def _ended(
    executions: Sequence[One], credentials: SomeCredentials, timeout: float | None, poll_interval: float | None
) -> Twofold[list[Ended]]:
    from prefect_blocks import waiting

    block = yield from _loaded(TransactionlinkCredentials, credentials)
    return (yield from waiting.anywhere(lambda: _all_ended(executions, block, timeout, poll_interval)))


def _result(execution: One, credentials: SomeCredentials) -> Twofold[dict[str, Any]]:
    block = yield from _loaded(TransactionlinkCredentials, credentials)
    _check_allowed(execution, block)
    handle = _handle(execution, block)
    return (yield from clients.asking(lambda client: client.result(handle), block))


def _cancelled(execution: One, credentials: SomeCredentials) -> Twofold[dict[str, Any]]:
    block = yield from _loaded(TransactionlinkCredentials, credentials)
    handle = _handle(execution, block)
    stands = yield from clients.asking(lambda client: client.cancel(handle), block)
    return {"execution_id": stands.id, "status": stands.status.value, "fields": {}}


def _loaded(kind: type[B], block: str | B) -> Twofold[B]:
    """
    The block, or the one that is saved under that name.
    """
    from prefect_blocks.versions import load_block

    if isinstance(block, str):
        return (yield from twins.blocking(partial(load_block, kind, block)))
    return block


async def _all_ended(
    executions: Sequence[One],
    block: TransactionlinkCredentials,
    timeout: float | None,
    poll_interval: float | None,
) -> list[Ended]:
    from tl_orchestration import Pacing, Patience
    from tl_orchestration.errors import InvalidRequest, TransactionlinkError

    handles = [_handle(execution, block) for execution in executions]
    try:
        pacing = Pacing() if poll_interval is None else Pacing.every(poll_interval)
    except ValueError as error:
        raise InvalidRequest(f"poll_interval cannot be used: {error}.") from None
    patience = Patience(pacing=pacing, cancel_on_timeout=False)
    async with showing.progress(len(handles)) as one_more, clients.aborrowed(block) as client:

        async def wait(handle: Handle) -> Execution:
            try:
                return await client.wait(handle, timeout, patience=patience)
            finally:
                one_more()

        found: list[Execution | BaseException] = await asyncio.gather(*map(wait, handles), return_exceptions=True)
    ended: list[Ended] = []
    for handle, how in zip(handles, found, strict=True):
        if isinstance(how, BaseException):
            if not isinstance(how, TransactionlinkError) or how.retryable:
                raise how
            one: Ended = {"execution_id": handle.execution_id, "error": type(how).__name__}
        else:
            one = {"execution_id": handle.execution_id, "status": how.status.value}
        if handle.api_version is not None:
            one["api_version"] = handle.api_version
        ended.append(one)
    if len(ended) > 1:
        await asyncio.to_thread(showing.summary, ended)
    return ended


@contextlib.contextmanager
def _retried_anew(block: TransactionlinkWorkflow) -> Iterator[None]:
    """
    Where the block says ``retry_failed``, an ending without success is one that a retry may mend.
    """
    from tl_orchestration.errors import ExecutionCancelled, ExecutionExpired, ExecutionFailed, WaitTimeout

    try:
        yield
    except (ExecutionCancelled, ExecutionExpired, ExecutionFailed, WaitTimeout) as error:
        if block.retry_failed:
            vars(error)["retryable"] = True  # of this one error; its class says what holds by default
        raise


def _id_of(execution: One) -> str:
    from tl_orchestration.errors import InvalidRequest

    identifier = execution.get("execution_id") if isinstance(execution, Mapping) else execution
    if not isinstance(identifier, str):
        raise InvalidRequest("Name the execution by its id, or by what a task about it has returned.")
    return identifier


def _handle(execution: One, block: TransactionlinkCredentials) -> Handle:
    from tl_orchestration import Handle
    from tl_orchestration.answers import safe_id
    from tl_orchestration.errors import InvalidRequest

    identifier = safe_id(_id_of(execution))
    if identifier is None:
        raise InvalidRequest("An execution id has letters, digits, '-', '_' and '.', and at most 128 characters.")
    return Handle(execution_id=identifier, service=block.service, api_version=_version_of(execution))


def _version_of(execution: One) -> int | None:
    from prefect_blocks.results import named_version

    return named_version(execution) if isinstance(execution, Mapping) else None


def _check_allowed(execution: One, block: TransactionlinkCredentials) -> None:
    """
    Raises:
        InvalidRequest: The credentials keep whole results out of what tasks return.
    """
    from tl_orchestration.errors import InvalidRequest

    if block.forbid_full_result:
        raise InvalidRequest(
            f"These credentials forbid full results, so no task returns that of execution {_id_of(execution)}. Call"
            " prefect_blocks.load_result inside the task that needs it."
        )


def _rename(what: str, run: TransactionlinkWorkflowRun) -> None:
    """
    Name the task run by definition and execution, now that there is one. A name is worth no failure.
    """
    from prefect import get_client
    from prefect.context import TaskRunContext

    from prefect_blocks.versions import PREFECT_FAILURES

    context = TaskRunContext.get()
    if context is None:
        return
    name = f"{what} {run.definition} {run.execution_id}"
    context.task_run.name = name  # with every state that it goes through, Prefect's engine sends this one
    with contextlib.suppress(*PREFECT_FAILURES), get_client(sync_client=True) as client:
        client.set_task_run_name(context.task_run.id, name)


__all__ = [
    "Ended",
    "acancel_execution",
    "aget_result",
    "arun_workflow",
    "await_for_execution",
    "await_for_executions",
    "cancel_execution",
    "get_result",
    "may_be_retried",
    "run_workflow",
    "wait_for_execution",
    "wait_for_executions",
]
