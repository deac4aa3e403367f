"""
One execution of a workflow, as Prefect's JobRun: ask, wait, fetch, cancel.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from prefect.blocks.abstract import JobRun

from prefect_blocks import twins

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from prefect_blocks.suspending import Suspension
    from prefect_blocks.twins import Twin, Twofold
    from prefect_blocks.workflow import TransactionlinkWorkflow
    from tl_orchestration import AsyncClient, Client, Execution, Handle
    from tl_orchestration.ledger import Ledger
    from tl_orchestration.wait import Patience

T = TypeVar("T")


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
        self._unanswered = False

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
        return self._seen(self._poll().here())

    async def astatus(self) -> str:
        """
        As :meth:`status`.
        """
        return self._seen(await self._poll().there())

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
        return twins.run(self._completion(asynchronous=False))

    async def await_for_completion(self) -> Execution:
        """
        As :meth:`wait_for_completion`.
        """
        return await twins.arun(self._completion(asynchronous=True))

    @property
    def unanswered(self) -> bool:
        """
        Whether the service has answered no poll of the last :meth:`look`.
        """
        return self._unanswered

    def waited(self) -> float:
        """
        Seconds since the start, or since now for what somebody else has started; infinite if an earlier pass of the
        flow run has waited for that.
        """
        from prefect_blocks import suspending

        if self.owned and self.handle.deadline is not None:
            return time.time() - (self.handle.deadline - self._workflow.timeout)
        return math.inf if suspending.woken() else 0.0

    def look(self, seconds: float | None) -> Twofold[Execution | None]:
        """
        Wait for so long, or to the end. Returns the ended execution, whatever its ending, or None.

        Args:
            seconds: None: until it ends or its deadline has passed.
        """
        from attrs import evolve

        from prefect_blocks import waiting
        from tl_orchestration.errors import WaitTimeout

        patience = self._patience()
        self._unanswered = False
        if seconds is not None and not waiting.ends_within(self.handle, seconds):
            brief, at_most = evolve(patience, cancel_on_timeout=False), max(seconds, waiting.ONE_LOOK)
            try:
                return (yield from self._ask(lambda client: client.wait(self.handle, at_most, patience=brief)))
            except WaitTimeout as error:
                self._unanswered = error.raw_status is None
            if not waiting.ends_within(self.handle, 0.0):  # the service may have told an expiry
                return None
        return (yield from self._ask(lambda client: client.wait(self.handle, patience=patience)))

    def cancelled_at_its_deadline(self) -> bool:
        """
        Whether this step has cancelled the execution because its deadline had passed, in this pass of the flow run or
        in an earlier one.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        from prefect_blocks import clients

        key, deadline = self.handle.key, self.handle.deadline
        if not self.owned or self._ledger is None or key is None or deadline is None:
            return False
        credentials, taught = self._workflow.credentials, self._workflow.status_map
        with clients.borrowed(credentials, ledger=self._ledger, status_map=taught) as client:
            entry = None if client.ledger is None else client.ledger.read(key)
        if entry is None or entry.execution_id != self.execution_id:
            return False
        return entry.cancel_requested and entry.changed_at >= deadline

    def fetch_result(self) -> dict[str, Any]:  # type: ignore[override]  # Prefect's is a coroutine
        """
        The whole result of the execution. It is often personal data: keep it out of what tasks and flows return.

        Raises:
            ResultNotReady: It has not ended.
            NoResult: It has ended without a result.
        """
        return self._result().here()

    async def afetch_result(self) -> dict[str, Any]:
        """
        As :meth:`fetch_result`.
        """
        return await self._result().there()

    def outcome(self) -> dict[str, Any]:
        """
        What the next step needs to know, of an execution that has succeeded: ``execution_id``, ``status``, ``fields``
        (the block's ``result_fields``) and, as the block's ``result`` says, ``result``, or ``result_uri``, ``sha256``
        and ``size``. That of a legacy execution about a case has ``api_version``, by which others have to ask for it.

        Raises:
            ResultNotReady: It has not ended.
            ExecutionFailed: It has not succeeded, or the block's ``fail_when`` holds.
            ResultShapeChanged: A field or a verdict cannot be read from the result.
        """
        return twins.run(self._outcome())

    async def aoutcome(self) -> dict[str, Any]:
        """
        As :meth:`outcome`.
        """
        return await twins.arun(self._outcome())

    def cancel(self) -> str:
        """
        Cancel the execution, whoever has started it, and return how it then stands. One that is over is no error.

        Raises:
            TransactionlinkError: The service refused or did not answer.
        """
        return self._seen(self._cancel().here())

    async def acancel(self) -> str:
        """
        As :meth:`cancel`.
        """
        return self._seen(await self._cancel().there())

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

    def _completion(self, *, asynchronous: bool) -> Twofold[Execution]:
        from prefect_blocks import waiting

        releases = self._workflow.releases_worker(asynchronous=asynchronous)
        wait = self._released() if releases else self.look(None)
        ended = yield from waiting.stoppable(self._flow_run_id, self.cancel_quickly(), wait)
        assert ended is not None, "a look without a limit"
        return self._succeeded(ended)

    def _released(self) -> Twofold[Execution]:
        from prefect_blocks import suspending

        suspension = suspending.Suspension(self._workflow.say_once)
        return (yield from suspension.around(self._looked(suspension)))

    def _looked(self, suspension: Suspension) -> Twofold[Execution]:
        from prefect_blocks import suspending

        seconds = suspending.grace([self])
        while (ended := (yield from self.look(seconds))) is None:
            seconds = yield from suspension.attempt([self], [self])
        return ended

    def _outcome(self) -> Twofold[dict[str, Any]]:
        ended = self._ended
        if ended is None:
            ended = yield from self._poll()
        self._succeeded(ended)
        result = None
        if self._workflow.needs_result():
            result = yield from self._result()
        return (yield from twins.blocking(lambda: self._workflow.outcome(ended, result)))

    def _poll(self) -> Twin[Execution]:
        return self._ask(lambda client: client.poll(self.handle))

    def _result(self) -> Twin[dict[str, Any]]:
        return self._ask(lambda client: client.result(self.handle))

    def _cancel(self) -> Twin[Execution]:
        return self._ask(lambda client: client.cancel(self.handle))

    def _ask(self, verb: Callable[[Client | AsyncClient], T | Awaitable[T]]) -> Twin[T]:
        from prefect_blocks import clients

        workflow = self._workflow
        return clients.asking(verb, workflow.credentials, ledger=self._ledger, status_map=workflow.status_map)

    def _patience(self) -> Patience:
        from tl_orchestration import Patience

        cancels = None if self._workflow.on_cancel == "cancel" else False
        return Patience(pacing=self._workflow.pacing(), cancel_on_timeout=cancels, on_change=self._learn)

    def _learn(self, execution: Execution) -> None:
        """
        What a poll tells is known to the next look, too.
        """
        from attrs import evolve

        expires_at = execution.handle.expires_at or self.handle.expires_at
        self.handle = evolve(self.handle, expires_at=expires_at, polled=True)
        self._show(execution)


__all__ = ["TransactionlinkWorkflowRun"]
