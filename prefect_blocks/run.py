"""
One execution of a workflow, as Prefect's JobRun: ask, wait, fetch, cancel.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn

from prefect.blocks.abstract import JobRun

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from uuid import UUID

    from prefect_blocks.workflow import TransactionlinkWorkflow
    from tl_orchestration import AsyncClient, Client, Execution, Handle, Pacing
    from tl_orchestration.ledger import Ledger
    from tl_orchestration.wait import Patience


class TransactionlinkWorkflowRun(JobRun[dict[str, Any]]):
    """
    One execution, as :meth:`TransactionlinkWorkflow.trigger` and ``attach`` return it. It stays in the process that it
    was made in: hand on ``execution_id``, and attach to it elsewhere.

    Args:
        workflow: The block that made it.
        handle: Id, deadline, and whether it is this run's own.
        ledger: Where the step is kept, if it is.
        flow_run_id: The flow run that this code belongs to.
    """

    def __init__(
        self,
        workflow: TransactionlinkWorkflow,
        handle: Handle,
        *,
        ledger: Ledger | None = None,
        flow_run_id: UUID | None = None,
    ) -> None:
        self.handle = handle
        self._workflow = workflow
        self._ledger = ledger
        self._flow_run_id = flow_run_id
        self._ended: Execution | None = None
        self._shown: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.execution_id!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "A TransactionlinkWorkflowRun is not pickled, because it can reach a credential: return its execution_id,"
            " and call attach(execution_id) where you need it."
        )

    @property
    def execution_id(self) -> str:
        """
        The id of the execution at the service.
        """
        return self.handle.execution_id

    @property
    def definition(self) -> str:
        """
        Id of the workflow definition of the block.
        """
        return self._workflow.workflow_definition_id

    @property
    def workflow(self) -> TransactionlinkWorkflow:
        """
        The block that made it.
        """
        return self._workflow

    @property
    def flow_run_id(self) -> UUID | None:
        """
        The flow run that this code belongs to; None outside of any.
        """
        return self._flow_run_id

    @property
    def owned(self) -> bool:
        """
        Whether this run's step has started the execution. Only then it is ever cancelled without being told to.
        """
        return self.handle.owned

    def status(self) -> str:
        """
        How the execution stands now: ``PENDING``, ``RUNNING``, ``WAITING``, ``SUCCEEDED``, ``PARTIAL``, ``FAILED``,
        ``CANCELLED``, ``EXPIRED`` or ``UNKNOWN``.

        Raises:
            TransactionlinkError: The service did not say.
        """
        with self._client() as client:
            return self._seen(client.poll(self.handle))

    async def astatus(self) -> str:
        """
        As :meth:`status`.
        """
        async with self.async_client() as client:
            return self._seen(await client.poll(self.handle))

    def wait_for_completion(self) -> Execution:  # type: ignore[override]  # Prefect's is a coroutine without a result
        """
        Wait until the execution has ended, and return it if it has succeeded.

        In the body of a deployed flow the flow run is suspended meanwhile, as the block's ``wait_mode`` says: the
        process ends, and the flow begins again when the execution may have ended.

        Raises:
            ExecutionFailed, ExecutionCancelled, ExecutionExpired: It has not succeeded.
            WaitTimeout: The deadline has passed. The execution was cancelled, if it is this run's own.
            TransactionlinkError: The service could not be asked for longer than is tolerable.
        """
        from prefect_blocks import suspending, waiting

        releases, pacing = self._workflow.releases_worker(asynchronous=False), self._workflow.pacing()
        with waiting.stoppable(self._flow_run_id, self.cancel_quickly()), self._client() as client:
            seconds, ended = self._workflow.suspend_after, None
            while ended is None:
                if not releases or waiting.ends_within(self.handle, seconds):
                    ended = client.wait(self.handle, patience=self._patience(pacing))
                    break
                ended = waiting.for_a_while(client, self.handle, seconds, self._patience(pacing))
                if ended is None and not suspending.tasks_run():
                    suspending.suspend(self.handle.deadline)
                seconds = suspending.SLICE
        return self._succeeded(ended)

    async def await_for_completion(self) -> Execution:
        """
        As :meth:`wait_for_completion`.
        """
        from prefect_blocks import suspending, waiting

        releases, pacing = self._workflow.releases_worker(asynchronous=True), self._workflow.pacing()
        with waiting.stoppable(self._flow_run_id, self.cancel_quickly()):
            async with self.async_client() as client:
                seconds, ended = self._workflow.suspend_after, None
                while ended is None:
                    if not releases or waiting.ends_within(self.handle, seconds):
                        ended = await client.wait(self.handle, patience=self._patience(pacing))
                        break
                    ended = await waiting.afor_a_while(client, self.handle, seconds, self._patience(pacing))
                    if ended is None and not await asyncio.to_thread(suspending.tasks_run):
                        await suspending.asuspend(self.handle.deadline)
                    seconds = suspending.SLICE
        return self._succeeded(ended)

    async def await_ending(self, client: AsyncClient, seconds: float | None) -> Execution | None:
        """
        Wait for so long, or to the end. Returns the ended execution, whatever its ending, or None.

        Args:
            client: One of :meth:`async_client`, of any run with the same ``client_key``.
            seconds: None: until it ends or its deadline has passed.
        """
        from prefect_blocks import waiting

        pacing = self._workflow.pacing()
        if seconds is None or waiting.ends_within(self.handle, seconds):
            return await client.wait(self.handle, patience=self._patience(pacing))
        return await waiting.afor_a_while(client, self.handle, seconds, self._patience(pacing))

    @property
    def client_key(self) -> tuple[int, str]:
        """
        Runs for which this is the same can share a client.
        """
        return id(self._workflow), type(self._ledger).__name__

    def fetch_result(self) -> dict[str, Any]:  # type: ignore[override]  # Prefect's is a coroutine
        """
        The whole result of the execution. It is often personal data: keep it out of what tasks and flows return.

        Raises:
            ResultNotReady: It has not ended.
            NoResult: It has ended without a result.
        """
        with self._client() as client:
            return client.result(self.handle)

    async def afetch_result(self) -> dict[str, Any]:
        """
        As :meth:`fetch_result`.
        """
        async with self.async_client() as client:
            return await client.result(self.handle)

    def outcome(self) -> dict[str, Any]:
        """
        What the next step needs to know, of an execution that has succeeded: ``execution_id``, ``status``, ``fields``
        (the block's ``result_fields``) and, as the block's ``result`` says, ``result``, or ``result_uri``, ``sha256``
        and ``size``.

        Raises:
            ResultNotReady: It has not ended.
            ExecutionFailed: It has not succeeded, or the block's ``fail_when`` holds.
            ResultShapeChanged: A field or a verdict cannot be read from the result.
        """
        with self._client() as client:
            ended = self._succeeded(self._ended or client.poll(self.handle))
            result = client.result(self.handle) if self._workflow.needs_result() else None
        return self._workflow.outcome(ended, result)

    async def aoutcome(self) -> dict[str, Any]:
        """
        As :meth:`outcome`.
        """
        async with self.async_client() as client:
            ended = self._succeeded(self._ended or await client.poll(self.handle))
            result = await client.result(self.handle) if self._workflow.needs_result() else None
        return await asyncio.to_thread(self._workflow.outcome, ended, result)

    def cancel(self) -> str:
        """
        Cancel the execution, whoever has started it, and return how it then stands. One that is over is no error.

        Raises:
            TransactionlinkError: The service refused or did not answer.
        """
        with self._client() as client:
            return self._seen(client.cancel(self.handle))

    async def acancel(self) -> str:
        """
        As :meth:`cancel`.
        """
        async with self.async_client() as client:
            return self._seen(await client.cancel(self.handle))

    def cancel_if_decided(self) -> None:
        """
        Prefect ends this process: cancel if a person cancelled the flow run, and the block says so.
        """
        from prefect_blocks import waiting

        cancel = self.cancel_quickly()
        if cancel is not None:
            waiting.last_words(self._flow_run_id, cancel)

    def cancel_quickly(self) -> Callable[[], None] | None:
        """
        A cancel that takes seconds only; None where this run must not cancel.
        """
        if not self.owned or self._workflow.on_cancel != "cancel":
            return None

        def cancel() -> None:
            from tl_orchestration.retry import RetryPolicy

            with self._workflow.credentials.get_client(
                ledger=self._ledger,
                status_map=self._workflow.status_map,
                retry=RetryPolicy(attempts=2, total=2.0),
                request_timeout=3.0,
            ) as client:
                client.cancel(self.handle)
            self.logger.info("Execution %s was cancelled.", self.execution_id)

        return cancel

    def _seen(self, execution: Execution) -> str:
        if execution.is_terminal:
            self._ended = execution
        self._show(execution)
        return execution.status.value

    def _show(self, execution: Execution) -> None:
        """
        One event and one line in the log of the run for each change, whoever of its verbs sees it.
        """
        from prefect_blocks import showing

        if self._shown != execution.raw_status:
            self._shown = execution.raw_status
            self.logger.info("Execution %s is %s.", execution.id, execution.status)
            showing.changed(self, execution)

    def _succeeded(self, execution: Execution) -> Execution:
        if not execution.is_terminal:
            from tl_orchestration.errors import ResultNotReady

            raise ResultNotReady(
                f"Execution {execution.id} has not ended yet ({execution.status}): wait for it first.",
                execution_id=execution.id,
            )
        self._ended = execution
        self._workflow.rules().check_ending(execution)
        return execution

    def _patience(self, pacing: Pacing) -> Patience:
        from tl_orchestration import Patience

        cancels = None if self._workflow.on_cancel == "cancel" else False
        return Patience(pacing=pacing, cancel_on_timeout=cancels, on_change=self._show)

    def _client(self) -> AbstractContextManager[Client]:
        from prefect_blocks import clients

        workflow = self._workflow
        return clients.borrowed(workflow.credentials, ledger=self._ledger, status_map=workflow.status_map)

    def async_client(self) -> AbstractAsyncContextManager[AsyncClient]:
        """
        The client of the running event loop, for :meth:`await_ending`.
        """
        from prefect_blocks import clients

        workflow = self._workflow
        return clients.aborrowed(workflow.credentials, ledger=self._ledger, status_map=workflow.status_map)


__all__ = ["TransactionlinkWorkflowRun"]
