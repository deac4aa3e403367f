"""
Tasks that take block names: start and wait, wait, fetch, cancel; each once for flows and once, with an ``a`` in front,
for asynchronous ones.

Prefect keeps nothing of what they are given: they have no cache, and no persisted result unless the caller asks for
one. What they return and raise holds ids, states and the fields that the block names.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from prefect import task
from prefect.cache_policies import NO_CACHE

from prefect_blocks import clients, showing
from prefect_blocks.credentials import TransactionlinkCredentials
from prefect_blocks.workflow import TransactionlinkWorkflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime, timedelta

    from prefect.client.schemas.objects import State, TaskRun

    from prefect_blocks.run import TransactionlinkWorkflowRun
    from tl_orchestration import B3osOptions, Execution, Handle, LegacyOptions
    from tl_orchestration.delivery import OnLink


class Ended(TypedDict, total=False):
    """
    How one of many executions stands after the wait. ``error`` is the kind of error that its wait ended with, such as
    ``NotFound``; ``status`` is then absent.
    """

    execution_id: str
    status: str
    error: str


def may_be_retried(task: Any, task_run: TaskRun, state: State[Any]) -> bool:
    """
    The ``retry_condition_fn`` of these tasks: whether a retry can mend what a task has failed with. It goes on with
    what the step has started, so that it is harmless; but what the service refused, and an execution that has ended
    without success, stay so.
    """
    from prefect_blocks.versions import exception_of
    from tl_orchestration.errors import TransactionlinkError

    error = exception_of(state)
    return error.retryable if isinstance(error, TransactionlinkError) else True


def _named(what: str, argument: str) -> Callable[[], str]:
    """
    Names a task run by what it is about.
    """

    def name() -> str:
        from prefect import runtime

        return f"{what} {_shown(runtime.task_run.parameters.get(argument))}"

    return name


def _shown(about: Any) -> str:
    if isinstance(about, TransactionlinkWorkflow):
        return about.workflow_definition_id
    if isinstance(about, Mapping):
        return str(about.get("execution_id", "execution"))
    return f"{len(about)} executions" if isinstance(about, list | tuple) else str(about)


@task(
    name="run-workflow",
    task_run_name=_named("run", "workflow"),
    cache_policy=NO_CACHE,
    retry_condition_fn=may_be_retried,
)
def run_workflow(
    workflow: str | TransactionlinkWorkflow,
    parameters: Mapping[str, Any] | None = None,
    *,
    step_key: str | None = None,
    key: str | None = None,
    record_id: str | None = None,
    expires_at: datetime | str | None = None,
    expires_in: timedelta | float | None = None,
    locale: str | None = None,
    options: LegacyOptions | B3osOptions | None = None,
    on_link: OnLink | None = None,
) -> dict[str, Any]:
    """
    Start an execution at most once, wait for it, and return what the next step needs to know.

    Args:
        workflow: Name of a saved TransactionlinkWorkflow block, or the block.
        parameters: As all others: see :meth:`TransactionlinkWorkflow.trigger`. ``step_key`` is needed where this task
            is submitted or mapped.

    Returns:
        ``execution_id``, ``status``, ``fields`` and, as the block says, ``result``, or ``result_uri``, ``sha256`` and
        ``size``.

    Raises:
        TransactionlinkError: See :meth:`TransactionlinkWorkflow.trigger` and
            :meth:`TransactionlinkWorkflowRun.wait_for_completion`.
    """
    block = _workflow(workflow)
    with _retried_anew(block):
        run = block.trigger(
            parameters,
            step_key=step_key,
            key=key,
            record_id=record_id,
            expires_at=expires_at,
            expires_in=expires_in,
            locale=locale,
            options=options,
            on_link=on_link,
        )
        _rename("run", run)
        run.wait_for_completion()
        return run.outcome()


@task(
    name="run-workflow",
    task_run_name=_named("run", "workflow"),
    cache_policy=NO_CACHE,
    retry_condition_fn=may_be_retried,
)
async def arun_workflow(
    workflow: str | TransactionlinkWorkflow,
    parameters: Mapping[str, Any] | None = None,
    *,
    step_key: str | None = None,
    key: str | None = None,
    record_id: str | None = None,
    expires_at: datetime | str | None = None,
    expires_in: timedelta | float | None = None,
    locale: str | None = None,
    options: LegacyOptions | B3osOptions | None = None,
    on_link: OnLink | None = None,
) -> dict[str, Any]:
    """
    As :func:`run_workflow`.
    """
    block = await _aworkflow(workflow)
    with _retried_anew(block):
        run = await block.atrigger(
            parameters,
            step_key=step_key,
            key=key,
            record_id=record_id,
            expires_at=expires_at,
            expires_in=expires_in,
            locale=locale,
            options=options,
            on_link=on_link,
        )
        await asyncio.to_thread(_rename, "run", run)
        await run.await_for_completion()
        return await run.aoutcome()


@task(
    name="wait-for-execution",
    task_run_name=_named("wait for", "execution"),
    cache_policy=NO_CACHE,
    retry_condition_fn=may_be_retried,
)
def wait_for_execution(
    execution: str | Mapping[str, Any], workflow: str | TransactionlinkWorkflow, *, timeout: float | None = None
) -> dict[str, Any]:
    """
    Wait for an execution that somebody else has started; it is never cancelled.

    Args:
        execution: Its id, or what a task about it has returned.
        workflow: Name of a saved TransactionlinkWorkflow block, or the block: how to reach and to judge it.
        timeout: Seconds from now; None: until it ends or expires.

    Returns:
        As :func:`run_workflow`.

    Raises:
        TransactionlinkError: See :meth:`TransactionlinkWorkflowRun.wait_for_completion`.
    """
    run = _workflow(workflow).attach(_id_of(execution), timeout=timeout)
    run.wait_for_completion()
    return run.outcome()


@task(
    name="wait-for-execution",
    task_run_name=_named("wait for", "execution"),
    cache_policy=NO_CACHE,
    retry_condition_fn=may_be_retried,
)
async def await_for_execution(
    execution: str | Mapping[str, Any], workflow: str | TransactionlinkWorkflow, *, timeout: float | None = None
) -> dict[str, Any]:
    """
    As :func:`wait_for_execution`.
    """
    run = (await _aworkflow(workflow)).attach(_id_of(execution), timeout=timeout)
    await run.await_for_completion()
    return await run.aoutcome()


@task(
    name="wait-for-executions",
    task_run_name=_named("wait for", "executions"),
    cache_policy=NO_CACHE,
    retry_condition_fn=may_be_retried,
)
def wait_for_executions(
    executions: Sequence[str | Mapping[str, Any]],
    credentials: str | TransactionlinkCredentials,
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
    from prefect_blocks import waiting
    from prefect_blocks.versions import load_block

    block = load_block(TransactionlinkCredentials, credentials) if isinstance(credentials, str) else credentials
    return waiting.in_loop(lambda: _all_ended(executions, block, timeout, poll_interval))


@task(
    name="wait-for-executions",
    task_run_name=_named("wait for", "executions"),
    cache_policy=NO_CACHE,
    retry_condition_fn=may_be_retried,
)
async def await_for_executions(
    executions: Sequence[str | Mapping[str, Any]],
    credentials: str | TransactionlinkCredentials,
    *,
    timeout: float | None = None,
    poll_interval: float | None = None,
) -> list[Ended]:
    """
    As :func:`wait_for_executions`.
    """
    return await _all_ended(executions, await _acredentials(credentials), timeout, poll_interval)


@task(
    name="get-result",
    task_run_name=_named("result of", "execution"),
    cache_policy=NO_CACHE,
    retry_condition_fn=may_be_retried,
)
def get_result(execution: str | Mapping[str, Any], credentials: str | TransactionlinkCredentials) -> dict[str, Any]:
    """
    The whole result of an execution. It is often personal data: where results of tasks are persisted, call
    ``run.fetch_result()`` inside the task that needs it instead.

    Args:
        execution: Its id, or what a task about it has returned.
        credentials: Name of a saved TransactionlinkCredentials block, or the block.

    Raises:
        TransactionlinkError: See :meth:`tl_orchestration.Client.result`.
    """
    from prefect_blocks.versions import load_block

    block = load_block(TransactionlinkCredentials, credentials) if isinstance(credentials, str) else credentials
    _check_allowed(execution, block)
    with clients.borrowed(block) as client:
        return client.result(_handle(execution, block))


@task(
    name="get-result",
    task_run_name=_named("result of", "execution"),
    cache_policy=NO_CACHE,
    retry_condition_fn=may_be_retried,
)
async def aget_result(
    execution: str | Mapping[str, Any], credentials: str | TransactionlinkCredentials
) -> dict[str, Any]:
    """
    As :func:`get_result`.
    """
    block = await _acredentials(credentials)
    _check_allowed(execution, block)
    async with clients.aborrowed(block) as client:
        return await client.result(_handle(execution, block))


@task(
    name="cancel-execution",
    task_run_name=_named("cancel", "execution"),
    cache_policy=NO_CACHE,
    retry_condition_fn=may_be_retried,
)
def cancel_execution(
    execution: str | Mapping[str, Any], credentials: str | TransactionlinkCredentials
) -> dict[str, Any]:
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
    from prefect_blocks.versions import load_block

    block = load_block(TransactionlinkCredentials, credentials) if isinstance(credentials, str) else credentials
    with clients.borrowed(block) as client:
        return _as_it_stands(client.cancel(_handle(execution, block)))


@task(
    name="cancel-execution",
    task_run_name=_named("cancel", "execution"),
    cache_policy=NO_CACHE,
    retry_condition_fn=may_be_retried,
)
async def acancel_execution(
    execution: str | Mapping[str, Any], credentials: str | TransactionlinkCredentials
) -> dict[str, Any]:
    """
    As :func:`cancel_execution`.
    """
    block = await _acredentials(credentials)
    async with clients.aborrowed(block) as client:
        return _as_it_stands(await client.cancel(_handle(execution, block)))


async def _all_ended(
    executions: Sequence[str | Mapping[str, Any]],
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
            ended.append({"execution_id": handle.execution_id, "error": type(how).__name__})
        else:
            ended.append({"execution_id": handle.execution_id, "status": how.status.value})
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


def _id_of(execution: str | Mapping[str, Any]) -> str:
    from tl_orchestration.errors import InvalidRequest

    identifier = execution.get("execution_id") if isinstance(execution, Mapping) else execution
    if not isinstance(identifier, str):
        raise InvalidRequest("Name the execution by its id, or by what a task about it has returned.")
    return identifier


def _handle(execution: str | Mapping[str, Any], block: TransactionlinkCredentials) -> Handle:
    from tl_orchestration import Handle
    from tl_orchestration.answers import safe_id
    from tl_orchestration.errors import InvalidRequest

    identifier = safe_id(_id_of(execution))
    if identifier is None:
        raise InvalidRequest("An execution id has letters, digits, '-', '_' and '.', and at most 128 characters.")
    return Handle(execution_id=identifier, service=block.service)


def _check_allowed(execution: str | Mapping[str, Any], block: TransactionlinkCredentials) -> None:
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


def _as_it_stands(execution: Execution) -> dict[str, Any]:
    return {"execution_id": execution.id, "status": execution.status.value, "fields": {}}


def _workflow(block: str | TransactionlinkWorkflow) -> TransactionlinkWorkflow:
    from prefect_blocks.versions import load_block

    return load_block(TransactionlinkWorkflow, block) if isinstance(block, str) else block


async def _aworkflow(block: str | TransactionlinkWorkflow) -> TransactionlinkWorkflow:
    return await TransactionlinkWorkflow.aload(block) if isinstance(block, str) else block


async def _acredentials(block: str | TransactionlinkCredentials) -> TransactionlinkCredentials:
    return await TransactionlinkCredentials.aload(block) if isinstance(block, str) else block


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
